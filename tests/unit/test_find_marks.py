from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from sttn_ray.errors import VideoError
from sttn_ray.masks.boxes import parse_boxes
from sttn_ray.masks.find import FoundMark, find_marks, frames_to_sample, marks_as_boxes, sample_luma
from sttn_ray.masks.overlays import find_overlays
from sttn_ray.masks.read import boxes_source, read_masks
from sttn_ray.video.index import VideoIndex, index_video
from tests.media import make_damaged_copy, make_video

WIDTH, HEIGHT, NUM_FRAMES, SHOT = 320, 180, 64, 8
CORNER, OTHER = (244, 16, 300, 40), (20, 140, 50, 164)  # left, top, right, bottom
Film = Callable[[int], NDArray[np.float64]]
Box = tuple[int, int, int, int]


def film(*, still: bool = False) -> Film:
    """Shots of eight frames, each another landscape of soft blobs under a moving camera; or a single frame for ever."""

    @cache
    def landscape(shot: int) -> NDArray[np.float64]:
        rng = np.random.default_rng(shot)
        layers = [cv2.resize(rng.random((n, 2 * n)), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) for n in (5, 20)]
        return np.repeat(np.clip(0.6 * layers[0] + 0.3 * layers[1], 0, 1)[..., None], 3, 2)

    return lambda n: landscape(0) if still else np.roll(landscape(n // SHOT), 3 * (n % SHOT), 1)


def with_logo(base: Film, box: Box, opacity: float = 1.0, value: float = 1.0) -> Film:
    """A letter E that fills a box."""
    left, top, right, bottom = box
    bar = (bottom - top) // 5
    shape = np.zeros((bottom - top, right - left, 1))
    shape[:, : 2 * bar] = shape[:bar] = shape[-bar:] = shape[2 * bar : 3 * bar] = opacity

    def picture(number: int) -> NDArray[np.float64]:
        rgb = base(number).copy()
        rgb[top:bottom, left:right] = rgb[top:bottom, left:right] * (1 - shape) + value * shape
        return rgb

    return picture


def with_bars(base: Film, rows: int) -> Film:
    def picture(number: int) -> NDArray[np.float64]:
        rgb = base(number).copy()
        rgb[:rows] = rgb[-rows:] = 0
        return rgb

    return picture


def index_of(tmp_path: Path, picture: Film, **options: object) -> VideoIndex:
    settings = {"num_frames": NUM_FRAMES, "width": WIDTH, "height": HEIGHT, "gop": SHOT, **options}
    return index_video(str(make_video(tmp_path / "film.mp4", picture=picture, **settings)))


def assert_found(marks: tuple[FoundMark, ...], *truths: Box) -> None:
    """Each mark is covered by a box that is not much larger; there are no others."""
    assert len(marks) == len(truths)
    for left, top, right, bottom in truths:
        assert any(
            left - 8 <= x <= left
            and top - 8 <= y <= top
            and right <= x + w <= right + 8
            and bottom <= y + h <= bottom + 8
            for x, y, w, h in (mark.box for mark in marks)
        ), f"{marks} for {left, top, right, bottom}"
    assert all(0.5 < mark.score <= 1 for mark in marks)


@pytest.mark.parametrize("opacity", [1.0, 0.5])
def test_logo_in_a_corner(tmp_path: Path, opacity: float):
    found = find_marks(index_of(tmp_path, with_logo(film(), CORNER, opacity)))
    assert_found(found.marks, CORNER)
    assert found.reason is None


def test_dark_logo(tmp_path: Path):
    assert_found(find_marks(index_of(tmp_path, with_logo(film(), CORNER, value=0.0))).marks, CORNER)


def test_two_logos(tmp_path: Path):
    picture = with_logo(with_logo(film(), CORNER), OTHER, opacity=0.6)
    assert_found(find_marks(index_of(tmp_path, picture)).marks, CORNER, OTHER)


def test_no_logo(tmp_path: Path):
    found = find_marks(index_of(tmp_path, film()))
    assert found.marks == ()
    assert found.reason == "nothing stands still as clearly as a mark would"


@pytest.mark.parametrize("has_logo", [False, True])
def test_film_that_stands_still_says_that_it_cannot_tell(tmp_path: Path, has_logo: bool):
    base = film(still=True)
    found = find_marks(index_of(tmp_path, with_logo(base, CORNER) if has_logo else base))
    assert found.marks == ()
    assert found.reason is not None
    assert "cannot be told" in found.reason


def test_still_picture_in_which_the_light_changes(tmp_path: Path):
    base = film(still=True)
    found = find_marks(index_of(tmp_path, lambda n: base(n) * (0.5 + 0.4 * np.sin(n / 5) ** 2)))
    assert found.marks == ()
    assert found.reason is not None
    assert "cannot be told" in found.reason


def test_still_picture_before_which_something_moves(tmp_path: Path):
    base, front = film(still=True), film()

    def picture(number: int) -> NDArray[np.float64]:
        rgb = base(number).copy()
        left = 5 * number % 160
        rgb[:, left : left + 130] = front(number)[:, :130]
        return rgb

    found = find_marks(index_of(tmp_path, picture))
    assert found.marks == ()


def test_bars_are_no_marks(tmp_path: Path):
    assert find_marks(index_of(tmp_path, with_bars(film(), 22))).marks == ()


@pytest.mark.parametrize("box", [(244, 30, 300, 54), (244, 2, 300, 20), (244, 10, 300, 34)])
def test_logo_below_in_and_over_the_border_of_bars(tmp_path: Path, box: Box):
    found = find_marks(index_of(tmp_path, with_logo(with_bars(film(), 22), box)))
    assert_found(found.marks, box)


def test_moving_text_is_no_mark(tmp_path: Path):
    base = film()
    found = find_marks(index_of(tmp_path, lambda n: with_logo(base, (2 * n, 140, 2 * n + 60, 164))(n)))
    assert found.marks == ()


def test_logo_during_a_part_of_the_film(tmp_path: Path):
    base, marked = film(), with_logo(film(), CORNER)
    most = find_marks(index_of(tmp_path, lambda n: (marked if n < 0.9 * NUM_FRAMES else base)(n)))
    assert_found(most.marks, CORNER)
    little = find_marks(index_of(tmp_path, lambda n: (marked if n < 0.3 * NUM_FRAMES else base)(n)))
    assert little.marks == ()


def test_what_is_too_large_is_no_mark(tmp_path: Path):
    assert find_marks(index_of(tmp_path, with_logo(film(), (40, 30, 280, 150)))).marks == ()


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_boxes_are_in_the_picture_as_displayed(tmp_path: Path, rotation: int):
    index = index_of(tmp_path, with_logo(film(), CORNER), rotation=rotation)
    found = find_marks(index)
    (coded,) = read_masks(boxes_source(marks_as_boxes(found.marks)), index, 0, 1)
    rows, columns = np.nonzero(coded)
    box = (int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1)
    assert_found((found.marks[0]._replace(box=box),), CORNER)


def test_ten_bits(tmp_path: Path):
    index = index_of(tmp_path, with_logo(film(), CORNER), pix_fmt="yuv420p10le")
    assert_found(find_marks(index).marks, CORNER)


def test_large_pictures_are_scaled_down_and_boxes_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sttn_ray.masks.find.MAX_SIDE", 200)
    index = index_of(tmp_path, with_logo(film(), CORNER))
    assert sample_luma(index, [0]).shape == (1, 112, 200)
    assert_found(find_marks(index).marks, CORNER)


def test_film_of_few_frames(tmp_path: Path):
    found = find_marks(index_of(tmp_path, film(), num_frames=5))
    assert found == ((), "too short to tell: 5 frames, at least 8 are needed")


def test_frames_between_keyframes_serve_where_these_are_few(tmp_path: Path):
    index = index_of(tmp_path, film(), gop=NUM_FRAMES)
    assert frames_to_sample(index, 80) == list(range(NUM_FRAMES))
    assert frames_to_sample(index, 8) == [0, 9, 18, 27, 36, 45, 54, 63]


def test_keyframes_serve_where_they_are_many(tmp_path: Path):
    index = index_of(tmp_path, film(), num_frames=240, gop=4)
    assert len(index.keyframe_pts) >= 60
    numbers = frames_to_sample(index, 30)
    assert len(numbers) == 30
    assert {index.pts[number] for number in numbers} <= set(index.keyframe_pts)
    assert numbers[0] == 0
    assert numbers[-1] > 220


def test_no_more_than_so_many_frames_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sttn_ray.masks.find.MAX_DECODED", 20)
    index = index_of(tmp_path, film(), gop=NUM_FRAMES, options={"x264-params": "scenecut=0"})
    assert len(index.keyframe_pts) == 1
    assert frames_to_sample(index, 80) == list(range(20))


def test_samples_are_the_frames_asked_for(tmp_path: Path):
    index = index_of(tmp_path, lambda n: np.full((HEIGHT, WIDTH, 3), n / NUM_FRAMES))
    luma = sample_luma(index, [3, 8, 9, 40])
    expected = 16 + 219 * np.array([3, 8, 9, 40]) / NUM_FRAMES
    assert luma.shape == (4, HEIGHT, WIDTH)
    assert np.abs(luma.mean((1, 2)) - expected).max() < 2


def test_boxes_as_text():
    marks = [FoundMark((10, 20, 30, 8), 0.9), FoundMark((0, 1, 5, 6), 0.7)]
    text = marks_as_boxes(marks)
    assert text == "10,20,30,8;0,1,5,6"
    assert [box.pixels(96, 64) for box in parse_boxes(text)] == [(10, 20, 40, 28), (0, 1, 5, 7)]
    assert marks_as_boxes([]) == ""


def test_frames_without_anything():
    assert find_overlays(np.zeros((10, 64, 96), np.uint8))[0] == []
    assert find_overlays(np.full((10, 5, 3), 200, np.uint8))[0] == []


def test_a_mark_is_found_on_a_damaged_film_whose_damage_is_concealed(tmp_path: Path):
    picture = with_logo(film(), CORNER)
    whole = make_video(tmp_path / "a.mkv", num_frames=NUM_FRAMES, width=WIDTH, height=HEIGHT, picture=picture)
    index = index_video(str(make_damaged_copy(whole, tmp_path / "b.mkv", start=0.5, stop=0.55)))
    with pytest.raises(VideoError, match="damaged"):
        find_marks(index)
    assert find_marks(index, on_damage="conceal").marks
