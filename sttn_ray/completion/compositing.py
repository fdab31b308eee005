"""Predictions into the source's own planes, inside the hole only.

Between completion and encoding travel just the samples inside the hole, as 16-bit fixed point: they are rounded to
the source's bit depth once, after blending. Without torch, for the processes that encode.
"""

import numpy as np
from numpy.typing import NDArray

from sttn_ray.masks.hole import Hole
from sttn_ray.video.color import ColorFormat, Planes, crop_planes

SAMPLE_TYPE = np.dtype("<u2")


def sample_scale(color: ColorFormat) -> float:
    """By which code values are multiplied where they travel."""
    return float(1 << (16 - color.bits))


def holes_by_plane(hole: Hole, color: ColorFormat) -> list[NDArray[np.bool_]]:
    """The hole at each plane's size, inside its box; a hole is whole chroma samples.

    Packed samples are in the order of these: luma in row order, then U, then V.
    """
    assert hole.box is not None
    left, top, right, bottom = hole.box
    step_x, step_y = color.chroma_step
    luma = hole.pixels[top:bottom, left:right]
    chroma = luma[::step_y, ::step_x]
    return [luma, chroma, chroma] if color.has_chroma else [luma]


def paste_samples(planes: Planes, packed: bytes, hole: Hole, color: ColorFormat) -> None:
    """Blend packed samples into a frame's planes, in place; nothing outside the hole is written.

    Args:
        planes: of the frame.
        packed: code values inside the hole times `sample_scale`, as `SAMPLE_TYPE`.
        hole: of the frame.
        color: of the frame.

    Raises:
        ValueError: the number of samples is not the hole's.
    """
    values = np.frombuffer(packed, SAMPLE_TYPE)
    inside_planes = holes_by_plane(hole, color) if hole.box else []
    counts = [int(inside.sum()) for inside in inside_planes]
    if hole.box is None and not packed:
        return
    if len(values) != sum(counts) or hole.box is None:
        raise ValueError(f"{len(values)} samples for a hole of {sum(counts)}")
    scale = 1.0 / sample_scale(color)
    opacities = _opacity_by_plane(hole.opacity, color)
    start = 0
    for plane, inside, opacity, count in zip(
        crop_planes(planes, color, hole.box), inside_planes, opacities, counts, strict=True
    ):
        blended = values[start : start + count].astype(np.float32) * scale
        start += count
        if opacity is not None:
            share = opacity[inside]
            blended = share * blended + (1 - share) * plane[inside].astype(np.float32)
        plane[inside] = np.clip(np.rint(blended), 0, color.maximum).astype(color.dtype)


def _opacity_by_plane(luma: NDArray[np.float32] | None, color: ColorFormat) -> list[NDArray[np.float32]] | list[None]:
    num_planes = 3 if color.has_chroma else 1
    if luma is None:
        return [None] * num_planes
    step_x, step_y = color.chroma_step
    height, width = luma.shape
    padded = np.pad(luma, ((0, -height % step_y), (0, -width % step_x)), mode="edge")
    chroma = padded.reshape(padded.shape[0] // step_y, step_y, padded.shape[1] // step_x, step_x).mean((1, 3))
    return [luma, chroma, chroma][:num_planes]
