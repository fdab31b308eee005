"""Folders on this machine for work files, which vanish also where the process that made them was killed."""

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

PREFIX = "sttn-ray-scratch-"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder below TMPDIR, deleted with all in it when the block ends.

    Its maker holds a lock on it, which the system lets go of when a process dies. A process that makes its first one
    deletes those on which there is none: in place of a killed worker there is always a new one.

    Raises:
        OSError: it cannot be made.
    """
    _sweep(tempfile.gettempdir())
    folder, lock = _make_locked()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def closed_folder(name: str, parent: str | None = None) -> Path:
    """A folder that stays, and that only this user may enter; where somebody else was there before, another one.

    Args:
        name: of the folder, the same for all of a user's processes.
        parent: default: TMPDIR.

    Raises:
        OSError: it cannot be made.
    """
    folder = Path(parent or tempfile.gettempdir(), name)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        return _other_folder(folder)
    if found.st_mode & 0o077:
        folder.chmod(0o700)
    return folder


@cache
def _other_folder(folder: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))


def _make_locked() -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # another process swept it before it was locked
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:  # a file system without locks, where nobody can sweep either
            return folder, lock
        if folder.exists():
            return folder, lock
        os.close(lock)


@cache
def _sweep(parent: str) -> None:
    for folder in Path(parent).glob(f"{PREFIX}*"):
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:  # another user's, or gone
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # somebody works in it
            pass
        finally:
            os.close(lock)
