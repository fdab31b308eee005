"""Files that appear whole or not at all."""

import errno
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from sttn_ray.errors import ConfigError, StorageError
from sttn_ray.paths import ALL, StoragePath, is_remote, open_binary, read_errors, reading, reason, stamps
from sttn_ray.scratch import scratch_folder

CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


@contextmanager
def published(path: StoragePath, *, temporary_dir: Path | None = None) -> Iterator[Path]:
    """A temporary path that takes the place of `path` when the block ends, and vanishes if it fails.

    For an object store it lies in a folder of its own on this machine, and is uploaded as a whole.

    Args:
        path: the file to make.
        temporary_dir: for a local file; beside the file where there is none, or it lies on another file system.

    Raises:
        StorageError: the folder cannot be written, or is full.
    """
    with ExitStack() as stack:
        with _as_storage_error(path):
            if isinstance(path, Path):
                path.parent.mkdir(parents=True, exist_ok=True)
                folder = temporary_dir or path.parent
                folder.mkdir(parents=True, exist_ok=True)
                if folder.stat().st_dev != path.parent.stat().st_dev:
                    folder = path.parent
            else:
                folder = stack.enter_context(scratch_folder())
        # Short, since the name itself may be as long as a name can be.
        temporary = folder / f".{path.name[:40]}.{uuid.uuid4().hex[:8]}.tmp"
        stack.callback(_remove, temporary)
        try:
            yield temporary
        except OSError as error:
            # The block's other errors are about what it reads, and are its own to tell.
            if error.errno in CANNOT_WRITE:
                raise StorageError(f"{path}: cannot be written ({error.strerror})") from error
            raise
        with _as_storage_error(path):
            if not isinstance(path, Path):
                path.fs.put_file(str(temporary), path.path)
                return
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)


def _remove(temporary: Path) -> None:
    with suppress(OSError):  # where nothing can be written nothing can be removed
        temporary.unlink(missing_ok=True)


@contextmanager
def _as_storage_error(path: StoragePath) -> Iterator[None]:
    try:
        yield
    except read_errors() as error:
        is_gone = isinstance(path, Path) and isinstance(error, FileNotFoundError)
        why = "its folder was deleted meanwhile" if is_gone else reason(error)
        raise StorageError(f"{path}: cannot be written ({why})") from error


def write_record(path: StoragePath, record: dict[str, Any]) -> None:
    """Write a JSON object."""
    with published(path) as temporary:
        temporary.write_text(json.dumps(record, sort_keys=True))


def read_record(path: StoragePath) -> dict[str, Any] | None:
    """Read a JSON object; None where there is none.

    Raises:
        StorageError: the file cannot be read, or is not what `write_record` wrote.
    """
    try:
        with reading(path):
            record = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise StorageError(f"{path}: cannot be read as a record ({error}); delete it") from error
    if not isinstance(record, dict):
        raise StorageError(f"{path}: is not a record; delete it")
    return record


def file_sha256(path: str | StoragePath) -> str:
    """Hex sha256 of a file's bytes.

    Raises:
        FileNotFoundError: there is none.
        StorageError: it cannot be read.
    """
    with reading(path), open_binary(path, ahead=ALL) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # it has readinto


def is_file(path: StoragePath, record: dict[str, Any]) -> bool:
    """Whether a file is what a record tells, by its size and sha256.

    In a store the record's `stamp`, from `file_stamp`, says so too: a store checks what it keeps, a disk does not.
    """
    try:
        if is_remote(path) and record.get("stamp") == file_stamp(path):
            return True
        with reading(path):
            is_as_long = path.stat().st_size == record["num_bytes"]
        return is_as_long and file_sha256(path) == record["sha256"]
    except FileNotFoundError:
        return False


def file_stamp(path: StoragePath) -> list[Any]:
    """Size, and time of change or ETag, of a file."""
    return stamps(path)[0][1:]


def record_hash(record: Any) -> str:
    """Hex sha256 of plain values."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def claim(
    path: StoragePath, ours: dict[str, Any], folder: str | StoragePath, advice: str, *, only_checks: bool = False
) -> None:
    """Write what a folder is made with to a record, or check that it is what stands there.

    Args:
        path: the record, inside the folder.
        ours: settings and versions that change results.
        folder: for the message.
        advice: what the user can do.
        only_checks: nothing is written.

    Raises:
        ConfigError: the folder was made with others.
    """
    theirs = read_record(path)
    if theirs is None:
        if not only_checks:
            write_record(path, ours)
        return
    ours = json.loads(json.dumps(ours))  # as it is read back: tuples are lists
    differences = [
        f"{key} was {theirs.get(key)!r}, now {ours.get(key)!r}"
        for key in sorted({*ours, *theirs})
        if ours.get(key) != theirs.get(key)
    ]
    if differences:
        raise ConfigError(f"{folder}: was made with other settings ({'; '.join(differences)}); {advice}")
