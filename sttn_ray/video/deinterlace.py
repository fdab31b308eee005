"""Interlaced frames to full ones, as many and at the same times."""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain

import av
from av.filter import Graph

# The filter looks one frame back and one ahead, and treats the first and the last one that it gets in another way.
MARGIN_FRAMES = 2
# One frame for two fields, all frames: in a video of both kinds not every interlaced frame says that it is. A frame
# that does not say which field comes first is taken to begin with the upper one.
_OPTIONS = "mode=send_frame:parity=auto:deint=all"


def deinterlaced(frames: Iterable[av.VideoFrame], *, threads: int = 1) -> Iterator[av.VideoFrame]:
    """Frames of one size and format through FFmpeg's bwdif, with their own pts; memory of their own.

    Raises:
        av.FFmpegError: the filter does not take such frames; `can_deinterlace` says so before.
    """
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        return
    graph = Graph()
    graph.threads = threads
    source = graph.add(
        "buffer",
        video_size=f"{first.width}x{first.height}",
        pix_fmt=first.format.name,
        time_base=str(first.time_base),
        pixel_aspect="0/1",
    )
    bwdif, sink = graph.add("bwdif", _OPTIONS), graph.add("buffersink")
    source.link_to(bwdif)
    bwdif.link_to(sink)
    graph.configure()
    pts = deque[int | None]()
    for frame in chain([first], frames, [None]):
        if frame is not None:
            pts.append(frame.pts)
        source.push(frame)
        while (done := _pulled(sink)) is not None:
            # The filter counts in half ticks.
            done.pts, done.time_base = pts.popleft(), first.time_base
            yield done


def can_deinterlace(frame: av.VideoFrame) -> bool:
    """Whether the filter takes a frame of this size and gives back its format (not gray of 10 to 14 bits)."""
    try:
        done = next(deinterlaced([frame]))
    except av.FFmpegError:
        return False
    return bool(done.format.name == frame.format.name)


def _pulled(sink: av.filter.context.FilterContext) -> av.VideoFrame | None:
    try:
        return sink.pull()
    except (av.BlockingIOError, av.EOFError):  # it wants another frame first, or has given all
        return None
