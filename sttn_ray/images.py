"""Folders and zips of images, and single ones, read with limits before anything is decoded."""

import errno
import io
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath

from PIL import Image, UnidentifiedImageError

from sttn_ray.errors import StorageError, SttnError
from sttn_ray.paths import (
    StoragePath,
    as_path,
    file_names,
    is_file,
    is_folder,
    open_binary,
    read_files,
    reading,
    reason,
    stamps,
)

# What a file holds, not its name, says what it is; Pillow knows fifty formats, some of which start programs.
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF")
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}
# What Pillow raises on damaged files, in opening and in decoding them.
DAMAGE = (OSError, SyntaxError, ValueError, TypeError, LookupError, OverflowError, EOFError, struct.error)
MAX_IMAGE_PIXELS = 100_000_000
MAX_IMAGE_BYTES = 256 * 2**20
MAX_ZIP_MEMBERS = 1_000_000
# Images hardly shrink in a zip, but for plain ones without compression of their own.
MAX_UNPACKED_BYTES = 4 * 2**30
MAX_UNPACKED_RATIO = 200
# Of a single one; deflate reaches 1030, other methods any ratio, and unpack it at once.
MAX_EASY_BYTES, MAX_MEMBER_RATIO = 16 * 2**20, 2000
KEPT_ZIP_BYTES = 64 * 2**20

# Every function takes the class of error to raise: the same file is a mask to one reader and a video to another.
ErrorClass = type[SttnError]


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sorts numbers inside names by value: 2.png before 10.png."""
    parts = re.split(r"(\d+)", name)
    # Not as integers, which Python makes of 4300 digits at most: by length, then by digits.
    return [(len(part.lstrip("0")), part.lstrip("0")) if part.isdecimal() else (-1, part) for part in parts]


def is_image(name: str) -> bool:
    """Whether a file's or a zip member's name is that of an image; what is hidden and macOS leftovers are not."""
    path = PurePosixPath(name)
    is_hidden = any(part.startswith(".") and part != ".." for part in path.parts)
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden and not name.startswith("__MACOSX")


def image_names(path: str, error_class: ErrorClass) -> list[str]:
    """Names of the images directly in a folder, or anywhere in a zip, in natural order.

    Raises:
        error_class: there is none, or it is not a zip, or one that claims to hold far more than it can.
        StorageError: it cannot be read.
    """
    where = as_path(path)
    try:
        is_zip = not is_folder(path)
        if is_zip and not is_file(path):  # a pipe would be waited for
            raise error_class(f"{path}: is not a zip file (no such file)")
        with reading(path):
            names = _zip_names(path, error_class) if is_zip else file_names(where)
    except (zipfile.BadZipFile, NotImplementedError, FileNotFoundError, ValueError, IndexError) as error:
        raise error_class(f"{path}: is not a zip file ({error})") from error
    except StorageError as error:
        raise _damage(error, path, error_class) from error
    return sorted(filter(is_image, names), key=natural_key)


def _zip_names(path: str, error_class: ErrorClass) -> list[str]:
    with _opened_zip(path) as archive:
        members = [info for info in archive.infolist() if not info.is_dir()]
    if len(members) > MAX_ZIP_MEMBERS:
        raise error_class(f"{path}: holds {len(members)} files, more than {MAX_ZIP_MEMBERS}; unpack it into folders")
    images = [info for info in members if is_image(info.filename)]
    num_bytes = stamps(path)[0][1]
    claimed = sum(info.file_size for info in images)
    if claimed > max(MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO * num_bytes):
        raise error_class(
            f"{path}: has {num_bytes} bytes and claims to hold images of {claimed}; not read; should that be true, "
            "unpack it and give the folder"
        )
    return [info.filename for info in members]


@contextmanager
def _opened_zip(path: str) -> Iterator[zipfile.ZipFile]:
    ((_, num_bytes, changed),) = stamps(path)
    if num_bytes >= KEPT_ZIP_BYTES:
        yield _kept_zip(path, num_bytes, changed)
        return
    with open_binary(path) as file, zipfile.ZipFile(file) as archive:
        yield archive


@lru_cache(maxsize=1)
def _kept_zip(path: str, _num_bytes: int, _changed: object) -> zipfile.ZipFile:
    """A zip that stays open: to list a whole data set's takes a second, and each of its videos is read by itself."""
    where = as_path(path)
    return zipfile.ZipFile(where if isinstance(where, Path) else open_binary(path))


def image_files(path: str, names: Iterable[str], error_class: ErrorClass) -> Iterator[tuple[str, bytes]]:
    """A name for messages and the bytes of images in a folder or zip.

    Members of a zip are read in memory, never unpacked to a path.

    Raises:
        error_class: one is missing, damaged, or too large.
        StorageError: one cannot be read.
    """
    if is_folder(path):
        yield from _folder_files(as_path(path), names, error_class)
        return
    with ExitStack() as stack:
        with _zip_errors(path, error_class):
            archive = stack.enter_context(_opened_zip(path))
        for name in names:
            label = f"{path}:{name}"
            with _zip_errors(label, error_class):
                info = archive.getinfo(name)
                if info.file_size > MAX_IMAGE_BYTES:
                    raise error_class(f"{label}: claims more than {MAX_IMAGE_BYTES} bytes; not read")
                if info.file_size > max(MAX_EASY_BYTES, MAX_MEMBER_RATIO * info.compress_size):
                    raise error_class(
                        f"{label}: claims {info.file_size} bytes in {info.compress_size}; not read; should that be "
                        "true, unpack the zip and give the folder"
                    )
                data = archive.read(name)
            yield label, data


@contextmanager
def _zip_errors(label: str, error_class: ErrorClass) -> Iterator[None]:
    try:
        with reading(label):
            yield
    except (RuntimeError, KeyError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        # Encrypted, damaged, or replaced by another one.
        raise error_class(f"{label}: cannot be read ({error})") from error
    except FileNotFoundError as error:
        raise error_class(f"{label}: cannot be read (no such file)") from error
    except StorageError as error:
        raise _damage(error, label, error_class) from error


def _damage(error: StorageError, name: str, error_class: ErrorClass) -> SttnError:
    """Of a zip that points outside itself: asking for such a place is invalid, and no fault of the storage."""
    is_invalid = getattr(error.__cause__, "errno", None) == errno.EINVAL
    return error_class(f"{name}: cannot be read (the zip is damaged)") if is_invalid else error


def file_bytes(path: StoragePath, error_class: ErrorClass) -> bytes:
    """The bytes of a file that holds an image.

    Raises:
        error_class: it is missing, or too large.
        StorageError: it cannot be read.
    """
    return next(_folder_files(path.parent, [path.name], error_class))[1]


def _folder_files(folder: StoragePath, names: Iterable[str], error_class: ErrorClass) -> Iterator[tuple[str, bytes]]:
    try:
        for name, data in read_files(folder, names, MAX_IMAGE_BYTES):
            if data is None:
                raise error_class(f"{folder / name}: has more than {MAX_IMAGE_BYTES} bytes; not read")
            yield str(folder / name), data
    except FileNotFoundError as error:
        raise error_class(f"{error.filename or folder}: cannot be read ({reason(error)})") from error


def open_image(data: bytes, name: str, error_class: ErrorClass) -> Image.Image:
    """An image whose header was read and whose size is believable; its pixels are not decoded yet.

    Raises:
        error_class: it is not an image, or claims too many pixels.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise error_class(
            f"{name}: cannot be read as an image (its content is none of {', '.join(FORMATS)}, or damaged)"
        ) from error
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise error_class(f"{name}: cannot be read as an image ({error})") from error
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise error_class(f"{name}: is {image.width}x{image.height}, more than {MAX_IMAGE_PIXELS} pixels")
    return image
