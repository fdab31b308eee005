"""What an MP4 claims to hold, looked at before FFmpeg believes it and takes memory for it."""

from collections.abc import Iterator
from itertools import islice
from typing import BinaryIO

from sttn_ray.errors import VideoError
from sttn_ray.paths import open_binary, reading

# A table of samples of one size is a number alone: a few bytes may claim any length. Real ones of that kind are of
# sound, which FFmpeg reads by chunks, or of pictures of one size, of which no film has so many.
MAX_UNPROVEN_SAMPLES = 1_000_000
_PARENTS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
_FIRST = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
_MAX_BOXES = 10_000  # that follow each other


def refuse_hollow_tables(path: str, num_bytes: int) -> None:
    """Refuse an MP4 or MOV whose table of samples claims far more than the file can hold; others pass.

    FFmpeg alone would take 70 bytes for each sample, up to 4 GB.

    Raises:
        VideoError: it does.
        StorageError: it cannot be read.
    """
    with reading(path), open_binary(path) as file:
        if file.read(8)[4:] not in _FIRST:
            return
        for table in _sample_tables(file, 0, num_bytes):
            file.seek(table + 4)
            size, count = (int.from_bytes(file.read(4), "big") for _ in range(2))
            if count > MAX_UNPROVEN_SAMPLES and size * count > num_bytes:
                raise VideoError(f"{path}: claims {count} samples of {size} bytes, and has {num_bytes} bytes in all")


def _sample_tables(file: BinaryIO, start: int, stop: int) -> Iterator[int]:
    """Where the content of each `stsz` box below the first `moov` starts."""
    for kind, content, end in islice(_boxes(file, start, stop), _MAX_BOXES):
        if kind == b"stsz":
            yield content
        elif kind in _PARENTS:
            yield from _sample_tables(file, content, end)
            if kind == b"moov":
                return


def _boxes(file: BinaryIO, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, and start and end of the content, of the boxes that follow each other."""
    while start + 8 <= stop:
        file.seek(start)
        head = file.read(16)
        size, kind, header = int.from_bytes(head[:4], "big"), head[4:8], 8
        if size == 1:
            size, header = int.from_bytes(head[8:16], "big"), 16
        elif size == 0:  # up to the end
            size = stop - start
        if size < header:
            return
        yield kind, start + header, min(start + size, stop)
        start += size
