"""From a mask to the hole: the pixels that may change, and how much of each is replaced."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray


class Hole(NamedTuple):
    """A frame's hole.

    Attributes:
        pixels: (height, width), True = may change: the mask dilated, then grown to whole chroma samples.
        opacity: (height, width) float32 in [0, 1]: share of the prediction. 1 on the mask itself, falling to the
            hole's rim, 0 outside.
    """

    pixels: NDArray[np.bool_]
    opacity: NDArray[np.float32]


def make_hole(mask: NDArray[np.bool_], *, dilation_px: int, feather_px: int, chroma_step: tuple[int, int]) -> Hole:
    """Dilate a mask by a disk and grow it to the chroma grid.

    Args:
        mask: (height, width), True = to be removed.
        dilation_px: radius in source pixels.
        feather_px: width of the soft rim, inside the dilated hole.
        chroma_step: luma pixels per chroma sample, (horizontal, vertical).
    """
    pixels = mask.astype(np.uint8)
    if dilation_px:
        size = 2 * dilation_px + 1
        pixels = cv2.dilate(pixels, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))
    pixels = _grown_to_grid(pixels, chroma_step)
    if not feather_px:
        return Hole(pixels > 0, pixels.astype(np.float32))
    # Without a zero around it: a hole that touches the frame's edge has no rim there.
    distance = cv2.distanceTransform(pixels, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    opacity = np.minimum(distance / (feather_px + 1), 1).astype(np.float32)
    opacity[mask] = 1
    return Hole(pixels > 0, opacity)


def make_holes(
    masks: Iterable[NDArray[np.bool_]], *, dilation_px: int, feather_px: int, chroma_step: tuple[int, int]
) -> Iterator[Hole]:
    """`make_hole` for each mask; the same object again while the mask stays the same object."""
    last: NDArray[np.bool_] | None = None
    hole: Hole | None = None
    for mask in masks:
        if hole is None or mask is not last:
            hole = make_hole(mask, dilation_px=dilation_px, feather_px=feather_px, chroma_step=chroma_step)
            last = mask
        yield hole


def _grown_to_grid(pixels: NDArray[np.uint8], chroma_step: tuple[int, int]) -> NDArray[np.uint8]:
    step_x, step_y = chroma_step
    if step_x == step_y == 1:
        return pixels
    height, width = pixels.shape
    padded = np.pad(pixels, ((0, -height % step_y), (0, -width % step_x)))
    blocks = padded.reshape(padded.shape[0] // step_y, step_y, padded.shape[1] // step_x, step_x)
    grown = blocks.max((1, 3)).repeat(step_y, 0).repeat(step_x, 1)
    return np.ascontiguousarray(grown[:height, :width])
