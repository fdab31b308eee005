"""A video file opened, and what its decoder makes of it where some of it is damaged."""

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

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


def frames_and_errors(path: str, stream_index: int, keyframe: int | None) -> Iterator[av.VideoFrame | None]:
    """Every frame that the decoder gives, and None for every error: `container.decode` would end at the first one.

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
                    container.seek(keyframe, stream=stream)
                except av.FFmpegError:  # from another keyframe it may be possible
                    return
            while num_errors < MAX_DEMUXER_ERRORS:
                try:
                    for packet in container.demux(stream):
                        num_errors = 0
                        yield from _decoded(packet)
                    return
                except av.InvalidDataError:
                    num_errors += 1
    except av.FFmpegError as error:
        raise VideoError(f"{path}: decoding stopped ({error.strerror})") from error


def _decoded(packet: av.Packet) -> list[av.VideoFrame | None]:
    try:
        return list(packet.decode())
    except MemoryError:
        raise
    except av.FFmpegError:
        return [None]
