"""Frames and masks as bytes of a row, and back."""

import io
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sttn_ray.errors import ShardError
from sttn_ray.shards.tables import pack_frame, pack_mask, unpack_frame, unpack_mask
from tests.media import make_pictures, png_that_claims
from tests.shards import HEIGHT, WIDTH


def test_png_frames_are_exact():
    picture = make_pictures(1)[0]
    assert np.array_equal(unpack_frame(pack_frame(picture, "png", 95), HEIGHT, WIDTH), picture)


def test_jpeg_frames_are_close_and_smaller():
    rows, columns = np.mgrid[:240, :432]
    waves = [np.sin(rows / 9), np.cos(columns / 13), np.sin((rows + columns) / 17)]
    picture = np.round(127.5 + 100 * np.stack(waves, 2)).astype(np.uint8)
    fine, coarse = pack_frame(picture, "jpeg", 95), pack_frame(picture, "jpeg", 50)
    assert len(coarse) < len(fine) < len(pack_frame(picture, "png", 95))
    fine_error, coarse_error = (
        np.abs(unpack_frame(data, 240, 432).astype(int) - picture).mean() for data in (fine, coarse)
    )
    assert 0 < fine_error < 1 < coarse_error < 4


@pytest.mark.parametrize("codec", ["png", "jpeg"])
@pytest.mark.parametrize(("height", "width"), [(WIDTH, HEIGHT), (HEIGHT - 1, WIDTH)])
def test_a_frame_of_another_size(codec: Any, height: int, width: int):
    data = pack_frame(make_pictures(1)[0], codec, 95)
    with pytest.raises(ShardError, match=rf"a frame is RGB 96x64, expected RGB {width}x{height}"):
        unpack_frame(data, height, width)


def test_a_frame_that_is_gray():
    file = io.BytesIO()
    Image.fromarray(make_pictures(1)[0][..., 0]).save(file, "PNG")
    with pytest.raises(ShardError, match="a frame is L 96x64, expected RGB 96x64"):
        unpack_frame(file.getvalue(), HEIGHT, WIDTH)


@pytest.mark.parametrize("codec", ["png", "jpeg"])
def test_a_frame_that_is_cut_short(codec: Any):
    data = pack_frame(make_pictures(1)[0], codec, 95)
    for length in (0, 1, 20, len(data) // 2, len(data) - 100):
        with pytest.raises(ShardError, match="a frame is damaged"):
            unpack_frame(data[:length], HEIGHT, WIDTH)


@pytest.mark.parametrize("codec", ["png", "jpeg"])
def test_a_damaged_frame_is_a_picture_or_an_error_of_ours(codec: Any):
    data = pack_frame(make_pictures(1, width=16, height=16)[0], codec, 95)
    for position in range(len(data)):
        try:
            picture = unpack_frame(data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :], 16, 16)
        except ShardError:
            continue
        assert picture.shape == (16, 16, 3)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [11_000, 60_000])
def test_a_frame_that_claims_to_be_huge(side: int):
    with pytest.raises(ShardError, match="a frame is "):
        unpack_frame(png_that_claims(side, side), HEIGHT, WIDTH)


@pytest.mark.parametrize(("height", "width"), [(HEIGHT, WIDTH), (5, 7), (1, 1), (240, 432)])
def test_masks_are_exact(height: int, width: int):
    mask = np.random.default_rng(0).random((height, width)) > 0.5
    unpacked = unpack_mask(pack_mask(mask), height, width)
    assert unpacked.dtype == bool
    assert np.array_equal(unpacked, mask)


def test_a_damaged_mask():
    data = pack_mask(np.random.default_rng(0).random((HEIGHT, WIDTH)) > 0.5)
    for position in range(len(data)):
        with pytest.raises(ShardError, match=r"a mask (is damaged|holds)"):
            unpack_mask(data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :], HEIGHT, WIDTH)


def test_a_mask_that_is_cut_short():
    data = pack_mask(np.random.default_rng(0).random((HEIGHT, WIDTH)) > 0.5)
    for length in (0, 1, len(data) // 2):
        with pytest.raises(ShardError, match=r"a mask holds \d+ bytes, expected 768 for 96x64"):
            unpack_mask(data[:length], HEIGHT, WIDTH)


@pytest.mark.parametrize(("height", "width"), [(HEIGHT, WIDTH + 1), (HEIGHT // 2, WIDTH)])
def test_a_mask_of_another_size(height: int, width: int):
    with pytest.raises(ShardError, match=rf"a mask holds \d+ bytes, expected {-(-height * width // 8)} for"):
        unpack_mask(pack_mask(np.ones((HEIGHT, WIDTH), bool)), height, width)


def test_a_mask_that_would_fill_the_memory():
    bomb = zlib.compress(bytes(2**26), 9)
    with pytest.raises(ShardError, match="a mask holds 769 bytes, expected 768"):  # and no more were unpacked
        unpack_mask(bomb, HEIGHT, WIDTH)
