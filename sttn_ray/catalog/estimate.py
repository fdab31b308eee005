"""What a job will take, told from its plans before any of it runs."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from sttn_ray.catalog.plan import Plan
from sttn_ray.choices import Codec
from sttn_ray.shown import shown

SHOWN_ROWS = 20
_REASON_CHARS = 100
_NAME_CHARS = 48

# Measured on 19 clips from 176x144 to 1920x1080, 40 frames of each. libx264 at crf 16 wrote 1.7 times the source's
# bytes (median; 17 of them 0.85 to 3.4 times), and half as much 7.7 crf on; its bytes a pixel differed by a factor of
# 100. The lossless codecs' bytes have nothing to do with the source's; bytes a pixel, median.
_X264_RATIO, _X264_CRF, _CRF_TO_HALVE = 1.7, 16, 7.7
_LOSSLESS_BYTES_PER_PIXEL: dict[Codec, float] = {"x264-lossless": 0.12, "ffv1": 0.37}

Row = dict[str, Any]


class Estimate(NamedTuple):
    """A job's totals.

    Attributes:
        todo, copied, done, failed: videos: to complete, without a hole, finished before, and those that cannot be done.
        frames, hole_frames, segments: of the videos to complete.
        hole_share: mean share of the picture that is hole, over those frames.
        frames_per_s: of one process, as given.
        num_processes: as given.
        hours: that the network needs; None where the rate is not known.
        output_bytes: to write, copies included; by guess: right within a factor of two
            for libx264, of ten for lossless codecs.
    """

    todo: int
    copied: int
    done: int
    failed: int
    frames: int
    hole_frames: int
    segments: int
    hole_share: float
    frames_per_s: float | None
    num_processes: int
    hours: float | None
    output_bytes: int

    @property
    def videos(self) -> int:
        return self.todo + self.copied + self.done + self.failed


def plan_facts(plan: Plan, segments: Collection[int]) -> Row:
    """The row of a video that can be done, for `estimate_job`.

    Args:
        plan: of the video.
        segments: numbers of those still to be done.
    """
    width, height = plan.index.displayed_size
    return {
        "video": plan.index.path,
        "status": "todo" if plan.has_hole else "copied",
        "reason": "",
        "frames": sum(plan.segments[n][1] - plan.segments[n][0] for n in segments),
        "width": width,
        "height": height,
        "hole_share": plan.hole_share,
        "hole_frames": sum(plan.hole_frames[n] for n in segments),
        "segments": len(segments),
        "source_bytes": plan.index.num_bytes,
    }


def estimate_job(
    rows: Sequence[Row], *, frames_per_s: float | None, num_processes: int, codec: Codec, crf: int
) -> Estimate:
    """Add up what the videos of a job need.

    Args:
        rows: one a video: from `plan_facts`, or with status "done" or "failed" and the video's name alone.
        frames_per_s: frames with a hole that one process completes in a second; None where nothing was measured.
        num_processes: that run the network. More of them than there are segments do not help.
        codec, crf: of the outputs.

    Raises:
        ValueError: a rate or a number of processes that is not above 0, or a status that there is not.
    """
    if num_processes < 1 or (frames_per_s is not None and not frames_per_s > 0):
        raise ValueError(f"expected both above 0: {num_processes = }, {frames_per_s = }")
    by_status: dict[str, list[Row]] = {"todo": [], "copied": [], "done": [], "failed": []}
    for row in rows:
        if row["status"] not in by_status:
            raise ValueError(f"{row.get('video')}: no status {row['status']!r}; there are {', '.join(by_status)}")
        by_status[row["status"]].append(row)
    todo = by_status["todo"]
    frames, hole_frames, segments = (sum(row[name] for row in todo) for name in ("frames", "hole_frames", "segments"))
    hours = None
    if frames_per_s is not None:
        hours = hole_frames / (frames_per_s * max(1, min(num_processes, segments))) / 3600
    return Estimate(
        **{status: len(found) for status, found in by_status.items()},
        frames=frames,
        hole_frames=hole_frames,
        segments=segments,
        hole_share=sum(row["hole_share"] * row["frames"] for row in todo) / max(1, frames),
        frames_per_s=frames_per_s,
        num_processes=num_processes,
        hours=hours,
        output_bytes=sum(row["source_bytes"] for row in by_status["copied"])
        + sum(_output_bytes(row, codec, crf) for row in todo),
    )


def describe_estimate(rows: Sequence[Row], estimate: Estimate) -> str:
    """A table of the first videos, those that fail before the others, and the totals below it; lines of text."""
    ordered = [*(r for r in rows if r["status"] == "failed"), *(r for r in rows if r["status"] != "failed")]
    listed = ordered[:SHOWN_ROWS]
    table: list[tuple[str, ...]] = [("video", "size", "frames", "with hole", "hole", "segments", "")]
    table += [_cells(row) for row in listed]
    lines = _aligned(table) if listed else []
    if len(rows) > len(listed):
        lines.append(f"... and {len(rows) - len(listed):,} more")
    return "\n".join([*lines, "", *_totals(estimate)])


def describe_bytes(num_bytes: float) -> str:
    """Bytes for a person, in powers of 1000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.1f} TB"


def _output_bytes(row: Row, codec: Codec, crf: int) -> int:
    if codec in _LOSSLESS_BYTES_PER_PIXEL:
        return round(row["frames"] * row["width"] * row["height"] * _LOSSLESS_BYTES_PER_PIXEL[codec])
    return round(row["source_bytes"] * _X264_RATIO * 2 ** ((_X264_CRF - crf) / _CRF_TO_HALVE))


def _cells(row: Row) -> tuple[str, ...]:
    video = shown(row["video"])  # whole, since a part of an address may hide nothing
    name = video if len(video) <= _NAME_CHARS else f"...{video[3 - _NAME_CHARS :]}"
    if row["status"] == "failed":
        reason = " ".join(str(row.get("reason") or "").split()).removeprefix(f"{video}: ")
        short = reason if len(reason) <= _REASON_CHARS else f"{reason[: _REASON_CHARS - 3]}..."
        return name, "", "", "", "", "", f"FAILS: {short}"
    if row["status"] == "done":
        return name, "", "", "", "", "", "done already"
    size, frames = f"{row['width']}x{row['height']}", f"{row['frames']:,}"
    if row["status"] == "copied":
        return name, size, frames, "0", "", "", "no hole: is copied"
    return name, size, frames, f"{row['hole_frames']:,}", f"{row['hole_share']:.2%}", f"{row['segments']:,}", ""


def _aligned(table: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows of cells as lines: the first and the last column start on the left, numbers end on the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    last = len(widths) - 1
    return [
        "  ".join(
            cell.ljust(width) if n in (0, last) else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]


def _totals(estimate: Estimate) -> list[str]:
    e = estimate
    parts = [f"{e.todo:,} to do"]
    parts += [f"{e.copied:,} without a hole, copied"] * (e.copied > 0)
    parts += [f"{e.done:,} done already"] * (e.done > 0)
    parts += [f"{e.failed:,} fail"] * (e.failed > 0)
    lines = [f"videos   {e.videos:,}: {', '.join(parts)}"]
    if e.todo:
        lines += [
            f"frames   {e.frames:,}, {e.hole_frames:,} of them with a hole (mean of all {e.hole_share:.2%} of the "
            f"picture), in {e.segments:,} segments",
            f"time     {_describe_time(e)}",
        ]
    return [*lines, f"disk     about {describe_bytes(e.output_bytes)} to write"]


def _describe_time(estimate: Estimate) -> str:
    if estimate.hours is None:
        return "cannot be told before a first segment is measured"
    hours = estimate.hours
    text = (
        f"{hours * 60:.0f} minutes" if hours < 2 else f"{hours:,.1f} hours" if hours < 72 else f"{hours / 24:,.1f} days"
    )
    processes = "1 process" if estimate.num_processes == 1 else f"each of {estimate.num_processes:,} processes"
    return f"about {text} at {estimate.frames_per_s:.3g} frames/s with a hole in {processes}"
