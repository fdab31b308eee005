"""Sound that no container takes as it is, as FLAC, which keeps every sample of it."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np

from sttn_ray.video.copied import Starts, copy_stream_tags, source_packets
from sttn_ray.video.source import open_video

# Of 16 bits, or of more, of which FLAC keeps 24.
_SHORT = ("u8", "u8p", "s16", "s16p")
# Times of compressed sound are rounded; what is farther apart is a gap, in which nothing is heard. Where the times of a
# recording pass more slowly than its samples, as much of it is left out, lest the sound fall behind the pictures.
_GAP_S = Fraction(1, 10)


def conversion_fault(stream: av.stream.Stream) -> str:
    """Why a track cannot be decoded; blank where nothing speaks against it."""
    context = stream.codec_context
    if not isinstance(context, av.AudioCodecContext):
        return "FFmpeg has no decoder for it"
    is_told = context.sample_rate and context.layout.nb_channels
    return "" if is_told else "its header does not tell its channels or its sample rate"


class Sound:
    """A track of the output, to which what is decoded of the source's goes."""

    def __init__(self, output: av.container.OutputContainer, source: av.audio.stream.AudioStream) -> None:
        self.stream = output.add_stream("flac", rate=source.codec_context.sample_rate)
        self.stream.codec_context.layout = _layout(source)
        self.stream.codec_context.format = _format(source)
        copy_stream_tags(source, self.stream)
        self._samples = _Samples(source)

    def encode(self, packet: av.Packet | None) -> Iterator[av.Packet]:
        """The output's packets for the source's next one; None: those that are left."""
        for frame in self._samples.read(packet):
            yield from self.stream.encode(frame)
        if packet is None:
            yield from self.stream.encode(None)


class Heard(NamedTuple):
    """What is heard of a track: a hash of all its samples, and when the first one is played."""

    sha256: str
    start_s: Fraction


def read_heard(path: str, streams: Sequence[int], *, muxer: str = "", starts_s: Starts | None = None) -> list[Heard]:
    """What is heard of some streams of a file, of 16 or 24 bits; with a muxer's name, of what goes to its container."""
    if not streams:
        return []
    with open_video(path) as container:
        samples = {number: _Samples(container.streams[number]) for number in streams}
        hashes = {number: hashlib.sha256() for number in streams}
        packets: Iterable[av.Packet] = source_packets(container, streams, muxer, starts_s)
        for number, frame in _frames(packets, samples):
            values = frame.to_ndarray()
            hashes[number].update((values >> 8 if values.dtype == np.int32 else values).tobytes())
        return [Heard(hashes[number].hexdigest(), samples[number].start_s or Fraction(0)) for number in streams]


def _frames(packets: Iterable[av.Packet], samples: dict[int, "_Samples"]) -> Iterator[tuple[int, av.AudioFrame]]:
    for packet in packets:
        for frame in samples[packet.stream_index].read(packet):
            yield packet.stream_index, frame
    for number, left in samples.items():
        for frame in left.read(None):
            yield number, frame


class _Samples:
    """A track decoded to whole numbers, without gaps, each sample within about `_GAP_S` of its time."""

    def __init__(self, stream: av.audio.stream.AudioStream) -> None:
        self.start_s: Fraction | None = None
        self._stream = stream
        self._rate = stream.codec_context.sample_rate
        self._resampler = av.AudioResampler(format=_format(stream), layout=_layout(stream), rate=self._rate)
        self._count = 0
        self._is_late = False
        self._excess = 0  # samples that are still to be left out

    def read(self, packet: av.Packet | None) -> Iterator[av.AudioFrame]:
        """Frames with pts in samples."""
        try:
            decoded = self._stream.codec_context.decode(packet)
        except av.InvalidDataError:  # damaged: it is not heard
            return
        for number, frame in enumerate(decoded):
            time_s = None if frame.pts is None or not frame.time_base else frame.pts * frame.time_base
            if self.start_s is None:
                self.start_s = time_s or Fraction(0)
            elif time_s is not None:
                gap_s = time_s - self._time_s
                if gap_s > _GAP_S:
                    yield self._numbered(_silence(round(gap_s * self._rate), self._resampler))
                elif number == 0:  # the packet's other frames may tell its time again
                    self._leave_out_what_is_late(-gap_s)
            frame.pts = None
            for part in self._resampler.resample(frame):
                num_left_out = min(self._excess, part.samples)
                self._excess -= num_left_out
                if num_left_out < part.samples:
                    yield self._numbered(_without_first(num_left_out, part) if num_left_out else part)

    def _leave_out_what_is_late(self, late_s: Fraction) -> None:
        was_late, self._is_late = self._is_late, late_s > _GAP_S
        if was_late and self._is_late:  # the time of a single packet may be wrong
            self._excess = round(late_s * self._rate)

    @property
    def _time_s(self) -> Fraction:
        return (self.start_s or Fraction(0)) + Fraction(self._count, self._rate)

    def _numbered(self, frame: av.AudioFrame) -> av.AudioFrame:
        frame.time_base = Fraction(1, self._rate)
        frame.pts = round(self._time_s * self._rate)
        self._count += frame.samples
        return frame


def _silence(num_samples: int, like: av.AudioResampler) -> av.AudioFrame:
    layout = like.layout
    assert layout is not None
    zeros = np.zeros((1, num_samples * layout.nb_channels), np.int16 if like.format.name == "s16" else np.int32)
    frame = av.AudioFrame.from_ndarray(zeros, format=like.format.name, layout=layout.name)
    frame.sample_rate = like.rate
    return frame


def _without_first(num_samples: int, frame: av.AudioFrame) -> av.AudioFrame:
    values = frame.to_ndarray()[:, num_samples * frame.layout.nb_channels :]
    rest = av.AudioFrame.from_ndarray(np.ascontiguousarray(values), format=frame.format.name, layout=frame.layout.name)
    rest.sample_rate = frame.sample_rate
    return rest


def _format(stream: av.audio.stream.AudioStream) -> str:
    found = stream.codec_context.format
    return "s16" if found is None or found.name in _SHORT else "s32"


def _layout(stream: av.audio.stream.AudioStream) -> str:
    layout = stream.codec_context.layout
    plain = {1: "mono", 2: "stereo"}
    return plain.get(layout.nb_channels, layout.name)
