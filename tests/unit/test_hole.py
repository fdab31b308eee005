import numpy as np
import pytest
from numpy.typing import NDArray

from sttn_ray.masks.hole import make_hole, make_holes


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
    assert np.array_equal(hole.opacity, mask.astype(np.float32))


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
    pixels, opacity = make_hole(mask, dilation_px=dilation, feather_px=feather, chroma_step=step)
    assert opacity.dtype == np.float32
    assert (opacity[mask] == 1).all()
    assert (opacity[~pixels] == 0).all()
    assert (opacity[pixels] > 0).all()
    assert opacity.max() == 1
    for line in (opacity[25, :50], opacity[25, 50:][::-1], opacity[:25, 50], opacity[25:, 50][::-1]):
        assert (np.diff(line) >= 0).all()


def test_rim_falls_evenly_over_the_feathers_width():
    opacity = make_hole(make_mask(), dilation_px=6, feather_px=4, chroma_step=(1, 1)).opacity
    assert np.allclose(opacity[25, 34:42], [0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1])


def test_hole_at_the_frames_edge_has_no_rim_there():
    mask = np.zeros((64, 96), bool)
    mask[:10, :12] = True
    opacity = make_hole(mask, dilation_px=6, feather_px=6, chroma_step=(2, 2)).opacity
    assert (opacity[0, :12] == 1).all()
    assert (opacity[:10, 0] == 1).all()
    assert 0 < opacity[0, 16] < 1


def test_empty_and_full_masks():
    empty = make_hole(np.zeros((20, 30), bool), dilation_px=6, feather_px=4, chroma_step=(2, 2))
    assert not empty.pixels.any()
    assert not empty.opacity.any()
    full = make_hole(np.ones((20, 30), bool), dilation_px=6, feather_px=4, chroma_step=(2, 2))
    assert full.pixels.all()
    assert (full.opacity == 1).all()


def test_holes_are_made_once_while_the_mask_stays():
    first, second = make_mask(), make_mask()[::-1].copy()
    holes = list(make_holes([first, first, second, first], dilation_px=2, feather_px=1, chroma_step=(2, 2)))
    assert len(holes) == 4
    assert holes[0] is holes[1]
    assert holes[2] is not holes[1]
    assert np.array_equal(holes[3].pixels, holes[0].pixels)
    assert not np.array_equal(holes[2].pixels, holes[0].pixels)
