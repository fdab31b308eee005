"""One decoded frame: checked against the video's index, and copied, which the binding to FFmpeg does not do."""

import av
import numpy as np

from sttn_ray.errors import VideoError
from sttn_ray.video.index import VideoIndex


def check_format(frame: av.VideoFrame, index: VideoIndex, number: int) -> None:
    """Refuse a frame of another size or pixel format than the first one, and one that is interlaced as that one is not.

    Raises:
        VideoError: it is.
    """
    pix_fmt = index.decoded_pix_fmt or index.pix_fmt
    if (frame.width, frame.height) != (index.width, index.height) or frame.format.name != pix_fmt:
        raise VideoError(
            f"{index.path}: frame {number} is {frame.width}x{frame.height} {frame.format.name}, the first one "
            f"{index.width}x{index.height} {pix_fmt}: videos that change size or format are not supported"
        )
    if frame.interlaced_frame and not index.is_deinterlaced:
        raise VideoError(
            f"{index.path}: frame {number} is interlaced, the first one is not; completing it as a full frame would "
            "smear its fields; deinterlace it first (ffmpeg -i IN -vf bwdif=deint=interlaced -c:v ffv1 OUT.mkv)"
        )


def copy_frame(frame: av.VideoFrame, pix_fmt: str | None = None) -> av.VideoFrame:
    """A frame of its own with the same samples, times and color tags.

    Args:
        frame: what is copied.
        pix_fmt: another name of its format, as yuv420p for yuvj420p; a conversion would rescale the samples.
    """
    copy = av.VideoFrame(frame.width, frame.height, pix_fmt or frame.format.name)
    for source, target in zip(frame.planes, copy.planes, strict=True):
        # A palette has no lines.
        rows = np.frombuffer(source, np.uint8).reshape(-1, source.line_size or source.buffer_size)
        into = np.frombuffer(target, np.uint8).reshape(-1, target.line_size or target.buffer_size)
        width = min(rows.shape[1], into.shape[1])
        into[: source.height, :width] = rows[: source.height, :width]
    copy.pts, copy.time_base = frame.pts, frame.time_base
    copy.color_range, copy.colorspace = frame.color_range, frame.colorspace
    copy.color_primaries, copy.color_trc = frame.color_primaries, frame.color_trc
    return copy
