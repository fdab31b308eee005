"""The streams beside a film's pictures: how they come into the output, and what is read to compare them."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

import av
from av.stream import Disposition

from sttn_ray.video.source import open_video

_IMAGE_TYPES = {"mjpeg": ("image/jpeg", "jpg"), "png": ("image/png", "png"), "gif": ("image/gif", "gif")}
# Sound whose packets are decoded each for itself; others need the one before.
_INDEPENDENT = ("flac", "alac", "wavpack", "tta")


def add_copies(
    output: av.container.OutputContainer,
    muxer: str,
    source: av.container.InputContainer,
    path: str,
    streams: Sequence[int],
) -> dict[int, av.stream.Stream]:
    """Make the output's streams for the copied ones; returns those that packets go to, by number in the source.

    Args:
        output: the file that is written, with its first stream.
        muxer: FFmpeg's name of its container.
        source: the file that is read.
        path: of it.
        streams: numbers of what is copied.
    """
    copies: dict[int, av.stream.Stream] = {}
    for number in streams:
        stream = source.streams[number]
        if muxer == "matroska" and stream.disposition & Disposition.attached_pic:
            # As a track it would be one more film.
            output.add_attachment(*_picture_file(path, stream))
            continue
        copies[number] = output.add_stream_from_template(stream)
        copy_stream_tags(stream, copies[number])
    return copies


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


def _picture_file(path: str, stream: av.stream.Stream) -> tuple[str, str, bytes]:
    """Name, type and bytes of a cover picture."""
    codec = str(stream.codec_context.name if stream.codec_context else "unknown")
    kind, suffix = _IMAGE_TYPES.get(codec, (f"image/{codec}", codec))
    told = {name.lower(): str(value) for name, value in stream.metadata.items()}
    with open_video(path) as container:
        data = next(bytes(packet) for packet in container.demux(container.streams[stream.index]) if packet.size)
    return told.get("filename", f"cover.{suffix}"), told.get("mimetype", kind), data


def places_in_output(source: av.container.InputContainer, streams: Sequence[int]) -> list[int]:
    """Where each of the copied streams is found in the output: pictures and attachments follow the others."""

    def is_attached(number: int) -> bool:
        stream = source.streams[number]
        return stream.type == "attachment" or bool(stream.disposition & Disposition.attached_pic)

    order = sorted(streams, key=is_attached)
    return [1 + order.index(number) for number in streams]


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
    """

    sha256: str
    pts: list[int | None]
    time_base: Fraction
    is_picture: bool


def read_copied(path: str, streams: Sequence[int], *, muxer: str | None = None) -> list[CopiedPackets]:
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
        demuxed = [stream for stream in found if stream.type != "attachment"]
        for packet in kept_packets(container.demux(demuxed) if demuxed else (), muxer or ""):
            hashes[packet.stream_index].update(_payload(packet))
            pts[packet.stream_index].append(packet.pts)
        return [
            CopiedPackets(
                hashes[stream.index].hexdigest(),
                pts[stream.index],
                stream.time_base or Fraction(1),
                bool(stream.disposition & Disposition.attached_pic),
            )
            for stream in found
        ]


def _payload(packet: av.Packet) -> bytes:
    """A packet's bytes; AAC without the ADTS header, which MPEG-TS needs and other containers must not hold."""
    data = bytes(packet)
    context = packet.stream.codec_context
    is_aac = context is not None and context.name == "aac"
    if is_aac and data[:1] == b"\xff" and data[1] & 0xF6 == 0xF0:  # no frame of AAC begins so by itself
        return data[7 if data[1] & 1 else 9 :]
    return data
