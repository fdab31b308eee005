"""Programs as real processes, that tests start, watch and kill.

No wait is measured in seconds of work: a wait fails where the program has ended, or where nothing moves any more, so
that a slow machine takes long and still passes.
"""

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
# The longest that nothing may move. Ray itself waits for up to a minute for some things, and a busy machine takes
# several times as long for all else; only a program that hangs comes here.
STALLED_S = 400.0
# The longest for anything that still moves.
LAST_S = 3600.0
LOOK_S, MOVES_S = 0.02, 1.0


class Program(NamedTuple):
    """A program that was started, and the open file, by its descriptor, with all that it says."""

    process: subprocess.Popen[bytes]
    log: int

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def said(self) -> str:
        """All that it has said until now, to either stream."""
        return os.pread(self.log, os.fstat(self.log).st_size, 0).decode(errors="replace")

    def kill(self) -> None:
        """SIGKILL the program, but not what it has started."""
        self.process.kill()
        self.process.wait()

    def interrupt(self) -> None:
        """SIGINT for it and all that it has started, as a terminal sends it."""
        os.killpg(self.pid, signal.SIGINT)

    def finish(self, *folders: Path, moves: Callable[[], object] | None = None) -> int:
        """Wait for the end; returns the exit status.

        Args:
            folders: that it writes into; it works as long as their files change. Default: as long as it says something.
            moves: another value that changes as long as it works.
        """
        try:
            wait_until(lambda: self.has_ended, "the program's end", moves=moves or self._moves(folders))
        except AssertionError as error:
            self.kill()
            raise AssertionError(f"{error}; it said: {self.said()[-3000:]}") from None
        return self.process.returncode

    def _moves(self, folders: tuple[Path, ...]) -> Callable[[], object]:
        # Some programs say every few seconds where they are, also where they are stuck.
        return files_in(*folders) if folders else lambda: os.fstat(self.log).st_size


class Said(NamedTuple):
    """How a program ended, and what it said."""

    returncode: int
    text: str


def start(module: str, *words: str, log: Path | None = None, **environment: str) -> Program:
    """Start a program in a process group of its own.

    Args:
        module: of the program.
        words: of its command line.
        log: the file to which it says what it says; default: one without a name.
        environment: variables to set beside this process's.
    """
    return start_command([sys.executable, "-m", module, *words], log=log, **environment)


def start_command(command: list[str], *, log: Path | None = None, **environment: str) -> Program:
    """Start any command, as `start` does it."""
    descriptor = _nameless_file() if log is None else os.open(log, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "RAY_TMPDIR": _folder_of_ray(), **environment},
        stdout=descriptor,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    return Program(process, descriptor)


@cache
def _folder_of_ray() -> str:
    """Where programs look for a Ray that runs, and find none: they would join that of another test by chance."""
    folder = tempfile.mkdtemp(dir="/tmp")  # short enough for the names of Ray's sockets
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _nameless_file() -> int:
    descriptor, name = tempfile.mkstemp()
    os.unlink(name)
    return descriptor


def run(module: str, *words: str, **environment: str) -> Said:
    """Run a program to its end."""
    program = start(module, *words, **environment)
    return Said(program.finish(), program.said())


def files_in(*paths: Path) -> Callable[[], object]:
    """Gives a value that changes whenever a file appears, grows, or vanishes there."""

    def moves() -> object:
        found = []
        for path in paths:
            for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
                with suppress(OSError):  # it has just been renamed
                    found.append((file, file.stat().st_size, file.stat().st_mtime_ns))
        return found

    return moves


def wait_until(
    condition: Callable[[], bool],
    what: str,
    *,
    program: Program | None = None,
    moves: Callable[[], object] = lambda: None,
) -> None:
    """Wait for a condition; fails where the program has ended before, or nothing has moved for long.

    Args:
        condition: to wait for.
        what: is awaited, in words.
        program: that brings it about.
        moves: a value that changes as long as there is progress.
    """
    begun_s = moved_s = looked_s = time.monotonic()
    last = moves()
    while not condition():
        if program is not None and program.has_ended and not condition():
            raise AssertionError(
                f"ended with {program.process.returncode} before {what}; it said: {program.said()[-3000:]}"
            )
        now_s = time.monotonic()
        if now_s - looked_s > MOVES_S:
            found, looked_s = moves(), now_s
            if found != last:
                last, moved_s = found, now_s
        assert now_s - moved_s < STALLED_S, f"nothing has moved for {STALLED_S:g} s, waiting for {what}"
        assert now_s - begun_s < LAST_S, f"not within {LAST_S:g} s: {what}"
        time.sleep(LOOK_S)


def kill_ray_process(driver_pid: int, name: str) -> None:
    """SIGKILL a process of the cluster that a driver started, whose title holds a name."""

    def was_killed() -> bool:
        for pid, command in descendants(driver_pid):
            if command.startswith("ray::") and name in command:
                with suppress(ProcessLookupError):  # it ended meanwhile
                    os.kill(pid, signal.SIGKILL)
                    return True
        return False

    wait_until(was_killed, f"a process of {name} to kill")


def descendants(pid: int) -> list[tuple[int, str]]:
    """Process ids and command lines of all processes below one."""
    listing = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
    children: dict[int, list[tuple[int, str]]] = {}
    for line in listing.stdout.splitlines():
        child, parent, command = line.split(maxsplit=2)
        children.setdefault(int(parent), []).append((int(child), command))
    found, todo = [], [pid]
    while todo:
        for child in children.get(todo.pop(), []):
            found.append(child)
            todo.append(child[0])
    return found
