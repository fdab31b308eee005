from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from sttn_ray.errors import VideoError
from sttn_ray.video.color import ColorFormat, color_format, crop_planes, frame_planes, planes_to_rgb
from sttn_ray.video.decode import decode_range
from sttn_ray.video.index import index_video
from tests.media import make_frame, make_texture, make_video
from tests.pictures import rgb_to_planes

LIMITED, FULL = 1, 2
BT709, UNSPECIFIED, BT601, BT2020 = 1, 2, 5, 9
FORMATS = [
    "gray",
    "gray10le",
    "yuv420p",
    "yuv422p",
    "yuv444p",
    "yuv420p10le",
    "yuv422p10le",
    "yuv444p10le",
    "yuv444p12le",
    "yuv440p",
    "yuv411p",
    "yuv410p",
    "gbrp",
    "gbrp10le",
]


def make_planes(color: ColorFormat, width: int = 32, height: int = 24) -> list[NDArray[np.generic]]:
    """A noisy luma plane and chroma planes that rise evenly, inside what RGB can hold."""
    unit = 1 << (color.bits - 8)
    random = np.random.default_rng(0)
    luma = random.integers(90 * unit, 150 * unit, (height, width)).astype(color.dtype)
    if not color.has_chroma:
        return [luma]
    step_x, step_y = color.chroma_step
    rows, columns = np.mgrid[0 : height // step_y, 0 : width // step_x]
    return [
        luma,
        ((118 + rows // 2 + columns % 2) * unit).astype(color.dtype),
        ((134 - columns // 2) * unit).astype(color.dtype),
    ]


def make_smooth_rgb(width: int, height: int) -> NDArray[np.float32]:
    rows, columns = np.mgrid[0:height, 0:width]
    red = 0.5 + 0.4 * np.sin(columns / width * 4)
    green = 0.5 + 0.4 * np.cos(rows / height * 3)
    blue = 0.5 + 0.3 * np.sin((rows + columns) / (width + height) * 5)
    return np.stack([red, green, blue], 2).astype(np.float32)


def make_tagged_frame(rgb: NDArray[np.float32], pix_fmt: str, color_range: int, matrix: int) -> av.VideoFrame:
    """A frame whose samples are `rgb_to_planes`, rounded, and which says what they mean."""
    color = color_format(pix_fmt, color_range, matrix)
    frame = av.VideoFrame(rgb.shape[1], rgb.shape[0], pix_fmt)
    for target, plane in zip(frame_planes(frame, color), rgb_to_planes(rgb, color), strict=True):
        target[:] = np.clip(np.round(plane), 0, color.maximum).astype(color.dtype)
    frame.color_range, frame.colorspace = color_range, matrix
    return frame


@pytest.mark.parametrize("matrix", [BT709, BT601, BT2020])
@pytest.mark.parametrize("color_range", [LIMITED, FULL])
@pytest.mark.parametrize("pix_fmt", FORMATS)
def test_planes_survive_rgb_within_rounding(pix_fmt: str, color_range: int, matrix: int):
    color = color_format(pix_fmt, color_range, matrix)
    planes = make_planes(color)
    again = rgb_to_planes(planes_to_rgb(planes, color), color)
    assert [p.shape for p in again] == [p.shape for p in planes]
    assert np.abs(again[0] - planes[0]).max() < 0.5
    # Enlarging and averaging smooths chroma; where it is as large as luma nothing may be lost.
    bound = 0.5 if color.chroma_step == (1, 1) else 0.8 * (1 << (color.bits - 8))
    for before, after in zip(planes[1:], again[1:], strict=True):
        assert np.abs(after - before).max() < bound


@pytest.mark.parametrize("matrix", [BT709, BT601])
@pytest.mark.parametrize("color_range", [LIMITED, FULL])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv411p"])
def test_rgb_agrees_with_swscale(pix_fmt: str, color_range: int, matrix: int):
    rgb = make_smooth_rgb(96, 64)
    frame = make_tagged_frame(rgb, pix_fmt, color_range, matrix)
    color = color_format(pix_fmt, color_range, matrix)
    ours = planes_to_rgb(frame_planes(frame, color), color) * 255
    theirs = frame.to_ndarray(format="rgb24").astype(np.float32)
    # swscale cuts off where it should round, so it is farther from what was drawn than we are.
    assert np.abs(ours - theirs).mean() < 2
    assert np.abs(ours - rgb * 255).mean() < 0.5
    for other in (
        color_format(pix_fmt, LIMITED + FULL - color_range, matrix),
        color_format(pix_fmt, color_range, BT709 + BT601 - matrix),
    ):
        assert np.abs(planes_to_rgb(frame_planes(frame, other), other) * 255 - theirs).mean() > 3


@pytest.mark.parametrize(
    ("pix_fmt", "color_range", "white", "black"),
    [
        ("yuv420p", LIMITED, 235, 16),
        ("yuv420p", FULL, 255, 0),
        ("yuvj420p", 0, 255, 0),
        ("yuv420p10le", LIMITED, 940, 64),
        ("gray", LIMITED, 235, 16),
        ("yuv444p10le", FULL, 1023, 0),
    ],
)
def test_white_and_black_have_the_standards_codes(pix_fmt: str, color_range: int, white: int, black: int):
    color = color_format(pix_fmt, color_range, BT709)
    for value, code in ((1, white), (0, black)):
        planes = rgb_to_planes(np.full((2, 2, 3), value, np.float32), color)
        assert np.allclose(planes[0], code)
        assert all(np.allclose(p, 1 << (color.bits - 1)) for p in planes[1:])
        back = planes_to_rgb([np.round(p).astype(color.dtype) for p in planes], color)
        assert np.allclose(back, value, atol=1e-6)


def test_unspecified_matrix_is_bt601():
    assert color_format("yuv420p", 0, UNSPECIFIED) == color_format("yuv420p", LIMITED, BT601)
    assert color_format("yuv420p", 0, BT709) != color_format("yuv420p", 0, BT601)


def test_values_beyond_rgb_are_cut():
    color = color_format("yuv444p", LIMITED, BT709)
    planes = [np.full((4, 4), v, np.uint8) for v in (254, 250, 250)]
    rgb = planes_to_rgb(planes, color)
    assert rgb.min() >= 0
    assert rgb.max() == 1


def test_rgb_of_odd_sizes_has_the_lumas_size():
    color = color_format("yuv420p", LIMITED, BT709)
    planes = [np.full((5, 7), 120, np.uint8), np.full((3, 4), 90, np.uint8), np.full((3, 4), 200, np.uint8)]
    rgb = planes_to_rgb(planes, color)
    assert rgb.shape == (5, 7, 3)
    assert np.ptp(rgb, (0, 1)).max() < 1e-6


@pytest.mark.parametrize("pix_fmt", ["rgb24", "nv12", "bgra", "yuv420p10be", "pal8", "xyz12le"])
def test_other_formats_are_refused_by_name(pix_fmt: str):
    with pytest.raises(VideoError, match=rf"pixel format {pix_fmt} is not supported"):
        color_format(pix_fmt, LIMITED, BT709)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p10le", "gray"])
def test_frame_planes_are_the_frames_own_memory(pix_fmt: str):
    frame = make_frame(make_texture(50, 38)(0), pix_fmt)  # rows of 50 samples are padded
    color = color_format(pix_fmt, LIMITED, BT709)
    planes = frame_planes(frame, color)
    assert planes[0].shape == (38, 50)
    assert len(planes) == (1 if pix_fmt == "gray" else 3)
    planes[0][3, 49] = 77
    line = frame.planes[0].line_size
    sample = bytes(frame.planes[0])[3 * line :][49 * planes[0].itemsize :][: planes[0].itemsize]
    assert int.from_bytes(sample, "little") == 77


def test_decoded_planes_are_the_decoders(tmp_path: Path):
    index = index_video(str(make_video(tmp_path / "a.mp4", num_frames=1, width=50, height=38)))
    (frame,) = decode_range(index, 0, 1)
    planes = frame_planes(frame, color_format(index.pix_fmt, *index.color[:2]))
    stacked = frame.to_ndarray()  # yuv420p: rows of luma, then of U, then of V
    assert np.array_equal(planes[0], stacked[:38])
    assert np.array_equal(planes[1].ravel(), stacked[38:].ravel()[: 25 * 19])
    assert np.array_equal(planes[2].ravel(), stacked[38:].ravel()[25 * 19 :])


@pytest.mark.parametrize(
    ("pix_fmt", "box", "chroma_shape"),
    [
        ("yuv420p", (4, 2, 10, 8), (3, 3)),
        ("yuv422p", (4, 2, 10, 8), (6, 3)),
        ("yuv444p", (4, 2, 10, 8), (6, 6)),
        ("yuv420p", (24, 20, 31, 23), (2, 4)),  # the odd edge of a 31x23 picture
    ],
)
def test_crop_takes_the_same_part_of_every_plane(
    pix_fmt: str, box: tuple[int, int, int, int], chroma_shape: tuple[int, int]
):
    color = color_format(pix_fmt, LIMITED, BT709)
    step_x, step_y = color.chroma_step
    rows, columns = np.mgrid[0:23, 0:31]
    luma = (rows * 4 + columns).astype(np.uint8)
    chroma = luma[::step_y, ::step_x]
    left, top, right, bottom = box
    cropped = crop_planes([luma, chroma, chroma], color, box)
    assert cropped[0].shape == (bottom - top, right - left)
    assert cropped[1].shape == cropped[2].shape == chroma_shape
    assert cropped[0][0, 0] == cropped[1][0, 0] == luma[top, left]
    assert cropped[0].base is not None
