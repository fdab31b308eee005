"""Which videos are kept for validation, in small corpora, and as they grow."""

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from sttn_ray.shards.plan import Range
from sttn_ray.shards.splits import fill_empty_side, planned_splits, resplit, set_splits, split_of

Row = dict[str, Any]


def sha256_at(position: float) -> str:
    """Of a video that a share above `position` keeps for validation."""
    return f"{int(position * 2**32):08x}".ljust(64, "0")


def split(
    positions: Sequence[float], share: float, *, given: str = "", planned: dict[str, str] | None = None
) -> dict[float, str]:
    """The split of videos that are all usable, by their positions."""
    rows = [{"sha256": sha256_at(p), "split": given} for p in positions]
    set_splits(rows, share, planned=planned or {}, published={sha256[:16] for sha256 in planned or {}})
    while fill_empty_side(rows, rows, share):
        pass
    return {position: row["split"] for position, row in zip(positions, rows, strict=True)}


def test_splits_have_the_share_that_was_asked_for():
    hashes = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(20000)]
    for share in (0.05, 0.3):
        in_validation = [split_of(sha256, share) == "validation" for sha256 in hashes]
        assert np.mean(in_validation) == pytest.approx(share, abs=0.01)
        # A video's neighbors say nothing about it.
        pairs = np.mean([a and b for a, b in pairwise(in_validation)])
        assert pairs == pytest.approx(share**2, abs=0.01)


@pytest.mark.parametrize("sha256", ["0" * 64, "f" * 64])
def test_extreme_shares(sha256: str):
    assert split_of(sha256, 0.0) == "train"
    assert split_of(sha256, 1.0) == "validation"


def test_a_larger_share_keeps_what_was_in_validation():
    hashes = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(1000)]
    few = {sha256 for sha256 in hashes if split_of(sha256, 0.1) == "validation"}
    assert few < {sha256 for sha256 in hashes if split_of(sha256, 0.2) == "validation"}


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.99])
@pytest.mark.parametrize("positions", [(0.1, 0.9), (0.3, 0.31, 0.32), (0.91, 0.95, 0.99), (0.001, 0.002, 0.003)])
def test_both_sides_have_a_video(positions: tuple[float, ...], share: float):
    found = split(positions, share)
    assert set(found.values()) == {"train", "validation"}
    # Only the next one by content is moved.
    by_content = {p: split_of(sha256_at(p), share) for p in positions}
    moved = [p for p in positions if found[p] != by_content[p]]
    assert moved == ([] if len(set(by_content.values())) == 2 else [moved[0]])
    assert [found[p] for p in sorted(positions)] == sorted(found.values(), reverse=True)


@pytest.mark.parametrize(("share", "expected"), [(0.0, {"train"}), (1.0, {"validation"})])
def test_shares_of_all_and_nothing(share: float, expected: set[str]):
    assert set(split((0.1, 0.5, 0.9), share).values()) == expected


@pytest.mark.parametrize(("position", "share"), [(0.5, 0.2), (0.1, 0.2), (0.0, 0.99)])
def test_a_single_video_is_trained_on(position: float, share: float):
    assert split((position,), share) == {position: "train"}


def test_a_growing_corpus_never_trains_on_what_it_validated_with():
    rng = np.random.default_rng(0)
    for share in (0.05, 0.2, 0.6):
        positions: list[float] = []
        planned: dict[str, str] = {}
        for number in range(1, 40):
            positions.append(float(rng.random()))
            found = split(positions, share, planned=planned)
            now = {sha256_at(p): found[p] for p in positions}
            assert {sha256: now[sha256] for sha256 in planned} == planned
            assert set(now.values()) == ({"train", "validation"} if number > 1 else {"train"})
            planned = now


def test_splits_that_were_given_are_kept():
    assert set(split((0.1, 0.9), 0.5, given="train").values()) == {"train"}


def test_duplicates_go_with_their_video_and_others_count():
    rows = [{"sha256": sha256_at(p), "split": ""} for p in (0.5, 0.9, 0.5)]
    set_splits(rows, 0.1, planned={}, published=())
    assert fill_empty_side(rows, rows[:2], 0.1, others=["validation"]) is None
    assert fill_empty_side(rows, rows[:1], 0.1, others=["train"]) is rows[0]
    assert [row["split"] for row in rows] == ["validation", "train", "validation"]


def test_a_plan_is_split_anew():
    plan = [[Range("a", 0, 9), Range("b", 0, 9)], [Range("b", 9, 18)]]
    changed = resplit(plan, "b", "validation")
    assert planned_splits(changed) == {"a": "train", "b": "validation"}
    assert [[part[:3] for part in shard] for shard in changed] == [[part[:3] for part in shard] for shard in plan]
