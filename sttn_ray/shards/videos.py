"""A row for every video of a corpus, and what becomes of it from the index to its clips; pure."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from sttn_ray.errors import CorpusError, describe_failures, failed_outcome
from sttn_ray.shards.plan import Video

Row = dict[str, Any]

VIDEOS_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("kind", pa.string()),
        ("status", pa.string()),  # done, partial, failed, or duplicate
        ("step", pa.string()),
        ("error", pa.string()),
        ("reason", pa.string()),
        ("is_unexpected", pa.bool_()),
        ("sha256", pa.string()),
        ("split", pa.string()),
        ("frames", pa.int64()),
        ("clips", pa.int64()),
        ("clip_frames", pa.int64()),  # frames that lie in clips
    ]
)
BLANK: Row = {
    **{"status": "done", "step": "", "error": "", "reason": "", "is_unexpected": False},
    **{"sha256": "", "frames": 0, "pixels": 0, "clips": 0, "clip_frames": 0, "frame_spans": []},
}


def mark_unusable(videos: Iterable[Row], *, min_clip_frames: int) -> None:
    """Mark videos that are too short, and those whose content another one has."""
    first: dict[str, str] = {}
    for row in videos:
        if row["status"] != "done":
            continue
        longest = max((stop - start for start, stop in row["frame_spans"]), default=0)
        if longest < min_clip_frames:
            part = f"has {row['frames']} frames" + (f", at most {longest} in a part asked for" if row["spans"] else "")
            error = CorpusError(f"{row['path']}: {part}, a clip needs shards.min_clip_frames={min_clip_frames}")
            row |= failed_outcome("plan", error)
        elif row["sha256"] in first:
            row |= {"status": "duplicate", "step": "plan", "reason": f"the same content as {first[row['sha256']]}"}
        else:
            first[row["sha256"]] = row["path"]


def to_plan(videos: Iterable[Row]) -> list[Video]:
    """What is taken of the videos that can be used."""
    return [
        Video(row["sha256"], [(start, stop) for start, stop in row["frame_spans"]], row["split"])
        for row in videos
        if row["status"] == "done"
    ]


def count_clips(videos: Iterable[Row], index: Iterable[Row], faults: Iterable[Row]) -> None:
    """Set what came of each video: its clips, and a status where frames are missing.

    Args:
        videos: rows that are changed.
        index: of all shards.
        faults: ranges that failed, as records of shards hold them.
    """
    clips: dict[str, Counter[str]] = defaultdict(Counter)
    for entry in index:
        if entry["table"] == "clips":
            clips[entry["id"].split("-")[0]].update(clips=1, frames=entry["num_frames"])
    first_fault: dict[str, Row] = {}
    for each in faults:
        first_fault.setdefault(each["sha256"], each)
    for row in videos:
        if row["status"] != "done":
            continue
        count = clips[row["sha256"][:16]]
        row |= {"clips": count["clips"], "clip_frames": count["frames"]}
        if row["sha256"] in first_fault:
            fault = first_fault[row["sha256"]]
            row |= {name: fault[name] for name in ("step", "error", "reason", "is_unexpected")}
            row["status"] = "partial" if count["clips"] else "failed"
        elif not count["clips"]:
            row |= failed_outcome("cut", CorpusError(f"{row['path']}: no shot is as long as shards.min_clip_frames"))


def refuse_too_many_failures(failed: Sequence[Row], num_videos: int, max_error_fraction: float) -> None:
    """Stop a job whose corpus is broken as a whole, as where a disk or a key is missing.

    Args:
        failed: rows of videos that failed so far.
        num_videos: of the corpus.
        max_error_fraction: of them, that may fail.

    Raises:
        CorpusError: more have failed; how many by step and error, with a reason of each.
    """
    if len(failed) <= max_error_fraction * num_videos:
        return
    title = (
        f"{len(failed)} of {num_videos} videos failed, more than corpus.max_error_fraction={max_error_fraction:g} "
        "allows, so no index was written:"
    )
    raise CorpusError(title, *describe_failures(failed))
