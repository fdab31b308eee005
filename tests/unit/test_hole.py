import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from sttn_ray.masks.hole import find_box, make_hole, make_holes
from tests.holes import opacity_of


def make_mask(height: int = 64, width: int = 96) -> NDArray[np.bool_]:
    mask = np.zeros((height, width), bool)
    mask[20:31, 41:60] = True
    return mask


def distance_to(mask: NDArray[np.bool_]) -> NDArray[np.floating]:
    """Pixels from each pixel's center to the nearest one of the mask, by trying all."""
    rows, columns = np.nonzero(mask)
    y, x = np.mgrid[0 : mask.shape[0], 0 : mask.shape[1]]
    return np.sqrt(((y[..., None] - rows) ** 2 + (x[..., None] - columns) ** 2).min(-1))


@pytest.mark.parametrize("radius", [1, 2, 6, 11])
def test_dilation_is_a_disk_of_its_radius(radius: int):
    mask = np.zeros((64, 96), bool)
    mask[30, 40] = True
    pixels = make_hole(mask, dilation_px=radius, feather_px=0, chroma_step=(1, 1)).pixels
    distance = distance_to(mask)
    assert pixels[distance <= radius - 1].all()
    assert not pixels[distance > radius + 0.5].any()
    assert pixels[30, [40 - radius, 40 + radius]].all()
    assert pixels[[30 - radius, 30 + radius], 40].all()
    disk = pixels[30 - radius : 31 + radius, 40 - radius : 41 + radius]
    assert np.array_equal(disk, disk[::-1])
    assert np.array_equal(disk, disk[:, ::-1])


def test_no_dilation_leaves_the_mask():
    mask = make_mask()
    hole = make_hole(mask, dilation_px=0, feather_px=0, chroma_step=(1, 1))
    assert np.array_equal(hole.pixels, mask)
    assert (hole.box, hole.opacity) == ((41, 20, 60, 31), None)  # 1 in all of it


@pytest.mark.parametrize(
    ("step", "rows", "columns"),
    [((2, 2), (20, 32), (40, 60)), ((2, 1), (20, 31), (40, 60)), ((1, 1), (20, 31), (41, 60))],
)
def test_hole_grows_to_whole_chroma_samples_and_no_further(
    step: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]
):
    pixels = make_hole(make_mask(), dilation_px=0, feather_px=0, chroma_step=step).pixels
    expected = np.zeros((64, 96), bool)
    expected[slice(*rows), slice(*columns)] = True
    assert np.array_equal(pixels, expected)


def test_chroma_growth_ends_at_an_odd_frames_edge():
    mask = np.zeros((5, 7), bool)
    mask[4, 6] = True
    pixels = make_hole(mask, dilation_px=0, feather_px=0, chroma_step=(2, 2)).pixels
    assert pixels.shape == (5, 7)
    assert np.array_equal(np.argwhere(pixels), [[4, 6]])


@pytest.mark.parametrize("step", [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize(("dilation", "feather"), [(6, 4), (6, 6), (2, 5), (0, 3), (9, 1)])
def test_opacity_is_one_on_the_mask_and_falls_to_zero_outside(dilation: int, feather: int, step: tuple[int, int]):
    mask = make_mask()
    hole = make_hole(mask, dilation_px=dilation, feather_px=feather, chroma_step=step)
    pixels, opacity = hole.pixels, opacity_of(hole)
    assert opacity.dtype == np.float32
    assert (opacity[mask] == 1).all()
    assert (opacity[~pixels] == 0).all()
    assert (opacity[pixels] > 0).all()
    assert opacity.max() == 1
    for line in (opacity[25, :50], opacity[25, 50:][::-1], opacity[:25, 50], opacity[25:, 50][::-1]):
        assert (np.diff(line) >= 0).all()


def test_rim_falls_evenly_over_the_feathers_width():
    opacity = opacity_of(make_hole(make_mask(), dilation_px=6, feather_px=4, chroma_step=(1, 1)))
    assert np.allclose(opacity[25, 34:42], [0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1])


def test_hole_at_the_frames_edge_has_no_rim_there():
    mask = np.zeros((64, 96), bool)
    mask[:10, :12] = True
    opacity = opacity_of(make_hole(mask, dilation_px=6, feather_px=6, chroma_step=(2, 2)))
    assert (opacity[0, :12] == 1).all()
    assert (opacity[:10, 0] == 1).all()
    assert 0 < opacity[0, 16] < 1


def test_empty_and_full_masks():
    empty = make_hole(np.zeros((20, 30), bool), dilation_px=6, feather_px=4, chroma_step=(2, 2))
    assert not empty.pixels.any()
    assert (empty.box, empty.opacity) == (None, None)
    full = make_hole(np.ones((20, 30), bool), dilation_px=6, feather_px=4, chroma_step=(2, 2))
    assert full.pixels.all()
    assert full.box == (0, 0, 30, 20)
    assert (opacity_of(full) == 1).all()


def test_holes_are_made_once_while_the_mask_stays():
    first, second = make_mask(), make_mask()[::-1].copy()
    holes = list(make_holes([first, first, second, first], dilation_px=2, feather_px=1, chroma_step=(2, 2)))
    assert len(holes) == 4
    assert holes[0] is holes[1]
    assert holes[2] is not holes[1]
    assert np.array_equal(holes[3].pixels, holes[0].pixels)
    assert not np.array_equal(holes[2].pixels, holes[0].pixels)


def plain_hole(
    mask: NDArray[np.bool_], dilation_px: int, feather_px: int, step: tuple[int, int]
) -> tuple[NDArray[np.bool_], NDArray[np.floating]]:
    """The same over the whole picture, without looking where the mask lies."""
    pixels = mask.astype(np.uint8)
    if dilation_px:
        size = 2 * dilation_px + 1
        pixels = cv2.dilate(pixels, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))
    height, width = mask.shape
    padded = np.pad(pixels, ((0, -height % step[1]), (0, -width % step[0])))
    blocks = padded.reshape(padded.shape[0] // step[1], step[1], padded.shape[1] // step[0], step[0]).max((1, 3))
    pixels = np.ascontiguousarray(blocks.repeat(step[1], 0).repeat(step[0], 1)[:height, :width])
    if not feather_px:
        return pixels > 0, pixels.astype(float)
    opacity = np.minimum(cv2.distanceTransform(pixels, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) / (feather_px + 1), 1)
    return pixels > 0, np.where(mask, 1, opacity)


@pytest.mark.parametrize("step", [(1, 1), (2, 1), (2, 2)])
def test_work_in_the_box_gives_what_work_on_the_whole_picture_gives(step: tuple[int, int]):
    rng = np.random.default_rng(0)
    for _ in range(100):
        mask = np.zeros(rng.integers(5, 70, 2), bool)
        for top, left, down, across in rng.integers(0, 60, (rng.integers(0, 4), 4)):
            mask[top : top + down // 3, left : left + across // 3] = True
        dilation, feather = rng.integers(0, 9, 2).tolist()
        hole = make_hole(mask, dilation_px=dilation, feather_px=feather, chroma_step=step)
        pixels, opacity = plain_hole(mask, dilation, feather, step)
        assert np.array_equal(hole.pixels, pixels)
        assert hole.box == find_box(pixels)
        assert np.allclose(opacity_of(hole), opacity, atol=1e-6)
