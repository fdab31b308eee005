"""Pixel formats that are the same samples in another order, as planes: what everything behind the decoder works on.

nv12, p010, uyvy422 and their like are planar YUV; rgb24, bgr0, palettes and their like are planes of green, blue and
red. FFmpeg brings them into order without changing a sample, but for RGB of fewer than 8 bits, which it enlarges.
"""

import re
from functools import cache

import av

from sttn_ray.errors import VideoError

# Chroma samples of a block of 4x4 pixels, to what a planar format is called by.
_SUBSAMPLINGS = {(2, 2): "420", (2, 4): "422", (4, 4): "444", (1, 4): "411", (1, 1): "410", (4, 2): "440"}
_DEPTHS = (8, 9, 10, 12, 14, 16)
# Raw pictures of a sensor, colors of cinemas, floating point: no samples that a film here can hold.
_NO_SAMPLES = re.compile(r"bayer|xyz|f16|f32|rgba?f")


@cache
def planar_format(pix_fmt: str) -> str | None:
    """The planar format that holds the samples of another one, transparency included; None where there is none."""
    if pix_fmt.startswith("yuvj"):  # FFmpeg's old name for full range, which x264 goes by
        return pix_fmt
    try:
        components = (found := av.VideoFormat(pix_fmt, 4, 4)).components
    except ValueError:
        return None
    bits = max((part.bits for part in components if not part.is_alpha), default=0)
    depth = next((depth for depth in _DEPTHS if bits <= depth), None)
    if not bits or depth is None or _NO_SAMPLES.search(pix_fmt):
        return None
    alpha = "a" if has_alpha(pix_fmt) else ""
    suffix = f"{depth}le" if depth > 8 else ""
    num_colors = sum(not part.is_alpha for part in components)
    if found.is_rgb or found.has_palette or (alpha and num_colors == 1):
        return f"gbr{alpha}p{suffix}"
    if num_colors == 1:
        return f"gray{suffix}"
    subsampling = _SUBSAMPLINGS.get((found.chroma_width(4), found.chroma_height(4)))
    return f"yuv{alpha}{subsampling}p{suffix}" if subsampling else None


@cache
def has_alpha(pix_fmt: str) -> bool:
    """Whether a format has room for transparency, as has every palette."""
    found = av.VideoFormat(pix_fmt, 4, 4)
    return found.has_palette or any(part.is_alpha for part in found.components)


def without_alpha(pix_fmt: str) -> str:
    """A planar format of the same colors without transparency."""
    return pix_fmt.replace("yuva", "yuv").replace("gbrap", "gbrp")


def in_format(frame: av.VideoFrame, pix_fmt: str) -> av.VideoFrame:
    """A frame's samples in the order of another format; transparency is left out where that has none.

    Raises:
        VideoError: FFmpeg has no way from one to the other.
    """
    if frame.format.name == pix_fmt:
        return frame
    try:
        if frame.format.has_palette and has_alpha(pix_fmt):
            frame = frame.reformat(format="bgra", threads=1)
        return frame.reformat(format=pix_fmt, threads=1)
    except av.FFmpegError as error:
        raise VideoError(f"frames of {frame.format.name} cannot be read as {pix_fmt} ({error.strerror})") from error
