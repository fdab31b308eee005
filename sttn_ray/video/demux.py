"""All packets of a file, read once: when its frames are shown, and what its other streams hold."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any

import av
from av.stream import Disposition

from sttn_ray.errors import VideoError
from sttn_ray.video.damage import has_good_slices

# So far a film's decoding times may step back, by the demuxer's own reckoning, and mean nothing.
_MAX_STEP_BACK_S = 1
# Containers that may be cut and joined anywhere; of others players show the first part alone.
_STREAMS_OF_PARTS = ("mpegts", "mpeg")


@dataclass(frozen=True, kw_only=True)
class OtherStream:
    """A stream that is copied, not decoded.

    Attributes:
        index: in the file.
        kind: FFmpeg's ("audio", "video", "subtitle", "attachment", "data"), or "cover" for a picture of the film.
        codec: FFmpeg's name.
        num_packets: of those that are played; None: not known.
        start_s: when the first packet is shown; None where that is not told.
        is_rising: whether each packet is later than the one before.
        step_back: where its times go back, and how far, in words; blank where they do not.
        is_cut: whether that is at what an edit list hides in its midst.
    """

    index: int
    kind: str
    codec: str
    num_packets: int | None = None
    start_s: Fraction | None = None
    is_rising: bool = True
    step_back: str = ""
    is_cut: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether it is declared and holds nothing, as the track of a microphone that was off."""
        return self.num_packets == 0 and self.kind != "attachment"

    def __str__(self) -> str:
        return f"{self.index} {self.kind} {self.codec}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON; `from_dict` is the inverse."""
        return {**asdict(self), "start_s": None if self.start_s is None else str(self.start_s)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "OtherStream":
        start_s = data.get("start_s")  # an older record lacks it
        return cls(**{**data, "start_s": None if start_s is None else Fraction(start_s)})


@dataclass
class Film:
    """The packets of a stream of pictures, in the file's order.

    Attributes:
        pts, dts: of each.
        keyframe_pts: ascending.
        keyframe_dts: in the file's order.
        damaged_pts: marked by the container, as of a lost part of MPEG-TS, or not fitting their checksums.
        has_alpha: whether a packet carries transparency beside its picture.
    """

    pts: list[int | None] = field(default_factory=list)
    dts: list[int | None] = field(default_factory=list)
    keyframe_pts: list[int] = field(default_factory=list)
    keyframe_dts: list[int] = field(default_factory=list)
    damaged_pts: list[int | None] = field(default_factory=list)
    has_alpha: bool = False
    _fitting: int = 0
    _unfitting: list[int | None] = field(default_factory=list)
    _fits: bool = True

    def add(self, packet: av.Packet, codec: str) -> None:
        """Take note of a packet."""
        self.has_alpha = self.has_alpha or packet.has_sidedata("matroska_block_additional")
        self.pts.append(packet.pts)
        self.dts.append(packet.dts)
        if packet.is_corrupt:
            self.damaged_pts.append(packet.pts)
        elif codec == "ffv1":
            # Others need the one before.
            self._fits = (self._fits or packet.is_keyframe) and has_good_slices(bytes(packet))
            self._fitting += self._fits
            self._unfitting += [] if self._fits else [packet.pts]
        if packet.is_keyframe:
            self.keyframe_pts += [] if packet.pts is None else [packet.pts]
            self.keyframe_dts += [] if packet.dts is None else [packet.dts]

    def sort(self) -> None:
        """Bring what is ascending into order, once all packets are known."""
        self.keyframe_pts = sorted(set(self.keyframe_pts))
        if self._fitting:  # else the file was written without checksums
            self.damaged_pts += self._unfitting

    def shown_pts(self) -> list[int] | None:
        """The times of all frames, ascending; None where the packets do not tell them, or the same one twice."""
        return _distinct(self.pts)

    def coded_dts(self) -> list[int] | None:
        """The decoding times of all frames, ascending; None where the packets do not tell them."""
        return _distinct(self.dts)


def read_packets(
    container: av.container.InputContainer, films: Sequence[av.VideoStream], path: str
) -> tuple[int, Film, tuple[OtherStream, ...]]:
    """Read all of a file: the number of the stream that is shown, its packets, and what the other streams hold.

    Args:
        container: the file.
        films: its streams of pictures that can be decoded, that which a player shows first.
        path: of the file.

    Raises:
        VideoError: no film holds a frame; or a stream's times go back.
    """
    packets = {stream.index: Film() for stream in films}
    codecs = {stream.index: stream.codec_context.name for stream in films}
    streams = {stream.index: _Times() for stream in container.streams}
    shown_times = {stream.index: _Times() for stream in films}
    for packet in container.demux([stream for stream in container.streams if stream.type != "attachment"]):
        if packet.size == 0:  # a flush packet, or a picture that stands
            continue
        streams[packet.stream_index].add(packet)
        if packet.stream_index in packets and not packet.is_discard:  # or one that an edit list hides
            packets[packet.stream_index].add(packet, codecs[packet.stream_index])
            shown_times[packet.stream_index].add(packet)
    shown = next((number for number, film in packets.items() if film.pts), None)
    if shown is None:
        raise VideoError(f"{path}: its video stream holds no frames")
    film = packets[shown]
    film.sort()
    others = tuple(_others(container, shown, streams))
    times, stream = shown_times[shown], container.streams[shown]
    step_back = times.step_back(stream)
    if (film.shown_pts() is None and step_back) or times.length_s(stream) > _MAX_STEP_BACK_S:
        refuse_steps_back(
            path,
            container.format.name,
            [step_back, *(other.step_back for other in others if other.step_back and not other.is_cut)],
        )
    return shown, film, others


@dataclass
class _Times:
    """What is known of a stream's packets after some of them; times in ticks."""

    num_played: int = 0
    start: int | None = None
    dts: int | None = None
    is_rising: bool = True
    farthest: tuple[int, int] = (0, 0)  # step back: from and to
    is_cut: bool = False  # there an edit list hides packets
    is_hidden: bool = False  # the last one

    def add(self, packet: av.Packet) -> None:
        self.num_played += not packet.is_discard
        if self.start is None:
            self.start = packet.pts
        if packet.dts is None:
            return
        if self.dts is not None and packet.dts <= self.dts:
            self.is_rising = False
            if self.dts - packet.dts > self.farthest[0] - self.farthest[1]:
                self.farthest = (self.dts, packet.dts)
                self.is_cut = packet.is_discard or self.is_hidden
        self.dts, self.is_hidden = packet.dts, packet.is_discard

    def length_s(self, stream: av.stream.Stream) -> Fraction:
        """Of the farthest step back."""
        return (self.farthest[0] - self.farthest[1]) * (stream.time_base or Fraction(0))

    def step_back(self, stream: av.stream.Stream) -> str:
        """The farthest step back in words."""
        tick = stream.time_base
        if not tick or not self.length_s(stream):
            return ""
        before, after = (float(time * tick) for time in self.farthest)
        return f"stream {stream.index} ({stream.type} {_codec(stream)}) from {before:.3f} s to {after:.3f} s"


def _others(container: av.container.InputContainer, shown: int, streams: dict[int, _Times]) -> Iterator[OtherStream]:
    for stream in container.streams:
        if stream.index == shown:
            continue
        times = streams[stream.index]
        yield OtherStream(
            index=stream.index,
            kind="cover" if stream.disposition & Disposition.attached_pic else stream.type,
            codec=_codec(stream),
            num_packets=times.num_played,
            start_s=None if times.start is None or not stream.time_base else times.start * stream.time_base,
            is_rising=times.is_rising,
            step_back=times.step_back(stream),
            is_cut=times.is_cut,
        )


def _codec(stream: av.stream.Stream) -> str:
    return str(stream.codec_context.name) if stream.codec_context else "unknown"


def refuse_steps_back(path: str, format: str, steps: Sequence[str]) -> None:
    """Refuse a file of which no order of times can be made, as that of recordings that were put behind each other.

    Args:
        path: of the file.
        format: FFmpeg's name of its container.
        steps: of `OtherStream.step_back`.

    Raises:
        VideoError: there are steps back.
    """
    if not steps:
        return
    advice = "give it times that rise (ffmpeg -fflags +genpts -i IN -map 0 -c copy OUT.mkv)"
    if format not in _STREAMS_OF_PARTS:
        advice = (
            "join them anew from a list of them, lines like: file 'one.mp4' (ffmpeg -f concat -safe 0 -i LIST -c copy "
            "OUT.mkv)"
        )
    raise VideoError(
        f"{path}: its times go back: {'; '.join(steps)}; so it is where recordings were put behind each other byte by "
        f"byte; {advice}"
    )


def _distinct(times: Sequence[int | None]) -> list[int] | None:
    known = sorted(time for time in times if time is not None)
    return known if len(known) == len(times) and len(set(known)) == len(known) else None
