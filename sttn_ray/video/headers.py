"""What a stream tells of its pictures that the binding to FFmpeg has no word for."""

import io
from collections.abc import Iterator
from typing import NamedTuple

import av

# Columns and rows as Matroska has them (1: where a sample of the luma lies, 2: half a sample on), FFmpeg's name, and
# H.264's number. Of (1, 2), left, H.264 need not be told. Of the two at the bottom, which no film was seen to have,
# Matroska has no word.
_LOCATIONS = {(2, 2): "center", (1, 1): "topleft", (2, 1): "top"}
H264_NUMBERS = {name: number for number, name in enumerate(_LOCATIONS.values(), 1)}
# Elements of Matroska: Segment, Tracks, TrackEntry, Video and Colour hold others.
_PARENTS = (0x18538067, 0x1654AE6B, 0xAE, 0xE0, 0x55B0)
_SITING = (0x55B7, 0x55B8)  # of chroma samples: columns, rows
_CROP = (0x54CC, 0x54BB, 0x54DD, 0x54AA)  # left, top, right, bottom


class Told(NamedTuple):
    """What a stream tells.

    Attributes:
        chroma_location: FFmpeg's name of where chroma samples lie; blank where that is on the left, as of H.264, or is
            not told.
        crop: pixels that players hide at the left, top, right and bottom of the picture; empty where there are none.
    """

    chroma_location: str = ""
    crop: tuple[int, ...] = ()


def read_told(stream: av.VideoStream) -> Told:
    """Read it from a Matroska header that is made of the stream; nothing where Matroska does not take it."""
    file = io.BytesIO()
    try:
        with av.open(file, "w", format="matroska") as container:
            container.add_stream_from_template(stream, opaque=True)
            container.start_encoding()
    except (av.FFmpegError, ValueError):
        return Told()
    header = file.getvalue()
    numbers = dict(_numbers(header, 0, len(header)))
    columns, rows = (numbers.get(kind, 0) for kind in _SITING)
    crop = tuple(numbers.get(kind, 0) for kind in _CROP)
    return Told(_LOCATIONS.get((columns, rows), ""), crop if any(crop) else ())


def _numbers(data: bytes, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """The elements that hold no others, by their kind, as numbers."""
    while start < stop:
        kind, start = _variable(data, start, keeps_length=True)
        size, start = _variable(data, start)
        if kind in _PARENTS:
            yield from _numbers(data, start, min(start + size, stop))
        else:
            yield kind, int.from_bytes(data[start : start + size], "big")
        start += size


def _variable(data: bytes, start: int, *, keeps_length: bool = False) -> tuple[int, int]:
    """A number of as many bytes as its first one has leading zeros, and one; and where it ends."""
    length = 9 - data[start].bit_length()
    number = int.from_bytes(data[start : start + length], "big")
    return number if keeps_length else number & ((1 << 7 * length) - 1), start + length
