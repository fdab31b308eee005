"""Files where they lie: on a disk, or in an object store behind the S3 protocol (`s3://bucket/key`).

Credentials come from where botocore looks for them (environment, profile, instance role), never from settings.
"""

import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from upath import UPath

from sttn_ray.addresses import SECRET_ADVICE, endpoint_fault, holds_secret
from sttn_ray.errors import ConfigError, StorageError
from sttn_ray.scratch import scratch_folder

log = logging.getLogger(__name__)

StoragePath = Path | UPath

# Where botocore reads the store's address, in this process and in those of a cluster.
ENDPOINT_VARIABLE = "AWS_ENDPOINT_URL_S3"

_OPTIONS: dict[str, Any] = {"use_listings_cache": False}  # others may write there too
# Beside botocore's own: about a minute altogether, which a store may need to come back.
_NUM_TRIES = 8
# Bytes that are read ahead of what is asked for. s3fs would take 50 MiB, of which a seek throws away most.
SOME = 2**20
ALL = 8 * 2**20
_IMAGES_AT_ONCE = 32  # frames of a folder that are asked of a store together


@cache
def _start_s3() -> None:
    """Load what speaks to stores: a quarter of a second, which a process that reads disks alone does not spend."""
    import s3fs
    from botocore.exceptions import ClientError, ConnectionError

    def will_pass(error: Exception) -> bool:
        """Whether a request may succeed later: the store is down or busy, not of another opinion."""
        if isinstance(error, ClientError):
            return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) >= 500
        return isinstance(error, ConnectionError)

    s3fs.S3FileSystem.retries = _NUM_TRIES
    s3fs.core.set_custom_error_handler(will_pass)


def read_errors() -> tuple[type[Exception], ...]:
    """What reading raises where a file, a disk or a store fails.

    The stores' libraries have gone through their retries then. Python evaluates this, after `except`, where something
    was raised.
    """
    if "s3fs" not in sys.modules:
        return (OSError,)
    from aiohttp import ClientError
    from botocore.exceptions import BotoCoreError

    return OSError, BotoCoreError, ClientError


def use_endpoint(url: str | None) -> None:
    """Ask this store, in place of AWS, for `s3://` paths, in this process and in those that it starts.

    Raises:
        ConfigError: the address in the environment is none, or holds a password or a signature.
    """
    if url:
        os.environ[ENDPOINT_VARIABLE] = url
    # It travels to the nodes of a cluster, is kept by Ray, and stands in errors.
    for name in (ENDPOINT_VARIABLE, "AWS_ENDPOINT_URL"):
        if os.environ.get(name) and (fault := endpoint_fault(os.environ[name])):
            raise ConfigError(f"{name}: {fault}")


def is_remote(path: str | StoragePath) -> bool:
    """Whether a path lies in an object store."""
    return "://" in str(path)


def as_path(path: str | StoragePath) -> StoragePath:
    """A path object for a local path or an `s3://` one.

    Raises:
        ConfigError: another scheme, no bucket, or credentials in the path.
    """
    if holds_secret(str(path)):
        raise ConfigError(f"{path}: {SECRET_ADVICE}")
    if isinstance(path, Path) or not is_remote(path):
        return Path(str(path))
    scheme, _, rest = str(path).partition("://")
    bucket = rest.partition("/")[0]
    if scheme != "s3" or not bucket or set(bucket) & set("[]"):  # which no library takes for a bucket
        raise ConfigError(f"{path}: expected a local path or s3://bucket/key")
    _start_s3()
    return UPath(str(path), **_OPTIONS)


def absolute(path: str | StoragePath) -> StoragePath:
    """A path that means the same in every process."""
    where = as_path(path)
    return Path(os.path.abspath(where)) if isinstance(where, Path) else where


def below(root: str | StoragePath, relative: str) -> StoragePath:
    """A path inside a folder; "." is the folder itself, which in a store would be a name like others."""
    return as_path(root) if relative == "." else as_path(root) / relative


@contextmanager
def reading(path: str | StoragePath) -> Iterator[None]:
    """Tell in our words what goes wrong where a file is read; a missing one stays a FileNotFoundError.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except read_errors() as error:
        raise StorageError(f"{path}: cannot be read ({reason(error)})") from error


def reason(error: Exception) -> str:
    """What a system's or a store's error says, without the name of the file."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def open_binary(path: str | StoragePath, *, ahead: int = SOME) -> BinaryIO:
    """Open a file to read it.

    A file of a store is one version of the object: once this one was replaced, reading fails.

    Args:
        path: of the file.
        ahead: bytes that are asked of a store beyond those that are read: `SOME`, `ALL` where the file will be read
            as a whole, or 0.
    """
    where = as_path(path)
    if isinstance(where, Path):
        return open(where, "rb")
    cache = {"block_size": ahead, "cache_type": "readahead"} if ahead else {"cache_type": "none"}
    file: Any = where.fs.open(where.path, "rb", **cache)
    file.name = str(path)  # by which FFmpeg knows a container's suffix
    return file


def is_file(path: str | StoragePath) -> bool:
    """Whether there is a file; other than the libraries' own methods it does not take a store's failure for a no.

    Raises:
        StorageError: it cannot be found out.
    """
    return _kind(path) == "file"


def is_folder(path: str | StoragePath) -> bool:
    """Whether there is a folder, which in a store is what has files below it.

    Raises:
        StorageError: it cannot be found out.
    """
    return _kind(path) == "directory"


def _kind(path: str | StoragePath) -> str | None:
    where = as_path(path)
    with reading(path):
        if isinstance(where, Path):
            return "file" if where.is_file() else "directory" if where.is_dir() else None
        try:
            return str(where.fs.info(where.path)["type"])
        except FileNotFoundError:
            return None


def walk(root: str) -> Iterator[tuple[str, str]]:
    """Folder, relative to `root` ("." for itself), and name of every file below it; hidden ones are left out.

    In a name that is not UTF-8, which no shard and no report could hold, the odd bytes are replaced, so that it cannot
    be opened and becomes an error of its own.

    Raises:
        FileNotFoundError: there is no such folder or bucket.
        StorageError: it cannot be read.
    """
    with reading(root):
        found = _walk_objects(as_path(root)) if is_remote(root) else _walk_folder(root)
        for folder, name in found:
            if name and not any(part.startswith(".") for part in (*folder.split("/"), name) if part != "."):
                yield folder, name


def _walk_folder(root: str) -> Iterator[tuple[str, str]]:
    if not Path(root).is_dir():
        raise FileNotFoundError(root)
    # Of each folder that is to be walked: the real folders above it, and its own.
    chains: dict[str, tuple[str, ...]] = {root: (os.path.realpath(root),)}

    def fail(error: OSError) -> None:
        """Its files would else be missing without a word."""
        raise StorageError(f"{error.filename}: cannot be read ({reason(error)})") from error

    for folder, folders, files in os.walk(root, onerror=fail, followlinks=True):
        above = chains.pop(folder)
        paths = {name: os.path.join(folder, name) for name in folders if not name.startswith(".")}
        targets = {name: os.path.realpath(path) for name, path in paths.items()}
        # A link to what holds it has no end, also where that is by another link.
        folders[:] = sorted(
            name
            for name, path in paths.items()
            if not (os.path.islink(path) and any(Path(real).is_relative_to(targets[name]) for real in above))
        )
        chains |= {paths[name]: (*above, targets[name]) for name in folders}
        where = Path(_as_utf8(os.path.relpath(folder, root))).as_posix()
        for name in files:
            yield where, _as_utf8(name)


def _walk_objects(root: Any) -> Iterator[tuple[str, str]]:
    """One request for a thousand objects, however many folders they make; nothing is kept."""
    bucket, key, _ = root.fs.split_path(root.path)
    prefix = f"{key.rstrip('/')}/" if key else ""
    request = {"Bucket": bucket, "Prefix": prefix}
    while True:
        page = root.fs.call_s3("list_objects_v2", **request)
        for item in page.get("Contents", ()):
            folder, _, name = item["Key"].removeprefix(prefix).rpartition("/")
            yield folder or ".", name
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]


def _as_utf8(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "replace")


def file_names(folder: StoragePath) -> list[str]:
    """Names of the files directly in a folder."""
    if isinstance(folder, Path):
        return [file.name for file in folder.iterdir() if file.is_file()]
    listed = folder.fs.ls(folder.path, detail=True)
    return [file["name"].rpartition("/")[2] for file in listed if file["type"] == "file"]


def copy_file(source: str | StoragePath, target: Path) -> None:
    """Copy a file, also one of a store, to this machine.

    Raises:
        FileNotFoundError: there is none.
        StorageError: it cannot be read, or this machine's disk cannot be written.
    """
    with reading(source), open_binary(source) as file, open(target, "wb") as copy:
        shutil.copyfileobj(file, copy, ALL)


@contextmanager
def on_this_machine(path: str | StoragePath) -> Iterator[Path]:
    """A file as a path that every library can read: itself, or a copy that vanishes where it lies in a store.

    Raises:
        FileNotFoundError: there is none.
        StorageError: it cannot be read.
    """
    where = as_path(path)
    if isinstance(where, Path):
        yield where
        return
    with scratch_folder() as folder:
        copy = folder / where.name
        copy_file(where, copy)
        yield copy


def stamps(path: str | StoragePath, counts: Callable[[str], bool] | None = None) -> list[list[Any]]:
    """What tells cheaply that a file, or one of a folder's, was replaced: name, size, and time of change or ETag.

    Args:
        path: of the file or the folder.
        counts: whether a name in a folder is one that counts; then the folder's own time of change does not.

    Raises:
        FileNotFoundError: there is none.
        StorageError: it cannot be read.
    """
    where = as_path(path)
    with reading(path):
        if isinstance(where, Path):
            is_folder = where.is_dir()
            files = [where, *sorted(where.iterdir())] if is_folder else [where]
            if is_folder and counts is not None:
                files = [file for file in files[1:] if counts(file.name)]
            found = [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
        else:
            info = where.fs.info(where.path)
            is_folder = info["type"] == "directory"
            # Not `ls` for a file: it lists all of the folder around it.
            objects: list[dict[str, Any]] = where.fs.ls(where.path, detail=True) if is_folder else [info]
            if is_folder and counts is not None:
                objects = [o for o in objects if counts(o["name"].rpartition("/")[2])]
            found = [[f"s3://{o['name']}", o["size"], o.get("ETag")] for o in objects]
        # Also one in which nothing counts is there.
        return [[f"{str(where).rstrip('/')}/", 0, None], *found] if is_folder and counts is not None else found


def read_files(folder: StoragePath, names: Iterable[str], max_bytes: int) -> Iterator[tuple[str, bytes | None]]:
    """Names and bytes of some files of a folder, in order; None in place of more than `max_bytes`.

    Raises:
        FileNotFoundError: one is missing.
        StorageError: one cannot be read.
    """
    names = list(names)
    if isinstance(folder, Path):
        for name in names:
            with reading(folder / name):
                is_small = (folder / name).stat().st_size <= max_bytes
                yield name, (folder / name).read_bytes() if is_small else None
        return
    with reading(folder):
        sizes = {file["name"].rpartition("/")[2]: file["size"] for file in folder.fs.ls(folder.path, detail=True)}
        for start in range(0, len(names), _IMAGES_AT_ONCE):
            part = names[start : start + _IMAGES_AT_ONCE]
            paths = {name: f"{folder.path}/{name}" for name in part if sizes.get(name, 0) <= max_bytes}
            # Not `cat`, which takes a name such as a[1].png for a pattern.
            data = folder.fs.cat_ranges(list(paths.values()), None, None, on_error="raise")
            found = dict(zip(paths, data, strict=True))
            for name in part:
                yield name, found.get(name)


def abort_uploads(folder: StoragePath, *, older_than_s: float = 24 * 3600) -> None:
    """Give up uploads below a folder of a store that a killed process has begun; a store keeps, and bills, them.

    Where this is not allowed, or the store does not know how, they stay.
    """
    if isinstance(folder, Path):
        return
    bucket, key, _ = folder.fs.split_path(folder.path)
    prefix = f"{key.rstrip('/')}/" if key else ""
    try:
        request = {"Bucket": bucket, "Prefix": prefix}
        while True:
            page = folder.fs.call_s3("list_multipart_uploads", **request)
            for upload in page.get("Uploads", ()):
                # Younger ones may be another driver's.
                if time.time() - upload["Initiated"].timestamp() >= older_than_s:
                    begun = {"Key": upload["Key"], "UploadId": upload["UploadId"]}
                    folder.fs.call_s3("abort_multipart_upload", Bucket=bucket, **begun)
            if not page.get("IsTruncated"):
                return
            request |= {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}
    except read_errors() as error:
        log.warning("%s: unfinished uploads cannot be given up (%s)", folder, reason(error))


def remove_file(path: StoragePath) -> None:
    """Delete a file, and the folder that it leaves empty; one that is not there is no fault.

    Raises:
        StorageError: it cannot be deleted.
    """
    try:
        if not isinstance(path, Path):
            path.fs.rm_file(path.path)  # `unlink` would take a name such as a[1] for a pattern
            return
        path.unlink(missing_ok=True)
        with suppress(OSError):  # others lie there too
            path.parent.rmdir()
    except FileNotFoundError:
        pass
    except read_errors() as error:
        raise StorageError(f"{path}: cannot be deleted ({reason(error)})") from error
