"""Which frames of which video go into which shard file; pure, and fixed before anything is decoded."""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple


class Range(NamedTuple):
    """Frames `start` to `stop` of a video, given by the sha256 of its content."""

    sha256: str
    start: int
    stop: int


def clip_ranges(num_frames: int, *, clip_frames: int, min_clip_frames: int) -> list[tuple[int, int]]:
    """Runs of `clip_frames` frames that cover a video; a shorter last one is kept from `min_clip_frames` on."""
    ranges = [(start, min(start + clip_frames, num_frames)) for start in range(0, num_frames, clip_frames)]
    return [(start, stop) for start, stop in ranges if stop - start >= min_clip_frames]


def grow_plan(
    plan: Sequence[Sequence[Range]],
    videos: Iterable[tuple[str, int]],
    *,
    clip_frames: int,
    min_clip_frames: int,
    clips_per_shard: int,
) -> list[list[Range]]:
    """A plan that also holds the videos that are new to it.

    Shards that stand in the plan stay as they are, so that files that were written stay valid: new videos come into
    new shards. A shard holds up to `clips_per_shard` ranges; the number of workers does not matter.

    Args:
        plan: the ranges of every shard so far.
        videos: sha256 and number of frames, in the order in which they are to lie.
        clip_frames, min_clip_frames, clips_per_shard: the same as for the plan so far.
    """
    known = {part.sha256 for shard in plan for part in shard}
    new = [
        Range(sha256, start, stop)
        for sha256, num_frames in videos
        if sha256 not in known
        for start, stop in clip_ranges(num_frames, clip_frames=clip_frames, min_clip_frames=min_clip_frames)
    ]
    added = [new[i : i + clips_per_shard] for i in range(0, len(new), clips_per_shard)]
    return [*(list(shard) for shard in plan), *added]


def split_of(sha256: str, validation_share: float) -> str:
    """ "train" or "validation", by a video's content alone: a video that comes or goes moves no other."""
    return "validation" if int(sha256[:8], 16) < validation_share * 2**32 else "train"


def contiguous_runs(ranges: Collection[Range]) -> list[list[Range]]:
    """Ranges in order, those that follow each other in one video together: they are decoded in one go."""
    runs: list[list[Range]] = []
    for part in ranges:
        last = runs[-1][-1] if runs else None
        if last is not None and last.sha256 == part.sha256 and last.stop == part.start:
            runs[-1].append(part)
        else:
            runs.append([part])
    return runs
