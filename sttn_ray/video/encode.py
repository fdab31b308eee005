"""One segment of a video as a file of its own, encoded so that segments join without re-encoding."""

import hashlib
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.frame import PictureType
from numpy.typing import NDArray

from sttn_ray.choices import Codec
from sttn_ray.errors import VideoError
from sttn_ray.video.fidelity import MAX_PSNR, deviation, sample_luma, sample_valid
from sttn_ray.video.frames import copy_frame
from sttn_ray.video.headers import H264_NUMBERS
from sttn_ray.video.index import VideoIndex
from sttn_ray.video.look import CAPTIONS
from sttn_ray.video.planar import in_format, planar_format

LOSSLESS_CODECS = ("x264-lossless", "ffv1")
# Encoders have their own orders of 8-bit RGB.
_RGB_FORMATS = {"gbrp": "bgr0", "gbrap": "bgra"}
# Two segments join only when their parameter sets are the same. Everything below is therefore fixed for a file, and
# so is the thread count, since x264 writes another stream for another count.
GROUP_OF_PICTURES = 250


@cache
def repeatable_x264() -> tuple[str, ...]:
    """Parameters without which x264 does not write the same bytes twice on this machine.

    With AVX-512 it does not: one encode in three of the same frames differed, and none of sixty with AVX2.
    """
    try:
        features = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        features = ""
    return ("asm=avx2",) if " avx512f" in features else ()


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """What determines an encoder's output, besides the pictures; fixed for all segments of a video."""

    codec: Codec
    crf: int
    preset: str
    threads: int
    pix_fmt: str
    hdr: str = ""
    chroma_location: str = ""

    @classmethod
    def for_video(cls, index: VideoIndex, *, codec: Codec, crf: int, preset: str, threads: int) -> "EncoderSettings":
        """Settings that keep the source's pixel format, and what it says of HDR and of chroma where the encoder can."""
        # yuvj is FFmpeg's old name for yuv with full range; FFV1 knows the new one only. The range is a tag.
        pix_fmt = index.pix_fmt.replace("yuvj", "yuv") if codec == "ffv1" else index.pix_fmt
        pix_fmt = _RGB_FORMATS.get(pix_fmt, pix_fmt)
        hdr, location = ("", "") if codec == "ffv1" else (index.hdr, index.chroma_location)
        return cls(
            codec=codec,
            crf=crf,
            preset=preset,
            threads=threads,
            pix_fmt=pix_fmt,
            hdr=hdr,
            chroma_location=location if "420" in pix_fmt else "",  # of others H.264 has no word
        )

    @property
    def is_lossless(self) -> bool:
        return self.codec in LOSSLESS_CODECS

    @property
    def encoder(self) -> str:
        if self.codec == "ffv1":
            return "ffv1"
        return "libx264rgb" if self.pix_fmt in _RGB_FORMATS.values() else "libx264"

    def lost(self, frame_data: Iterable[str]) -> list[str]:
        """What of `VideoIndex.frame_data` does not come through."""
        # x264 writes the captions that a frame carries.
        kept = {CAPTIONS} if self.encoder != "ffv1" else set()
        return sorted(set(frame_data) - kept)

    @property
    def _options(self) -> dict[str, str]:
        if self.codec == "ffv1":
            # Without "slices" the encoder finds a number that this size allows; 4 is refused for most odd sizes.
            return {"level": "3", "slicecrc": "1"}
        words = ["open-gop=0", *repeatable_x264(), *([self.hdr] if self.hdr else [])]
        if self.chroma_location:
            words.append(f"chromaloc={H264_NUMBERS[self.chroma_location]}")
        options = {"preset": self.preset, "x264-params": ":".join(words)}
        return {**options, ("qp" if self.is_lossless else "crf"): str(0 if self.is_lossless else self.crf)}


class _Noted(NamedTuple):
    """What is kept of a frame until it was read back: all of it as a checksum, or samples."""

    checksum: int
    luma: NDArray[np.generic]
    valid: NDArray[np.bool_]

    @classmethod
    def of(cls, frame: av.VideoFrame, hole: NDArray[np.bool_] | None, settings: EncoderSettings) -> "_Noted":
        if settings.is_lossless:
            return cls(_checksum(frame), np.empty(0), np.empty(0, np.bool_))
        return cls(0, sample_luma(frame), sample_valid(frame, hole))


@dataclass(frozen=True, kw_only=True)
class EncodedSegment:
    """A segment file as it was verified.

    Attributes:
        num_frames: frames that decode from it.
        num_bytes, sha256: of the file.
        extradata_sha256: of the encoder's parameter sets; equal for all segments that may be joined.
        min_psnr: of the frame that differs most from what was given, in dB, by samples of the luma outside the hole;
            100 where none differs, None for lossless codecs, which keep every sample.
    """

    num_frames: int
    num_bytes: int
    sha256: str
    extradata_sha256: str
    min_psnr: float | None


def choose_encoder(
    index: VideoIndex, *, codec: Codec, crf: int, preset: str, threads: int
) -> tuple[EncoderSettings, str | None]:
    """The wanted encoder where it can hold the video, else FFV1, and then a note that says so.

    Raises:
        VideoError: FFV1 cannot hold it either.
    """
    wanted = EncoderSettings.for_video(index, codec=codec, crf=crf, preset=preset, threads=threads)
    try:
        check_encoder(index, wanted)
    except VideoError:
        if codec == "ffv1":
            raise
    else:
        return wanted, None
    fallback = EncoderSettings.for_video(index, codec="ffv1", crf=crf, preset=preset, threads=threads)
    check_encoder(index, fallback)
    return fallback, f"encoded as ffv1: {codec} cannot hold {index.width}x{index.height} {index.pix_fmt}"


def check_encoder(index: VideoIndex, settings: EncoderSettings) -> None:
    """Open the encoder for a video without encoding, so that a refusal comes while planning.

    Raises:
        VideoError: the encoder does not take this size or pixel format.
    """
    refusal = _refusal(index, settings)
    if refusal is not None:
        remedy = "set encode.codec=ffv1"
        if settings.codec == "ffv1":
            remedy = "convert it first (ffmpeg -i IN -c:v ffv1 -pix_fmt yuv444p16le -c:a copy OUT.mkv)"
        raise VideoError(f"{index.path}: {refusal}; {remedy}")


def _refusal(index: VideoIndex, settings: EncoderSettings) -> str | None:
    codec, pix_fmt, size = settings.codec, index.pix_fmt, f"{index.width}x{index.height}"
    supported = {f.name for f in av.Codec(settings.encoder, "w").video_formats or []}
    if settings.pix_fmt not in supported:
        return f"{codec} cannot encode its pixel format {pix_fmt}"
    is_odd = (index.width % 2 and "420" in pix_fmt) or (index.width % 2 and "422" in pix_fmt)
    is_odd = is_odd or bool(index.height % 2 and "420" in pix_fmt)
    if is_odd and codec != "ffv1":
        return f"{codec} cannot encode {size} at {pix_fmt} (odd size)"
    if codec == "x264-lossless" and pix_fmt.startswith("gray"):
        return "x264-lossless turns gray into yuv420p"
    if codec == "x264-lossless" and "10" in pix_fmt:
        return f"x264-lossless is lossless at 8 bits only and the video is {pix_fmt}"
    context = av.CodecContext.create(settings.encoder, "w")
    context.options = settings._options
    _configure(context, index, settings)
    try:
        context.open()
    except av.FFmpegError as error:
        return f"{codec} does not take {size} {pix_fmt} ({error.strerror})"
    return None


def encode_segment(
    path: Path,
    frames: Iterable[av.VideoFrame],
    pts: tuple[int, ...],
    index: VideoIndex,
    settings: EncoderSettings,
    *,
    holes: Iterable[NDArray[np.bool_]] | None = None,
) -> EncodedSegment:
    """Encode frames to an mp4 file whose first pts is 0, and verify it by decoding it.

    Args:
        path: the file to write.
        frames: as many as `pts`, in order; their own pts are ignored.
        pts: presentation times in ticks of `index.time_base`.
        index: the source, for size, rate and tags.
        settings: the encoder.
        holes: for each frame (height, width), True = may have changed; each is asked for after its frame.

    Raises:
        VideoError: what was written does not decode to what was given: number of frames, their times, and, for a
            lossless codec, every sample; for a lossy one, samples of the luma outside the hole, as far as an encoder
            keeps them.
    """
    given = []

    def noted() -> Iterator[av.VideoFrame]:
        if holes is None:
            pairs: Iterable[tuple[av.VideoFrame, NDArray[np.bool_] | None]] = ((frame, None) for frame in frames)
        else:
            pairs = zip(frames, holes, strict=True)
        for frame, hole in pairs:
            given.append(_Noted.of(frame, hole, settings))
            yield frame

    _write(path, noted(), pts, index, settings)
    found_pts, found, extradata = _read_back(path, index, settings)
    tick = tick_of(index.time_base)
    wanted_pts = [round((p - pts[0]) * index.time_base / tick) for p in pts]
    if found_pts != wanted_pts:
        raise VideoError(
            f"{index.path}: the encoded segment holds {len(found_pts)} frames that differ in time from the "
            f"{len(wanted_pts)} given (first pts {found_pts[:3]}, expected {wanted_pts[:3]})"
        )
    if settings.is_lossless and [f.checksum for f in found] != [g.checksum for g in given]:
        raise VideoError(f"{index.path}: {settings.codec} did not keep every sample of the segment")
    data = path.read_bytes()
    return EncodedSegment(
        num_frames=len(found_pts),
        num_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        extradata_sha256=hashlib.sha256(extradata).hexdigest(),
        min_psnr=None if settings.is_lossless else _lowest_psnr(given, found, pts, index, settings),
    )


def tick_of(time_base: Fraction) -> Fraction:
    """The time base that mp4 can hold exactly for a source's: one over an integer."""
    return Fraction(1, time_base.denominator)


def _encoder_rate(index: VideoIndex) -> Fraction:
    """The header's rate, but no frame shorter than a tick: a last frame of no duration would not be decoded."""
    return min(index.rate, 1 / tick_of(index.time_base))


def set_picture_tags(context: av.VideoCodecContext, index: VideoIndex) -> None:
    """Copy what tells a player how to show the picture: color tags, pixel shape, rate."""
    context.color_range, context.colorspace, context.color_primaries, context.color_trc = index.color
    context.framerate = _encoder_rate(index)
    if index.sample_aspect:
        context.sample_aspect_ratio = index.sample_aspect


def _configure(context: av.VideoCodecContext, index: VideoIndex, settings: EncoderSettings) -> None:
    context.width, context.height, context.pix_fmt = index.width, index.height, settings.pix_fmt
    context.time_base = tick_of(index.time_base)
    context.gop_size = GROUP_OF_PICTURES
    context.thread_count = settings.threads
    set_picture_tags(context, index)


def _write(
    path: Path, frames: Iterable[av.VideoFrame], pts: tuple[int, ...], index: VideoIndex, settings: EncoderSettings
) -> None:
    tick = tick_of(index.time_base)
    # Of FFmpeg's milliseconds, in which mp4 counts a file's length, short frames at the end would be cut off.
    timescale = str(tick.denominator)
    options = {"fflags": "+bitexact", "video_track_timescale": timescale, "movie_timescale": timescale}
    with av.open(str(path), "w", format="mp4", options=options) as container:
        stream = container.add_stream(settings.encoder, rate=_encoder_rate(index), options=settings._options)
        assert isinstance(stream, av.VideoStream)
        _configure(stream.codec_context, index, settings)
        for frame, frame_pts in zip(frames, pts, strict=True):
            if settings.pix_fmt in _RGB_FORMATS.values():
                frame = in_format(frame, settings.pix_fmt)
            elif frame.format.name != settings.pix_fmt:
                frame = copy_frame(frame, settings.pix_fmt)
            frame.time_base = tick
            frame.pts = round((frame_pts - pts[0]) * index.time_base / tick)
            frame.pict_type = PictureType.NONE  # the encoder's choice, not the source's
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _read_back(path: Path, index: VideoIndex, settings: EncoderSettings) -> tuple[list[int], list[_Noted], bytes]:
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            found_pts, found = [], []
            for decoded in container.decode(stream):
                frame = in_format(decoded, planar_format(decoded.format.name) or decoded.format.name)
                found_pts.append(frame.pts)
                found.append(_Noted.of(frame, None, settings))
            return found_pts, found, stream.codec_context.extradata or b""
    except av.FFmpegError as error:
        raise VideoError(f"{index.path}: the encoded segment does not decode ({error.strerror})") from error


def _lowest_psnr(
    given: list[_Noted], found: list[_Noted], pts: tuple[int, ...], index: VideoIndex, settings: EncoderSettings
) -> float:
    bits = av.VideoFormat(settings.pix_fmt).components[0].bits
    lowest = MAX_PSNR
    for before, after, frame_pts in zip(given, found, pts, strict=True):
        psnr, is_plausible = deviation(before.luma, after.luma, before.valid, bits=bits, crf=settings.crf)
        if not is_plausible:
            raise VideoError(
                f"{index.path}: frame {bisect_left(index.pts, frame_pts)} is not kept by the encoded segment: outside "
                f"the hole it has {psnr:.1f} dB, less than {settings.codec} leaves at crf {settings.crf}"
            )
        lowest = min(lowest, psnr)
    return lowest


def _checksum(frame: av.VideoFrame) -> int:
    value = 0
    for plane in frame.planes:
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        width = plane.width * (1 if frame.format.components[0].bits <= 8 else 2)
        value = zlib.crc32(rows[: plane.height, :width].tobytes(), value)
    return value
