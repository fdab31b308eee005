"""A video file opened, and what its decoder makes of it where some of it is damaged."""

import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import av

from sttn_ray.errors import StorageError, VideoError
from sttn_ray.paths import SOME, is_remote, open_binary, read_errors, reason

# Containers of video. Not in it: playlists and lists of files (hls, concat, dash), which would read other files and
# reach into the network, and still images, of which a name such as img%03d.jpg stands for many.
_CONTAINERS = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,flv,asf,mxf,nut,ogg,gxf,"
    "yuv4mpegpipe,ivf,dv,gif,h264,hevc,rm,wav,mp3,flac,aac"
}
# A demuxer that fails so often without giving a packet in between has nothing more to give.
MAX_DEMUXER_ERRORS = 1000


@contextmanager
def open_video(path: str, *, ahead: int = SOME) -> Iterator[av.container.InputContainer]:
    """Open a file to read it; a title that is not UTF-8 is no reason to refuse a video.

    Args:
        path: of the file, or in an object store.
        ahead: for `open_binary`.

    Raises:
        av.FFmpegError: it is not a video, or is damaged.
        VideoError: a further stream begins in its midst.
        StorageError: it cannot be read.
    """
    if not is_remote(path):
        with _late_streams(path), av.open(path, options=_CONTAINERS, metadata_errors="surrogateescape") as container:
            yield container
        return
    before = len(_dropped_interrupts())
    try:
        with open_binary(path, ahead=ahead) as file:
            file.read = _until_interrupted(file.read, before)  # type: ignore[method-assign,assignment]
            with (
                _late_streams(path),
                av.open(file, options=_CONTAINERS, metadata_errors="surrogateescape") as container,
            ):
                yield container
    except av.FFmpegError:
        raise
    except read_errors() as error:
        # Never taken for the file's end: frames would be missing.
        raise StorageError(f"{path}: cannot be read ({reason(error)})") from error
    finally:
        if len(_dropped_interrupts()) > before:
            raise _dropped_interrupts()[-1]


@contextmanager
def _late_streams(path: str) -> Iterator[None]:
    """Say what it means where PyAV meets a packet of a stream that it had not found when it opened the file."""
    try:
        yield
    except IndexError as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        if not last.filename.endswith("av/container/streams.py"):
            raise
        raise VideoError(
            f"{path}: one of its streams begins late, where no player looks for it; remux it (ffmpeg -analyzeduration "
            "2G -probesize 2G -i IN -map 0 -c copy OUT.mkv)"
        ) from error


@cache
def _dropped_interrupts() -> list[BaseException]:
    """A list that grows by each Ctrl-C, and each task that is cancelled, which Python could raise nowhere.

    PyAV calls a file object from C and takes an `Exception` only: what else is raised there is printed, and FFmpeg
    reads on, without the bytes of that read.
    """
    dropped: list[BaseException] = []
    show = sys.unraisablehook

    def keep(told: "sys.UnraisableHookArgs") -> None:
        if told.exc_value is not None and not isinstance(told.exc_value, Exception):
            dropped.append(told.exc_value)
        show(told)

    sys.unraisablehook = keep
    return dropped


def _until_interrupted(read: Callable[[int], bytes], before: int) -> Callable[[int], bytes]:
    """A `read` that fails once there are more dropped interrupts than before, so that no film is read in vain."""

    def kept(size: int = -1) -> bytes:
        if len(_dropped_interrupts()) > before:
            raise OSError("interrupted")
        return read(size)

    return kept


class Order(NamedTuple):
    """How frames are known by their packets, where these do not tell when they are shown.

    Attributes:
        shown_at: when a frame is shown, by its packet's time, in ticks.
        packet_at: the inverse.
        is_by_dts: whether a packet's time is its decoding time, else what its container takes for the other one.
    """

    shown_at: dict[int, int]
    packet_at: dict[int, int]
    is_by_dts: bool

    @classmethod
    def of(cls, packet_times: Sequence[int], pts: Sequence[int], *, is_by_dts: bool) -> "Order":
        """From the time of each frame's packet, and of each frame."""
        pairs = list(zip(packet_times, pts, strict=True))
        return cls(dict(pairs), {shown: packet for packet, shown in pairs}, is_by_dts)


def frames_of(
    container: av.container.InputContainer, stream: av.VideoStream, keyframe: int | None, order: Order | None
) -> Iterator[av.VideoFrame]:
    """The frames of a stream from a keyframe on, given by its pts, or from the beginning; each with its pts.

    Raises:
        av.FFmpegError: what was read is damaged, or cannot be sought in.
    """
    if keyframe is not None:
        _seek(container, stream, keyframe, order)
    for packet in container.demux(stream):
        yield from _ordered(packet, av.Packet.decode, order)


def frames_and_errors(
    path: str, stream_index: int, keyframe: int | None, order: Order | None = None
) -> Iterator[av.VideoFrame | None]:
    """Every frame that the decoder gives, and None for every error, at which `frames_of` would end.

    On one thread: with more, what comes out around an error depends on which one was faster.
    """
    num_errors = 0
    try:
        with open_video(path) as container:
            stream = container.streams[stream_index]
            stream.codec_context.thread_count = 1
            stream.codec_context.thread_type = "NONE"
            if keyframe is not None:
                try:
                    _seek(container, stream, keyframe, order)
                except av.FFmpegError:  # from another keyframe it may be possible
                    return
            while num_errors < MAX_DEMUXER_ERRORS:
                try:
                    for packet in container.demux(stream):
                        num_errors = 0
                        yield from _ordered(packet, _decoded, order)
                    return
                except av.InvalidDataError:
                    num_errors += 1
    except av.FFmpegError as error:
        raise VideoError(f"{path}: decoding stopped ({error.strerror})") from error


def _seek(container: av.container.InputContainer, stream: av.VideoStream, keyframe: int, order: Order | None) -> None:
    container.seek(order.packet_at[keyframe] if order else keyframe, stream=stream)


def _ordered(
    packet: av.Packet, decode: Callable[[av.Packet], Iterable[av.VideoFrame | None]], order: Order | None
) -> Iterator[av.VideoFrame | None]:
    """What a decoder gives for a packet, with the pts at which it is shown."""
    if packet.buffer_ptr and not packet.size:
        return  # the picture before stands, as Theora and NUT say it; a decoder takes no such packet
    if order is None:
        yield from decode(packet)
        return
    if order.is_by_dts:
        packet.pts = packet.dts  # a decoder hands it on with the frame
    for frame in decode(packet):
        if frame is not None:
            frame.pts = order.shown_at.get(frame.pts)
        yield frame


def _decoded(packet: av.Packet) -> list[av.VideoFrame | None]:
    try:
        return list(packet.decode())
    except MemoryError:
        raise
    except av.FFmpegError:
        return [None]
