"""Which videos are trained on, and which are kept for validation; pure.

A video's content decides, so that one that comes or goes moves no other. In a small corpus that may leave a side
without any. Then the video that comes next by content is moved there, and the plan records it: no rule of the content
alone could keep a side filled in every corpus and never take a video from validation into training as it grows. So a
video whose clips stand in a finished index never changes sides, nor does one whose split was given.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sttn_ray.shards.plan import Range

Row = dict[str, Any]


def split_of(sha256: str, validation_share: float) -> str:
    """ "train" or "validation", by a video's content alone."""
    return "validation" if int(sha256[:8], 16) < validation_share * 2**32 else "train"


def set_splits(
    videos: Iterable[Row], validation_share: float, *, planned: Mapping[str, str], published: Collection[str]
) -> None:
    """Give every video a split: its own, or the one that it was planned with, or that of its content.

    Args:
        videos: rows that are changed; may_move is added.
        validation_share: share of the videos that is kept for validation.
        planned: splits by sha256.
        published: the first 16 digits of the sha256 of videos with clips in a finished index.
    """
    for row in videos:
        sha256 = row["sha256"]
        row["may_move"] = bool(sha256) and not row["split"] and sha256[:16] not in published
        if sha256 and not row["split"]:
            row["split"] = planned.get(sha256) or split_of(sha256, validation_share)


def fill_empty_side(
    videos: Sequence[Row], usable: Sequence[Row], validation_share: float, *, others: Collection[str] = ()
) -> Row | None:
    """Move a video to the side that has none, and its duplicates with it; returns it, or None where none is moved.

    There is to be a video to train on unless the share is 1, and one to validate with unless the share is 0 or only one
    video can be used.

    Args:
        videos: rows that are changed.
        usable: those of which there are, or will be, clips.
        validation_share: share of the videos that is kept for validation.
        others: splits of usable videos that are not among these.
    """
    counts = Counter([row["split"] for row in usable] + list(others))
    to = None
    if validation_share < 1 and not counts["train"]:
        to = "train"
    elif validation_share > 0 and not counts["validation"] and counts["train"] > 1:
        to = "validation"
    candidates = [row for row in usable if row["may_move"] and row["split"] != to]
    if to is None or not candidates:
        return None
    # The one that a slightly other share had put there.
    chosen = (max if to == "train" else min)(candidates, key=lambda row: row["sha256"])
    for row in videos:
        if row["sha256"] == chosen["sha256"] and row["may_move"]:
            row["split"] = to
    return chosen


def planned_splits(plan: Iterable[Iterable[Range]]) -> dict[str, str]:
    """The split of every video of a plan, by its sha256."""
    return {part.sha256: part.split for shard in plan for part in shard}


def resplit(plan: Iterable[Iterable[Range]], sha256: str, split: str) -> list[list[Range]]:
    """A plan with another split of a video."""
    return [[part._replace(split=split) if part.sha256 == sha256 else part for part in shard] for shard in plan]
