"""What a video file holds, read once: every frame's timestamp, the keyframes, the tags, the content's hash."""

import errno
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.stream import Disposition

from sttn_ray.choices import Interlaced, OnDamage
from sttn_ray.errors import VideoError
from sttn_ray.paths import ALL, as_path, is_file, reading
from sttn_ray.storage import file_sha256
from sttn_ray.video.claims import refuse_hollow_tables
from sttn_ray.video.color import ColorFormat, color_format
from sttn_ray.video.damage import has_good_slices, missing_bytes
from sttn_ray.video.deinterlace import can_deinterlace
from sttn_ray.video.hdr import read_hdr
from sttn_ray.video.headless import lacks_header
from sttn_ray.video.source import frames_and_errors, open_video

# HEIF and AVIF, also of several pictures, which FFmpeg reads as it does MP4.
_PICTURES = ("avif", "avis", "heic", "heix", "heim", "heis", "mif1", "msf1")
CAPTIONS = "closed captions"
_FRAME_DATA = {
    "A53_CC": CAPTIONS,
    "DYNAMIC_HDR_PLUS": "HDR10+",
    "DYNAMIC_HDR_VIVID": "HDR Vivid",
    "DOVI_METADATA": "Dolby Vision",
    "DOVI_RPU_BUFFER": "Dolby Vision",
}
# Of one frame; a header that claims more is not believed.
MAX_PIXELS = 16384 * 16384
# FFmpeg's numbers for a stream whose frames consist of two fields, by the order in which they are coded and shown.
_FIELD_ORDERS = (2, 3, 4, 5)


@dataclass(frozen=True, kw_only=True)
class OtherStream:
    """A stream that is copied, not decoded.

    Attributes:
        index: in the file.
        kind: FFmpeg's ("audio", "video", "subtitle", "attachment", "data"), or "cover" for a picture of the film.
        codec: FFmpeg's name.
    """

    index: int
    kind: str
    codec: str


@dataclass(frozen=True, kw_only=True)
class VideoIndex:
    """A video file's frames and properties.

    Attributes:
        path: the file.
        sha256: of the file's bytes: the video's identity.
        num_bytes: the file's size.
        format: FFmpeg's name of the container.
        stream: index of the video stream that is read.
        codec, pix_fmt, width, height: as coded, before rotation.
        time_base: seconds per tick of every pts.
        rate: average frames per second, a hint for the encoder's rate control.
        pts: presentation times of all frames that decode, ascending, in ticks.
        keyframe_pts: those at which decoding can start, ascending, in ticks.
        sample_aspect: width over height of a pixel.
        color: range, matrix, primaries and transfer as numbers (range: FFmpeg's; the others: H.273's).
        display_matrix: nine numbers that say how a player turns the picture, or None.
        rotation: degrees counterclockwise by which a player turns the picture: 0, 90, 180 or 270.
        hdr: from `read_hdr`; blank where there is none.
        others: the file's other streams, in order.
        frames_skipped: frames before the first one that decodes (a file cut in the middle of a group of pictures).
        is_deinterlaced: whether `decode_range` makes full frames of interlaced ones.
        damaged_pts: those of frames that are known to be damaged, though they may decode, in ticks.
        missing_bytes: by which the file is shorter than its container says.
        frame_data: what the first frame carries beside its picture, for people, sorted: what not every encoder keeps.
    """

    path: str
    sha256: str
    num_bytes: int
    format: str
    stream: int
    codec: str
    pix_fmt: str
    width: int
    height: int
    time_base: Fraction
    rate: Fraction
    pts: tuple[int, ...]
    keyframe_pts: tuple[int, ...]
    sample_aspect: Fraction
    color: tuple[int, int, int, int]
    display_matrix: tuple[int, ...] | None
    rotation: int
    others: tuple[OtherStream, ...]
    frames_skipped: int
    is_deinterlaced: bool = False
    hdr: str = ""
    damaged_pts: tuple[int, ...] = ()
    missing_bytes: int = 0
    frame_data: tuple[str, ...] = ()

    @property
    def num_frames(self) -> int:
        return len(self.pts)

    @property
    def displayed_size(self) -> tuple[int, int]:
        """Width and height of the picture as a player shows it, pixels taken as square."""
        return (self.height, self.width) if self.rotation % 180 else (self.width, self.height)

    @property
    def shown_aspect(self) -> Fraction:
        """Width over height of the picture as a player shows it, with the shape of its pixels."""
        coded = Fraction(self.width, self.height) * (self.sample_aspect or 1)
        return 1 / coded if self.rotation % 180 else coded

    @property
    def is_anamorphic(self) -> bool:
        """Whether a player stretches the picture."""
        return self.sample_aspect not in (0, 1)

    def color_format(self) -> ColorFormat:
        """How its samples are to be read.

        Raises:
            VideoError: the pixel format is not supported.
        """
        try:
            return color_format(self.pix_fmt, self.color[0], self.color[1])
        except VideoError as error:
            raise VideoError(f"{self.path}: {error}") from error

    def times_s(self, start: int = 0, stop: int | None = None) -> list[float]:
        """Seconds of frames `start` to `stop`, or to the last, after the video's first one."""
        # Dividing integers rounds once, as a Fraction does, in a twentieth of the time.
        first, (ticks, second) = self.pts[0], self.time_base.as_integer_ratio()
        return [(pts - first) * ticks / second for pts in self.pts[start:stop]]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON; `from_dict` is the inverse."""
        fractions = ("time_base", "rate", "sample_aspect")
        return {**asdict(self), **{name: str(getattr(self, name)) for name in fractions}}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "VideoIndex":
        fractions = {name: Fraction(data[name]) for name in ("time_base", "rate", "sample_aspect")}
        data = {"damaged_pts": (), "frame_data": (), **data}  # an older record lacks them
        lists = {name: tuple(data[name]) for name in ("pts", "keyframe_pts", "color", "damaged_pts", "frame_data")}
        matrix = data["display_matrix"]
        return cls(
            **{
                **data,
                **fractions,
                **lists,
                "display_matrix": None if matrix is None else tuple(matrix),
                "others": tuple(OtherStream(**stream) for stream in data["others"]),
            }
        )


def index_video(path: str, *, interlaced: Interlaced = "refuse", on_damage: OnDamage = "fail") -> VideoIndex:
    """Read a video file's index: all packets are read, the first frame is decoded.

    Interlaced is what the stream's header, its first packets or its first frame say to be; `decode_range` refuses a
    later frame that says so alone.

    Args:
        path: of the file, or in an object store.
        interlaced: what is done with an interlaced video.
        on_damage: "conceal" keeps damaged frames, also at the beginning, which `decode_range` then conceals, and what
            there is of a file that ends early.

    Raises:
        VideoError: the file is missing, empty, not a video, holds no video stream, or is of a kind that is not
            supported (transparent; interlaced where that is refused or its format cannot be deinterlaced); or it is
            damaged, as far as its packets or its first frame tell, where that is not concealed.
        StorageError: it cannot be read.
    """
    if not is_file(path):
        raise VideoError(f"{path}: no such file")
    with reading(path):
        num_bytes = as_path(path).stat().st_size
    if num_bytes == 0:
        raise VideoError(f"{path}: the file is empty (0 bytes)")
    refuse_hollow_tables(path, num_bytes)
    try:
        with open_video(path, ahead=ALL) as container:
            if container.metadata.get("major_brand", "").strip() in _PICTURES:
                raise VideoError(f"{path}: is a picture ({container.metadata['major_brand']}), not a video")
            stream = _video_stream(container, path)
            if container.format.name == "avi" and stream.codec_context.has_b_frames:
                raise VideoError(
                    f"{path}: an AVI with reordered frames (B-frames) does not tell when they are shown; remux it "
                    "(ffmpeg -fflags +genpts -i IN.avi -c copy OUT.mkv)"
                )
            pts, keyframe_pts, damaged = _read_packets(container, stream, path)
            header = _read_header(container, stream)
            missing = missing_bytes(container, path, num_bytes)
            has_fields = stream.codec_context.field_order in _FIELD_ORDERS
        if on_damage == "fail":
            _refuse_damage(path, num_bytes, missing, damaged, header["time_base"])
        first, is_damaged = _decode_first(path, header["stream"], on_damage)
        if pts is None:
            pts = _pts_by_decoding(path, header["stream"])
    except av.FFmpegError as error:
        hint = "; a picture, a playlist, or no container of video that is read here" * (error.errno == errno.EINVAL)
        if lacks_header(path, num_bytes):
            hint = "; its header, moov, is missing: it was cut off as it was recorded or copied; copy it anew"
        raise VideoError(f"{path}: cannot be read as a video ({error.strerror}{hint})") from error
    if first.pts is None:
        raise VideoError(f"{path}: its frames carry no timestamps; remux it to mp4 or mkv first")
    start = pts[0] if is_damaged else first.pts
    decodable = tuple(p for p in pts if p >= start)
    if not decodable:
        raise VideoError(f"{path}: holds no frame that decodes")
    is_interlaced = has_fields or first.interlaced_frame
    if is_interlaced:
        _check_interlaced(first, path, interlaced)
    return VideoIndex(
        path=path,
        sha256=file_sha256(path),
        num_bytes=num_bytes,
        pts=decodable,
        keyframe_pts=tuple(p for p in keyframe_pts if p >= start),
        frames_skipped=len(pts) - len(decodable),
        is_deinterlaced=is_interlaced,
        damaged_pts=tuple(sorted(p for p in damaged if p is not None)),
        missing_bytes=missing,
        **header,
        **_read_frame(first, path),
    )


def _video_stream(container: av.container.InputContainer, path: str) -> av.VideoStream:
    """The stream that a player shows; never a cover picture."""
    films = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    best = container.streams.best("video")
    stream = best if best in films else films[0] if films else None
    if not isinstance(stream, av.VideoStream):
        kinds = sorted({s.type for s in container.streams}) or ["none"]
        raise VideoError(f"{path}: no video stream; its streams: {', '.join(kinds)}")
    if stream.codec_context is None or not stream.codec_context.width:
        raise VideoError(f"{path}: its video stream cannot be decoded (unknown codec or no size)")
    if stream.codec_context.width * stream.codec_context.height > MAX_PIXELS:
        raise VideoError(f"{path}: claims {stream.codec_context.width}x{stream.codec_context.height}")
    return stream


def _read_packets(
    container: av.container.InputContainer, stream: av.VideoStream, path: str
) -> tuple[list[int] | None, list[int], list[int | None]]:
    """Sorted pts of all frames (None where the container's are not usable), of the keyframes, and of damaged ones."""
    pts: list[int | None] = []
    keyframe_pts = []
    damaged: list[int | None] = []  # marked by the container, as of a lost part of MPEG-TS
    is_ffv1 = stream.codec_context.name == "ffv1"
    fitting: list[int | None] = []  # to their checksums
    unfitting: list[int | None] = []
    fits = True
    for packet in container.demux(stream):
        if packet.size == 0 or packet.is_discard:  # a flush packet, or one that an edit list hides
            continue
        if packet.has_sidedata("matroska_block_additional"):
            raise VideoError(f"{path}: carries transparency (alpha), which would be lost")
        pts.append(packet.pts)
        if packet.is_corrupt:
            damaged.append(packet.pts)
        elif is_ffv1:
            fits = (fits or packet.is_keyframe) and has_good_slices(bytes(packet))  # others need the one before
            (fitting if fits else unfitting).append(packet.pts)
        if packet.is_keyframe and packet.pts is not None:
            keyframe_pts.append(packet.pts)
    if not pts:
        raise VideoError(f"{path}: its video stream holds no frames")
    known = sorted(p for p in pts if p is not None)
    is_usable = len(known) == len(pts) and len(set(known)) == len(known)
    if fitting:  # else the file was written without
        damaged += unfitting
    return (known if is_usable else None), sorted(set(keyframe_pts)), damaged


def _refuse_damage(path: str, num_bytes: int, missing: int, damaged: Sequence[int | None], time_base: Fraction) -> None:
    advice = "copy it anew from where it came (to inpaint it as it is, inpaint.on_damage=conceal does that)"
    if missing:
        raise VideoError(
            f"{path}: ends early: it has {num_bytes} bytes, its container tells of {num_bytes + missing}; {advice}"
        )
    if damaged:
        first = "" if damaged[0] is None else f", the first at {float(damaged[0] * time_base):.3f} s"
        raise VideoError(
            f"{path}: damaged: {len(damaged)} of its frames lack parts or do not fit their checksums{first}; {advice}"
        )


def _read_header(container: av.container.InputContainer, stream: av.VideoStream) -> dict[str, Any]:
    context = stream.codec_context
    return {
        "stream": stream.index,
        "format": container.format.name,
        "codec": context.codec.canonical_name,
        "width": context.width,
        "height": context.height,
        "time_base": stream.time_base,
        "rate": stream.average_rate or stream.base_rate or Fraction(25),
        "sample_aspect": stream.sample_aspect_ratio or Fraction(0),
        "color": tuple(
            int(tag)
            for tag in (
                context.color_range,
                context.colorspace,
                context.color_primaries,
                context.color_trc,
            )
        ),
        "others": tuple(
            OtherStream(
                index=other.index,
                kind="cover" if other.disposition & Disposition.attached_pic else other.type,
                codec=other.codec_context.name if other.codec_context else "unknown",
            )
            for other in container.streams
            if other.index != stream.index
        ),
    }


def _decode_first(path: str, stream_index: int, on_damage: OnDamage) -> tuple[av.VideoFrame, bool]:
    """The first frame that decodes, and whether one before it is damaged.

    No damage are frames at the beginning that lack those they were made from, as of a file that was cut; a decoder
    leaves them out without an error.
    """
    is_damaged = False
    for frame in frames_and_errors(path, stream_index, None):
        if frame is not None:
            return frame, is_damaged
        if on_damage == "fail":
            raise VideoError(f"{path}: damaged: its first frame cannot be decoded")
        is_damaged = True
    raise VideoError(f"{path}: no frame of its video stream can be decoded")


def _pts_by_decoding(path: str, stream_index: int) -> list[int]:
    """Timestamps as the decoder gives them, for containers whose packets carry none, or the same one twice."""
    with open_video(path, ahead=ALL) as container:
        frames = container.decode(container.streams[stream_index])
        pts = [frame.pts for frame in frames]
    if None in pts or len(set(pts)) != len(pts):
        raise VideoError(
            f"{path}: its frames carry no usable timestamps (missing, or the same one twice); remux it first"
        )
    return sorted(pts)


def _check_interlaced(frame: av.VideoFrame, path: str, interlaced: Interlaced) -> None:
    if interlaced == "refuse":
        raise VideoError(
            f"{path}: is interlaced; completing it as full frames would smear its fields; deinterlace it first "
            "(to inpaint it, inpaint.interlaced=deinterlace does that)"
        )
    if not can_deinterlace(frame):
        raise VideoError(
            f"{path}: is interlaced, and frames of {frame.width}x{frame.height} {frame.format.name} cannot be "
            "deinterlaced here; deinterlace it first"
        )


def _read_frame(frame: av.VideoFrame, path: str) -> dict[str, Any]:
    matrix = None
    try:
        found = list(frame.side_data)
    except ValueError as error:  # PyAV gives none where it does not know one
        raise VideoError(
            f"{path}: its frames carry data of a kind that is not read here ({error}), as a camera's EXIF; encode it "
            "anew (ffmpeg -i IN -c:v libx264 -crf 10 OUT.mkv)"
        ) from error
    for data in found:
        if data.type.name == "DISPLAYMATRIX":
            matrix = tuple(int(v) for v in np.frombuffer(bytes(data), np.int32))
    is_mirrored = matrix is not None and matrix[0] * matrix[4] < matrix[1] * matrix[3]
    if is_mirrored or frame.rotation % 90:
        raise VideoError(
            f"{path}: is shown mirrored or turned by {frame.rotation} degrees; only turns by 90, 180 and 270 "
            "are supported"
        )
    return {
        "pix_fmt": frame.format.name,
        "display_matrix": matrix,
        "rotation": frame.rotation % 360,
        "hdr": read_hdr(frame),
        "frame_data": tuple(sorted({_FRAME_DATA[data.type.name] for data in found if data.type.name in _FRAME_DATA})),
    }
