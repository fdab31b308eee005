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
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import ray

from sttn_ray import cluster
from sttn_ray.catalog.items import Item, read_catalog, refuse_overwriting, single_item
from sttn_ray.catalog.manifest import manifest_row, write_manifest
from sttn_ray.catalog.plan import Settings
from sttn_ray.catalog.records import claim_output
from sttn_ray.completion.schedule import Schedule
from sttn_ray.config import Experiment
from sttn_ray.errors import (
    CheckpointError,
    ConfigError,
    StorageError,
)
from sttn_ray.model.generator import Generator
from sttn_ray.model.precision import fastest_precision
from sttn_ray.model.weights import load_generator
from sttn_ray.paths import abort_uploads, absolute, on_this_machine, use_endpoint
from sttn_ray.program import run_program
from sttn_ray.storage import file_sha256

from .inpaint_completer import Completer
from .inpaint_faults import Nodes, are_news, known_health, left_behind, next_nodes, tell_faults
from .inpaint_nodes import NodesChangedError, NodeWatch
from .inpaint_outcomes import collect, keep_manifest, missing_outcomes, report, report_stop
from .inpaint_preview import dry_run, write_preview
from .inpaint_steps import Job, Pool, make_encode_fn, make_plan_fn
from .progress import ProgressLine, prepare_data, start_progress

log = logging.getLogger(__name__)

DRY_RUN = "--dry-run"
SECTIONS = ("run", "storage", "inpaint", "encode")
Row = dict[str, Any]
# A task costs the driver some 10 ms. Where there are many videos several are planned in one, though their segments then
# come later.
MAX_SINGLE_ITEMS, MAX_ITEMS_A_TASK = 4000, 32


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
    settings = make_settings(experiment, _choose_device(experiment), checkpoint_sha256)
    pool = _choose_pool(experiment, settings)
    output_dir = absolute(options.output or "")
    refuse_overwriting(items, str(output_dir), options.catalog)
    if is_dry:
        claim_output(output_dir, settings, only_checks=True)
    if is_dry or options.preview:
        chosen = items if is_dry else [items[n] for n in sorted({*_spread(len(items), options.preview or 1)})]
        show = dry_run if is_dry else write_preview
        return show(chosen, settings, output_dir, generator, pool)
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
        pool.size,
        "es"[: 2 * (pool.size != 1)],
        pool.cpus,
    )
    job = Job(settings, str(output_dir), start_progress(exports=True), _deadline_s(options.max_hours))
    outcomes: dict[int, Row] = {}
    keep = partial(keep_manifest, output_dir, items, outcomes)
    try:
        # The rows are held until all is written: once they are let go Ray cancels the tasks that are left.
        _rows, stopped = _work(experiment, items, job, generator, pool, outcomes, keep)
    except BaseException:
        keep()
        raise
    try:
        outcomes |= missing_outcomes(items, outcomes, job, is_stopped=stopped is not None)
        manifest = write_manifest(output_dir, (manifest_row(item, outcomes[n]) for n, item in enumerate(items)))
    except StorageError as error:
        log.error("the manifest was not written, though videos were done: %s; the same command writes it", error)
        return 1
    tell_faults(job.progress)
    if stopped is not None:
        return report_stop(stopped, manifest)
    return report(outcomes.values(), manifest, time.monotonic() - start)


def _work(
    experiment: Experiment,
    items: Sequence[Item],
    job: Job,
    generator: Generator,
    pool: Pool,
    outcomes: dict[int, Row],
    keep: Callable[[], None],
) -> tuple[Iterator[Row], str | None]:
    """Do all that has no outcome; returns the rows that are left, and why they are, or None.

    Where the cluster loses nodes for good, or gets some, or GPUs fail, the chain of operators is built anew for what is
    left, on the nodes that then get work.
    """
    nodes = Nodes(pool)

    def choose(avoided: Collection[str]) -> Pool:
        return _choose_pool(experiment, job.settings, takes_fewer=True, avoided=avoided)

    def count() -> int:
        if experiment.run.autoscaling:  # Ray Data itself makes more and fewer
            return nodes.pool.size
        try:
            return choose(nodes.avoided).size
        except ConfigError:
            return 0  # no node has room for a process and a task of video

    def falls_sick() -> bool:
        return are_news(known_health(job.progress), nodes)

    fraction = experiment.inpaint.max_error_fraction
    with ProgressLine(job.progress, num_items=len(items), interval_s=experiment.run.log_interval_s) as line:
        while numbered := [(n, item) for n, item in enumerate(items) if n not in outcomes]:
            left = []
            with suppress(NodesChangedError), NodeWatch(nodes.pool.size, count, falls_sick) as watch:
                rows = watch.rows(build(numbered, job, generator, nodes))
                stopped = collect(rows, items, outcomes, fraction, tell=line.tell, keep=keep)
                left = left_behind(known_health(job.progress).faults, job.chain, outcomes)
                if stopped is not None or not left:
                    return rows, stopped
            job = job._replace(chain=job.chain + 1)
            job.progress.begin_again.remote(job.chain)
            following = next_nodes(nodes, known_health(job.progress), left, choose, line.tell)
            if isinstance(following, str):
                return iter(()), following
            nodes = following
    return iter(()), None


def _choose_device(experiment: Experiment) -> str:
    return cluster.choose_device(experiment.run.device, can_grow=experiment.run.autoscaling)


def _choose_pool(
    experiment: Experiment, settings: Settings, *, takes_fewer: bool = False, avoided: Collection[str] = ()
) -> Pool:
    options = experiment.run
    video_cpus = cluster.choose_video_cpus(settings.encoder_threads, options.actor_cpus)
    min_size, size = cluster.choose_num_actors(
        options.num_actors,
        settings.device,
        options.actor_cpus,
        video_cpus,
        gpus_per_actor=options.gpus_per_actor,
        can_grow=options.autoscaling,
        takes_fewer=takes_fewer,
        avoided=avoided,
    )
    gpus = options.gpus_per_actor if settings.device == "cuda" else None
    return Pool(size=size, min_size=min_size, cpus=options.actor_cpus, gpus=gpus, video_cpus=video_cpus)


def _spread(num_items: int, count: int) -> list[int]:
    """Numbers of items, from the first to the last at even distances."""
    return [n * (num_items - 1) // max(1, count - 1) for n in range(min(count, num_items))]


def _deadline_s(max_hours: float | None) -> float | None:
    return None if max_hours is None else time.time() + max_hours * 3600


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
    # Not the checkpoint: this process reads it, and the network travels to the others.
    names = ("video", "mask", "catalog", "output")
    return {f"inpaint.{name}": getattr(experiment.inpaint, name) for name in names}


def _load_checkpoint(path: str) -> tuple[Generator, str]:
    """The network and the sha256 of its file."""
    try:
        with on_this_machine(path) as file:
            return load_generator(file), file_sha256(file)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint file") from error


def make_settings(experiment: Experiment, device: str, checkpoint_sha256: str) -> Settings:
    """What of an experiment changes results, on a device and with a checkpoint."""
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


def build(items: Sequence[tuple[int, Item]], job: Job, generator: Generator, nodes: Nodes) -> ray.data.Dataset:
    """The chain of operators for numbered items; its rows are segments and, where a video ends, the video's outcome."""
    prepare_data(nodes.avoided)
    pool = nodes.pool
    numbered = [(n, item.as_dict()) for n, item in items]
    at_once = min(MAX_ITEMS_A_TASK, 1 + len(items) // MAX_SINGLE_ITEMS)
    rows = [{"items": json.dumps(numbered[n : n + at_once])} for n in range(0, len(items), at_once)]
    return (
        ray.data.from_items(rows, override_num_blocks=len(rows))
        # 1. Plan videos (1:N): index, masks, segments still to do. One CPU: one demuxer.
        .flat_map(make_plan_fn(job), num_cpus=1)
        # 2. One row a block, so that the segments of one film spread over all processes.
        .repartition(target_num_rows_per_block=1)
        # 3. Complete each segment (1:1). A pool: each process holds the network, and loads it once.
        .map(
            Completer,  # type: ignore[arg-type]  # Ray's types do not know classes here
            fn_constructor_kwargs={"generator": ray.put(generator), "job": job, "threads": pool.cpus},
            compute=pool.strategy,
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
        )
        # 4. Encode each segment, and publish the video after its last one (1:1). One core: decoding, blending and
        #    encoding share it.
        .map(make_encode_fn(job), num_cpus=pool.video_cpus)
    )


if __name__ == "__main__":
    raise SystemExit(main())
