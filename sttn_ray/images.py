"""Folders and zips of images, and single ones, read with limits before anything is decoded."""

import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from sttn_ray.errors import SttnError

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}
MAX_IMAGE_PIXELS = 100_000_000
MAX_IMAGE_BYTES = 256 * 2**20

# Every function takes the class of error to raise: the same file is a mask to one reader and a video to another.
ErrorClass = type[SttnError]


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sorts numbers inside names by value: 2.png before 10.png."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def is_image(name: str) -> bool:
    """Whether a file's or a zip member's name is that of an image; hidden files and macOS leftovers are not."""
    path = Path(name)
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and not name.startswith("__MACOSX")


def image_names(path: str, error_class: ErrorClass) -> list[str]:
    """Names of the images directly in a folder, or anywhere in a zip, in natural order.

    Raises:
        error_class: the zip cannot be read.
    """
    if Path(path).is_dir():
        names = [p.name for p in Path(path).iterdir() if p.is_file()]
    else:
        try:
            with zipfile.ZipFile(path) as archive:
                names = [info.filename for info in archive.infolist() if not info.is_dir()]
        except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, IndexError) as error:
            raise error_class(f"{path}: is not a zip file ({error})") from error
    return sorted(filter(is_image, names), key=natural_key)


def image_files(path: str, names: Iterable[str], error_class: ErrorClass) -> Iterator[tuple[str, bytes]]:
    """A name for messages and the bytes of images in a folder or zip.

    Members of a zip are read in memory, never unpacked to a path.

    Raises:
        error_class: one cannot be read, or is too large.
    """
    if Path(path).is_dir():
        for name in names:
            file = Path(path) / name
            yield str(file), file_bytes(file, error_class)
        return
    with zipfile.ZipFile(path) as archive:
        for name in names:
            label = f"{path}:{name}"
            if archive.getinfo(name).file_size > MAX_IMAGE_BYTES:
                raise error_class(f"{label}: claims more than {MAX_IMAGE_BYTES} bytes; not read")
            try:
                yield label, archive.read(name)
            except (RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError) as error:
                # Encrypted, or damaged.
                raise error_class(f"{label}: cannot be read ({error})") from error


def file_bytes(path: Path, error_class: ErrorClass) -> bytes:
    """The bytes of a file that holds an image.

    Raises:
        error_class: it cannot be read, or is too large.
    """
    try:
        if path.stat().st_size > MAX_IMAGE_BYTES:
            raise error_class(f"{path}: has more than {MAX_IMAGE_BYTES} bytes; not read")
        return path.read_bytes()
    except OSError as error:
        raise error_class(f"{path}: cannot be read ({error.strerror})") from error


def open_image(data: bytes, name: str, error_class: ErrorClass) -> Image.Image:
    """An image whose header was read and whose size is believable; its pixels are not decoded yet.

    Raises:
        error_class: it is not an image, or claims too many pixels.
    """
    try:
        image = Image.open(io.BytesIO(data))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise error_class(f"{name}: cannot be read as an image ({error})") from error
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise error_class(f"{name}: is {image.width}x{image.height}, more than {MAX_IMAGE_PIXELS} pixels")
    return image
