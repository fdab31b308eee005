"""Predictions into the source's own planes, inside the hole only.

Between completion and encoding travel just the samples inside the hole, as 16-bit fixed point: they are rounded to
the source's bit depth once, after blending.
"""

import numpy as np
from numpy.typing import NDArray

from sttn_ray.completion.regions import Box
from sttn_ray.masks.hole import Hole
from sttn_ray.video.color import ColorFormat, Planes, crop_planes, rgb_to_planes


def hole_box(hole: Hole) -> Box:
    """The smallest box around a hole that is not empty."""
    rows, columns = np.flatnonzero(hole.pixels.any(1)), np.flatnonzero(hole.pixels.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def pack_samples(rgb: NDArray[np.float32], box: Box, hole: Hole, color: ColorFormat) -> bytes:
    """The samples of a prediction that lie in the hole.

    Args:
        rgb: (height, width, 3) in [0, 1], the prediction inside `box`.
        box: from `hole_box`; a hole is whole chroma samples, so the box lies on their grid or the frame's edge.
        hole: of the frame.
        color: of the frame.

    Returns:
        Little-endian uint16: luma in row order, then U, then V; code values times 2 ** (16 - bits).
    """
    step_x, step_y = color.chroma_step
    height, width, _ = rgb.shape
    rgb = np.pad(rgb, ((0, -height % step_y), (0, -width % step_x), (0, 0)), mode="edge")
    planes = rgb_to_planes(rgb, color)
    scale = float(1 << (16 - color.bits))
    packed = []
    for plane, inside in zip(planes, _holes_by_plane(hole.pixels, box, color), strict=True):
        values = plane[: inside.shape[0], : inside.shape[1]][inside]
        packed.append(np.clip(np.rint(values * scale), 0, 65535).astype("<u2"))
    return b"".join(values.tobytes() for values in packed)


def paste_samples(planes: Planes, packed: bytes, hole: Hole, color: ColorFormat) -> None:
    """Blend packed samples into a frame's planes, in place; nothing outside the hole is written.

    Raises:
        ValueError: the number of samples is not the hole's.
    """
    values = np.frombuffer(packed, "<u2")
    box = hole_box(hole)
    inside_planes = _holes_by_plane(hole.pixels, box, color)
    counts = [int(inside.sum()) for inside in inside_planes]
    if len(values) != sum(counts):
        raise ValueError(f"{len(values)} samples for a hole of {sum(counts)}")
    scale = 1.0 / (1 << (16 - color.bits))
    opacities = _opacity_by_plane(hole, box, color)
    start = 0
    for plane, inside, opacity, count in zip(
        crop_planes(planes, color, box), inside_planes, opacities, counts, strict=True
    ):
        predicted = values[start : start + count].astype(np.float32) * scale
        start += count
        share = opacity[inside]
        blended = share * predicted + (1 - share) * plane[inside].astype(np.float32)
        plane[inside] = np.clip(np.rint(blended), 0, color.maximum).astype(color.dtype)


def _holes_by_plane(pixels: NDArray[np.bool_], box: Box, color: ColorFormat) -> list[NDArray[np.bool_]]:
    left, top, right, bottom = box
    step_x, step_y = color.chroma_step
    luma = pixels[top:bottom, left:right]
    chroma = luma[::step_y, ::step_x]  # a hole covers whole chroma samples
    return [luma, chroma, chroma] if color.has_chroma else [luma]


def _opacity_by_plane(hole: Hole, box: Box, color: ColorFormat) -> list[NDArray[np.float32]]:
    left, top, right, bottom = box
    step_x, step_y = color.chroma_step
    luma = hole.opacity[top:bottom, left:right]
    if not color.has_chroma:
        return [luma]
    height, width = luma.shape
    padded = np.pad(luma, ((0, -height % step_y), (0, -width % step_x)), mode="edge")
    chroma = padded.reshape(padded.shape[0] // step_y, step_y, padded.shape[1] // step_x, step_x).mean((1, 3))
    return [luma, chroma, chroma]
