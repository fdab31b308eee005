"""How far a job is: counts that its operators send, and the line a person reads."""

import logging
import math
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Collection
from typing import Any

import ray
from ray.data.context import DEFAULT_SCHEDULING_STRATEGY, DEFAULT_SCHEDULING_STRATEGY_LARGE_ARGS
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from sttn_ray.alone import is_alone
from sttn_ray.catalog.faults import Fault, Health
from sttn_ray.duration import duration

from .gauges import FrameStep, count_frames, show_videos
from .lean_data import leave_out_actors

log = logging.getLogger(__name__)

BAR_WIDTH = 24
# The total is told once so many videos are planned that it is right within this share, most likely. The first ones of
# many may be short, or copied, or fail.
MIN_SEEN, MAX_ERROR = 20, 0.25
# Ray Data gives up after half an hour in which no task ends. A segment of 250 frames takes the full-size network longer
# than that on two cores, and a two-hour film is one task of the index.
NO_PROGRESS_TIMEOUT_S = 24 * 3600
NODE_ID_LABEL = "ray.io/node-id"  # Ray gives it to every node


def prepare_data(avoided: Collection[str] = (), group: PlacementGroup | None = None) -> None:
    """Set Ray Data up for our pipelines, before a dataset is built: in a placement group, or on all nodes but some.

    Args:
        avoided: ids of nodes that get no work.
        group: in which all tasks and actors run, and which lies on other nodes.
    """
    leave_out_actors(is_alone())
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # ours counts frames, Ray's counts blocks
    context.print_on_execution_start = False
    context.use_legacy_dataset_ids = False  # for which an actor would have to start first
    context.execution_no_progress_timeout_s = NO_PROGRESS_TIMEOUT_S
    options = context.execution_options
    options.label_selector = without_nodes(avoided) if group is None else None
    small: Any = DEFAULT_SCHEDULING_STRATEGY
    large: Any = DEFAULT_SCHEDULING_STRATEGY_LARGE_ARGS
    if group is not None:
        small = large = PlacementGroupSchedulingStrategy(_with_object_store(group))
    with warnings.catch_warnings():  # Ray Data is to lose this way into a placement group, and has no other yet
        warnings.simplefilter("ignore")
        context.scheduling_strategy, context.scheduling_strategy_large_args = small, large
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def without_nodes(avoided: Collection[str]) -> dict[str, str] | None:
    """The label selector of all nodes but those avoided; None: of all nodes."""
    return {NODE_ID_LABEL: f"!in({','.join(sorted(avoided))})"} if avoided else None


def _with_object_store(group: PlacementGroup) -> PlacementGroup:
    """A placement group as Ray Data is to see it: with a share of the nodes' object stores, as large as that of CPUs.

    It takes what the bundles say for all that there is, and would hold back every task but one where they say nothing
    of the object store. Ray itself reserves none.
    """
    total = ray.cluster_resources()
    for_each_cpu = total.get("object_store_memory", 0.0) / max(1.0, total.get("CPU", 1.0))
    bundles = [{**bundle, "object_store_memory": for_each_cpu * bundle["CPU"]} for bundle in group.bundle_specs]
    return PlacementGroup(group.id, bundle_cache=bundles)


@ray.remote(num_cpus=0)
class Progress:
    """Counts of a job, kept beside it; operators send and do not wait."""

    def __init__(self, *, exports: bool = False) -> None:
        self._exports = exports  # to Prometheus, as `gauges` has it
        self._frames: dict[str, int] = {}
        self._items: dict[int, str] = {}
        self._planned: set[int] = set()
        self._squares = 0
        self._known = 0
        self._chain = 0
        self._faults: list[Fault] = []
        self._working: set[str] = set()
        self._starting: dict[str, Fault] = {}

    def plan(self, item: int, frames: int) -> None:
        """A video's frames, before the first one is done; said twice they count once."""
        if item not in self._planned:
            self._planned.add(item)
            self._squares += frames * frames
            self.add("planned", frames)

    def add(self, name: FrameStep, frames: int) -> None:
        """Frames that were planned, completed or encoded; those "planned" and "completed" make the bar."""
        self._frames[name] = self._frames.get(name, 0) + frames
        if self._exports:
            count_frames(name, frames)

    def begin_again(self, chain: int) -> None:
        """Another chain of operators goes on, and completes again what the one before has not encoded."""
        self._chain = chain
        self._frames["completed"] = self._frames.get("encoded", 0)

    def goes_on(self, chain: int) -> bool:
        """Whether a chain of operators goes on, or was given up."""
        return chain >= self._chain  # a process may be faster than `begin_again`

    def complete(self, frames: int, chain: int, node: str) -> bool:
        """Frames that a chain of operators has completed on a node; returns whether it goes on."""
        goes_on = self.goes_on(chain)
        if goes_on:
            self.add("completed", frames)
            self._working.add(node)
        return goes_on

    def begin_start(self, actor: str, fault: Fault) -> None:
        """A process of the network begins to start: Ray's id of its actor, and its fault should it be killed meanwhile.

        Ray starts an actor anew whose process was killed, however often that happens.
        """
        if killed := self._starting.get(actor):
            self._faults.append(killed)
        self._starting[actor] = fault

    def start(self, actor: str, node: str) -> None:
        """A process of the network has started on a node."""
        self._starting.pop(actor, None)
        self._working.add(node)

    def fail(self, actor: str, fault: Fault) -> None:
        """A process ends because its GPU failed."""
        self._starting.pop(actor, None)
        self._faults.append(fault)

    def health(self) -> Health:
        """What is known of the job's GPUs."""
        return Health(self._faults, self._working)

    def finish(self, item: int, status: str) -> None:
        """A video's, or a shard's, outcome; said twice it counts once."""
        self._items[item] = status
        if self._exports:
            show_videos(Counter(self._items.values()))

    def finish_all(self, statuses: dict[int, str]) -> None:
        """The outcomes of videos of which nothing was to be done."""
        self._items |= statuses
        self._known = len(statuses)
        if self._exports:
            show_videos(Counter(self._items.values()))

    def counts(self) -> dict[str, int]:
        """Frames by name, items by status, "seen" (planned or ended), and of these "known", which had ended before.

        And "squares": the sum of the squares of the planned videos' frames.
        """
        seen = len(self._planned | self._items.keys())
        told = {"seen": seen, "known": self._known, "squares": self._squares}
        return {**self._frames, **Counter(self._items.values()), **told}


def start_progress(*, exports: bool = False) -> ray.actor.ActorHandle:
    """A `Progress` on the driver's node: it should not be lost with another."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Progress.options(scheduling_strategy=here).remote(exports=exports)  # type: ignore[attr-defined]


class ProgressLine:
    """Prints a job's progress while a `with` block runs: a bar on a terminal, else a line now and then.

    Args:
        progress: from `start_progress`.
        num_items: videos, or shards, of the job.
        interval_s: between two lines.
        items: what they are called.
        plans_all: frames are known from the start, not video by video.
    """

    def __init__(
        self,
        progress: ray.actor.ActorHandle,
        *,
        num_items: int,
        interval_s: float,
        items: str = "videos",
        plans_all: bool = False,
    ) -> None:
        self._progress = progress
        self._num_items = num_items
        self._items = items
        self._plans_all = plans_all
        self._is_terminal = sys.stderr.isatty()
        self._interval_s = 1.0 if self._is_terminal else interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._start = time.monotonic()
        self._first_frame: tuple[float, int] | None = None

    def __enter__(self) -> "ProgressLine":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._show()
        if self._is_terminal:
            sys.stderr.write("\n")

    def tell(self, text: str) -> None:
        """Say what went wrong, on a line of its own."""
        if self._is_terminal:
            sys.stderr.write("\r\x1b[K")
        log.error("%s", text)

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._show()

    def _show(self) -> None:
        try:
            counts: Any = ray.get(self._progress.counts.remote(), timeout=5)
        except (ray.exceptions.RayError, TimeoutError):
            return  # the counts are gone with their node; the job is not
        line = self._line(counts)
        if self._is_terminal:
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()
        else:
            log.info("%s", line)

    def _line(self, counts: dict[str, int]) -> str:
        planned = counts.get("planned", 0)
        completed = min(planned, counts.get("completed", 0))  # what a killed process did is done, and counted, again
        done = sum(counts.get(status, 0) for status in ("done", "degraded", "copied"))
        failed = counts.get("failed", 0) + counts.get("quarantined", 0)
        items = f"{self._items} {done}/{self._num_items} done, {failed} failed"
        if not planned:
            return items
        # Planning runs a little ahead of the work: of a long catalog most is not planned yet.
        is_known = self._plans_all or counts["seen"] >= self._num_items
        # Those that were done before have no frames here.
        known = counts.get("known", 0)
        seen, num_items = counts["seen"] - known, self._num_items - known
        total = planned if is_known else planned * num_items // seen
        now = time.monotonic()
        if completed and self._first_frame is None:
            self._first_frame = (now, completed)
        if not is_known and not _is_sure(seen, num_items, planned, counts["squares"]):
            return f"{completed} of {planned} frames of the {seen} first videos | {items}"
        bar = "#" * int(completed / total * BAR_WIDTH)
        parts = [f"[{bar:<{BAR_WIDTH}}] {completed}{'/' if is_known else ' of about '}{total} frames", items]
        if self._first_frame and completed > self._first_frame[1]:
            rate = (completed - self._first_frame[1]) / (now - self._first_frame[0])
            left = (total - completed) / rate
            parts.append(f"{rate:.2f} frames/s, {'' if is_known else 'about '}{duration(left)} left")
        if "encoded" in counts:
            parts.append(f"encoded {counts['encoded']}")
        return " | ".join(parts)


def _is_sure(seen: int, num_items: int, planned: int, squares: int) -> bool:
    """Whether the mean of the frames of some videos tells that of all, as far as their spread says.

    Args:
        seen: videos that were planned, or ended without.
        num_items: all videos.
        planned, squares: the sum of their frames, and of these numbers' squares.
    """
    mean = planned / seen
    variance = max(0.0, squares / seen - mean * mean) * (1 - seen / num_items)
    return seen >= MIN_SEEN and 2 * math.sqrt(variance / seen) <= MAX_ERROR * mean
