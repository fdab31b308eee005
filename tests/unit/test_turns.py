"""Films that players turn and mirror: masks are of the picture as shown."""

from itertools import product
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from sttn_ray.masks.boxes import draw_boxes, parse_boxes
from sttn_ray.masks.read import boxes_source, mask_source, read_masks
from sttn_ray.video.index import index_video
from sttn_ray.video.turns import as_shown, as_stored, is_right_angled
from tests.media import frame_hashes, make_video
from tests.unit.test_video_encode_assemble import reencode
from tests.unit.test_video_index import remux

UNIT = 65536
# The eight ways in which a picture can lie: columns and rows as they are or the other way round, or exchanged.
STRAIGHT = [[a * UNIT, 0, 0, 0, d * UNIT, 0, 0, 0, 1 << 30] for a, d in product((1, -1), repeat=2)]
CROSSED = [[0, b * UNIT, 0, c * UNIT, 0, 0, 0, 0, 1 << 30] for b, c in product((1, -1), repeat=2)]


def drawn(stored: NDArray[np.uint8], matrix: list[int]) -> NDArray[np.uint8]:
    """Pixel by pixel, by the meaning of the matrix: x' = a x + c y, y' = b x + d y."""
    a, b, c, d = (matrix[n] // UNIT for n in (0, 1, 3, 4))
    height, width = stored.shape
    places = {(a * x + c * y, b * x + d * y): stored[y, x] for y in range(height) for x in range(width)}
    left, top = min(x for x, _ in places), min(y for _, y in places)
    shown = np.zeros((height, width) if a else (width, height), np.uint8)
    for (x, y), value in places.items():
        shown[y - top, x - left] = value
    return shown


@pytest.mark.parametrize("matrix", [*STRAIGHT, *CROSSED])
def test_pictures_lie_as_the_matrix_says(matrix: list[int]) -> None:
    stored = np.arange(12, dtype=np.uint8).reshape(3, 4)
    shown = as_shown(stored, matrix)
    np.testing.assert_array_equal(shown, drawn(stored, matrix))
    np.testing.assert_array_equal(as_stored(shown, matrix), stored)


def test_no_matrix_and_others() -> None:
    stored = np.arange(12).reshape(3, 4)
    assert as_shown(stored, None) is stored
    assert as_stored(stored, None) is stored
    assert all(is_right_angled(matrix) for matrix in [*STRAIGHT, *CROSSED])
    assert is_right_angled([65535, -12, 0, 12, -65536])
    assert not any(is_right_angled(m) for m in ([46341, 46341, 0, -46341, 46341], [0] * 5, [UNIT, 0, 0, 0, 0]))


@pytest.mark.parametrize("matrix", [*STRAIGHT, *CROSSED])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_mirrored_films_are_done_and_masks_are_of_what_is_shown(tmp_path: Path, matrix: list[int], suffix: str) -> None:
    whole = make_video(tmp_path / "whole.mp4", num_frames=4)
    path = remux(whole, tmp_path / f"selfie{suffix}", matrix=matrix)
    index = index_video(str(path))
    width, height = index.displayed_size
    assert (width, height) == ((96, 64) if matrix[0] else (64, 96))
    box = draw_boxes(parse_boxes("4,6,10,20"), width, height, 0.0)
    (mask,) = read_masks(boxes_source("4,6,10,20"), index, 0, 1)
    assert mask.shape == (64, 96)
    np.testing.assert_array_equal(drawn(mask.astype(np.uint8), matrix), box)
    output = reencode(path, tmp_path / "out", codec="x264-lossless", cuts=(0, 2))
    assert index_video(str(output)).display_matrix == index.display_matrix
    assert frame_hashes(output) == frame_hashes(path)


def test_a_mask_video_may_be_mirrored(tmp_path: Path) -> None:
    left = np.zeros((64, 96, 3))
    left[:, :32] = 1
    plain = make_video(tmp_path / "plain.mp4", num_frames=2, picture=lambda _: left, options={"crf": "1"})
    mirrored = remux(plain, tmp_path / "mask.mp4", matrix=STRAIGHT[2])
    film = index_video(str(make_video(tmp_path / "film.mp4", num_frames=2)))
    (mask, _) = read_masks(mask_source(str(mirrored)), film, 0, 2)
    np.testing.assert_array_equal(mask, np.flip(left[..., 0], 1) > 0)
    with av.open(str(mirrored)) as container:
        assert cv2.countNonZero(next(container.decode(video=0)).to_ndarray(format="gray")[:, 64:] // 128) == 0
