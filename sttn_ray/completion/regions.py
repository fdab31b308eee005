"""Which parts of the picture the network works on.

A region is a box around some of a window's holes, with context, cut from every frame of the window and scaled to the
network's size: at source scale where it fits, else by the smallest step of a ladder. Its place depends on the
window's own holes only, on a coarse grid: a mark that stands still keeps one box, so that its features serve again.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from sttn_ray.masks.hole import Box

CONTEXT = 0.125  # of the region's width and height, left free on each side of its holes
SCALE_STEP = 2**0.5
GRID_PX = 16  # a region's place, at scale 1
CELL_PX = 16  # holes are told apart at this resolution, or a coarser one where there are many
MAX_PIECES = 64


class Region(NamedTuple):
    """A box that the network sees, and the part of it whose holes it fills."""

    box: Box
    target: Box


def find_regions(hole: NDArray[np.bool_], model_size: tuple[int, int], *, step: int = 2) -> list[Region]:
    """Cover a hole with regions.

    Args:
        hole: (height, width), the union of a window's holes.
        model_size: the network's working width and height.
        step: of the grid on which crops lie, as chroma samples do: 2, or 4.

    Returns:
        Regions whose targets hold all hole pixels; none where there is no hole.
    """
    size = (hole.shape[1], hole.shape[0])
    targets = _hole_boxes(hole)
    merged = True
    while merged:
        merged = False
        for i in range(len(targets) - 1, 0, -1):
            for j in range(i):
                both = _union(targets[i], targets[j])
                apart = max(_scale(targets[i], size, model_size), _scale(targets[j], size, model_size))
                if _scale(both, size, model_size) <= apart:
                    # One region instead of two, at no loss of resolution.
                    targets[j] = both
                    del targets[i]
                    merged = True
                    break
    return [Region(_place(target, size, model_size, step), target) for target in targets]


def _hole_boxes(hole: NDArray[np.bool_]) -> list[Box]:
    """Boxes around the pieces of a hole; specks in large number are taken together by looking coarser."""
    height, width = hole.shape
    cell = CELL_PX
    while True:
        padded = np.pad(hole, ((0, -height % cell), (0, -width % cell)))
        cells = padded.reshape(padded.shape[0] // cell, cell, padded.shape[1] // cell, cell).any((1, 3))
        count, _, stats, _ = cv2.connectedComponentsWithStats(cells.astype(np.uint8), connectivity=8)
        if count - 1 <= MAX_PIECES:
            break
        cell *= 2
    return sorted(
        (left * cell, top * cell, min((left + across) * cell, width), min((top + down) * cell, height))
        for left, top, across, down, _ in stats[1:].tolist()
    )


def _scale(target: Box, size: tuple[int, int], model_size: tuple[int, int]) -> float:
    """The smallest step of the ladder at which a target and its context fit, or the whole frame does."""
    scale = 1.0
    while not all(
        min(full, round(working * scale)) == full or extent <= (1 - 2 * CONTEXT) * working * scale
        for extent, full, working in zip(_extent(target), size, model_size, strict=True)
    ):
        scale *= SCALE_STEP
    return scale


def _place(target: Box, size: tuple[int, int], model_size: tuple[int, int], step: int) -> Box:
    scale = _scale(target, size, model_size)
    grid = max(step, round(GRID_PX * scale / step) * step)
    spans = []
    for axis in (0, 1):
        full = size[axis]
        # So that crops lie on the chroma grid.
        length = min(full, round(model_size[axis] * scale / step) * step)
        middle = (target[axis] + target[axis + 2]) / 2
        start = round((middle - length / 2) / grid) * grid
        # The grid must not push the target out of the box, as it could with a small network.
        start = min(max(start, -((length - target[axis + 2]) // step * step)), target[axis] // step * step)
        start = min(max(0, start), (full - length) // step * step)
        spans.append((start, start + length))
    (left, right), (top, bottom) = spans
    # An odd frame's last row and column belong to the regions that touch them.
    return left, top, max(right, _reach(target[2], right, size[0])), max(bottom, _reach(target[3], bottom, size[1]))


def _reach(target_end: int, end: int, full: int) -> int:
    return full if target_end > end else end


def _union(a: Box, b: Box) -> Box:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def _extent(box: Box) -> tuple[int, int]:
    return box[2] - box[0], box[3] - box[1]
