"""What of Ray's own lines a person sees: those that ask for action. The rest stands in Ray's log folder.

Lines of our workers, and their tracebacks, are shown as they are.
"""

import logging
import os
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ray._private import worker  # no public way to choose among the lines of workers
from ray._private.ray_logging import global_worker_stdstream_dispatcher

from sttn_ray.shown import shown_lines

STDERR_FILE = "sttn-ray-driver.err"
_HANDLER = "ray_print_logs"
# As Ray's C++ writes them; F, after which the process ends, is kept. "[2026-01-31 12:00:00,000 E 12 12] a.cc:1: ..."
_INTERNAL = re.compile(r"^(\x1b\[[0-9;]*m)*\[[-\d]+ [:,.\d]+ [TDIWE] \d+ \d+\]")


def before_start() -> None:
    """Set Ray's lines up before `ray.init`."""
    # It tells of each start that its token is in use.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")


def after_start() -> str:
    """Send what Ray says of itself from now on to its log folder; returns that folder."""
    folder = str(worker._global_node.get_logs_dir_path())  # type: ignore[attr-defined]
    _divert_c_stderr(Path(folder) / f"{STDERR_FILE}.{os.getpid()}")
    # There is one where lines of workers are shown.
    for show in [handler for name, handler in global_worker_stdstream_dispatcher.handlers if name == _HANDLER]:
        global_worker_stdstream_dispatcher.remove_handler(_HANDLER)
        global_worker_stdstream_dispatcher.add_handler(_HANDLER, partial(_show, show))
    return folder


def _show(show: Callable[[dict[str, Any]], None], batch: Mapping[str, Any]) -> None:
    if lines := without_internal(batch["lines"]):
        show({**batch, "lines": lines})


def without_internal(lines: list[str]) -> list[str]:
    """Lines of a process as people see them, without those that Ray's C++ logs about itself."""
    return [shown_lines(line) for line in lines if not _INTERNAL.match(line)]


def _divert_c_stderr(path: Path) -> None:
    """Let what C++ writes to this process's standard error go to a file; what Python writes stays where it goes.

    Ray's C++ writes its errors there whatever its level is, beside its log.
    """
    before = sys.stderr
    try:
        if before.fileno() != 2:
            return  # Python's lines go elsewhere already, as in a test
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError:
        return  # there is no such file, or the folder is another user's
    before.flush()
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding=before.encoding, errors=before.errors)
    os.dup2(target, 2)
    os.close(target)
    for logger in (logging.getLogger(), *map(logging.getLogger, list(logging.root.manager.loggerDict))):
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is before:
                handler.setStream(sys.stderr)
