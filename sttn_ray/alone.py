"""A Ray of one machine that nobody but its user reaches: its token, its folder, its ports."""

import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from ray._private import parameter, ray_constants  # no public way to say where Ray listens

from sttn_ray.scratch import closed_folder

log = logging.getLogger(__name__)

_TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
# A socket's path has 107 bytes at most on Linux, 103 on a Mac; of these Ray takes 70 for its session below the folder.
_MAX_FOLDER = 30


@contextmanager
def on_loopback() -> Iterator[str]:
    """For the time of a `with` block Ray takes this machine's loopback address for its own; gives that address.

    Its processes then listen there, else on all interfaces. So it does by itself on Macs, to spare questions of the
    firewall. The port of its agent is any that is free: by default it is the same for all Rays of a machine, and the
    second one waits six seconds for it.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER, parameter.RayParams
    ray_constants.ENABLE_RAY_CLUSTER = False
    parameter.RayParams = partial(parameter.RayParams, dashboard_agent_listen_port=0)  # type: ignore[assignment, misc]
    try:
        yield "127.0.0.1"
    finally:
        ray_constants.ENABLE_RAY_CLUSTER, parameter.RayParams = before  # type: ignore[misc]


def ray_folder() -> str | None:
    """A folder for Ray's files that only this user may enter; None where RAY_TMPDIR is too long a path for one in it.

    Ray opens its own folder to everybody, so that it lies in one that is closed.
    """
    name = f"sttn-ray-{os.getuid()}"
    chosen = os.environ.get("RAY_TMPDIR")
    base = chosen or tempfile.gettempdir()
    if len(base) + len(name) + 1 > _MAX_FOLDER:
        if chosen:
            return None
        base = "/tmp"
    Path(base).mkdir(parents=True, exist_ok=True)
    return str(closed_folder(name, base) / "ray")


def close_token() -> None:
    """Make the token by which Ray knows its user, readable by nobody else; Ray would make it readable by all."""
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token" or any(map(os.environ.get, _TOKEN_VARIABLES)):
        return
    path = Path.home() / ".ray" / "auth_token"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists():
            if path.stat().st_mode & 0o077:
                path.chmod(0o600)
            return
        handle, temporary = tempfile.mkstemp(dir=path.parent)  # readable by its user alone
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
        with suppress(FileExistsError):  # another program was faster; its token is as good
            os.link(temporary, path)
        os.unlink(temporary)
    except OSError as error:
        # No home that can be written: this run has a token of its own, which its processes inherit.
        log.debug("%s: %s", path, error)
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
