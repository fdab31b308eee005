"""What a monitoring system sees of a job: Prometheus metrics, exported by Ray on every node with the prefix `ray_`.

Frames and videos are for `Progress` to tell, which lives as long as the job: what a worker counted is gone when it
ends. The rest comes from the workers. Each metric carries Ray's id of the job, as a cluster of many jobs needs.
`configs/grafana/sttn_ray_inpaint.json` is a dashboard of them.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal, NamedTuple

import ray
from ray.util.metrics import Counter, Gauge, Histogram

FrameStep = Literal["planned", "completed", "encoded"]
Step = Literal["plan", "complete", "encode", "publish"]
Direction = Literal["read", "written"]

STATUSES = ("done", "degraded", "copied", "failed", "quarantined")
JOB_TAG = "JobId"  # "job" is Prometheus's own
_SECONDS = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0]


class _Metric(NamedTuple):
    kind: Literal["counter", "gauge", "histogram"]
    description: str
    tag_keys: tuple[str, ...] = ()


METRICS = {
    "sttn_frames": _Metric("counter", "Frames that were planned, completed by the network, or encoded", ("step",)),
    "sttn_videos": _Metric("gauge", "Videos by outcome", ("status",)),
    "sttn_step_seconds": _Metric("histogram", "Seconds of one segment's or one video's step", ("step",)),
    "sttn_bytes": _Metric("counter", "Bytes of videos read and of outputs written", ("direction",)),
    "sttn_busy_completers": _Metric("gauge", "Processes in which the network is at work"),
}


def count_frames(step: FrameStep, frames: int) -> None:
    """Frames that a step has gone through; for `Progress` alone."""
    if frames > 0:
        _metric("sttn_frames").inc(frames, tags={"step": step})


def show_videos(counts: Mapping[str, int]) -> None:
    """Videos by status, all of the job so far; for `Progress` alone."""
    for status in STATUSES:
        _metric("sttn_videos").set(counts.get(status, 0), tags={"status": status})


def count_bytes(direction: Direction, num_bytes: int) -> None:
    """Bytes that were read or written."""
    if num_bytes > 0:
        _metric("sttn_bytes").inc(num_bytes, tags={"direction": direction})


@contextmanager
def timed(step: Step) -> Iterator[None]:
    """Take the time of a block, also of one that fails."""
    start_s = time.monotonic()
    try:
        yield
    finally:
        _metric("sttn_step_seconds").observe(time.monotonic() - start_s, tags={"step": step})


@contextmanager
def busy() -> Iterator[None]:
    """Show this process as one in which the network is at work, while a block runs."""
    gauge = _metric("sttn_busy_completers")
    gauge.set(1)
    try:
        yield
    finally:
        gauge.set(0)


@cache
def _metric(name: str) -> Any:
    """This process's metric; in one that is not Ray's it counts for nobody."""
    metric = METRICS[name]
    tag_keys = (*metric.tag_keys, JOB_TAG)
    made: Counter | Gauge | Histogram
    if metric.kind == "histogram":
        made = Histogram(name, metric.description, boundaries=_SECONDS, tag_keys=tag_keys)
    else:
        made = (Counter if metric.kind == "counter" else Gauge)(name, metric.description, tag_keys=tag_keys)
    job = ray.get_runtime_context().get_job_id() if ray.is_initialized() else ""
    return made.set_default_tags({JOB_TAG: job})
