"""Regions: every hole pixel is filled from a box that shows it with context, at source scale where that fits."""

import numpy as np
import pytest
from numpy.typing import NDArray

from sttn_ray.completion.regions import CELL_PX, CONTEXT, GRID_PX, MAX_PIECES, SCALE_STEP, Region, find_regions

MODEL = (240, 144)
Pixels = NDArray[np.bool_]


def make_hole(width: int, height: int, *boxes: tuple[int, int, int, int]) -> Pixels:
    """A hole of boxes, each left, top, right, bottom."""
    hole = np.zeros((height, width), bool)
    for left, top, right, bottom in boxes:
        hole[top:bottom, left:right] = True
    return hole


def check(hole: Pixels, regions: list[Region]) -> None:
    """What holds for all regions of all holes."""
    height, width = hole.shape
    covered = np.zeros_like(hole)
    for box, target in regions:
        left, top, right, bottom = box
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert left % 2 == top % 2 == 0  # on the chroma grid
        assert right % 2 == 0 or right == width
        assert bottom % 2 == 0 or bottom == height
        assert left <= target[0] < target[2] <= right, (box, target)
        assert top <= target[1] < target[3] <= bottom, (box, target)
        covered[target[1] : target[3], target[0] : target[2]] = True
    assert not (hole & ~covered).any()


def scale_of(region: Region) -> float:
    left, top, right, bottom = region.box
    return max((right - left) / MODEL[0], (bottom - top) / MODEL[1])


def random_hole(rng: np.random.Generator) -> Pixels:
    width, height = (int(n) for n in rng.integers(2, 1000, 2))
    boxes = []
    for _ in range(rng.integers(1, 5)):
        across, down = (int(rng.integers(1, min(full, rng.choice([20, 90, 2000])) + 1)) for full in (width, height))
        left, top = int(rng.integers(0, width - across + 1)), int(rng.integers(0, height - down + 1))
        boxes.append((left, top, left + across, top + down))
    return make_hole(width, height, *boxes)


@pytest.mark.parametrize("model_size", [(240, 144), (432, 240), (96, 96)])
def test_random_holes_in_frames_of_random_size(model_size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(150):
        hole = random_hole(rng)
        regions = find_regions(hole, model_size)
        assert regions
        check(hole, regions)


def test_no_hole_no_region() -> None:
    assert find_regions(make_hole(640, 360), MODEL) == []


def test_a_mark_is_seen_at_source_scale_with_context() -> None:
    hole = make_hole(1280, 720, (900, 600, 1040, 660))
    regions = find_regions(hole, MODEL)
    check(hole, regions)
    ((left, top, right, bottom), target) = regions[0]
    assert len(regions) == 1
    assert (right - left, bottom - top) == MODEL
    # The grid takes some of the context on one side.
    assert min(target[0] - left, right - target[2]) >= CONTEXT * MODEL[0] - GRID_PX / 2
    assert min(target[1] - top, bottom - target[3]) >= CONTEXT * MODEL[1] - GRID_PX / 2


def test_a_static_hole_keeps_its_box_and_small_moves_too() -> None:
    first = find_regions(make_hole(1280, 720, (900, 600, 1040, 660)), MODEL)
    assert find_regions(make_hole(1280, 720, (900, 600, 1040, 660)), MODEL) == first
    # Inside the same cells: the same cells, the same box.
    moved = find_regions(make_hole(1280, 720, (898, 597, 1038, 657)), MODEL)
    assert moved == first


def test_the_box_moves_on_a_grid() -> None:
    lefts = {find_regions(make_hole(1280, 720, (x, 300, x + 50, 340)), MODEL)[0].box[0] for x in range(400, 600, 5)}
    assert all(left % GRID_PX == 0 for left in lefts)
    assert len(lefts) <= 200 / GRID_PX + 2


def test_scales_are_steps_of_a_ladder() -> None:
    scales = set()
    for side in range(20, 500, 20):
        hole = make_hole(1920, 1080, (700, 300, 700 + side, 300 + side))
        (region,) = find_regions(hole, MODEL)
        check(hole, [region])
        scales.add(round(scale_of(region), 2))
    # Powers of the square root of 2, on an even number of pixels.
    assert sorted(scales) == pytest.approx([SCALE_STEP**n for n in range(6)], abs=0.01)


def test_two_far_marks_get_a_region_each() -> None:
    hole = make_hole(1920, 1080, (20, 20, 120, 60), (1800, 1020, 1900, 1060))
    regions = find_regions(hole, MODEL)
    check(hole, regions)
    assert len(regions) == 2
    assert [scale_of(region) for region in regions] == [1, 1]


def test_two_near_marks_share_one_region() -> None:
    hole = make_hole(1920, 1080, (800, 500, 830, 530), (900, 540, 930, 560))
    regions = find_regions(hole, MODEL)
    check(hole, regions)
    assert len(regions) == 1
    assert scale_of(regions[0]) == 1


def test_a_large_hole_gets_the_whole_frame() -> None:
    hole = make_hole(640, 360, (30, 30, 610, 330))
    assert find_regions(hole, MODEL) == [Region((0, 0, 640, 360), (16, 16, 624, 336))]
    assert find_regions(np.ones((360, 640), bool), MODEL)[0].box == (0, 0, 640, 360)


def test_a_small_mark_beside_a_large_hole_joins_it() -> None:
    hole = make_hole(640, 360, (30, 30, 610, 330), (2, 2, 6, 6))
    regions = find_regions(hole, MODEL)
    check(hole, regions)
    assert len(regions) == 1


@pytest.mark.parametrize(("width", "height"), [(241, 145), (239, 143), (641, 361), (1, 1), (3, 401)])
@pytest.mark.parametrize("corner", ["first", "last"])
def test_odd_frames(width: int, height: int, corner: str) -> None:
    left, top = (0, 0) if corner == "first" else (width - 1, height - 1)
    hole = make_hole(width, height, (left, top, left + 1, top + 1))
    regions = find_regions(hole, MODEL)
    check(hole, regions)
    assert len(regions) == 1


def test_a_frame_smaller_than_the_network_is_one_region() -> None:
    hole = make_hole(176, 100, (2, 2, 5, 5), (170, 90, 176, 100))
    regions = find_regions(hole, MODEL)
    check(hole, regions)
    assert [region.box for region in regions] == [(0, 0, 176, 100)]


def test_a_frame_narrower_than_the_network_is_used_in_full_width() -> None:
    """An upright film: the box takes the whole width and as much height as the hole needs."""
    hole = make_hole(200, 900, (20, 400, 180, 460))
    ((left, top, right, bottom), _) = find_regions(hole, MODEL)[0]
    assert (left, right, bottom - top) == (0, 200, MODEL[1])
    assert top <= 400 < 460 <= bottom


@pytest.mark.parametrize("num_specks", [10, 25, 2000])
def test_specks_in_large_number_are_taken_together(num_specks: int) -> None:
    """Each would cost a run of the network, and telling pairs apart grows with the cube of their number."""
    rng = np.random.default_rng(0)
    corners = zip(rng.integers(0, 1916, num_specks).tolist(), rng.integers(0, 1076, num_specks).tolist(), strict=True)
    hole = make_hole(1920, 1080, *((left, top, left + 4, top + 4) for left, top in corners))
    regions = find_regions(hole, MODEL)
    check(hole, regions)
    assert len(regions) <= MAX_PIECES


def test_cells_tell_holes_apart() -> None:
    """Strokes of a line of text are one hole; the targets are whole cells."""
    strokes = [(100 + 10 * n, 200, 103 + 10 * n, 216) for n in range(8)]
    ((_, target),) = find_regions(make_hole(640, 360, *strokes), MODEL)
    assert target == (96, 192, 176, 224)
    assert all(edge % CELL_PX == 0 for edge in target)
