"""What a video file holds, read once: every frame's timestamp, the keyframes, the tags, the content's hash."""

import errno
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, TypeVar

import av
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray

from sttn_ray.choices import Alpha, Interlaced, OnDamage, Purpose
from sttn_ray.errors import VideoError
from sttn_ray.paths import ALL, as_path, is_file, reading
from sttn_ray.storage import file_sha256
from sttn_ray.video.claims import refuse_hollow_tables
from sttn_ray.video.color import ColorFormat, color_format
from sttn_ray.video.damage import missing_bytes
from sttn_ray.video.demux import OtherStream, read_packets
from sttn_ray.video.headers import read_told
from sttn_ray.video.headless import lacks_header
from sttn_ray.video.look import interlaced_faults, look_at
from sttn_ray.video.order import find_times
from sttn_ray.video.source import Order, frames_and_errors, open_video
from sttn_ray.video.turns import as_shown, as_stored

T = TypeVar("T", bound=np.generic)

# HEIF and AVIF, also of several pictures, which FFmpeg reads as it does MP4.
_PICTURES = ("avif", "avis", "heic", "heix", "heim", "heis", "mif1", "msf1")
# Of one frame; a header that claims more is not believed.
MAX_PIXELS = 16384 * 16384
_LISTS = ("pts", "keyframe_pts", "color", "damaged_pts", "frame_data", "packet_times", "crop")
# FFmpeg's numbers for a stream whose frames consist of two fields, by the order in which they are coded and shown.
_FIELD_ORDERS = (2, 3, 4, 5)


@dataclass(frozen=True, kw_only=True)
class VideoIndex:
    """A video file's frames and properties.

    Attributes:
        path: the file.
        sha256: of the file's bytes: the video's identity.
        num_bytes: the file's size.
        format: FFmpeg's name of the container.
        stream: index of the video stream that is read.
        codec, width, height: as coded, before rotation.
        pix_fmt: of the frames of `decode_range`: planar, whatever the order of samples in the decoder's.
        time_base: seconds per tick of every pts.
        rate: average frames per second, a hint for the encoder's rate control.
        pts: presentation times of all frames that decode, ascending, in ticks.
        keyframe_pts: those at which decoding can start, ascending, in ticks.
        sample_aspect: width over height of a pixel.
        color: range, matrix, primaries and transfer as numbers (range: FFmpeg's; the others: H.273's), as frames say.
        display_matrix: nine numbers that say how a player turns and mirrors the picture, or None.
        rotation: degrees counterclockwise by which a player turns the picture: 0, 90, 180 or 270.
        hdr: from `read_hdr`; blank where there is none.
        others: the file's other streams, in order.
        frames_skipped: frames before the first one that decodes (a file cut in the middle of a group of pictures).
        is_deinterlaced: whether `decode_range` makes full frames of interlaced ones.
        damaged_pts: those of frames that are known to be damaged, though they may decode, in ticks.
        missing_bytes: by which the file is shorter than its container says.
        frame_data: what the first frame carries beside its picture, for people, sorted: what not every encoder keeps.
        packet_times: of each frame's packet, in ticks, where these do not tell when it is shown; else empty.
        is_by_dts: whether those are decoding times.
        decoded_pix_fmt: the decoder's, where that is another; else blank.
        chroma_location, crop: from `read_told`.
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
    packet_times: tuple[int, ...] = ()
    is_by_dts: bool = False
    decoded_pix_fmt: str = ""
    chroma_location: str = ""
    crop: tuple[int, ...] = ()

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

    @property
    def order(self) -> Order | None:
        """How a decoder's frames are known, where their packets do not tell when they are shown."""
        return Order.of(self.packet_times, self.pts, is_by_dts=self.is_by_dts) if self.packet_times else None

    @property
    def loses_times(self) -> bool:
        """Whether the second frame behind a place that was sought lacks its time, as in ASF."""
        return self.is_by_dts and self.format == "asf"

    def color_format(self) -> ColorFormat:
        """How its samples are to be read.

        Raises:
            VideoError: the pixel format is not supported.
        """
        try:
            return color_format(self.pix_fmt, self.color[0], self.color[1])
        except VideoError as error:
            raise VideoError(f"{self.path}: {error}") from error

    def as_shown(self, picture: NDArray[T]) -> NDArray[T]:
        """A picture as it is stored, turned and mirrored as a player shows it."""
        return as_shown(picture, self.display_matrix)

    def as_stored(self, picture: NDArray[T]) -> NDArray[T]:
        """The inverse of `as_shown`."""
        return as_stored(picture, self.display_matrix)

    def times_s(self, start: int = 0, stop: int | None = None) -> list[float]:
        """Seconds of frames `start` to `stop`, or to the last, after the video's first one."""
        # Dividing integers rounds once, as a Fraction does, in a twentieth of the time.
        first, (ticks, second) = self.pts[0], self.time_base.as_integer_ratio()
        return [(pts - first) * ticks / second for pts in self.pts[start:stop]]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON; `from_dict` is the inverse."""
        fractions = ("time_base", "rate", "sample_aspect")
        others = [stream.as_dict() for stream in self.others]
        return {**asdict(self), "others": others, **{name: str(getattr(self, name)) for name in fractions}}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "VideoIndex":
        fractions = {name: Fraction(data[name]) for name in ("time_base", "rate", "sample_aspect")}
        lists = {name: tuple(data[name]) for name in _LISTS if name in data}  # an older record lacks some
        matrix = data["display_matrix"]
        return cls(
            **{
                **data,
                **fractions,
                **lists,
                "display_matrix": None if matrix is None else tuple(matrix),
                "others": tuple(OtherStream.from_dict(stream) for stream in data["others"]),
            }
        )


def index_video(
    path: str,
    *,
    interlaced: Interlaced = "refuse",
    on_damage: OnDamage = "fail",
    alpha: Alpha = "refuse",
    purpose: Purpose = "film",
    faults: list[str] | None = None,
) -> VideoIndex:
    """Read a video file's index: all packets are read, the first frames are decoded.

    All of them are, where packets do not tell when frames are shown, or have room for transparency. Interlaced is what
    the stream's header, its first packets or its first frame say to be; `decode_range` refuses a later frame that says
    so alone.

    Args:
        path: of the file, or in an object store.
        interlaced: what is done with an interlaced video.
        on_damage: "conceal" keeps damaged frames, also at the beginning, which `decode_range` then conceals, and what
            there is of a file that ends early.
        alpha: what is done with a transparent film.
        purpose: of the video, by which errors advise; a mask's transparency is kept, that of a corpus left out.
        faults: is given what is not supported of it, so that it can be told with other faults, in place of an error.

    Raises:
        VideoError: the file is missing, empty, not a video, holds no video stream, or is of a kind that is not
            supported (transparent or interlaced where that is refused; interlaced in a format that cannot be
            deinterlaced); or it is damaged, as far as its packets or its first frame tell, where that is not concealed.
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
            number, film, others = read_packets(container, _films(container, path), path)
            stream = container.streams[number]
            assert isinstance(stream, av.VideoStream)
            header = _read_header(container, stream)
            missing = missing_bytes(container, path, num_bytes)
            has_fields = stream.codec_context.field_order in _FIELD_ORDERS
            is_reordered = stream.codec_context.has_b_frames
        if on_damage == "fail":
            _refuse_damage(path, num_bytes, missing, film.damaged_pts, header["time_base"], header["format"], purpose)
        first, is_damaged = _decode_first(path, number, on_damage)
        times = find_times(path, number, film, format=header["format"], is_reordered=is_reordered)
    except av.FFmpegError as error:
        hint = "; a picture, a playlist, or no container of video that is read here" * (error.errno == errno.EINVAL)
        if lacks_header(path, num_bytes):
            hint = "; its header, moov, is missing: it was cut off as it was recorded or copied; copy it anew"
        raise VideoError(f"{path}: cannot be read as a video ({error.strerror}{hint})") from error
    start = times.pts[0] if is_damaged or times.packet_times or first.pts is None else first.pts
    decodable = tuple(p for p in times.pts if p >= start)
    if not decodable:
        raise VideoError(f"{path}: holds no frame that decodes")
    is_interlaced = has_fields or first.interlaced_frame
    look = look_at(first, path, number, header["color"], alpha=alpha, has_alpha_beside=film.has_alpha, purpose=purpose)
    found = [*look.faults, *(interlaced_faults(first, look.pix_fmt, interlaced) if is_interlaced else ())]
    if faults is not None:
        faults += found
    elif found:
        raise VideoError(f"{path}: {'; '.join(found)}")
    shown_at = dict(zip(times.packet_times, times.pts, strict=bool(times.packet_times)))
    return VideoIndex(
        path=path,
        sha256=file_sha256(path),
        num_bytes=num_bytes,
        pts=decodable,
        keyframe_pts=tuple(p for p in times.keyframe_pts if p >= start),
        frames_skipped=len(times.pts) - len(decodable),
        is_deinterlaced=is_interlaced,
        damaged_pts=tuple(sorted(shown_at.get(p, p) for p in film.damaged_pts if p is not None)),
        missing_bytes=missing,
        others=others,
        packet_times=times.packet_times,
        is_by_dts=times.is_by_dts,
        **{**header, **look.properties()},
    )


def _films(container: av.container.InputContainer, path: str) -> list[av.VideoStream]:
    """The streams of pictures that can be decoded, that which a player shows first; never a cover."""
    films = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    best = container.streams.best("video")
    known = [s for s in sorted(films, key=lambda film: film != best) if s.codec_context and s.codec_context.width]
    if not films:
        kinds = sorted({s.type for s in container.streams}) or ["none"]
        raise VideoError(f"{path}: no video stream; its streams: {', '.join(kinds)}")
    if not known:
        raise VideoError(f"{path}: its video stream cannot be decoded (unknown codec or no size)")
    size = known[0].codec_context
    if size.width * size.height > MAX_PIXELS:
        raise VideoError(f"{path}: claims {size.width}x{size.height}")
    return known


def _refuse_damage(
    path: str,
    num_bytes: int,
    missing: int,
    damaged: Sequence[int | None],
    time_base: Fraction,
    format: str,
    purpose: Purpose,
) -> None:
    advice = "copy it anew from where it came"
    if purpose == "film":
        advice += " (to inpaint it as it is, inpaint.on_damage=conceal does that)"
    if missing:
        raise VideoError(
            f"{path}: ends early: it has {num_bytes} bytes, its container tells of {num_bytes + missing}; {advice}"
        )
    if damaged:
        if format == "mpegts":
            advice += "; where recordings were joined nothing is missing, and remuxing it helps (ffmpeg -i IN -map 0 "
            advice += "-c copy OUT.mkv)"
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
            int(tag) for tag in (context.color_range, context.colorspace, context.color_primaries, context.color_trc)
        ),
        **read_told(stream)._asdict(),
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
