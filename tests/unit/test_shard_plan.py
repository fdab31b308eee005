"""Which clips a video gives, and in which shard they lie."""

from collections.abc import Sequence
from math import inf
from pathlib import Path

import pytest

from sttn_ray.errors import CorpusError
from sttn_ray.shards.plan import Range, Video, clip_ranges, contiguous_runs, frame_spans, grow_plan
from sttn_ray.shards.records import ShardsDir


@pytest.mark.parametrize(
    ("num_frames", "expected"),
    [
        (0, []),
        (4, []),
        (5, [(0, 5)]),
        (20, [(0, 20)]),
        (24, [(0, 20)]),
        (25, [(0, 20), (20, 25)]),
        (60, [(0, 20), (20, 40), (40, 60)]),
    ],
)
def test_clip_ranges(num_frames: int, expected: list[tuple[int, int]]):
    assert clip_ranges(0, num_frames, clip_frames=20, min_clip_frames=5) == expected
    moved = [(start + 7, stop + 7) for start, stop in expected]
    assert clip_ranges(7, num_frames + 7, clip_frames=20, min_clip_frames=5) == moved


@pytest.mark.parametrize(
    ("spans_s", "expected"),
    [
        ([], [(0, 10)]),
        ([(0.0, inf)], [(0, 10)]),
        ([(0.5, inf)], [(5, 10)]),
        ([(0.15, 0.5)], [(2, 5)]),  # the end is excluded
        ([(0.0, 0.2), (0.3, 0.45)], [(0, 2), (3, 5)]),
        ([(0.11, 0.19), (0.9, 99.0), (99.0, inf)], [(9, 10)]),
    ],
)
def test_frame_spans(spans_s: list[tuple[float, float]], expected: list[tuple[int, int]]):
    times_s = [number / 10 for number in range(10)]
    assert frame_spans(spans_s, times_s) == expected


def grow(plan: Sequence[Sequence[Range]], *videos: tuple[str, int]) -> list[list[Range]]:
    return grow_plan(
        plan,
        [Video(sha256, [(0, num_frames)]) for sha256, num_frames in videos],
        clip_frames=20,
        min_clip_frames=5,
        clips_per_shard=3,
    )


def bare(plan: Sequence[Sequence[Range]]) -> list[list[tuple[str, int, int]]]:
    return [[(part.sha256, part.start, part.stop) for part in shard] for shard in plan]


def test_a_plan_holds_videos_in_order():
    assert bare(grow([], ("a", 40), ("b", 50), ("c", 4), ("d", 7))) == [
        [("a", 0, 20), ("a", 20, 40), ("b", 0, 20)],
        [("b", 20, 40), ("b", 40, 50), ("d", 0, 7)],
    ]


def test_nothing_to_plan():
    assert grow([]) == []
    assert grow([], ("a", 4)) == []


def test_a_plan_grows_by_new_shards_alone():
    before = grow([], ("b", 40), ("d", 30))
    after = grow(before, ("a", 20), ("b", 40), ("c", 20), ("d", 30))
    assert after[: len(before)] == before
    assert bare(after[len(before) :]) == [[("a", 0, 20), ("c", 0, 20)]]
    assert before == grow([], ("b", 40), ("d", 30))  # its argument is left as it was


def test_a_plan_that_knows_all_videos_stays():
    plan = grow([], ("a", 40), ("b", 50))
    assert grow(plan, ("b", 50), ("a", 40)) == plan
    assert grow(plan) == plan  # videos that are gone keep their place


def test_parts_of_a_video_and_their_split_are_planned():
    settings = {"clip_frames": 20, "min_clip_frames": 5, "clips_per_shard": 9}
    video = Video("a", [(3, 30), (50, 58)], "validation")
    plan = grow_plan([], [video], **settings)
    assert plan == [[Range("a", *r, "validation") for r in ((3, 23), (23, 30), (50, 58))]]
    assert grow_plan(plan, [video], **settings) == plan
    for other in (video._replace(spans=[(3, 30)]), video._replace(split="train")):
        with pytest.raises(CorpusError, match=r"choose another shards\.dir"):
            grow_plan(plan, [other], **settings)


def test_contiguous_runs():
    a, b, c, d = Range("a", 0, 20), Range("a", 20, 40), Range("b", 40, 60), Range("b", 80, 90)
    assert contiguous_runs([a, b, c, d]) == [[a, b], [c], [d]]
    assert contiguous_runs([b, a]) == [[b], [a]]
    assert contiguous_runs([]) == []


def test_a_plan_is_kept(tmp_path: Path):
    shards = ShardsDir(tmp_path)
    assert shards.read_plan() == []
    plan = grow([], ("a", 40), ("b", 50))
    shards.write_plan(plan)
    assert shards.read_plan() == plan
    assert grow(shards.read_plan(), ("b", 50)) == plan
