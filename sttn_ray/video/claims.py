"""What an MP4 claims to hold, looked at before FFmpeg believes it and takes memory and hours for it."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from sttn_ray.errors import VideoError
from sttn_ray.paths import ALL, open_binary, reading

# Samples of one size are claimed by a number alone: a few bytes may claim any count of them. Real ones of that kind are
# of sound, which FFmpeg reads by chunks, or of pictures of one size, of which no film has so many.
MAX_UNPROVEN_SAMPLES = 1_000_000
# Film over and over, by an edit list: real lists leave out a beginning, or join parts.
MAX_SHOWINGS = 16
_FEW_SAMPLES = 1_000
# Of sound that is counted by samples of one tick FFmpeg reads so many together at least, and whole chunks of bytes.
_SAMPLES_AT_ONCE = 160
# Of all headers that are compressed, as old QuickTime writes them, together.
_MAX_UNPACKED_BYTES = 16 * 2**20
# Those in which FFmpeg looks for others, wherever they stand.
_PARENTS = {
    *(b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"mvex", b"dinf", b"tref", b"udta", b"wave"),
    *(b"moof", b"traf", b"cmov"),
}
_READ = {b"mvhd", b"mdhd", b"hdlr", b"stsz", b"stz2", b"stts", b"stss", b"elst", b"trex", b"tfhd", b"trun"}
_BY_HEAD = {b"stsz", b"stz2", b"hdlr"}  # of which the number of samples, or the kind, is enough
_PLACES = {b"alis", b"url ", b"rsrc"}  # of a track's data, which QuickTime tells in the box that tells its kind
_HEAD = 12
_MAX_DEPTH = 12  # FFmpeg's is 10


@dataclass
class _Track:
    """The boxes of a track by their kind, and how many samples of one byte it claims."""

    boxes: dict[bytes, bytes] = field(default_factory=dict)
    samples_of_a_byte: int = 0

    @property
    def is_read_by_chunks(self) -> bool:
        """Whether it is sound of QuickTime that is counted by samples, which says nothing of bytes."""
        durations = self.boxes.get(b"stts", b"")
        is_even = _number(durations, 4) == 1 and _number(durations, 12) == 1
        return self.boxes.get(b"hdlr", b"")[8:12] == b"soun" and is_even


@dataclass
class _Claims:
    """What was found so far.

    Attributes:
        samples, sample_bytes: of those that a number alone claims; one has a byte at least.
        movie_scale: ticks of a second of edit lists.
        default_bytes: of a fragment's sample, by track.
        fragment_bytes: the same, of the fragment that is read.
        tracks: in order.
        unpacked_bytes: of headers that are compressed.
    """

    samples: int = 0
    sample_bytes: int = 0
    movie_scale: int = 1
    default_bytes: int = 0
    fragment_bytes: int | None = None
    tracks: list[_Track] = field(default_factory=list)
    unpacked_bytes: int = 0

    def add(self, count: int, size: int) -> None:
        self.samples += count
        self.sample_bytes += count * max(1, size)


def refuse_hollow_tables(path: str, num_bytes: int) -> None:
    """Refuse an MP4 or MOV that claims far more samples than the file can hold, or shows them over and over.

    FFmpeg alone would take 36 to 70 bytes for each, up to all memory. Other files pass.

    Raises:
        VideoError: it does.
        StorageError: it cannot be read.
    """
    claims = _Claims()
    with reading(path), open_binary(path) as file:
        is_fragmented = _look(path, file, 0, num_bytes, claims, stops_at=b"moof")
    if is_fragmented:  # its parts lie all over it, and in a store each jump would be a request
        claims = _Claims()
        with reading(path), open_binary(path, ahead=ALL) as file:
            _look(path, file, 0, num_bytes, claims)
    for track in claims.tracks:
        claims.add(track.samples_of_a_byte // (_SAMPLES_AT_ONCE if track.is_read_by_chunks else 1), 1)
    if claims.samples > MAX_UNPROVEN_SAMPLES and claims.sample_bytes > num_bytes:
        raise VideoError(
            f"{path}: claims {claims.samples} samples of {claims.sample_bytes} bytes, and has {num_bytes} bytes in "
            "all; copy it anew from where it came"
        )
    for track in claims.tracks:
        count, shown = _num_samples(track), _num_shown(track, claims.movie_scale)
        if shown > MAX_SHOWINGS * count + _FEW_SAMPLES:
            raise VideoError(
                f"{path}: its edit list makes {shown} of {count} samples, more than {MAX_SHOWINGS} times as many; to "
                "have the film once: ffmpeg -ignore_editlist 1 -i IN -c copy OUT.mp4"
            )


def _look(
    path: str, file: BinaryIO, start: int, stop: int, claims: _Claims, *, stops_at: bytes = b"", depth: int = 0
) -> bool:
    """Take down what boxes claim; returns whether it stopped at one of the kind `stops_at`."""
    for kind, content, end in _boxes(file, start, stop):
        if kind == stops_at:
            return True
        if kind == b"trak":
            claims.tracks.append(_Track())
        if kind == b"traf":
            claims.fragment_bytes = None
        if kind == b"cmvd" and depth < _MAX_DEPTH:
            unpacked = _unpacked(file, content, end, _MAX_UNPACKED_BYTES - claims.unpacked_bytes)
            claims.unpacked_bytes += len(unpacked)
            if claims.unpacked_bytes > _MAX_UNPACKED_BYTES:
                raise VideoError(
                    f"{path}: its compressed header unpacks to more than {_MAX_UNPACKED_BYTES} bytes; copy it anew "
                    "from where it came"
                )
            _look(path, BytesIO(unpacked), 0, len(unpacked), claims, depth=depth + 1)
        elif kind in _PARENTS and depth < _MAX_DEPTH:
            if _look(path, file, content, end, claims, stops_at=stops_at, depth=depth + 1):
                return True
        elif kind in _READ:
            file.seek(content)
            _take(kind, file.read(_HEAD if kind in _BY_HEAD else end - content), claims)
    return False


def _take(kind: bytes, data: bytes, claims: _Claims) -> None:
    if kind == b"mvhd":
        claims.movie_scale = max(1, _number(data, 20 if data[:1] == b"\1" else 12))
    elif kind == b"trex":
        claims.default_bytes = max(claims.default_bytes, _number(data, 16))
    elif kind == b"tfhd":
        flags = _number(data, 0)
        if flags & 0x10:
            claims.fragment_bytes = _number(data, 8 + 8 * bool(flags & 1) + 4 * bool(flags & 2) + 4 * bool(flags & 8))
    elif kind == b"trun":
        flags, count = _number(data, 0), _number(data, 4)
        each = 4 * (flags & 0xF00).bit_count()
        told = (len(data) - 8 - 4 * bool(flags & 1) - 4 * bool(flags & 4)) // each if each else 0
        size = claims.default_bytes if claims.fragment_bytes is None else claims.fragment_bytes
        claims.add(max(0, count - max(0, told)), size)
    elif claims.tracks and not (kind == b"hdlr" and data[8:12] in _PLACES):
        claims.tracks[-1].boxes[kind] = data
        if kind == b"stsz" and _number(data, 4) == 1:
            claims.tracks[-1].samples_of_a_byte += _number(data, 8)
        elif kind == b"stsz" and _number(data, 4):
            claims.add(_number(data, 8), _number(data, 4))


def _num_samples(track: _Track) -> int:
    table = track.boxes.get(b"stsz") or track.boxes.get(b"stz2") or b""
    return _number(table, 8)


def _num_shown(track: _Track, movie_scale: int) -> int:
    """About how many samples FFmpeg makes of a track by its edit list: each edit takes those from a keyframe on."""
    edits, durations = track.boxes.get(b"elst", b""), _table(track.boxes.get(b"stts", b""), 2)
    wide = edits[:1] == b"\1"
    fields = np.dtype([("duration", ">u8" if wide else ">u4"), ("time", ">i8" if wide else ">i4"), ("rate", ">u4")])
    rows = np.frombuffer(edits[8:], fields, count=max(0, len(edits) - 8) // fields.itemsize)
    rows = rows[rows["time"] >= 0]
    count = _num_samples(track)
    if len(rows) <= MAX_SHOWINGS or not count or not len(durations):
        return 0
    header = track.boxes.get(b"mdhd", b"")
    scale = _number(header, 20 if header[:1] == b"\1" else 12)
    # Runs of samples of one duration: the number of the first one, and its time.
    numbers = np.concatenate([[0.0], np.cumsum(durations[:, 0])])
    times = np.concatenate([[0.0], np.cumsum(durations[:, 0] * durations[:, 1])])
    begins = rows["time"].astype(float)
    lengths = rows["duration"] * (scale / movie_scale)
    ends = np.where(rows["duration"] == 0, times[-1], begins + lengths)
    first, last = (np.minimum(np.interp(at, times, numbers), count) for at in (begins, ends))
    if b"stss" in track.boxes and len(keyframes := np.sort(_table(track.boxes[b"stss"], 1)[:, 0]) - 1):
        before = np.searchsorted(keyframes, first, side="right") - 1
        first = np.where(before >= 0, keyframes[np.maximum(before, 0)], 0)
    return int(np.sum(np.maximum(0, last - first) + 1))


def _table(data: bytes, columns: int) -> NDArray[np.float64]:
    """The rows of a table of 32-bit numbers, as many as it says and has."""
    count = min(_number(data, 4), max(0, len(data) - 8) // (4 * columns))
    return (
        np.frombuffer(data, ">u4", count=count * columns, offset=8 * bool(count)).reshape(count, columns).astype(float)
    )


def _number(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "big")


def _unpacked(file: BinaryIO, start: int, stop: int, max_bytes: int) -> bytes:
    """A header that is compressed; of too large a one, a byte more than allowed."""
    file.seek(start + 4)
    try:
        return zlib.decompressobj().decompress(file.read(stop - start - 4), max_bytes + 1)
    except zlib.error:
        return b""


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
