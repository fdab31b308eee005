"""What stands still in pictures that change: the edges of overlays, and boxes around them.

An edge that lies over a film is in every shot, at the same place and in the same direction, while the picture below
changes. Each gradient is therefore taken as an arrow of length 1 at most, and the arrows of a pixel are added over
time: those of an overlay add up, those of a changing picture cancel. A half transparent overlay's add up as well, as
far as its edges are visible. Where the picture stands still, its own edges add up like an overlay's, and nothing
can be told.

Maps are (height, width), float32 in [0, 1]. Lengths in fractions are of the picture's longer side.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float32]
Box = tuple[int, int, int, int]  # left, top, right, bottom

# Gradients, in luma of 255 a pixel, from which an arrow has its full length. The noise of a codec is below 2.
FULL_GRADIENT = 8.0
FULL_GRADIENT_COARSE = 2.0
COARSE_SIDE = 60

# An edge that persists: how far its arrows add up, of the frames and of what they could reach. Measured: films of 5 to
# 24 shots without a mark have less than 0.015 % of such pixels, no 15 of them together; a mark 3 % wide has 0.05 %.
MIN_SUM = 0.5
MIN_PURITY = 0.85
# A mark; faint ones reach 0.57 and 0.93, and must be larger: a thing that stood still in half of the film looks so.
MIN_MARK_PURITY = 0.9
MIN_MARK_EDGES, MIN_FAINT_EDGES = 1e-4, 4e-4  # pixels, as a share of the picture's
# A mark, where more than this share of the picture persists besides: a shot by a slow or resting camera, whose own
# edges reach 0.65 and 0.94. Opaque marks reach 0.95 and 0.98, those of half opacity 0.75 and 0.96.
OTHER_EDGES = 0.0005
MIN_CLEAR_SUM, MIN_CLEAR_PURITY = 0.7, 0.95
MIN_EDGE_PIXELS = 12
OWN_SUM = 0.7  # edges below this share of a mark's best belong to what is behind it

MIN_AREA, MAX_AREA = 0.0002, 0.08
MAX_SPAN = 0.6  # of the picture's width or height: longer things are borders
REACH = 0.015  # parts of a mark are this near each other
MERGE = 0.03
BORDER_ROW = 0.2  # of a row's pixels; a mark's has fewer
LINE_PX = 4  # a box as thin as this and ten times as long is a line

# Above these a picture stands still: how far coarse arrows add up, and the share of persistent edges off any mark.
STILL = 0.7
STILL_EDGES = 0.01
FLAT = 0.01  # added to what arrows could reach: surroundings without any structure say nothing


class Arrows(NamedTuple):
    """For each pixel, the length of the sum of its arrows, and the sum of their lengths; both over the frames."""

    total: Map
    reach: Map

    @property
    def purity(self) -> Map:
        return np.divide(self.total, self.reach + np.float32(1e-6), dtype=np.float32)


class Overlay(NamedTuple):
    """A box around an overlay's edges in pixels, and how far its arrows add up."""

    box: Box
    score: float


class _Measured(NamedTuple):
    """A candidate: its box, how much of the picture its edges are, and the means of their arrows."""

    box: Box
    edges: float
    total: float
    purity: float


def find_overlays(luma: NDArray[np.uint8]) -> tuple[list[Overlay], str | None]:
    """Overlays in frames (frames, height, width) of one film, best first; where there are none, the reason."""
    height, width = luma.shape[1:]
    fine, coarse = add_arrows(luma, FULL_GRADIENT), coarse_arrows(luma)
    still = float(coarse.total.sum() / (coarse.reach.sum() + FLAT * coarse.reach.size))
    if still > STILL:
        return [], "the picture stands still, so a mark cannot be told from it"
    edges = (fine.total >= MIN_SUM) & (fine.purity >= MIN_PURITY)
    clear_borders(edges, luma)
    found = [mark for mark in _measured(_candidates(edges, fine.total), edges, fine) if _persists(mark)]
    if _share_off(edges, found) > OTHER_EDGES:
        found = [mark for mark in found if mark.total >= MIN_CLEAR_SUM and mark.purity >= MIN_CLEAR_PURITY]
    if _share_off(edges, found) > STILL_EDGES:
        return [], "too much of the picture stands still, so a mark cannot be told from it"
    marks = [
        Overlay(mark.box, mark.total * mark.purity)
        for mark in found
        if _stillness_around(coarse, mark.box, width, height) <= STILL
    ]
    if found and not marks:
        return [], "what stands still has a picture around it that stands still as well"
    merged = [mark for mark in _merged(marks, max(width, height)) if _is_mark(mark.box, width, height)]
    if not merged:
        return [], "nothing stands still as clearly as a mark would"
    return sorted(merged, key=lambda mark: -mark.score), None


def add_arrows(luma: NDArray[np.uint8], full_gradient: float) -> Arrows:
    """Add gradients as arrows over frames, one frame at a time."""
    shape = luma.shape[1:]
    x, y, reach = (np.zeros(shape, np.float32) for _ in range(3))
    full = full_gradient * 8  # Sobel's sum for a slope of 1 a pixel is 8
    for frame in luma:
        across = cv2.Sobel(frame, cv2.CV_32F, 1, 0)
        down = cv2.Sobel(frame, cv2.CV_32F, 0, 1)
        length = cv2.magnitude(across, down)
        scale = 1 / np.maximum(length, full)
        x += across * scale
        y += down * scale
        reach += length * scale
    number = np.float32(len(luma))
    return Arrows(cv2.magnitude(x, y) / number, reach / number)


def coarse_arrows(luma: NDArray[np.uint8]) -> Arrows:
    """The same for the picture's large forms, which tell whether it changes where it has no edges, or only noise."""
    height, width = luma.shape[1:]
    scale = min(1.0, COARSE_SIDE / max(width, height))
    size = max(2, round(width * scale)), max(2, round(height * scale))
    small = np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in luma])
    return add_arrows(small, FULL_GRADIENT_COARSE)


def clear_borders(edges: NDArray[np.bool_], luma: NDArray[np.uint8]) -> None:
    """Remove from edges the picture's border, and that of bars beside it: rows or columns of one constant color."""
    for turned, frames in ((edges, luma), (edges.T, luma.transpose(0, 2, 1))):
        turned[:2] = turned[-2:] = False
        for border in _bars(frames):
            rows = turned[max(0, border - 3) : border + 3]
            # Only whole lines: a mark may lie over the border.
            rows[rows.mean(1) > BORDER_ROW] = False


def _bars(luma: NDArray[np.uint8]) -> tuple[int, int]:
    """First row below the bar on top, and first row of that at the bottom; 0 and the height where there are none."""
    some = luma[:, :, :: max(1, luma.shape[2] // 200)]
    low, middle, high = np.percentile(some, (10, 50, 90), axis=0)
    is_constant = np.median(high - low, 1) <= 3
    is_flat = np.percentile(middle, 75, axis=1) - np.percentile(middle, 25, axis=1) <= 3
    rows = np.flatnonzero(~(is_constant & is_flat))
    return (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, luma.shape[1])


def _candidates(edges: NDArray[np.bool_], total: Map) -> list[Box]:
    """Boxes around edges that are near each other, without weaker ones that only touch them."""
    found = []
    for box, pixels in _pieces(edges):
        left, top, right, bottom = box
        own = total[top:bottom, left:right] * pixels
        strong = own >= OWN_SUM * np.percentile(own[pixels], 90)
        for inner, _ in _pieces(strong & pixels, max(edges.shape)):
            found.append((left + inner[0], top + inner[1], left + inner[2], top + inner[3]))
    height, width = edges.shape
    return [box for box in found if _is_mark(box, width, height, min_area=MIN_AREA / 8)]


def _measured(boxes: list[Box], edges: NDArray[np.bool_], arrows: Arrows) -> list[_Measured]:
    measured = []
    for box in boxes:
        place = slice(box[1], box[3]), slice(box[0], box[2])
        own = edges[place]
        total, purity = arrows.total[place][own].mean(), arrows.purity[place][own].mean()
        measured.append(_Measured(box, float(own.sum() / edges.size), float(total), float(purity)))
    return measured


def _persists(mark: _Measured) -> bool:
    least = MIN_MARK_EDGES if mark.total >= MIN_CLEAR_SUM else MIN_FAINT_EDGES
    return mark.edges >= least and mark.purity >= MIN_MARK_PURITY


def _share_off(edges: NDArray[np.bool_], marks: list[_Measured]) -> float:
    """Share of the picture that is edges outside of marks."""
    others = edges.copy()
    for left, top, right, bottom in (mark.box for mark in marks):
        others[top:bottom, left:right] = False
    return float(others.mean())


def _pieces(edges: NDArray[np.bool_], longer_side: int | None = None) -> list[tuple[Box, NDArray[np.bool_]]]:
    """Edges that are near each other: their box, and which of its pixels are theirs."""
    reach = max(5, round(REACH * (longer_side or max(edges.shape)))) | 1
    padded = np.pad(edges, reach).astype(np.uint8)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach)))[
        reach:-reach, reach:-reach
    ]
    number, labels, boxes, _ = cv2.connectedComponentsWithStats(np.ascontiguousarray(closed), connectivity=8)
    pieces = []
    for n in range(1, number):
        left, top, width, height = (int(value) for value in boxes[n][:4])
        place = slice(top, top + height), slice(left, left + width)
        pixels = (labels[place] == n) & edges[place]
        if pixels.sum() >= MIN_EDGE_PIXELS:
            pieces.append(((left, top, left + width, top + height), pixels))
    return pieces


def _is_mark(box: Box, width: int, height: int, *, min_area: float = MIN_AREA) -> bool:
    across, down = box[2] - box[0], box[3] - box[1]
    is_line = min(across, down) <= LINE_PX and max(across, down) >= 10 * min(across, down)
    is_border = across > MAX_SPAN * width or down > MAX_SPAN * height
    return not (is_line or is_border) and min_area <= across * down / (width * height) <= MAX_AREA


def _stillness_around(coarse: Arrows, box: Box, width: int, height: int) -> float:
    """How far coarse arrows add up around a box, not so near that the mark itself is in them."""
    rows, columns = coarse.total.shape
    x, y = columns / width, rows / height
    left, top, right, bottom = int(box[0] * x) - 1, int(box[1] * y) - 1, int(box[2] * x) + 2, int(box[3] * y) + 2
    ring = np.zeros(coarse.total.shape, bool)
    ring[max(0, top - 4) : bottom + 4, max(0, left - 4) : right + 4] = True
    ring[max(0, top) : bottom, max(0, left) : right] = False
    return float(coarse.total[ring].sum() / (coarse.reach[ring].sum() + FLAT * max(1, ring.sum())))


def _merged(marks: list[Overlay], longer_side: int) -> list[Overlay]:
    """Marks near each other as one, as long as it is no larger than a mark may be."""
    marks = list(marks)
    done = False
    while not done:
        done = True
        for i in range(len(marks) - 1, 0, -1):
            for j in range(i):
                a, b = marks[i].box, marks[j].box
                gap = max(max(a[0], b[0]) - min(a[2], b[2]), max(a[1], b[1]) - min(a[3], b[3]))
                if gap <= MERGE * longer_side:
                    box = (min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))
                    marks[j] = Overlay(box, max(marks[i].score, marks[j].score))
                    del marks[i]
                    done = False
                    break
    return marks
