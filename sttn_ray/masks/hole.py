"""From a mask to the hole: the pixels that may change, and how much of each is replaced.

All work is done in the box around the mask: most masks are small, and pictures are not.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Box = tuple[int, int, int, int]  # left, top, right, bottom


class Hole(NamedTuple):
    """A frame's hole.

    Attributes:
        pixels: (height, width), True = may change: the mask dilated, then grown to whole chroma samples.
        box: the smallest one around them; None: there are none.
        opacity: float32 in (0, 1] inside the box, 0 where it is no hole: the share of the prediction. 1 on the mask
            itself, falling to the hole's rim. None: 1 in all of the hole.
    """

    pixels: NDArray[np.bool_]
    box: Box | None
    opacity: NDArray[np.float32] | None


def make_hole(mask: NDArray[np.bool_], *, dilation_px: int, feather_px: int, chroma_step: tuple[int, int]) -> Hole:
    """Dilate a mask by a disk and grow it to the chroma grid.

    Args:
        mask: (height, width), True = to be removed.
        dilation_px: radius in source pixels.
        feather_px: width of the soft rim, inside the dilated hole; 0: none.
        chroma_step: luma pixels per chroma sample, (horizontal, vertical), each 1, 2 or 4.
    """
    around = find_box(mask)
    pixels = np.zeros_like(mask)
    if around is None:
        return Hole(pixels, None, None)
    # One pixel of rim beyond what the hole can reach, from which distances are counted; none at the frame's edge.
    left, top, right, bottom = _enlarged(around, dilation_px + max(2, *chroma_step) + 1, chroma_step, mask.shape)
    inside = mask[top:bottom, left:right].astype(np.uint8)
    if dilation_px:
        size = 2 * dilation_px + 1
        inside = cv2.dilate(inside, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))
    inside = _grown_to_grid(inside, chroma_step)
    pixels[top:bottom, left:right] = inside.view(bool)
    within = find_box(inside)
    assert within is not None
    rows, columns = slice(within[1], within[3]), slice(within[0], within[2])
    box = (left + within[0], top + within[1], left + within[2], top + within[3])
    if not feather_px:
        return Hole(pixels, box, None)
    # Without a zero around it: a hole that touches the frame's edge has no rim there.
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[rows, columns]
    opacity = np.minimum(distance * np.float32(1 / (feather_px + 1)), np.float32(1))
    opacity[mask[box[1] : box[3], box[0] : box[2]]] = 1
    return Hole(pixels, box, opacity)


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


def find_box(pixels: NDArray[np.generic]) -> Box | None:
    """The smallest box around all that is not 0; None where all is."""
    # Over rows first, which lie together in memory, and over the columns of those rows alone.
    rows = np.flatnonzero(pixels.any(1))
    if not len(rows):
        return None
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(pixels[top:bottom].any(0))
    return int(columns[0]), top, int(columns[-1]) + 1, bottom


def _enlarged(box: Box, margin: int, step: tuple[int, int], shape: tuple[int, ...]) -> Box:
    """A box with a margin, from whole chroma samples to whole ones, cut at the frame's edge."""
    left, top = (max(0, start - margin) // unit * unit for start, unit in zip(box[:2], step, strict=True))
    right, bottom = (
        min(full, -(-(end + margin) // unit) * unit)
        for end, unit, full in zip(box[2:], step, shape[1::-1], strict=True)
    )
    return left, top, right, bottom


def _grown_to_grid(pixels: NDArray[np.uint8], chroma_step: tuple[int, int]) -> NDArray[np.uint8]:
    """Whole chroma samples where any of their pixels is set; by slices, which is many times faster than by blocks."""
    step_x, step_y = chroma_step
    height, width = pixels.shape
    if step_x > 1:
        blocks = pixels[:, ::step_x].copy()
        for shift in range(1, step_x):
            part = pixels[:, shift::step_x]
            blocks[:, : part.shape[1]] |= part
        pixels = np.repeat(blocks, step_x, 1)[:, :width]
    if step_y > 1:
        blocks = pixels[::step_y].copy()
        for shift in range(1, step_y):
            part = pixels[shift::step_y]
            blocks[: part.shape[0]] |= part
        pixels = np.repeat(blocks, step_y, 0)[:height]
    return np.ascontiguousarray(pixels)
