"""What each operator of `pipelines.inpaint` does to its rows; the chain of them stands there.

Without torch, which only the processes of the network load: for that operator see `inpaint_completer`.
"""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import ray

from sttn_ray.attempts import attempt
from sttn_ray.catalog.items import Item
from sttn_ray.catalog.manifest import FAILED, FINISHED, pack_outcomes, pending_outcome
from sttn_ray.catalog.plan import Plan, Settings, change_of_inputs, describe_change, input_stats, plan_video
from sttn_ray.catalog.publish import (
    done_outcome,
    outcome_for_touched_inputs,
    outcome_if_current,
    publish_copy,
    publish_if_complete,
    refuse_foreign,
    refuse_target,
)
from sttn_ray.catalog.records import ItemDir
from sttn_ray.catalog.segments import write_segment
from sttn_ray.errors import ConfigError, DeviceError, PoisonError, StorageError, VideoError, failed_outcome
from sttn_ray.memory import give_back_memory
from sttn_ray.placement import Need

from .gauges import count_bytes, timed
from .place import this_place

Row = dict[str, Any]


class Job(NamedTuple):
    """What every operator is told: all of it small.

    Attributes:
        settings: that change results.
        output_dir: absolute path.
        progress: where counts go.
        deadline_s: by `time.time()`, from which no further work is begun; None: there is none.
        chain: which of the job's chains of operators this is; before each but the first the cluster lost or got nodes.
    """

    settings: Settings
    output_dir: str
    progress: ray.actor.ActorHandle
    deadline_s: float | None
    chain: int = 0

    @property
    def is_over(self) -> bool:
        return self.deadline_s is not None and time.time() >= self.deadline_s


class Pool(NamedTuple):
    """The processes that run the network: how many, and the CPUs and the share of a GPU, or none, of each.

    They are fewer than `size` at first, but at least `min_size`, where the cluster grows with its work. A task that
    encodes what they complete takes `video_cpus`. `wanted` is how many were asked for, or None.
    """

    size: int
    min_size: int
    cpus: int
    gpus: float | None
    video_cpus: int
    wanted: int | None = None

    @property
    def need(self) -> Need:
        return Need(self.cpus, self.video_cpus, self.gpus)

    @property
    def strategy(self) -> ray.data.ActorPoolStrategy:
        return ray.data.ActorPoolStrategy(min_size=self.min_size, max_size=self.size)


class _Todo(NamedTuple):
    """The segments of a plan that are still to be done, with their number of frames."""

    plan_hash: str
    frames: dict[int, int]


_NOTHING = _Todo("", {})
NOT_BEGUN = pending_outcome("not begun within inpaint.max_hours; the same command goes on")
_BLANK: Row = {
    **{"item": -1, "output_name": "", "segment": -1, "frames": 0, "plan_hash": ""},
    **{"outcomes": "", "samples": [b""], "completion": {"node": "", "began_s": 0.0, "seconds": 0.0}},
}


def make_plan_fn(job: Job) -> Callable[[Row], list[Row]]:
    """Rows of `items`, pairs of a number and `Item` columns as JSON, to rows of segments.

    Those have item, output_name, segment, frames, plan_hash; samples and completion, blank; outcomes, blank. What needs
    no work, or cannot be done, goes into one row more, with `outcomes` for all of them: of a catalog that is done but
    for a few videos nearly nothing travels on.
    """

    def plan(row: Row) -> list[Row]:
        rows: list[Row] = []
        ended: dict[int, Row] = {}
        for number, columns in json.loads(row["items"]):
            item = Item(**columns)
            todo, outcome = _plan(item, number, job)
            if outcome is not None:
                ended[number] = outcome
            base = _BLANK | {"item": number, "output_name": item.output, "plan_hash": todo.plan_hash}
            rows += [base | {"segment": n, "frames": frames} for n, frames in todo.frames.items()]
        if ended:
            rows.append(_BLANK | {"outcomes": pack_outcomes(ended)})
        return rows

    return plan


def _plan(item: Item, number: int, job: Job) -> tuple[_Todo, Row | None]:
    """What is to be done of a video; its outcome where nothing is, or it cannot be."""
    item_dir = ItemDir(job.output_dir, item.output)
    inputs: list[Any] = []
    try:
        if item.fault is not None:
            raise ConfigError(item.fault)
        inputs = input_stats(item.video, item.mask, item.boxes)
        if job.is_over:
            return _NOTHING, outcome_if_current(item_dir, inputs, job.settings.hash()) or NOT_BEGUN
        with attempt(item_dir.path, "plan", this_place(job.chain), item_dir.again), timed("plan"):
            todo, outcome = _plan_item(item, item_dir, inputs, job.settings)
    except Exception as error:  # noqa: BLE001 -- this operator's one boundary
        with suppress(StorageError):
            outcome = outcome_if_current(item_dir, inputs, job.settings.hash()) if inputs else None
            if outcome is not None and outcome["status"] in FINISHED:  # by another task, which deleted the work files
                job.progress.finish.remote(number, outcome["status"])
                return _NOTHING, outcome
        change = describe_change(item.video, item.mask, inputs) if inputs else None
        cause = _what_happened(error, change)
        return _NOTHING, _fail(None if item.fault is not None else item_dir, number, "plan", cause, inputs, job)
    if outcome is not None:
        job.progress.finish.remote(number, outcome["status"])
    else:
        job.progress.plan.remote(number, sum(todo.frames.values()))
    return todo, outcome


def _plan_item(item: Item, item_dir: ItemDir, inputs: list[Any], settings: Settings) -> tuple[_Todo, Row | None]:
    """The segments to do, or the outcome of a video that needs none."""
    if outcome := outcome_if_current(item_dir, inputs, settings.hash()):
        if outcome["status"] != "quarantined":
            item_dir.clear_work()  # of a run killed after the video was done
        return _NOTHING, outcome
    plan = item_dir.read_plan()
    is_new = plan is None or plan.inputs != inputs or plan.settings_hash != settings.hash()
    if plan is None or is_new:
        plan = plan_video(item, settings)
        refuse_target(item_dir.output_dir / plan.output, item.video)
        if outcome := outcome_for_touched_inputs(item_dir, plan):
            return _NOTHING, outcome
    if outcome := done_outcome(item_dir, plan):  # by another task, since
        return _NOTHING, outcome
    refuse_foreign(item_dir, plan)
    if item_dir.read_outcome() is not None:  # it failed, is of another source, or its output is gone or damaged
        item_dir.clear_outcome()
        is_new = True  # should another task have finished the video in this moment, then it is done again
    if is_new:
        item_dir.write_plan(plan)
    if not plan.has_hole:
        return _NOTHING, _counted(publish_copy(item_dir, plan))
    records = item_dir.read_segments(plan)
    frames = {n: stop - start for n, (start, stop) in enumerate(plan.segments) if records[n] is None}
    return _Todo(plan.plan_hash, frames), None if frames else _publish(item_dir, plan)


def make_encode_fn(job: Job) -> Callable[[Row], Row]:
    """Rows of completed segments to rows of recorded ones; drops samples.

    The task that records a video's last segment publishes the video, and its row carries the outcome.
    """

    def encode(row: Row) -> Row:
        samples = row.pop("samples")
        if row["outcomes"] or not row["plan_hash"]:
            return row
        item_dir = ItemDir(job.output_dir, row["output_name"])
        step = "encode"
        plan = None
        try:
            plan = current_plan(row, item_dir)
            if plan is None:
                return row
            with attempt(item_dir.path, f"encode-{row['segment']:05d}", this_place(job.chain), item_dir.again):
                if item_dir.read_segment(row["segment"], plan.plan_hash) is None:
                    with timed("encode"):
                        completion = row["completion"]
                        write_segment(item_dir, plan, row["segment"], samples, job.settings, completion=completion)
                    job.progress.add.remote("encoded", row["frames"])
                step = "publish"
                with timed("publish"):
                    outcome = _publish(item_dir, plan)
        except Exception as error:  # noqa: BLE001 -- this operator's one boundary
            return row | ended(row["item"], end_segment(item_dir, row["item"], step, error, plan, job))
        finally:
            give_back_memory()
        if outcome is None:
            return row
        job.progress.finish.remote(row["item"], outcome["status"])
        return row | ended(row["item"], outcome)

    return encode


def _publish(item_dir: ItemDir, plan: Plan) -> Row | None:
    """Publish a video whose last segment is done; returns its outcome, another task's too, or None."""
    outcome = publish_if_complete(item_dir, plan)
    return done_outcome(item_dir, plan) if outcome is None else _counted(outcome)


def _counted(outcome: Row) -> Row:
    """The outcome of what this task has published; its bytes are counted."""
    count_bytes("read", outcome["source_bytes"])
    count_bytes("written", outcome["num_bytes"])
    return outcome


def ended(item: int, outcome: Row) -> Row:
    """The column that ends a video."""
    return {"outcomes": pack_outcomes({item: outcome})}


def end_segment(item_dir: ItemDir, item: int, step: str, error: Exception, plan: Plan | None, job: Job) -> Row:
    """The outcome of a segment that failed: its video's, or what another task has made of the video meanwhile.

    That one deletes the work files, also those that this one was busy with.
    """
    with suppress(StorageError):
        if plan is not None and (outcome := done_outcome(item_dir, plan)):
            job.progress.finish.remote(item, outcome["status"])
            return outcome
    error = _what_happened(error, change_of_inputs(plan) if plan else None)
    return _fail(item_dir, item, step, error, plan.inputs if plan else [], job)


def _what_happened(error: Exception, change: str | None) -> Exception:
    """The cause of an error, where a file was replaced or deleted by someone else while the job worked with it.

    Args:
        error: that came of it, or not.
        change: of the video or its mask.
    """
    if isinstance(error, PoisonError | DeviceError):
        return error
    if change is not None:
        return VideoError(change)
    if isinstance(error, FileNotFoundError):
        name = error.filename or "a file of the output folder"
        return StorageError(f"{name}: was deleted while the job worked there; the same command does it again")
    return error


def _fail(item_dir: ItemDir | None, item: int, step: str, error: Exception, inputs: list[Any], job: Job) -> Row:
    """The outcome of a video that failed, which is recorded, and counted."""
    outcome = failed_outcome(step, error)
    if item_dir is not None:
        with suppress(StorageError):  # the row says it all the same
            known = item_dir.read_outcome()
            # Of a finished video the source or mask is away, or damaged, now: once they are back nothing is to be done.
            if known is None or known["status"] not in FINISHED:
                item_dir.write_outcome(outcome | {"inputs": inputs, "settings_hash": job.settings.hash()})
    job.progress.finish.remote(item, outcome["status"])
    return outcome


def current_plan(row: Row, item_dir: ItemDir) -> Plan | None:
    """The plan that a row's segment belongs to; None where there is nothing left to do for it.

    The video may have failed, or another driver may have published it, or planned it anew for a changed source.
    """
    outcome = item_dir.read_outcome()
    if outcome is not None and outcome["status"] in FAILED:
        return None
    plan = item_dir.read_plan()
    return plan if plan is not None and plan.plan_hash == row["plan_hash"] else None
