"""Classical fills: hand-computed colors, and never a change outside the holes."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from sttn_ray.fills import fill_mean_color, fill_telea, fill_temporal_median

Fill = Callable[[NDArray[np.uint8], NDArray[np.bool_]], NDArray[np.uint8]]
every_fill = pytest.mark.parametrize("fill", [fill_mean_color, fill_telea, fill_temporal_median])


def make_clip(seed: int, num_frames: int = 7, height: int = 21, width: int = 30):
    """Noise, a quarter of it hole; heights are no multiple of the median's block."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (num_frames, height, width, 3), np.uint8)
    return frames, rng.random(frames.shape[:3]) < 0.25


def gray(*values: int) -> NDArray[np.uint8]:
    """Frames of one pixel."""
    return np.repeat(np.array(values, np.uint8)[:, None, None, None], 3, axis=3)


def holes(*values: int) -> NDArray[np.bool_]:
    return np.array(values, bool)[:, None, None]


@every_fill
def test_outside_the_holes_nothing_changes_and_the_source_stays(fill: Fill):
    frames, masks = make_clip(1)
    before = frames.copy()
    completed = fill(frames, masks)
    assert completed.shape == frames.shape
    assert completed.dtype == np.uint8
    assert np.array_equal(completed[~masks], frames[~masks])
    assert np.array_equal(frames, before)
    assert not np.shares_memory(completed, frames)


@every_fill
def test_what_the_hole_shows_does_not_matter(fill: Fill):
    frames, masks = make_clip(2)
    masks[:, :4, :5] = True  # a corner of the frame, never seen
    other = frames.copy()
    other[masks] = 255 - other[masks]
    assert np.array_equal(fill(frames, masks), fill(other, masks))


@every_fill
def test_without_a_hole_the_source_comes_back(fill: Fill):
    frames, masks = make_clip(3)
    assert np.array_equal(fill(frames, np.zeros_like(masks)), frames)


@every_fill
def test_a_clip_that_is_all_hole_is_mid_gray(fill: Fill):
    frames, masks = make_clip(4, num_frames=2)
    assert (fill(frames, np.ones_like(masks)) == 127).all()


@every_fill
def test_read_only_and_strided_frames_are_taken(fill: Fill):
    frames, masks = make_clip(5)
    expected = fill(frames[:, ::2, ::-1].copy(), masks[:, ::2, ::-1].copy())
    frames.setflags(write=False)
    masks.setflags(write=False)
    assert np.array_equal(fill(frames[:, ::2, ::-1], masks[:, ::2, ::-1]), expected)


@every_fill
def test_wrong_shapes_and_types_are_told(fill: Fill):
    frames, masks = make_clip(6)
    with pytest.raises(ValueError, match=r"masks are bool \(7, 21, 29\), expected bool \(7, 21, 30\)"):
        fill(frames, masks[:, :, 1:])
    with pytest.raises(ValueError, match="masks are uint8"):
        fill(frames, masks.astype(np.uint8))
    with pytest.raises(ValueError, match="frames are float32"):
        fill(frames.astype(np.float32), masks)


def test_mean_color_is_each_frames_own_by_channel_rounded_half_up():
    frames = np.zeros((2, 1, 3, 3), np.uint8)
    frames[0, 0] = [[10, 0, 255], [11, 1, 255], [99, 99, 99]]
    frames[1, 0] = [[77, 77, 77], [20, 30, 40], [22, 30, 43]]
    masks = np.array([[[False, False, True]], [[True, False, False]]])
    completed = fill_mean_color(frames, masks)
    assert completed[0, 0, 2].tolist() == [11, 1, 255]  # of 10.5, 0.5, 255
    assert completed[1, 0, 0].tolist() == [21, 30, 42]  # of 21, 30, 41.5


def test_telea_continues_what_is_around_the_hole():
    tolerance = 4  # OpenCV's is off by some even where all is flat: its issue 25404
    frames = np.zeros((2, 20, 24, 3), np.uint8)
    frames[0] = (200, 20, 90)
    frames[1, :, :12], frames[1, :, 12:] = 50, 100
    masks = np.zeros((2, 20, 24), bool)
    masks[:, 8:12, 6:18] = True
    truth = frames.copy()
    frames[masks] = 255
    completed = fill_telea(frames, masks)
    assert np.allclose(completed[0], truth[0], rtol=0, atol=tolerance)
    assert np.allclose(completed[1, 8:12, 6], 50, rtol=0, atol=tolerance)
    assert np.allclose(completed[1, 8:12, 17], 100, rtol=0, atol=tolerance)
    assert (np.abs(completed[1][masks[1]] - 75.0) <= 25 + tolerance).all()


def test_telea_takes_its_radius():
    frames, masks = make_clip(7)
    masks[:, 8:14, 8:20] = True
    assert not np.array_equal(fill_telea(frames, masks, radius_px=1), fill_telea(frames, masks, radius_px=6))


@pytest.mark.parametrize(
    ("values", "hidden", "expected"),
    [
        ((10, 250, 30, 20), (0, 1, 0, 0), (10, 20, 30, 20)),  # odd: the middle of 10, 20, 30
        ((10, 0, 30, 21, 12), (0, 1, 0, 0, 0), (10, 17, 30, 21, 12)),  # even: 12 and 21, so 16.5
        ((0, 9, 9), (1, 0, 1), (9, 9, 9)),  # seen once
        ((255, 7, 255, 1), (0, 1, 0, 0), (255, 255, 255, 1)),  # white is a value like others
        ((254, 255, 3), (0, 0, 1), (254, 255, 255)),  # 254.5, beyond a byte before it is halved
    ],
)
def test_median_over_time(values: tuple[int, ...], hidden: tuple[int, ...], expected: tuple[int, ...]):
    assert np.array_equal(fill_temporal_median(gray(*values), holes(*hidden)), gray(*expected))


def test_places_never_seen_take_the_frames_mean_color():
    frames = np.concatenate([gray(9, 9, 9), gray(10, 20, 40), gray(30, 40, 80)], axis=2)  # 3 frames, 1 row, 3 pixels
    masks = np.concatenate([holes(1, 1, 1), holes(0, 0, 1), holes(0, 0, 0)], axis=2)
    completed = fill_temporal_median(frames, masks)[..., 0]
    assert completed.tolist() == [[[20, 10, 30]], [[30, 20, 40]], [[80, 15, 80]]]


def test_a_frame_that_is_all_hole_is_made_from_the_others():
    frames = np.concatenate([gray(5, 100, 7), gray(9, 9, 9)], axis=2)
    masks = np.concatenate([holes(0, 1, 0), holes(1, 1, 1)], axis=2)
    completed = fill_temporal_median(frames, masks)[..., 0]
    assert completed.tolist() == [[[5, 5]], [[6, 127]], [[7, 7]]]


def test_median_equals_numpys_in_every_block():
    frames, masks = make_clip(8, num_frames=6)
    masks[:, 19, 3] = True
    expected = fill_mean_color(frames, masks)
    for y, x in np.argwhere(masks.any(0) & ~masks.all(0)):
        seen = frames[~masks[:, y, x], y, x]
        expected[masks[:, y, x], y, x] = np.floor(np.median(seen, axis=0) + 0.5)
    assert np.array_equal(fill_temporal_median(frames, masks), expected)


def test_median_needs_little_more_than_the_completed_clip():
    frames, masks = make_clip(9, num_frames=12, height=240, width=96)
    tracemalloc.start()
    try:
        fill_temporal_median(frames, masks)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * frames.nbytes
