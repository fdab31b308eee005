"""Cuts in made sequences: found where a picture changes once, not where it moves or flashes."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from sttn_ray.completion.engine import SHOT_MARGIN
from sttn_ray.completion.schedule import Schedule, Shot
from sttn_ray.completion.shots import ShotFinder

HEIGHT, WIDTH = 90, 160
Luma = NDArray[np.uint8]


def make_texture(seed: int, *, width: int = 600) -> Luma:
    """A smooth random picture, wide enough to pan over."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(16, 235, (HEIGHT // 30 + 2, width // 30 + 2)).astype(np.float32)
    picture = cv2.resize(coarse, (width, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return np.clip(picture, 0, 255).astype(np.uint8)


def pan(seed: int, length: int, *, speed_px: int) -> list[Luma]:
    texture = make_texture(seed, width=WIDTH + speed_px * length)
    noise = np.random.default_rng(seed + 1000).integers(-3, 4, (length, HEIGHT, WIDTH))
    frames = [texture[:, n * speed_px : n * speed_px + WIDTH] for n in range(length)]
    return [np.clip(f + d, 0, 255).astype(np.uint8) for f, d in zip(frames, noise, strict=True)]


def find_cuts(frames: list[Luma], *, maximum: int = 255) -> list[int]:
    finder = ShotFinder(0)
    for frame in frames:
        finder.add(frame, maximum)
    finder.finish()
    shots = [finder.shot_at(n, start=0, stop=len(frames)) for n in range(len(frames))]
    assert all(shot.start <= n < shot.stop for n, shot in enumerate(shots))
    return sorted({shot.start for shot in shots} - {0})


@pytest.mark.parametrize("speed_px", [0, 1, 4])
@pytest.mark.parametrize("lengths", [(20, 20), (1, 20), (20, 1), (7, 2, 30, 11), (2, 2, 2)])
def test_finds_every_cut(speed_px: int, lengths: tuple[int, ...]) -> None:
    frames = [f for seed, length in enumerate(lengths) for f in pan(seed, length, speed_px=speed_px)]
    assert find_cuts(frames) == np.cumsum(lengths)[:-1].tolist()


@pytest.mark.parametrize("speed_px", [1, 5, 15, 40, 80])
def test_no_cut_in_a_pan(speed_px: int) -> None:
    """A fast pan changes every frame as much as a cut does; it starts and ends at once here."""
    moving = pan(3, 20, speed_px=speed_px)
    still = [moving[0]] * 10
    assert find_cuts([*still, *moving, *[moving[-1]] * 10]) == []


@pytest.mark.parametrize("gain", [1.5, 3.0])
def test_no_cut_at_a_flash(gain: float) -> None:
    frames = pan(5, 30, speed_px=2)
    frames[12] = np.clip(frames[12] * gain + 40, 0, 255).astype(np.uint8)
    assert find_cuts(frames) == []


def test_no_cut_in_a_fade_or_a_dissolve() -> None:
    """A gradual change has no frame to cut at: windows reach across it."""
    first, second = pan(6, 40, speed_px=1), pan(7, 40, speed_px=1)
    mixed = [
        (a * (1 - n / 39) + b * (n / 39)).astype(np.uint8) for n, (a, b) in enumerate(zip(first, second, strict=True))
    ]
    assert find_cuts(mixed) == []


def test_no_cut_in_noise_and_in_a_still_picture() -> None:
    rng = np.random.default_rng(0)
    assert find_cuts([rng.integers(0, 256, (HEIGHT, WIDTH)).astype(np.uint8) for _ in range(20)]) == []
    assert find_cuts([make_texture(0)[:, :WIDTH]] * 20) == []


@pytest.mark.parametrize("bits", [8, 10])
def test_no_cut_at_a_small_change_of_brightness(bits: int) -> None:
    still = make_texture(0)[:, :WIDTH].astype(np.uint16) // 2 << (bits - 8)
    frames = [still] * 10 + [still + (10 << (bits - 8))] * 10
    assert find_cuts(frames, maximum=(1 << bits) - 1) == []


def test_bit_depth_does_not_matter() -> None:
    frames = [*pan(1, 9, speed_px=1), *pan(2, 9, speed_px=1)]
    deep = [f.astype(np.uint16) * 4 for f in frames]
    assert find_cuts(deep, maximum=1023) == find_cuts(frames) == [9]


def test_small_frames() -> None:
    frames = [f[:10, :12] for f in [*pan(1, 6, speed_px=0), *pan(4, 6, speed_px=0)]]
    assert find_cuts(frames) == [6]


def test_shot_is_cut_to_what_is_asked_for() -> None:
    finder = ShotFinder(0)
    for frame in [*pan(0, 20, speed_px=1), *pan(1, 20, speed_px=1)]:
        finder.add(frame, 255)
    finder.finish()
    assert finder.shot_at(10, start=4, stop=16) == Shot(start=4, stop=16)
    assert finder.shot_at(10, start=4, stop=30) == Shot(start=4, stop=20)
    assert finder.shot_at(20, start=4, stop=30) == Shot(start=20, stop=30)
    assert finder.shot_at(19, start=4, stop=30) == Shot(start=4, stop=20)


@pytest.mark.parametrize("num_references", [0, 7])
def test_every_segment_sees_the_same_shots(num_references: int) -> None:
    """Read from another frame on and only as far as needed, each window's shot is that of the whole video."""
    schedule = Schedule(num_references=num_references)
    lengths = (31, 3, 1, 80, 5, 47)
    frames = [f for seed, length in enumerate(lengths) for f in pan(seed, length, speed_px=1)]
    num_frames = len(frames)
    reach, radius = schedule.reach(num_frames), schedule.window_radius
    margin = schedule.margin(num_frames) + SHOT_MARGIN

    def shots(start: int, stop: int) -> dict[int, Shot]:
        first, last = max(0, start - margin), min(num_frames, stop + margin)
        finder = ShotFinder(first)
        for frame in frames[first:last]:
            finder.add(frame, 255)
        finder.finish()
        return {
            c: finder.shot_at(c, start=max(first, c - reach), stop=min(last, c + reach + 1))
            for c in range(max(first, start - radius), min(last, stop + radius))
        }

    whole = shots(0, num_frames)
    for length in (10, 17, 60):
        for start in range(0, num_frames, length):
            for center, shot in shots(start, min(num_frames, start + length)).items():
                assert shot == whole[center]
