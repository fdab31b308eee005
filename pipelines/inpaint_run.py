"""The driver of `pipelines.inpaint`: what is asked for, what is done already, and a job for the rest.

Ray is loaded only where there is something left to do, and torch only for pictures and estimates.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sttn_ray.catalog.items import Item, read_catalog, refuse_overwriting, single_item
from sttn_ray.catalog.manifest import FAILED, manifest_row, write_manifest
from sttn_ray.catalog.plan import Settings
from sttn_ray.catalog.records import claim_output, read_claim
from sttn_ray.choices import Precision
from sttn_ray.completion.schedule import Schedule
from sttn_ray.config import Experiment
from sttn_ray.errors import CheckpointError, ConfigError, StorageError
from sttn_ray.paths import StoragePath, abort_uploads, absolute, on_this_machine, use_endpoint
from sttn_ray.storage import file_sha256

from .inpaint_outcomes import current_outcomes, describe_failure, keep_manifest, missing_outcomes, report, report_stop

if TYPE_CHECKING:
    from .inpaint_network import Network

log = logging.getLogger(__name__)

Row = dict[str, Any]


def run(experiment: Experiment, *, is_dry: bool = False) -> int:
    """Do what an experiment's `inpaint` section asks for; returns the exit status.

    Args:
        experiment: what is asked for.
        is_dry: only say what it would take.

    Raises:
        SttnError: the request itself is wrong; nothing was done.
    """
    start_s = time.monotonic()
    options = experiment.inpaint
    use_endpoint(experiment.storage.endpoint_url)
    items = _requested_items(experiment)
    output_dir = absolute(options.output or "")
    refuse_overwriting(items, str(output_dir), options.catalog, options.checkpoint)
    with _checkpoint_file(options.checkpoint or "") as checkpoint:
        checkpoint_sha256 = file_sha256(checkpoint)
        outcomes: dict[int, Row] = {}
        recorded = None if options.preview else _recorded_settings(experiment, output_dir, checkpoint_sha256)
        if recorded is not None and not is_dry:
            outcomes = current_outcomes(items, output_dir, recorded.hash())
            if len(outcomes) == len(items):
                abort_uploads(output_dir)
                _tell_failures(items, outcomes)
                return _conclude(items, outcomes, output_dir, start_s)
        network = _start(checkpoint)
    return _do_the_rest(
        experiment, items, checkpoint_sha256, network, recorded, outcomes, output_dir, start_s, is_dry=is_dry
    )


def _start(checkpoint: Path) -> "Network":
    """Start or join Ray, and read the network meanwhile: Ray's start is mostly waiting for its processes."""
    from sttn_ray import cluster

    from . import inpaint_network

    def load() -> None:
        from . import inpaint_chain  # noqa: F401 -- Ray Data and all that it brings

    with ThreadPoolExecutor(2) as pool:
        network = pool.submit(inpaint_network.read_network, checkpoint)
        loaded = pool.submit(load)
        cluster.connect(has_dashboard=False)
        loaded.result()
        return network.result()


def _do_the_rest(
    experiment: Experiment,
    items: Sequence[Item],
    checkpoint_sha256: str,
    network: "Network",
    recorded: Settings | None,
    outcomes: dict[int, Row],
    output_dir: StoragePath,
    start_s: float,
    *,
    is_dry: bool,
) -> int:
    """Do on the cluster what has no outcome yet; returns the exit status.

    On the device of the recorded settings their precision goes on, whatever this machine would choose.
    """
    import ray

    from sttn_ray import cluster, turns

    from .inpaint_chain import NO_TURN, choose_device, choose_pool, work
    from .inpaint_faults import tell_faults
    from .inpaint_part import Part
    from .inpaint_steps import Job
    from .progress import start_progress

    options = experiment.inpaint
    cluster.require_shared_paths(_paths(experiment))
    device = choose_device(experiment)
    precision = network.precisions[device]
    if recorded is not None and recorded.device == device:
        precision = recorded.precision
    settings = make_settings(experiment, device, checkpoint_sha256, precision=precision)
    pool = choose_pool(experiment, settings)
    if is_dry:
        claim_output(output_dir, settings, only_checks=True)
    held = ray.put(network.pickled)
    if is_dry or options.preview:
        from .inpaint_preview import dry_run, write_preview

        chosen = items if is_dry else [items[n] for n in sorted({*_spread(len(items), options.preview or 1)})]
        show = dry_run if is_dry else write_preview
        turns.await_task(pool.cpus, pool.gpus or 0)
        return show(chosen, settings, output_dir, held, pool)
    claim_output(output_dir, settings)
    abort_uploads(output_dir)
    deadline_s = _deadline_s(options.max_hours)
    part = Part()
    taken = part.take(pool, until_s=deadline_s)
    if taken is None:
        return _conclude(items, outcomes, output_dir, start_s, settings_hash=settings.hash(), stopped=NO_TURN)
    log.info(
        "%d video%s, network %s, on %s in %s, %d process%s of %d threads",
        len(items),
        "s"[: len(items) != 1],
        network.description,
        settings.device,
        settings.precision,
        taken.size,
        "es"[: 2 * (taken.size != 1)],
        taken.cpus,
    )
    if taken.size < pool.size:
        log.info("the cluster carries %d processes, but other jobs hold some of its CPUs or GPUs", pool.size)
    job = Job(settings, str(output_dir), start_progress(exports=True), deadline_s)
    _tell_failures(items, outcomes)
    keep = partial(keep_manifest, output_dir, items, outcomes)
    try:
        # The rows are held until all is written: once they are let go Ray cancels the tasks that are left.
        _rows, stopped = work(experiment, items, job, held, taken, part, outcomes, keep)
    except BaseException:
        keep()
        part.give_back()
        raise
    status = _conclude(
        items,
        outcomes,
        output_dir,
        start_s,
        settings_hash=settings.hash(),
        stopped=stopped,
        tell=partial(tell_faults, job.progress),
    )
    part.give_back()
    return status


def _conclude(
    items: Sequence[Item],
    outcomes: dict[int, Row],
    output_dir: StoragePath,
    start_s: float,
    *,
    settings_hash: str = "",
    stopped: str | None = None,
    tell: Callable[[], None] = lambda: None,
) -> int:
    """Write the manifest and report; returns the exit status."""
    tell()
    try:
        outcomes |= missing_outcomes(items, outcomes, output_dir, settings_hash, is_stopped=stopped is not None)
        manifest = write_manifest(output_dir, (manifest_row(item, outcomes[n]) for n, item in enumerate(items)))
    except StorageError as error:
        log.error("the manifest was not written, though videos were done: %s; the same command writes it", error)
        return 1
    if stopped is not None:
        return report_stop(stopped, manifest)
    return report(outcomes.values(), manifest, time.monotonic() - start_s)


def _tell_failures(items: Sequence[Item], outcomes: Mapping[int, Row]) -> None:
    for number, outcome in outcomes.items():
        if outcome["status"] in FAILED:
            log.error("%s", describe_failure(items[number], outcome))


def _recorded_settings(experiment: Experiment, output_dir: StoragePath, checkpoint_sha256: str) -> Settings | None:
    """The settings of a folder that this request goes on with; None where nothing was made there yet.

    What is `auto` is as it was chosen then: to choose takes a cluster, and torch.

    Raises:
        ConfigError: the folder was made with other settings.
    """
    theirs = read_claim(output_dir)
    if theirs is None:
        return None
    wanted = experiment.run.device
    device = str(theirs.get("device")) if wanted == "auto" else wanted
    settings = make_settings(experiment, device, checkpoint_sha256, precision=theirs.get("precision"))
    claim_output(output_dir, settings, only_checks=True)
    return settings


@contextmanager
def _checkpoint_file(path: str) -> Iterator[Path]:
    """The checkpoint as a file of this machine."""
    try:
        with on_this_machine(path) as file:
            yield file
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint file") from error


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
        raise ConfigError(*faults)
    if options.catalog:
        return read_catalog(options.catalog)
    return single_item(options.video or "", options.mask, options.boxes)


def _paths(experiment: Experiment) -> dict[str, str | None]:
    # Not the checkpoint: this process reads it, and the network travels to the others.
    names = ("video", "mask", "catalog", "output")
    return {f"inpaint.{name}": getattr(experiment.inpaint, name) for name in names}


def make_settings(
    experiment: Experiment, device: str, checkpoint_sha256: str, *, precision: Precision | None = None
) -> Settings:
    """What of an experiment changes results, on a device and with a checkpoint.

    Where the experiment leaves the precision open it is the one that is given, else the fastest of the device.
    """
    options, encode = experiment.inpaint, experiment.encode
    if options.precision != "auto":
        precision = options.precision
    elif precision is None:
        from sttn_ray.model.precision import fastest_precision

        precision = fastest_precision(device)
    return Settings(
        checkpoint_sha256=checkpoint_sha256,
        device=device,
        precision=precision,
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
        sound=encode.sound,
        alpha=encode.alpha,
    )
