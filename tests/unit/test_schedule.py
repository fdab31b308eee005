"""Windows and references: every frame is covered, nothing crosses a cut, what is read suffices."""

from itertools import pairwise

import pytest

from sttn_ray.completion.engine import SHOT_MARGIN
from sttn_ray.completion.schedule import Schedule, Shot, is_center, neighbors, references

NEAREST, PUBLISHED = Schedule(), Schedule(num_references=None)


def centers(shot: Shot, schedule: Schedule) -> list[int]:
    return [frame for frame in range(shot.start, shot.stop) if is_center(frame, shot, schedule)]


def test_windows_cover_every_frame_of_every_shot() -> None:
    for start in range(10):
        for length in range(1, 61):
            shot = Shot(start=start, stop=start + length)
            covered = {n for c in centers(shot, NEAREST) for n in neighbors(c, shot, NEAREST)}
            assert covered == set(range(shot.start, shot.stop)), shot


def test_a_frame_is_in_two_windows_or_three_inside_a_shot() -> None:
    """Those that are multiples of the stride lie in three; averaged with equal weights (D-37)."""
    shot = Shot(start=0, stop=60)
    for frame in range(5, 50):
        count = sum(frame in neighbors(c, shot, NEAREST) for c in centers(shot, NEAREST))
        assert count == (3 if frame % 5 == 0 else 2)


def test_a_shot_without_a_multiple_of_the_stride_has_its_window_on_its_first_frame() -> None:
    assert centers(Shot(start=11, stop=15), NEAREST) == [11]
    assert centers(Shot(start=11, stop=16), NEAREST) == [15]
    assert centers(Shot(start=10, stop=12), NEAREST) == [10]
    assert centers(Shot(start=13, stop=14), NEAREST) == [13]


def test_windows_and_references_stay_in_the_shot() -> None:
    for start in range(10):
        for length in (1, 4, 5, 13, 60, 180):
            shot = Shot(start=start, stop=start + length)
            for center in centers(shot, NEAREST):
                window = neighbors(center, shot, NEAREST)
                found = references(center, shot, NEAREST)
                assert center in window
                assert len(window) <= 11
                assert not set(found) & set(window)
                assert found == sorted(set(found))
                assert all(shot.start <= n < shot.stop and n % 10 == 0 for n in found)


def test_references_are_the_nearest_of_every_tenth_frame() -> None:
    film = Shot(start=0, stop=1000)
    # 460 and 540 are equally far: the earlier one is taken.
    assert references(500, film, NEAREST) == [460, 470, 480, 490, 510, 520, 530]
    assert references(505, film, NEAREST) == [460, 470, 480, 490, 520, 530, 540]
    assert references(0, film, NEAREST) == [10, 20, 30, 40, 50, 60, 70]
    assert references(995, film, NEAREST) == [920, 930, 940, 950, 960, 970, 980]


@pytest.mark.parametrize("num_references", [0, 1, 7, 20])
def test_no_reference_outside_is_nearer_than_one_inside(num_references: int) -> None:
    schedule = Schedule(num_references=num_references)
    for shot in (Shot(start=0, stop=300), Shot(start=137, stop=203), Shot(start=3, stop=400)):
        every = set(range(-(-shot.start // 10) * 10, shot.stop, 10))
        for center in centers(shot, schedule):
            outside = every - set(neighbors(center, shot, schedule))
            found = references(center, shot, schedule)
            assert len(found) == min(num_references, len(outside))
            rest = outside - set(found)
            if found and rest:
                farthest = max(abs(n - center) for n in found)
                assert farthest <= min(abs(n - center) for n in rest)


@pytest.mark.parametrize("num_frames", [1, 5, 27, 80, 143])
def test_all_references_are_the_published_schedule(num_frames: int) -> None:
    """As in the published test.py: range(0, length, 10) without the window, a window every 5 frames."""
    shot = Shot(start=0, stop=num_frames)
    assert centers(shot, PUBLISHED) == list(range(0, num_frames, 5))
    for center in centers(shot, PUBLISHED):
        window = list(range(max(0, center - 5), min(num_frames, center + 5 + 1)))
        far = [n for n in range(0, num_frames, 10) if n not in window]
        assert list(neighbors(center, shot, PUBLISHED)) == window
        assert references(center, shot, PUBLISHED) == far


def test_videos_of_the_published_length_get_the_published_references() -> None:
    """80 frames have no more than 7 references outside a window."""
    shot = Shot(start=0, stop=80)
    for center in centers(shot, NEAREST):
        assert references(center, shot, NEAREST) == references(center, shot, PUBLISHED)


@pytest.mark.parametrize(
    ("num_frames", "num_references", "cost", "largest"),
    [
        (80, 7, 3.4375, 18),
        (80, None, 3.4375, 18),
        (100, 7, 3.54, 18),
        (100, None, 3.85, 20),
        (300, 7, 3.58, 18),
        (300, None, 7.883, 40),
        (1600, 7, 3.596, 18),
        (1600, None, 33.897, 170),
    ],
)
def test_frames_in_the_transformer_per_output_frame(
    num_frames: int, num_references: int | None, cost: float, largest: int
) -> None:
    """The table of docs/decisions/completion.md (D-39)."""
    schedule, shot = Schedule(num_references=num_references), Shot(start=0, stop=num_frames)
    sizes = [len(neighbors(c, shot, schedule)) + len(references(c, shot, schedule)) for c in centers(shot, schedule)]
    assert sum(sizes) / num_frames == pytest.approx(cost, abs=1e-3)
    assert max(sizes) == largest


@pytest.mark.parametrize("num_references", [0, 3, 7, None])
def test_what_is_read_holds_every_frame_a_segment_needs(num_references: int | None) -> None:
    """By brute force, over videos with and without cuts and segments of several lengths."""
    schedule = Schedule(num_references=num_references)
    for num_frames, cuts in ((1, []), (40, []), (330, []), (330, [1, 3, 90, 171, 174, 329])):
        shots = [Shot(start=a, stop=b) for a, b in pairwise([0, *cuts, num_frames])]
        for length in (10, 37, 250):
            for start in range(0, num_frames, length):
                stop = min(num_frames, start + length)
                margin = schedule.margin(num_frames)
                for shot in shots:
                    for center in centers(shot, schedule):
                        window = neighbors(center, shot, schedule)
                        if window.stop <= start or window.start >= stop:
                            continue
                        needed = [*window, *references(center, shot, schedule)]
                        assert max(abs(n - center) for n in needed) <= schedule.reach(num_frames)
                        assert start - margin <= min(needed)
                        assert max(needed) < stop + margin


@pytest.mark.parametrize("num_references", [0, 7])
def test_a_shot_cut_to_the_reach_gives_the_same_window(num_references: int) -> None:
    """A segment sees of a long shot only what lies within reach of a window's center."""
    schedule = Schedule(num_references=num_references)
    reach = schedule.reach(10_000)
    for shot in (Shot(start=0, stop=600), Shot(start=33, stop=38), Shot(start=123, stop=457)):
        for center in centers(shot, schedule):
            cut = Shot(start=max(shot.start, center - reach), stop=min(shot.stop, center + reach + 1))
            assert is_center(center, cut, schedule)
            assert neighbors(center, cut, schedule) == neighbors(center, shot, schedule)
            assert references(center, cut, schedule) == references(center, shot, schedule)
        for frame in set(range(shot.start, shot.stop)) - set(centers(shot, schedule)):
            cut = Shot(start=max(shot.start, frame - reach), stop=min(shot.stop, frame + reach + 1))
            assert not is_center(frame, cut, schedule)


def test_reach_does_not_grow_with_the_video() -> None:
    assert NEAREST.reach(1000) == NEAREST.reach(1_000_000) < 100
    assert NEAREST.margin(20) == 20
    assert PUBLISHED.reach(1000) == PUBLISHED.margin(1000) == 1000
    assert SHOT_MARGIN == 2
