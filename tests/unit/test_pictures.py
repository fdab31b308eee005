"""Colors and sizes on the network's device: what numpy and OpenCV make of the same pictures."""

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sttn_ray.completion.pictures import Scaler, resize_weights, to_rgb, upload
from sttn_ray.video.color import color_format, planes_to_rgb

CPU = torch.device("cpu")


def make_picture(width: int, height: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).random((height, width, 3), np.float32)


def scaled(
    picture: NDArray[np.float32], width: int, height: int, *part: slice, has_matrices: bool = True
) -> NDArray[np.float32]:
    x = torch.from_numpy(picture).permute(2, 0, 1)
    return Scaler(CPU, has_matrices=has_matrices)(x, width, height, *([part] if part else [])).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("matrix", [1, 5, 9])
@pytest.mark.parametrize("size", [(64, 48), (63, 47)])
@pytest.mark.parametrize(
    "pix_fmt",
    [
        *("yuv420p", "yuv422p", "yuv444p", "yuv411p", "yuv410p", "yuv440p", "yuv420p10le", "yuv444p16le", "yuvj420p"),
        *("gray", "gbrp", "gbrp12le"),
    ],
)
def test_colors_are_those_of_numpy(pix_fmt: str, size: tuple[int, int], matrix: int) -> None:
    color = color_format(pix_fmt, 1, matrix)
    width, height = size
    step_x, step_y = color.chroma_step
    rng = np.random.default_rng(0)
    shapes = [(height, width)] + [(-(-height // step_y), -(-width // step_x))] * 2 * color.has_chroma
    planes = [rng.integers(0, color.maximum + 1, shape).astype(color.dtype) for shape in shapes]
    found = to_rgb([upload(plane, CPU) for plane in planes], color).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, planes_to_rgb(planes, color), rtol=0, atol=1e-6)


@pytest.mark.parametrize("has_matrices", [True, False])
@pytest.mark.parametrize("old", [(100, 60), (61, 97), (40, 33)])
@pytest.mark.parametrize("new", [(40, 33), (39, 20), (96, 96), (320, 97)])
def test_sizes_are_those_of_opencv(old: tuple[int, int], new: tuple[int, int], has_matrices: bool) -> None:
    picture = make_picture(*old)
    # Axis by axis: OpenCV's area mean skips pixels where the other axis grows.
    shrunk = (min(old[0], new[0]), min(old[1], new[1]))
    expected = cv2.resize(cv2.resize(picture, shrunk, interpolation=cv2.INTER_AREA), new)
    found = scaled(picture, *new, has_matrices=has_matrices)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_a_part_of_a_scaled_picture_is_that_part_of_the_whole() -> None:
    picture = make_picture(40, 33)
    rows, columns = slice(10, 31), slice(50, 64)
    for size in ((96, 96), (96, 33), (40, 80)):
        for has_matrices in (True, False):
            whole = scaled(picture, *size, has_matrices=has_matrices)
            part = scaled(picture, *size, rows, columns, has_matrices=has_matrices)
            np.testing.assert_allclose(part, whole[rows, columns], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("old", "new"), [(1080, 240), (611, 432), (7, 3), (3, 7), (5, 5), (1, 4)])
def test_each_new_pixel_is_a_mean_of_old_ones_near_it(old: int, new: int) -> None:
    weights = resize_weights(old, new)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)
    assert (weights >= 0).all()
    if new <= old:
        # A mask's edge stays where it is: what does not reach into a pixel gives it nothing.
        edges = np.arange(old + 1) * new
        for row, found in enumerate(weights):
            reaches = (edges[1:] > row * old) & (edges[:-1] < (row + 1) * old)
            assert np.array_equal(found > 0, reaches)
