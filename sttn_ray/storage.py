"""Files that appear whole or not at all."""

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sttn_ray.errors import ConfigError, StorageError


@contextmanager
def published(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends, and vanishes if it fails.

    Raises:
        StorageError: the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):  # a path that could not be made cannot be removed either
            temporary.unlink(missing_ok=True)


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a JSON object."""
    with published(path) as temporary:
        temporary.write_text(json.dumps(record, sort_keys=True))


def read_record(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None where there is none.

    Raises:
        StorageError: the file is not what `write_record` wrote.
    """
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise StorageError(f"{path}: cannot be read as a record ({error}); delete it") from error
    if not isinstance(record, dict):
        raise StorageError(f"{path}: is not a record; delete it")
    return record


def require_local(**paths: str | None) -> None:
    """Refuse paths with a scheme such as `s3://`.

    Raises:
        ConfigError: which settings hold one.
    """
    faults = [
        f"{name.replace('__', '.')}={path}: object stores are not supported yet; copy the files to a shared folder"
        for name, path in paths.items()
        if path and "://" in path
    ]
    if faults:
        raise ConfigError("\n".join(faults))
