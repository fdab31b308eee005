"""Inpaint one video or a catalog of videos.

Reads videos with a mask or boxes each, and a generator's checkpoint. Writes the completed videos, a manifest.parquet
with a row for every video, and records from which the same command goes on after an interruption.

    python -m pipelines.inpaint inpaint.checkpoint=sttn.pth inpaint.output=out inpaint.video=a.mp4 inpaint.mask=a.png
    python -m pipelines.inpaint inpaint.checkpoint=sttn.pth inpaint.output=out inpaint.catalog=catalog.csv

Exit status: 0 all videos are done, 1 some failed (the manifest says why), 2 the request is wrong.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import ray
import torch

from sttn_ray import cluster
from sttn_ray.catalog.items import Item, read_catalog, refuse_overwriting, single_item
from sttn_ray.catalog.manifest import manifest_row, short_outcome, write_manifest
from sttn_ray.catalog.plan import Plan, Settings, input_stats, plan_video
from sttn_ray.catalog.publish import (
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
from sttn_ray.errors import ConfigError, StorageError, failed_outcome
from sttn_ray.model.generator import Generator
from sttn_ray.model.precision import fastest_precision
from sttn_ray.model.weights import load_generator
from sttn_ray.program import run_program
from sttn_ray.storage import file_sha256, require_local

from .progress import Progress, ProgressLine, prepare_data

log = logging.getLogger(__name__)

SECTIONS = ("run", "inpaint", "encode")
Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    return run_program(__doc__ or "", SECTIONS, run, argv)


def run(experiment: Experiment) -> int:
    """Do what an experiment's `inpaint` section asks for; returns the exit status.

    Raises:
        SttnError: the request itself is wrong; nothing was done.
    """
    start = time.monotonic()
    options = experiment.inpaint
    items = _requested_items(experiment)
    generator = load_generator(options.checkpoint or "")
    cluster.connect()
    cluster.require_shared_paths(_paths(experiment))
    settings = _settings(experiment, cluster.choose_device(experiment.run.device))
    video_cpus = max(1, settings.encoder_threads)
    num_actors = cluster.choose_num_actors(
        experiment.run.num_actors, settings.device, experiment.run.actor_cpus, video_cpus
    )
    output_dir = os.path.abspath(options.output or "")
    refuse_overwriting(items, output_dir)
    claim_output(output_dir, settings)
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
    progress = Progress.remote()  # type: ignore[attr-defined]
    rows = _build(
        items,
        settings,
        output_dir,
        generator,
        num_actors=num_actors,
        actor_cpus=experiment.run.actor_cpus,
        progress=progress,
    )
    outcomes: dict[int, Row] = {}
    with ProgressLine(progress, num_items=len(items), interval_s=experiment.run.log_interval_s):
        for row in rows.iter_rows():
            # A segment's failure is the video's; a later segment's success does not change that.
            if row["status"] != "segment" and outcomes.get(row["item"], {}).get("status") != "failed":
                outcomes[row["item"]] = row
    records = [manifest_row(item, outcomes.get(n), output_dir) for n, item in enumerate(items)]
    manifest = write_manifest(output_dir, records)
    return _report(records, manifest, time.monotonic() - start)


def _requested_items(experiment: Experiment) -> list[Item]:
    options = experiment.inpaint
    faults = []
    if bool(options.video) == bool(options.catalog):
        faults.append("inpaint: give inpaint.video or inpaint.catalog" + ", not both" * bool(options.video))
    if options.video and bool(options.mask) == bool(options.boxes):
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
    require_local(_paths(experiment))
    if options.catalog:
        return read_catalog(options.catalog)
    return single_item(options.video or "", options.mask, options.boxes)


def _paths(experiment: Experiment) -> dict[str, str | None]:
    names = ("video", "mask", "catalog", "output", "checkpoint")
    return {f"inpaint.{name}": getattr(experiment.inpaint, name) for name in names}


def _settings(experiment: Experiment, device: str) -> Settings:
    options, encode = experiment.inpaint, experiment.encode
    precision = options.precision
    return Settings(
        checkpoint_sha256=file_sha256(options.checkpoint or ""),
        device=device,
        precision=fastest_precision(device) if precision == "auto" else precision,
        schedule=Schedule(num_references=None if options.references == "all" else options.num_references),
        segment_frames=options.segment_frames,
        dilation_px=options.dilation_px,
        feather_px=options.feather_px,
        require_hole=options.require_hole,
        codec=encode.codec,
        crf=encode.crf,
        preset=encode.preset,
        encoder_threads=encode.threads,
    )


def _build(
    items: Sequence[Item],
    settings: Settings,
    output_dir: str,
    generator: Generator,
    *,
    num_actors: int,
    actor_cpus: int,
    progress: ray.actor.ActorHandle,
) -> ray.data.Dataset:
    """The chain of operators; its rows are segments and, where a video ends, the video's outcome."""
    prepare_data()
    rows = [{"item": n, **item.as_dict()} for n, item in enumerate(items)]
    return (
        ray.data.from_items(rows, override_num_blocks=len(rows))
        # 1. Plan each video (1:N): its index, its masks, its segments still to do. One CPU: one demuxer.
        .flat_map(make_plan_fn(settings, output_dir, progress), num_cpus=1)
        # 2. One row a block, so that the segments of one film spread over all processes.
        .repartition(target_num_rows_per_block=1)
        # 3. Complete each segment (1:1). A fixed pool: each process holds the network, and loads it once.
        .map(
            Completer,  # type: ignore[arg-type]  # Ray's types do not know classes here
            fn_constructor_kwargs={
                "generator": ray.put(generator),
                "settings": settings,
                "output_dir": output_dir,
                "threads": actor_cpus,
                "progress": progress,
            },
            compute=ray.data.ActorPoolStrategy(size=num_actors),
            num_cpus=actor_cpus,
            num_gpus=1 if settings.device == "cuda" else None,
        )
        # 4. Encode each segment, and publish the video after its last one (1:1). One CPU: decoding, blending and
        #    encoding share it.
        .map(make_encode_fn(settings, output_dir, progress), num_cpus=max(1, settings.encoder_threads))
    )


def make_plan_fn(settings: Settings, output_dir: str, progress: ray.actor.ActorHandle) -> Callable[[Row], list[Row]]:
    """Rows of `Item` columns to rows of segments.

    Adds item, output_name, segment, frames, plan_hash, status ("todo", or an outcome's), step, error, reason.
    """

    def plan(row: Row) -> list[Row]:
        number = row.pop("item")
        item = Item(**row)
        base = {"item": number, "output_name": item.output, "segment": -1, "frames": 0}
        try:
            todo, outcome = _plan_item(item, settings, output_dir)
        except Exception as error:  # noqa: BLE001 -- this operator's one boundary
            outcome = failed_outcome("plan", error)
            if item.fault is None:
                with suppress(StorageError):  # the row says it all the same
                    ItemDir(output_dir, item.output).write_outcome(outcome)
        if outcome is not None:
            progress.finish.remote(number, outcome["status"])
            return [base | _blank() | short_outcome(outcome)]
        progress.add.remote("planned", sum(todo.frames.values()))
        return [
            base | _blank() | {"segment": n, "frames": frames, "plan_hash": todo.plan_hash}
            for n, frames in todo.frames.items()
        ]

    return plan


class _Todo(NamedTuple):
    """The segments of a plan that are still to be done, with their number of frames."""

    plan_hash: str
    frames: dict[int, int]


def _plan_item(item: Item, settings: Settings, output_dir: str) -> tuple[_Todo, Row | None]:
    """The segments to do, or the outcome of a video that needs none."""
    if item.fault is not None:
        raise ConfigError(item.fault)
    item_dir = ItemDir(output_dir, item.output)
    inputs = input_stats(item.video, item.mask, item.boxes)
    if outcome := outcome_if_current(item_dir, inputs, settings.hash()):
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
    frames = {
        n: stop - start
        for n, (start, stop) in enumerate(plan.segments)
        if item_dir.read_segment(n, plan.plan_hash) is None
    }
    return _Todo(plan.plan_hash, frames), None if frames else publish_if_complete(item_dir, plan)


_NOTHING = _Todo("", {})


class Completer:
    """A network that completes segments.

    Reads output_name, segment; adds samples, a list with the packed prediction of each frame, and seconds.
    """

    def __init__(
        self,
        generator: ray.ObjectRef,
        settings: Settings,
        output_dir: str,
        threads: int,
        progress: ray.actor.ActorHandle,
    ) -> None:
        # Ray gives a process one math thread for a fraction of a CPU up to one; the number counts here.
        torch.set_num_threads(threads)
        cv2.setNumThreads(1)
        self._engine = Engine(
            ray.get(generator),
            device=settings.device,
            precision=settings.precision,
            schedule=settings.schedule,
        )
        self._settings, self._output_dir, self._progress = settings, output_dir, progress

    def __call__(self, row: Row) -> Row:
        if row["status"] != "todo":
            return row
        item_dir = ItemDir(self._output_dir, row["output_name"])
        start_s = time.monotonic()
        try:
            plan = _plan_of(row, item_dir)
            if plan is None:
                return row | {"status": "segment"}
            samples = list(complete_segment(plan, row["segment"], self._engine, self._settings, self._count_completed))
        except Exception as error:  # noqa: BLE001 -- this operator's one boundary
            return row | _fail(item_dir, row["item"], "complete", error, self._progress)
        return row | {"samples": samples, "seconds": time.monotonic() - start_s}

    def _count_completed(self, frames: int) -> None:
        self._progress.add.remote("completed", frames)


def make_encode_fn(settings: Settings, output_dir: str, progress: ray.actor.ActorHandle) -> Callable[[Row], Row]:
    """Rows of completed segments to rows of recorded ones; drops samples.

    The task that records a video's last segment publishes the video, and its row carries the outcome.
    """

    def encode(row: Row) -> Row:
        samples = row.pop("samples")
        if row["status"] != "todo":
            return row
        item_dir = ItemDir(output_dir, row["output_name"])
        step = "encode"
        try:
            plan = _plan_of(row, item_dir)
            if plan is None:
                return row | {"status": "segment"}
            write_segment(item_dir, plan, row["segment"], samples, settings, seconds=row["seconds"])
            progress.add.remote("encoded", row["frames"])
            step = "publish"
            outcome = publish_if_complete(item_dir, plan)
        except Exception as error:  # noqa: BLE001 -- this operator's one boundary
            return row | _fail(item_dir, row["item"], step, error, progress)
        if outcome is None:
            return row | {"status": "segment"}
        progress.finish.remote(row["item"], outcome["status"])
        return row | short_outcome(outcome)

    return encode


def _fail(item_dir: ItemDir, item: int, step: str, error: Exception, progress: ray.actor.ActorHandle) -> Row:
    outcome = failed_outcome(step, error)
    with suppress(StorageError):  # the row says it all the same
        item_dir.write_outcome(outcome)
    progress.finish.remote(item, "failed")
    return short_outcome(outcome)


def _plan_of(row: Row, item_dir: ItemDir) -> Plan | None:
    """The plan that a row's segment belongs to; None where there is nothing left to do for it.

    The video may have failed, or another driver may have published it, or planned it anew for a changed source.
    """
    outcome = item_dir.read_outcome()
    if outcome is not None and outcome["status"] == "failed":
        return None
    plan = item_dir.read_plan()
    return plan if plan is not None and plan.plan_hash == row["plan_hash"] else None


def _blank() -> Row:
    return {
        "status": "todo",
        "step": "",
        "error": "",
        "reason": "",
        "is_unexpected": False,
        "plan_hash": "",
        "samples": [b""],
        "seconds": 0.0,
    }


def _report(records: Sequence[Row], manifest: Path, seconds: float) -> int:
    done = [r for r in records if r["status"] == "done"]
    failed = [r for r in records if r["status"] == "failed"]
    copied = len(records) - len(done) - len(failed)
    for record in failed:
        log.error("failed at %s: %s", record["step"], record["reason"])
    log.info(
        "%d done (%d frames), %d copied without a hole, %d failed, in %.0f s; manifest: %s",
        len(done),
        sum(r["frames"] for r in done),
        copied,
        len(failed),
        seconds,
        manifest,
    )
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
