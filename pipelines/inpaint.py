"""Inpaint one video or a catalog of videos.

Reads videos with a mask or boxes each, and a generator's checkpoint. Writes the completed videos, a manifest.parquet
with a row for every video, and records from which the same command goes on after an interruption.

    python -m pipelines.inpaint inpaint.checkpoint=sttn.pth inpaint.output=out inpaint.video=a.mp4 inpaint.mask=a.png
    python -m pipelines.inpaint inpaint.checkpoint=sttn.pth inpaint.output=out inpaint.catalog=catalog.csv
    python -m pipelines.inpaint configs/archive.yaml --dry-run
    python -m pipelines.inpaint configs/archive.yaml inpaint.preview=8

With --dry-run it only says what the job would take; with inpaint.preview=N it only draws N videos before and after.

Exit status: 0 all videos are done, 1 some failed (the manifest says why), 2 the request is wrong.
"""

import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import cv2
import ray
import torch

from sttn_ray import cluster
from sttn_ray.catalog.attempts import attempt
from sttn_ray.catalog.items import Item, read_catalog, refuse_overwriting, single_item
from sttn_ray.catalog.manifest import OUTCOME_FIELDS, manifest_row, pack_outcome, pending_outcome, write_manifest
from sttn_ray.catalog.plan import Plan, Settings, input_stats, plan_video
from sttn_ray.catalog.publish import (
    done_outcome,
    outcome_for_touched_inputs,
    outcome_if_current,
    publish_copy,
    publish_if_complete,
)
from sttn_ray.catalog.records import ItemDir, claim_output
from sttn_ray.catalog.segments import complete_segment, write_segment
from sttn_ray.completion.engine import Engine
from sttn_ray.completion.schedule import Schedule
from sttn_ray.config import Experiment
from sttn_ray.errors import CheckpointError, ConfigError, StorageError, describe_failures, failed_outcome
from sttn_ray.memory import give_back_memory
from sttn_ray.model.generator import Generator
from sttn_ray.model.precision import fastest_precision
from sttn_ray.model.weights import load_generator
from sttn_ray.paths import StoragePath, abort_uploads, absolute, on_this_machine, use_endpoint
from sttn_ray.program import run_program
from sttn_ray.storage import file_sha256

from .gauges import busy, count_bytes, timed
from .inpaint_preview import dry_run, write_preview
from .progress import Progress, ProgressLine, prepare_data

log = logging.getLogger(__name__)

DRY_RUN = "--dry-run"
SECTIONS = ("run", "storage", "inpaint", "encode")
FAILED = ("failed", "quarantined")
Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    is_dry = DRY_RUN in words
    return run_program(
        __doc__ or "", SECTIONS, partial(run, is_dry=is_dry), [word for word in words if word != DRY_RUN]
    )


def run(experiment: Experiment, *, is_dry: bool = False) -> int:
    """Do what an experiment's `inpaint` section asks for; returns the exit status.

    Args:
        experiment: what is asked for.
        is_dry: only say what it would take.

    Raises:
        SttnError: the request itself is wrong; nothing was done.
    """
    start = time.monotonic()
    options = experiment.inpaint
    use_endpoint(experiment.storage.endpoint_url)
    items = _requested_items(experiment)
    generator, checkpoint_sha256 = _load_checkpoint(options.checkpoint or "")
    cluster.connect()
    cluster.require_shared_paths(_paths(experiment))
    settings = _settings(experiment, cluster.choose_device(experiment.run.device), checkpoint_sha256)
    video_cpus = max(1, settings.encoder_threads)
    num_actors = cluster.choose_num_actors(
        experiment.run.num_actors,
        settings.device,
        experiment.run.actor_cpus,
        video_cpus,
        gpus_per_actor=experiment.run.gpus_per_actor,
    )
    output_dir = absolute(options.output or "")
    refuse_overwriting(items, str(output_dir))
    if is_dry or options.preview:
        chosen = items if is_dry else [items[n] for n in sorted({*_spread(len(items), options.preview or 1)})]
        show = dry_run if is_dry else write_preview
        cpus = experiment.run.actor_cpus
        return show(chosen, settings, output_dir, generator, num_actors=num_actors, actor_cpus=cpus)
    claim_output(output_dir, settings)
    abort_uploads(output_dir)
    config = generator.config
    log.info(
        "%d video%s, network %d channels x %d blocks at %dx%d, on %s in %s, %d process%s of %d threads",
        len(items),
        "s"[: len(items) != 1],
        config.channels,
        config.num_blocks,
        config.width,
        config.height,
        settings.device,
        settings.precision,
        num_actors,
        "es"[: 2 * (num_actors != 1)],
        experiment.run.actor_cpus,
    )
    job = Job(settings, str(output_dir), Progress.remote(exports=True), _deadline_s(options.max_hours))  # type: ignore[attr-defined]
    rows = build(
        items,
        job,
        generator,
        num_actors=num_actors,
        actor_cpus=experiment.run.actor_cpus,
        gpus_per_actor=experiment.run.gpus_per_actor,
    )
    with ProgressLine(job.progress, num_items=len(items), interval_s=experiment.run.log_interval_s):
        outcomes, stopped = _collect(rows, len(items), options.max_error_fraction)
    if stopped is None:
        # What has no outcome here, another driver on the same output has done.
        outcomes |= {n: _recorded(item, job) for n, item in enumerate(items) if n not in outcomes}
    left = pending_outcome("the job was stopped before it; the same command goes on")
    records = [manifest_row(item, outcomes.get(n, left)) for n, item in enumerate(items)]
    manifest = write_manifest(output_dir, records)
    return _report(records, manifest, time.monotonic() - start) if stopped is None else _report_stop(stopped, manifest)


def _spread(num_items: int, count: int) -> list[int]:
    """Numbers of items, from the first to the last at even distances."""
    return [n * (num_items - 1) // max(1, count - 1) for n in range(min(count, num_items))]


def _deadline_s(max_hours: float | None) -> float | None:
    return None if max_hours is None else time.time() + max_hours * 3600


def _collect(rows: ray.data.Dataset, num_items: int, max_error_fraction: float) -> tuple[dict[int, Row], str | None]:
    """The outcomes that reach the driver, by item, and why it stopped before all were done."""
    outcomes: dict[int, Row] = {}
    failed: list[Row] = []
    for row in rows.iter_rows():
        if not row["outcome"]:
            continue
        outcome = json.loads(row["outcome"])
        # A segment's failure is the video's; a later segment's success does not change that.
        if outcomes.get(row["item"], {}).get("status") in FAILED:
            continue
        outcomes[row["item"]] = outcome
        if outcome["status"] in FAILED:
            failed.append(outcome)
            # Not only at the end: of a hundred thousand files that would be days later.
            if len(failed) > max_error_fraction * num_items:
                title = (
                    f"{len(failed)} of {num_items} videos failed, more than inpaint.max_error_fraction="
                    f"{max_error_fraction:g} allows; the others were left:"
                )
                return outcomes, "\n".join([title, *describe_failures(failed)])
    return outcomes, None


def _recorded(item: Item, job: "Job") -> Row:
    found = ItemDir(job.output_dir, item.output).read_outcome()
    if found is None:
        return failed_outcome("publish", RuntimeError("its segments ended without an outcome"))
    return {name: found[name] for name in OUTCOME_FIELDS if name in found}


def _requested_items(experiment: Experiment) -> list[Item]:
    options = experiment.inpaint
    faults = []
    if bool(options.video) == bool(options.catalog):
        faults.append("inpaint: give inpaint.video or inpaint.catalog" + ", not both" * bool(options.video))
    is_look = bool(options.preview) and not (options.mask or options.boxes)
    if options.video and not is_look and bool(options.mask) == bool(options.boxes):
        faults.append("inpaint: give inpaint.mask or inpaint.boxes" + ", not both" * bool(options.mask))
    if options.catalog and (options.mask or options.boxes):
        faults.append("inpaint: with a catalog, masks and boxes stand in its rows")
    faults += [f"inpaint.{name}: is missing" for name in ("output", "checkpoint") if not getattr(options, name)]
    if options.feather_px > options.dilation_px:
        faults.append(
            f"inpaint.feather_px={options.feather_px}: is more than "
            f"inpaint.dilation_px={options.dilation_px}, in which it lies"
        )
    if faults:
        raise ConfigError("\n".join(faults))
    if options.catalog:
        return read_catalog(options.catalog)
    return single_item(options.video or "", options.mask, options.boxes)


def _paths(experiment: Experiment) -> dict[str, str | None]:
    names = ("video", "mask", "catalog", "output", "checkpoint")
    return {f"inpaint.{name}": getattr(experiment.inpaint, name) for name in names}


def _load_checkpoint(path: str) -> tuple[Generator, str]:
    """The network and the sha256 of its file."""
    try:
        with on_this_machine(path) as file:
            return load_generator(file), file_sha256(file)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint file") from error


def _settings(experiment: Experiment, device: str, checkpoint_sha256: str) -> Settings:
    options, encode = experiment.inpaint, experiment.encode
    precision = options.precision
    return Settings(
        checkpoint_sha256=checkpoint_sha256,
        device=device,
        precision=fastest_precision(device) if precision == "auto" else precision,
        schedule=Schedule(num_references=None if options.references == "all" else options.num_references),
        segment_frames=options.segment_frames,
        dilation_px=options.dilation_px,
        feather_px=options.feather_px,
        require_hole=options.require_hole,
        on_damage=options.on_damage,
        interlaced=options.interlaced,
        codec=encode.codec,
        crf=encode.crf,
        preset=encode.preset,
        encoder_threads=encode.threads,
    )


class Job(NamedTuple):
    """What every operator is told: all of it small.

    Attributes:
        settings: that change results.
        output_dir: absolute path.
        progress: where counts go.
        deadline_s: by `time.time()`, from which no further work is begun; None: there is none.
    """

    settings: Settings
    output_dir: str
    progress: ray.actor.ActorHandle
    deadline_s: float | None

    @property
    def is_over(self) -> bool:
        return self.deadline_s is not None and time.time() >= self.deadline_s


def build(
    items: Sequence[Item],
    job: Job,
    generator: Generator,
    *,
    num_actors: int,
    actor_cpus: int,
    gpus_per_actor: float = 1,
) -> ray.data.Dataset:
    """The chain of operators; its rows are segments and, where a video ends, the video's outcome."""
    prepare_data()
    rows = [{"item": n, **item.as_dict()} for n, item in enumerate(items)]
    return (
        ray.data.from_items(rows, override_num_blocks=len(rows))
        # 1. Plan each video (1:N): its index, its masks, its segments still to do. One CPU: one demuxer.
        .flat_map(make_plan_fn(job), num_cpus=1)
        # 2. One row a block, so that the segments of one film spread over all processes.
        .repartition(target_num_rows_per_block=1)
        # 3. Complete each segment (1:1). A fixed pool: each process holds the network, and loads it once.
        .map(
            Completer,  # type: ignore[arg-type]  # Ray's types do not know classes here
            fn_constructor_kwargs={"generator": ray.put(generator), "job": job, "threads": actor_cpus},
            compute=ray.data.ActorPoolStrategy(size=num_actors),
            num_cpus=actor_cpus,
            num_gpus=gpus_per_actor if job.settings.device == "cuda" else None,
        )
        # 4. Encode each segment, and publish the video after its last one (1:1). One CPU: decoding, blending and
        #    encoding share it.
        .map(make_encode_fn(job), num_cpus=max(1, job.settings.encoder_threads))
    )


def make_plan_fn(job: Job) -> Callable[[Row], list[Row]]:
    """Rows of `Item` columns to rows of segments.

    Adds item, output_name, segment, frames, plan_hash; outcome, as text, where the video needs no work or cannot be
    done; samples and completion, blank.
    """

    def plan(row: Row) -> list[Row]:
        number = row.pop("item")
        item = Item(**row)
        item_dir = ItemDir(job.output_dir, item.output)
        base = {"item": number, "output_name": item.output, "segment": -1, "frames": 0, "plan_hash": ""}
        base |= {"outcome": "", "samples": [b""], "completion": {"node": "", "began_s": 0.0, "seconds": 0.0}}
        inputs: list[Any] = []
        try:
            if item.fault is not None:
                raise ConfigError(item.fault)
            if job.is_over:
                return [base | _pending(job)]
            inputs = input_stats(item.video, item.mask, item.boxes)
            with attempt(item_dir, "plan", cluster.this_place()), timed("plan"):
                todo, outcome = _plan_item(item, item_dir, inputs, job.settings)
        except Exception as error:  # noqa: BLE001 -- this operator's one boundary
            record_dir = item_dir if item.fault is None else None
            return [base | _fail(record_dir, number, "plan", error, inputs, job)]
        if outcome is not None:
            return [base | _finish(number, outcome, job)]
        job.progress.add.remote("planned", sum(todo.frames.values()))
        return [
            base | {"segment": n, "frames": frames, "plan_hash": todo.plan_hash} for n, frames in todo.frames.items()
        ]

    return plan


class _Todo(NamedTuple):
    """The segments of a plan that are still to be done, with their number of frames."""

    plan_hash: str
    frames: dict[int, int]


def _plan_item(item: Item, item_dir: ItemDir, inputs: list[Any], settings: Settings) -> tuple[_Todo, Row | None]:
    """The segments to do, or the outcome of a video that needs none."""
    if outcome := outcome_if_current(item_dir, inputs, settings.hash()):
        if outcome["status"] != "quarantined":
            item_dir.clear_work()  # of a run killed after the video was done
        return _NOTHING, outcome
    plan = item_dir.read_plan()
    if plan is None or plan.inputs != inputs or plan.settings_hash != settings.hash():
        plan = plan_video(item, settings)
        if outcome := outcome_for_touched_inputs(item_dir, plan):
            return _NOTHING, outcome
        item_dir.write_plan(plan)
    outcome = item_dir.read_outcome()
    if outcome is not None and outcome.get("plan_hash") != plan.plan_hash:  # it failed, or is of another source
        item_dir.clear_outcome()
    if not plan.has_hole:
        return _NOTHING, publish_copy(item_dir, plan)
    records = item_dir.read_segments(plan)
    frames = {n: stop - start for n, (start, stop) in enumerate(plan.segments) if records[n] is None}
    return _Todo(plan.plan_hash, frames), None if frames else publish_if_complete(item_dir, plan)


_NOTHING = _Todo("", {})


class Completer:
    """A network that completes segments.

    Reads output_name, segment; adds samples, a list with the packed prediction of each frame, and completion, what is
    recorded of it: the node, when it began (seconds since 1970), and how many seconds it took.
    """

    def __init__(self, generator: ray.ObjectRef, job: Job, threads: int) -> None:
        # Ray gives a process one math thread for a fraction of a CPU up to one; the number counts here.
        torch.set_num_threads(threads)
        cv2.setNumThreads(1)
        settings = job.settings
        self._engine = Engine(
            ray.get(generator), device=settings.device, precision=settings.precision, schedule=settings.schedule
        )
        self._job = job

    def __call__(self, row: Row) -> Row:
        if row["outcome"]:
            return row
        if self._job.is_over:
            return row | _pending(self._job)
        item_dir = ItemDir(self._job.output_dir, row["output_name"])
        began_s = time.time()
        plan = None
        try:
            plan = _plan_of(row, item_dir)
            if plan is None:
                return row | {"plan_hash": ""}
            with attempt(item_dir, f"complete-{row['segment']:05d}", cluster.this_place()), busy(), timed("complete"):
                samples = list(
                    complete_segment(plan, row["segment"], self._engine, self._job.settings, self._count_completed)
                )
        except Exception as error:  # noqa: BLE001 -- this operator's one boundary
            return row | _end(item_dir, row["item"], "complete", error, plan, self._job)
        finally:
            give_back_memory()
        completion = {
            "node": ray.get_runtime_context().get_node_id(),
            "began_s": began_s,
            "seconds": time.time() - began_s,
        }
        return row | {"samples": samples, "completion": completion}

    def _count_completed(self, frames: int) -> None:
        self._job.progress.add.remote("completed", frames)


def make_encode_fn(job: Job) -> Callable[[Row], Row]:
    """Rows of completed segments to rows of recorded ones; drops samples.

    The task that records a video's last segment publishes the video, and its row carries the outcome.
    """

    def encode(row: Row) -> Row:
        samples = row.pop("samples")
        if row["outcome"] or not row["plan_hash"]:
            return row
        item_dir = ItemDir(job.output_dir, row["output_name"])
        step = "encode"
        plan = None
        try:
            plan = _plan_of(row, item_dir)
            if plan is None:
                return row
            with attempt(item_dir, f"encode-{row['segment']:05d}", cluster.this_place()):
                with timed("encode"):
                    completion = row["completion"]
                    write_segment(item_dir, plan, row["segment"], samples, job.settings, completion=completion)
                job.progress.add.remote("encoded", row["frames"])
                step = "publish"
                with timed("publish"):
                    outcome = publish_if_complete(item_dir, plan)
        except Exception as error:  # noqa: BLE001 -- this operator's one boundary
            return row | _end(item_dir, row["item"], step, error, plan, job)
        finally:
            give_back_memory()
        if outcome is None:
            return row
        count_bytes("read", outcome["source_bytes"])
        count_bytes("written", outcome["num_bytes"])
        return row | _finish(row["item"], outcome, job)

    return encode


def _finish(item: int, outcome: Row, job: Job) -> Row:
    job.progress.finish.remote(item, outcome["status"])
    return {"outcome": pack_outcome(outcome)}


def _end(item_dir: ItemDir, item: int, step: str, error: Exception, plan: Plan | None, job: Job) -> Row:
    """The row of a segment that failed: its video's, or what another task has made of the video meanwhile.

    That one deletes the work files, also those that this one was busy with.
    """
    with suppress(StorageError):
        if plan is not None and (outcome := done_outcome(item_dir, plan)):
            return _finish(item, outcome, job)
    return _fail(item_dir, item, step, error, plan.inputs if plan else [], job)


def _fail(item_dir: ItemDir | None, item: int, step: str, error: Exception, inputs: list[Any], job: Job) -> Row:
    """The row of a video that failed, which is recorded, and counted."""
    outcome = failed_outcome(step, error)
    if item_dir is not None:
        with suppress(StorageError):  # the row says it all the same
            item_dir.write_outcome(outcome | {"inputs": inputs, "settings_hash": job.settings.hash()})
    return _finish(item, outcome, job)


def _pending(job: Job) -> Row:
    return {"outcome": pack_outcome(pending_outcome("not begun within inpaint.max_hours; the same command goes on"))}


def _plan_of(row: Row, item_dir: ItemDir) -> Plan | None:
    """The plan that a row's segment belongs to; None where there is nothing left to do for it.

    The video may have failed, or another driver may have published it, or planned it anew for a changed source.
    """
    outcome = item_dir.read_outcome()
    if outcome is not None and outcome["status"] in FAILED:
        return None
    plan = item_dir.read_plan()
    return plan if plan is not None and plan.plan_hash == row["plan_hash"] else None


def _report(records: Sequence[Row], manifest: StoragePath, seconds: float) -> int:
    counts = Counter(record["status"] for record in records)
    for record in records:
        if record["status"] in FAILED:
            log.error("%s at %s: %s", record["status"], record["step"], record["reason"])
    log.info(
        "%d done (%d frames), %d copied without a hole, %d failed%s, in %.0f s; manifest: %s",
        counts["done"],
        sum(record["frames"] for record in records if record["status"] in ("done", "degraded")),
        counts["copied"],
        counts["failed"],
        "".join(f", {counts[name]} {name}" for name in ("degraded", "quarantined", "pending") if counts[name]),
        seconds,
        manifest,
    )
    return 1 if counts["failed"] or counts["quarantined"] or counts["pending"] else 0


def _report_stop(reason: str, manifest: StoragePath) -> int:
    log.error("stopped: %s", reason)
    log.error("the same command goes on; manifest: %s", manifest)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
