"""The streams beside a film's pictures: how they come into the output, and what is read to compare them."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import islice
from typing import NamedTuple

import av
from av.stream import Disposition

from sttn_ray.video.source import open_video

# Packets, of all streams together, within which most streams begin.
_BEGINNING = 3000
# Of each stream, which tell whether a container takes it.
_FIRST = 3
Starts = Mapping[int, Fraction | None]
# Sound whose packets are decoded each for itself; others need the one before.
_INDEPENDENT = ("flac", "alac", "wavpack", "tta")


def copy_stream_tags(source: av.stream.Stream, target: av.stream.Stream) -> None:
    """Give a stream another one's language and title, and what it is for."""
    target.metadata.update({k: v for k, v in source.metadata.items() if k.lower() not in ("duration", "encoder")})
    target.disposition = source.disposition


def make_players_show(completed: av.VideoStream, copies: Iterable[av.stream.Stream]) -> None:
    """Have players show the completed film where another one, that may still have its mark, is copied."""
    for other in copies:
        if other.type == "video" and not other.disposition & Disposition.attached_pic:
            other.disposition = other.disposition & ~Disposition.default
            completed.disposition = completed.disposition | Disposition.default


def find_copies(
    output: av.container.InputContainer, source: av.container.InputContainer, streams: Sequence[int]
) -> list[int | None]:
    """Where each of the copied streams is found in the output, behind its film; None: nowhere.

    Pictures and attachments follow the others, and the muxer's own tracks, of chapters and time codes, lie between.
    """
    places = {False: iter([s.index for s in output.streams if not _is_attached(s)][1:])}
    places[True] = iter([s.index for s in output.streams if _is_attached(s)])
    return [next(places[_is_attached(source.streams[number])], None) for number in streams]


def _is_attached(stream: av.stream.Stream) -> bool:
    return stream.type == "attachment" or bool(stream.disposition & Disposition.attached_pic)


def source_packets(
    source: av.container.InputContainer, streams: Sequence[int], muxer: str, starts_s: Starts | None = None
) -> Iterator[av.Packet]:
    """The packets of some streams that go to an output.

    Args:
        source: the file, just opened.
        streams: their numbers.
        muxer: FFmpeg's name of the output's container.
        starts_s: when the streams begin: for their first packets alone, late ones out of turn; None: all packets.
    """
    demuxed = [source.streams[number] for number in streams if source.streams[number].type != "attachment"]
    if not demuxed:
        return
    if starts_s is None:
        yield from kept_packets(source.demux(demuxed), muxer)
        return
    left = {stream.index: _FIRST for stream in demuxed}
    every = [stream for stream in source.streams if stream.type != "attachment"]
    begun = (packet for packet in islice(source.demux(every), _BEGINNING) if packet.stream_index in left)
    for packet in kept_packets(begun, muxer):
        if left[packet.stream_index]:
            left[packet.stream_index] -= 1
            yield packet
        if not any(left.values()):
            return
    for stream in demuxed:
        start_s = starts_s.get(stream.index)
        if left[stream.index] == _FIRST and start_s is not None and stream.time_base:
            with suppress(av.FFmpegError):  # what cannot be sought is not seen before all is done
                source.seek(round(start_s / stream.time_base), stream=stream)
                yield from islice(kept_packets(source.demux(stream), muxer), _FIRST)


def kept_packets(packets: Iterable[av.Packet], muxer: str) -> Iterator[av.Packet]:
    """The packets that go to the output, of those that a source gives.

    Matroska has no edit lists: of sound that one hides only the packet before what is heard is kept, where its codec
    needs it. It would be heard before the first picture.
    """
    before: dict[int, av.Packet] = {}
    for packet in packets:
        if not packet.size:
            continue
        if muxer == "matroska" and packet.stream.type == "audio":
            if packet.is_discard:
                before[packet.stream_index] = packet
                continue
            hidden = before.pop(packet.stream_index, None)
            if hidden is not None and not _is_independent(packet):
                yield hidden
        yield packet


def _is_independent(packet: av.Packet) -> bool:
    name = packet.stream.codec_context.name if packet.stream.codec_context else ""
    return name.startswith("pcm_") or name in _INDEPENDENT


class CopiedPackets(NamedTuple):
    """What is read of a stream to compare it.

    Attributes:
        sha256: hex, of all packets' bytes, or of the file that is attached.
        pts: of each packet, in ticks, or None where the container tells none.
        time_base: seconds of a tick.
        is_picture: whether it is a cover, whose time nobody sees.
        is_nothing: whether there are neither packets nor a file.
    """

    sha256: str
    pts: list[int | None]
    time_base: Fraction
    is_picture: bool
    is_nothing: bool


def read_copied(
    path: str, streams: Sequence[int], *, muxer: str = "", starts_s: Starts | None = None
) -> list[CopiedPackets]:
    """What some streams of a file hold; with a muxer's name, of a source, what goes to such a container."""
    if not streams:
        return []
    hashes = {number: hashlib.sha256() for number in streams}
    pts: dict[int, list[int | None]] = {number: [] for number in streams}
    with open_video(path) as container:
        found = [container.streams[number] for number in streams]
        for stream in found:
            if stream.type == "attachment":
                hashes[stream.index].update(stream.data)
        for packet in source_packets(container, streams, muxer, starts_s):
            hashes[packet.stream_index].update(_payload(packet))
            pts[packet.stream_index].append(packet.pts)
        return [
            CopiedPackets(
                hashes[stream.index].hexdigest(),
                pts[stream.index],
                stream.time_base or Fraction(1),
                bool(stream.disposition & Disposition.attached_pic),
                not pts[stream.index] and stream.type != "attachment",
            )
            for stream in found
        ]


def _payload(packet: av.Packet) -> bytes:
    """A packet's bytes without what one container needs and others must not hold.

    That is AAC's ADTS header, and how H.264 and HEVC mark where their units begin: by start codes in MPEG-TS, by their
    lengths elsewhere.
    """
    data = bytes(packet)
    context = packet.stream.codec_context
    name = context.name if context is not None else ""
    # No frame of AAC begins so by itself.
    if name == "aac" and len(data) > 1 and data[0] == 0xFF and data[1] & 0xF6 == 0xF0:
        return data[7 if data[1] & 1 else 9 :]
    if name in ("h264", "hevc") and isinstance(context, av.VideoCodecContext):
        header = context.extradata or b""
        # Of how many bytes a length is stands in the header, in another place for each codec.
        place = 4 if name == "h264" else 21
        size = 1 + (header[place] & 3) if header[:1] == b"\x01" and len(header) > place else 0
        units = _units_by_length(data, size) if size else _units_by_start_code(data)
        return b"".join(len(unit).to_bytes(4, "big") + unit for unit in units)
    return data


def _units_by_length(data: bytes, size: int) -> Iterator[bytes]:
    start = 0
    while start < len(data):
        stop = start + size + int.from_bytes(data[start : start + size], "big")
        yield data[start + size : stop]
        start = stop


def _units_by_start_code(data: bytes) -> Iterator[bytes]:
    # Zeros before a start code are no part of the unit before, which ends with a one.
    yield from (unit.rstrip(b"\0") for unit in data.split(b"\0\0\1")[1:])
