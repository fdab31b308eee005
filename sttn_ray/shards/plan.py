"""Which frames of which video go into which shard file; pure, and fixed before anything is decoded."""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from sttn_ray.errors import CorpusError


class Range(NamedTuple):
    """Frames `start` to `stop` of a video, given by the sha256 of its content, and what they are for."""

    sha256: str
    start: int
    stop: int
    split: str = "train"


class Video(NamedTuple):
    """What is taken of a video, given by the sha256 of its content: runs of frames, start and stop, and their use."""

    sha256: str
    spans: Sequence[tuple[int, int]]
    split: str = "train"


def clip_ranges(start: int, stop: int, *, clip_frames: int, min_clip_frames: int) -> list[tuple[int, int]]:
    """Runs of `clip_frames` frames from `start` to `stop`; a shorter last one is kept from `min_clip_frames` on."""
    ranges = [(first, min(first + clip_frames, stop)) for first in range(start, stop, clip_frames)]
    return [(first, last) for first, last in ranges if last - first >= min_clip_frames]


def frame_spans(spans_s: Sequence[tuple[float, float]], times_s: Sequence[float]) -> list[tuple[int, int]]:
    """Runs of frames, start and stop, that lie in spans of seconds, the end excluded; no spans: all frames.

    Args:
        spans_s: start and end of each, after the first frame.
        times_s: of the frames, after the first one, ascending.
    """
    if not spans_s:
        return [(0, len(times_s))]
    spans = [(bisect_left(times_s, start), bisect_left(times_s, end)) for start, end in spans_s]
    return [(start, stop) for start, stop in spans if start < stop]


def grow_plan(
    plan: Sequence[Sequence[Range]],
    videos: Iterable[Video],
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
        videos: in the order in which they are to lie.
        clip_frames, min_clip_frames, clips_per_shard: the same as for the plan so far.

    Raises:
        CorpusError: other parts of a video, or another split, are asked for than the plan has.
    """
    planned: dict[str, list[Range]] = {}
    for part in (part for shard in plan for part in shard):
        planned.setdefault(part.sha256, []).append(part)
    new: list[Range] = []
    for video in videos:
        ranges = [
            Range(video.sha256, start, stop, video.split)
            for span in video.spans
            for start, stop in clip_ranges(*span, clip_frames=clip_frames, min_clip_frames=min_clip_frames)
        ]
        if video.sha256 not in planned:
            new += ranges
        elif planned[video.sha256] != ranges:
            raise CorpusError(
                f"the video {video.sha256[:16]}: other parts or another split are asked for than these shards have; "
                "choose another shards.dir for another selection"
            )
    added = [new[i : i + clips_per_shard] for i in range(0, len(new), clips_per_shard)]
    return [*(list(shard) for shard in plan), *added]


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
