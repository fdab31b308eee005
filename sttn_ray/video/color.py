"""How a frame's own planes (Y, U, V or G, B, R at any bit depth) encode color, by its tags, and what RGB they are.

The network sees RGB; results go back into the source's planes, so that pixels outside the hole are never
converted (a YUV to RGB to YUV round trip alone changes 64 % of the samples). `completion.pictures` does both on the
network's device.
"""

import re
from dataclasses import dataclass

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from sttn_ray.errors import VideoError

Planes = list[NDArray[np.generic]]

# Kr and Kb by H.273 matrix code. Unspecified (2) and the codes not listed take BT.601, as FFmpeg does.
_BT601 = (0.299, 0.114)
_MATRICES = {1: (0.2126, 0.0722), 7: (0.212, 0.087), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}
_FULL_RANGE = 2
_PLANAR = re.compile(r"(?:yuv[ja]?(420|422|444|411|410|440)p|gray|(gbra?p))(?:(9|10|12|14|16)le)?")
_CHROMA_STEPS = {"420": (2, 2), "422": (2, 1), "444": (1, 1), "411": (4, 1), "410": (4, 4), "440": (1, 2)}


@dataclass(frozen=True, kw_only=True)
class ColorFormat:
    """How samples encode color.

    `bits` per sample; `chroma_step` = luma samples per chroma sample, (horizontal, vertical); `has_chroma` is false
    for gray; `kr`, `kb` are the matrix's luma weights. With `is_rgb` the planes are green, blue and red: what is said
    of luma goes for green, of chroma for the others. Transparency is no color: its plane follows these, and stays.
    """

    bits: int
    chroma_step: tuple[int, int]
    has_chroma: bool
    is_full_range: bool
    kr: float
    kb: float
    is_rgb: bool = False

    @property
    def dtype(self) -> type[np.generic]:
        return np.uint8 if self.bits == 8 else np.uint16

    @property
    def maximum(self) -> int:
        return (1 << self.bits) - 1


def color_format(pix_fmt: str, color_range: int, matrix: int) -> ColorFormat:
    """Read a pixel format's name and its tags (FFmpeg's numbers for range, H.273's for the matrix).

    Raises:
        VideoError: not planar YUV, RGB or gray in 8 to 16 bits.
    """
    match = _PLANAR.fullmatch(pix_fmt)
    if match is None:
        raise VideoError(
            f"pixel format {pix_fmt} is not supported: expected YUV, RGB or gray, 8 to 16 bits; convert it first "
            "(ffmpeg -i IN -c:v ffv1 -pix_fmt yuv444p16le -c:a copy OUT.mkv)"
        )
    subsampling, rgb, bits = match.groups()
    kr, kb = _MATRICES.get(matrix, _BT601)
    return ColorFormat(
        bits=int(bits or 8),
        chroma_step=_CHROMA_STEPS.get(subsampling, (1, 1)),
        has_chroma=not pix_fmt.startswith("gray"),
        is_full_range=color_range == _FULL_RANGE or pix_fmt.startswith(("yuvj", "gbr")),
        kr=kr,
        kb=kb,
        is_rgb=rgb is not None,
    )


def frame_planes(frame: av.VideoFrame, color: ColorFormat) -> Planes:
    """The planes of a decoded frame as arrays (rows, columns), views of its memory."""
    planes = []
    for plane in list(frame.planes)[: 3 if color.has_chroma else 1]:
        itemsize = np.dtype(color.dtype).itemsize
        rows = np.frombuffer(plane, color.dtype).reshape(-1, plane.line_size // itemsize)
        planes.append(rows[: plane.height, : plane.width])
    return planes


def crop_planes(planes: Planes, color: ColorFormat, box: tuple[int, int, int, int]) -> Planes:
    """Views of `box` (left, top, right, bottom; luma pixels, on the chroma grid or the frame's edge)."""
    left, top, right, bottom = box
    step_x, step_y = color.chroma_step
    luma = planes[0][top:bottom, left:right]
    chroma = [plane[top // step_y : -(-bottom // step_y), left // step_x : -(-right // step_x)] for plane in planes[1:]]
    return [luma, *chroma]


def planes_to_rgb(planes: Planes, color: ColorFormat) -> NDArray[np.float32]:
    """Planes of code values to RGB (rows, columns, 3), float32 in [0, 1]; chroma is enlarged bilinearly."""
    if color.is_rgb:
        green, blue, red = (plane.astype(np.float32) * (1 / color.maximum) for plane in planes)
        return np.stack([red, green, blue], axis=2)
    luma_offset, luma_scale, chroma_offset, chroma_scale = code_scales(color)
    y = (planes[0].astype(np.float32) - luma_offset) * (1 / luma_scale)
    if not color.has_chroma:
        return np.clip(np.repeat(y[..., None], 3, axis=2), 0, 1)
    height, width = y.shape
    step_x, step_y = color.chroma_step
    u, v = (
        cv2.resize(
            (plane.astype(np.float32) - chroma_offset) * (1 / chroma_scale),
            (plane.shape[1] * step_x, plane.shape[0] * step_y),
            interpolation=cv2.INTER_LINEAR,
        )[:height, :width]
        for plane in planes[1:]
    )
    kr, kb = color.kr, color.kb
    kg = 1 - kr - kb
    red = y + 2 * (1 - kr) * v
    blue = y + 2 * (1 - kb) * u
    green = y - (2 * kr * (1 - kr) / kg) * v - (2 * kb * (1 - kb) / kg) * u
    return np.clip(np.stack([red, green, blue], axis=2), 0, 1)


def scaled_rgb(frame: av.VideoFrame, width: int, height: int) -> NDArray[np.uint8]:
    """A decoded frame at another size, (height, width, 3) RGB, converted and scaled in one pass.

    By the frame's own tags for matrix and range; unspecified is BT.601. The mean of the pixels where both sides
    shrink, else bicubic.
    """
    shrinks = width <= frame.width and height <= frame.height
    scaled = frame.reformat(width, height, "rgb24", interpolation="AREA" if shrinks else "BICUBIC", threads=1)
    picture: NDArray[np.uint8] = scaled.to_ndarray()
    return picture


def code_scales(color: ColorFormat) -> tuple[float, float, float, float]:
    """Luma offset, luma scale, chroma offset, chroma scale, in code values (H.273, section 8.3)."""
    unit = float(1 << (color.bits - 8))
    if color.is_full_range:
        return 0.0, float(color.maximum), 128 * unit, float(color.maximum)
    return 16 * unit, 219 * unit, 128 * unit, 224 * unit
