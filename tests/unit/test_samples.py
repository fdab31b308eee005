"""Positions, clips and frames: parts of workers are the whole, and everything hangs on the seed alone."""

from collections import Counter
from math import sqrt

import numpy as np
import pytest

from sttn_ray.choices import FAMILIES, Family
from sttn_ray.samples import Sample, clip_at, draw_colors, draw_sample, step_positions, worker_batches

NUM_DRAWS = 2000
WEIGHTS: dict[Family, float] = {"moving_shape": 1.0, "box": 3.0}


def draw(clip_id: str = "clip", num_frames: int = 20, *, seed: int = 0, epoch: int = 0) -> Sample:
    return draw_sample(clip_id, num_frames, sample_frames=5, weights=WEIGHTS, seed=seed, epoch=epoch)


def values(sample: Sample) -> tuple[object, ...]:
    """A sample as it compares: with the first number of its generator."""
    return sample.frames, sample.is_flipped, sample.family, sample.rng.integers(2**63)


@pytest.fixture(scope="module")
def drawn() -> list[Sample]:
    """One sample of each of many clips."""
    return [draw(f"clip-{number}") for number in range(NUM_DRAWS)]


def assert_share(count: int, share: float) -> None:
    """Within 4 standard deviations of a binomial count: chance alone fails one seed of 16,000."""
    assert count / NUM_DRAWS == pytest.approx(share, abs=4 * sqrt(share * (1 - share) / NUM_DRAWS))


# Positions


@pytest.mark.parametrize("num_workers", [1, 2, 3, 4, 5, 8])
def test_parts_of_workers_join_to_the_batch(num_workers: int) -> None:
    for step in (0, 1, 7):
        parts = [step_positions(step, batch_size=8, rank=rank, num_workers=num_workers) for rank in range(num_workers)]
        assert {len(part) for part in parts} <= {8 // num_workers, 8 // num_workers + 1}
        assert [position for part in parts for position in part] == list(range(8 * step, 8 * step + 8))


@pytest.mark.parametrize(("batch_size", "num_workers"), [(1, 2), (4, 6)])
def test_a_batch_with_less_than_a_clip_for_each_is_refused(batch_size: int, num_workers: int) -> None:
    """The published code would train on none (D-19)."""
    with pytest.raises(ValueError, match=f"a batch of {batch_size} clips does not suffice for {num_workers} workers"):
        step_positions(0, batch_size=batch_size, rank=0, num_workers=num_workers)


def test_a_worker_goes_on_where_it_stopped() -> None:
    whole, first, rest = (
        list(worker_batches(start, stop, batch_size=4, rank=1, num_workers=2))
        for start, stop in ((0, 6), (0, 2), (2, 6))
    )
    assert whole == [[4 * step + 2, 4 * step + 3] for step in range(6)]
    assert first + rest == whole


# Clips


def clips_of_epoch(epoch: int, *, num_clips: int = 50, seed: int = 0) -> list[int]:
    found = [clip_at(epoch * num_clips + place, num_clips=num_clips, seed=seed) for place in range(num_clips)]
    assert {found_epoch for found_epoch, _ in found} == {epoch}
    return [number for _, number in found]


def test_every_clip_comes_once_an_epoch() -> None:
    for epoch in range(4):
        assert sorted(clips_of_epoch(epoch)) == list(range(50))


def test_every_epoch_and_every_seed_has_its_own_order() -> None:
    orders = [clips_of_epoch(epoch, seed=seed) for epoch in range(3) for seed in range(3)]
    assert len({tuple(order) for order in orders}) == 9
    assert list(range(50)) not in orders


def test_a_position_gives_the_same_clip_whatever_was_asked_before() -> None:
    expected = [number for epoch in range(5) for number in clips_of_epoch(epoch, seed=3)]
    for position in np.random.default_rng(0).permutation(250).tolist():
        assert clip_at(position, num_clips=50, seed=3) == (position // 50, expected[position])


def test_a_corpus_of_one_clip() -> None:
    assert [clip_at(position, num_clips=1, seed=0) for position in range(3)] == [(0, 0), (1, 0), (2, 0)]


# Samples


def test_a_sample_is_of_its_seed_epoch_and_clip_alone() -> None:
    expected = values(draw("a", seed=1, epoch=2))
    np.random.default_rng(0).random()
    draw("b", seed=1, epoch=2).rng.random()
    assert values(draw("a", seed=1, epoch=2)) == expected


def test_another_seed_epoch_or_clip_gives_another_sample() -> None:
    """Also where their digits join to the same text."""
    changes = [("a", 1, 2), ("b", 1, 2), ("a", 1, 3), ("a", 2, 2), ("2/a", 1, 2), ("a", 12, 2), ("a", 1, 22)]
    first_numbers = {draw(clip_id, seed=seed, epoch=epoch).rng.integers(2**63) for clip_id, seed, epoch in changes}
    assert len(first_numbers) == len(changes)


def test_samples_are_those_of_earlier_versions() -> None:
    """A run that goes on must see what it would have seen: another draw is another training."""
    assert draw("a", seed=7, epoch=1)[:3] == ((7, 8, 9, 10, 11), False, "box")
    assert draw("h", seed=7, epoch=1)[:3] == ((3, 9, 14, 18, 19), True, "moving_shape")
    assert clips_of_epoch(1, num_clips=6, seed=7) == [3, 4, 1, 2, 0, 5]


def is_run(sample: Sample) -> bool:
    return sample.frames == tuple(range(sample.frames[0], sample.frames[0] + 5))


def test_half_are_runs_and_half_are_random_frames(drawn: list[Sample]) -> None:
    """Paper, section 4.1. Of the random ones, 16 of the 15504 choices are runs by chance."""
    assert_share(sum(map(is_run, drawn)), 0.5 + 0.5 * 16 / 15504)


def test_frames_ascend_and_lie_in_the_clip(drawn: list[Sample]) -> None:
    for sample in drawn:
        assert len(sample.frames) == 5
        assert all(type(number) is int for number in sample.frames)
        assert sample.frames[0] >= 0
        assert sample.frames[-1] < 20
        assert list(sample.frames) == sorted(set(sample.frames))


def test_runs_begin_anywhere(drawn: list[Sample]) -> None:
    begins = Counter(sample.frames[0] for sample in drawn if is_run(sample))
    assert sorted(begins) == list(range(16))
    for count in begins.values():
        assert_share(count, 0.5 / 16)


def test_random_frames_come_from_everywhere(drawn: list[Sample]) -> None:
    seen = Counter(number for sample in drawn if not is_run(sample) for number in sample.frames)
    assert sorted(seen) == list(range(20))
    for count in seen.values():
        assert_share(count, 0.5 * 5 / 20)


@pytest.mark.parametrize(
    ("num_frames", "expected"),
    [
        (1, (0, 0, 0, 0, 0)),
        (2, (0, 0, 0, 1, 1)),  # 0 1 0 1 0
        (3, (0, 0, 1, 1, 2)),  # 0 1 2 1 0
        (4, (0, 1, 2, 2, 3)),  # 0 1 2 3 2
        (5, (0, 1, 2, 3, 4)),
    ],
)
def test_short_clips_are_run_through_forth_and_back(num_frames: int, expected: tuple[int, ...]) -> None:
    """The published code raises, and takes another clip instead (D-31)."""
    assert {draw(f"clip-{number}", num_frames).frames for number in range(20)} == {expected}


def test_a_clip_of_one_frame_more_than_the_sample() -> None:
    found = {draw(f"clip-{number}", 6).frames for number in range(200)}
    assert found == {tuple(n for n in range(6) if n != left_out) for left_out in range(6)}


def test_half_are_flipped(drawn: list[Sample]) -> None:
    assert_share(sum(sample.is_flipped for sample in drawn), 0.5)
    assert_share(sum(sample.is_flipped and is_run(sample) for sample in drawn), 0.25)


def test_families_come_by_their_weights(drawn: list[Sample]) -> None:
    counts = Counter(sample.family for sample in drawn)
    assert sorted(counts) == ["box", "moving_shape"]
    assert_share(counts["box"], 0.75)
    assert_share(sum(sample.family == "box" and sample.is_flipped for sample in drawn), 0.375)


def test_the_order_of_the_weights_does_not_matter() -> None:
    weights: dict[Family, float] = dict.fromkeys(FAMILIES, 1.0)
    turned = dict(reversed(weights.items()))
    for number in range(20):
        a, b = (
            draw_sample(f"clip-{number}", 20, sample_frames=5, weights=w, seed=0, epoch=0) for w in (weights, turned)
        )
        assert values(a) == values(b)


def test_weights_change_neither_frames_nor_flips() -> None:
    """So that two trainings with other masks see the same pictures."""
    for number in range(20):
        a, b = (
            draw_sample(f"clip-{number}", 20, sample_frames=5, weights=w, seed=0, epoch=0)
            for w in (WEIGHTS, {"text": 1.0})
        )
        assert a[:2] == b[:2]
        assert b.family == "text"


def test_other_colors_leave_frames_and_mask_what_they_were() -> None:
    for number in range(20):
        plain, tinted, again, later = (
            draw_sample(
                f"clip-{number}", 20, sample_frames=5, weights=WEIGHTS, seed=0, epoch=epoch, color_jitter=jitter
            )
            for jitter, epoch in ((0.0, 0), (0.5, 0), (0.5, 0), (0.5, 1))
        )
        assert plain.colors is None
        assert values(plain) == values(tinted)
        assert tinted.colors is not None
        np.testing.assert_array_equal(tinted.colors, again.colors)
        assert later.colors is not None
        assert not np.array_equal(tinted.colors, later.colors)


def test_colors_move_by_channel_and_within_the_jitter() -> None:
    tables = [draw_colors(0.5, np.random.default_rng(seed)) for seed in range(400)]
    for table in tables:
        assert (table.shape, table.dtype) == ((256, 3), np.uint8)
        assert (np.diff(table.astype(int), axis=0) >= 0).all()
    # The middle shows the offset alone, the slope there the gain.
    middle = np.stack([table[127:129].mean(0) for table in tables]) / 127.5 - 1
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.03)
    assert np.abs(np.corrcoef(middle.T) - np.eye(3)).max() < 0.2
    slopes = np.stack([(table[144].astype(float) - table[112]) / 32 for table in tables])
    inside = slopes[np.abs(middle) < 0.2]  # further off, the range ends
    assert inside.min() == pytest.approx(np.exp(-0.5), abs=0.06)
    assert inside.max() == pytest.approx(np.exp(0.5), abs=0.08)


def test_no_jitter_is_no_change() -> None:
    np.testing.assert_array_equal(draw_colors(0.0, np.random.default_rng(0)), np.arange(256)[:, None].repeat(3, 1))


def test_places_are_even_and_of_their_own(drawn: list[Sample]) -> None:
    places = np.array([sample.place for sample in drawn])
    assert ((places >= 0) & (places < 1)).all()
    assert places.mean(0) == pytest.approx(0.5, abs=4 / sqrt(12 * NUM_DRAWS))
    assert abs(np.corrcoef(places.T)[0, 1]) < 0.1
