"""What `sttn_ray.train` does: the driver, and the workers that Ray Train runs."""

import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import cv2
import ray
import ray.train
import ray.train.torch
import torch
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupTimeoutError,
)  # what kind of failure it was: no other way

import sttn_ray
from sttn_ray import cluster, interrupts, turns
from sttn_ray.choices import Precision
from sttn_ray.config import Experiment, TrainSection, to_yaml
from sttn_ray.errors import ConfigError, ShardError, StorageError, SttnError
from sttn_ray.model.generator import PRESETS, GeneratorConfig
from sttn_ray.model.precision import fastest_precision, require_right_numbers, use_exact_numbers
from sttn_ray.model.weights import load_generator, read_checkpoint, save_generator
from sttn_ray.paths import StoragePath, absolute, as_path, is_file, is_remote, on_this_machine, use_endpoint
from sttn_ray.samples import worker_batches
from sttn_ray.shards.cache import RowCache
from sttn_ray.shards.read import INDEX_FILE, ShardIndex, read_index
from sttn_ray.shown import ShownFormatter
from sttn_ray.storage import claim, file_sha256, published, read_record, write_record
from sttn_ray.training.checkpoints import find_checkpoints, state_path
from sttn_ray.training.data import ClipDataset, make_loader
from sttn_ray.training.loop import LoopSettings, train_to_end
from sttn_ray.training.starts import count_start, forget_starts, note_fault
from sttn_ray.training.state import (
    TrainState,
    create_networks,
    create_state,
    for_precision,
    load_state,
    start_from,
)
from sttn_ray.training.step import StepSettings
from sttn_ray.training.validation import Example, read_examples
from sttn_ray.training.workers import told_by_first

log = logging.getLogger(__name__)

GENERATOR_FILE = "generator.pt"
# Worker groups that could not start within a minute, before the training is given up. One that may shrink tries first
# with as many workers as before; one whose cluster grows waits for machines that take minutes to start.
MAX_FAILED_STARTS, MAX_WAITING_STARTS = 3, 100
# A worker that is gone without a word must not keep the others waiting for half an hour, as torch's default has it.
COLLECTIVE_TIMEOUT_S = 300
# A GPU takes a step in less time than its clips are read in; a CPU's math threads would share their cores with them.
CUDA_LOADER_PROCESSES = 4
# Settings that change neither weights nor their order, so that a run may go on with others.
FREE_KEYS = {
    *("num_steps", "num_workers", "min_workers", "worker_cpus", "loader_processes"),
    *("log_interval", "checkpoint_interval", "num_checkpoints", "validation_interval", "validation_clips"),
}


def run(experiment: Experiment) -> int:
    """Train as an experiment says, or go on with it; returns the exit status.

    Raises:
        SttnError: the request itself is wrong; nothing was done.
    """
    fault = fit(experiment)
    if fault is not None:
        log.error("%s", fault)
        return 1
    return 0


def fit(experiment: Experiment) -> str | None:
    """Train as an experiment says, or go on with it; returns what stopped it before the last step, else None.

    Raises:
        SttnError: the request itself is wrong; nothing was done.
    """
    config, index = check_request(experiment)
    options = experiment.train
    run_dir, shards_dir = absolute(experiment.run.dir or ""), str(absolute(experiment.shards.dir or ""))
    is_new = read_record(run_dir / "run.json") is None
    if options.start_from is not None and is_new:
        start_from(options.start_from, *create_networks(config, seed=0, initialization="published"))
    _claim(run_dir, experiment, shards_dir)
    done = read_record(run_dir / "done.json")
    if done is not None and done["step"] >= options.num_steps and is_file(run_dir / GENERATOR_FILE):
        log.info("%s: already trained, %d steps; %s", run_dir, done["step"], run_dir / GENERATOR_FILE)
        return None
    cluster.connect()
    cluster.require_shared_paths({**_paths(experiment), "train.start_from": options.start_from})
    forget_starts(run_dir)
    can_grow = experiment.run.autoscaling
    device = cluster.choose_device(experiment.run.device, can_grow=can_grow)
    precision = fastest_precision(device, trains=True) if options.precision == "auto" else options.precision
    cluster.require_workers(options.min_workers or options.num_workers, options.worker_cpus, device, can_grow=can_grow)
    log.info(
        "%d clips of %dx%d, network %d channels x %d blocks, %d worker%s of %d threads on %s in %s, to step %d",
        len(index.clips),
        index.width,
        index.height,
        config.channels,
        config.num_blocks,
        options.num_workers,
        "s"[: options.num_workers != 1],
        options.worker_cpus,
        device,
        precision,
        options.num_steps,
    )
    job = {
        "experiment": with_absolute_paths(experiment).model_dump(mode="json"),
        "has_validation": has_validation(options.validation_clips, shards_dir),
        "run_dir": str(run_dir),
        "shards_dir": shards_dir,
        "device": device,
        "precision": precision,
    }
    try:
        with turns.PendingWatch("CPUs or GPUs for all workers"):
            fault = _run_in_turn(job, options, device, can_grow=can_grow)
    except ray.train.TrainingFailedError as error:
        fault = f"{_cause(error)}; the same command goes on from the last checkpoint"
    if fault is not None:
        return f"training stopped: {fault}"
    try:
        last = state_path(run_dir, find_checkpoints(run_dir)[-1])
        with on_this_machine(last) as path, published(run_dir / GENERATOR_FILE) as temporary:
            step = read_checkpoint(path)["step"]
            save_generator(temporary, load_generator(path))
        write_record(run_dir / "done.json", {"step": step})
    except StorageError as error:
        return f"all steps are done, but: {error}; the same command goes on"
    log.info("trained to step %d; the generator: %s", step, run_dir / GENERATOR_FILE)
    return None


def check_request(experiment: Experiment) -> tuple[GeneratorConfig, ShardIndex]:
    """The network and the shards that a training takes, once all is checked that can be without a cluster.

    Raises:
        SttnError: the request itself is wrong.
    """
    check(experiment)
    use_endpoint(experiment.storage.endpoint_url)
    shards_dir = str(absolute(experiment.shards.dir or ""))
    index = read_index(shards_dir, "train")
    return check_sizes(experiment, index), index


def check_sizes(experiment: Experiment, index: ShardIndex) -> GeneratorConfig:
    """The network of a training, whose size its shards must have.

    Raises:
        ConfigError: they do not, or what is cut out of their frames is larger than they.
    """
    config = _generator_config(experiment)
    if (index.width, index.height) != (config.width, config.height):
        raise ConfigError(
            f"{absolute(experiment.shards.dir or '')}: its frames are {index.width}x{index.height}, "
            f"model.preset={experiment.model.preset} takes {config.width}x{config.height}; build shards of that size, "
            "or choose another preset"
        )
    crop_size(experiment, index)
    return config


def _run_in_turn(job: dict[str, Any], options: TrainSection, device: str, *, can_grow: bool) -> str | None:
    """Run the workers until all steps are done, however long other jobs hold what they need."""
    while True:
        try:
            return interrupts.apart(lambda: _run_workers(job, options, device, can_grow=can_grow))
        except ray.train.ControllerError as error:
            if not isinstance(error.controller_failure, WorkerGroupStartupTimeoutError) or not cluster.carries_workers(
                options.min_workers or options.num_workers, options.worker_cpus, device
            ):
                raise
            log.info("no place for %d workers yet; trying again", options.num_workers)


def _run_workers(job: dict[str, Any], options: TrainSection, device: str, *, can_grow: bool) -> str | None:
    """Run the workers until all steps are done; returns what else made them stop."""
    with tempfile.TemporaryDirectory(prefix="sttn-ray-", ignore_cleanup_errors=True) as folder:
        trainer = ray.train.torch.TorchTrainer(
            train_worker,  # type: ignore[arg-type]  # what it returns is `return_value`; these types are of Train v1
            train_loop_config=job,
            torch_config=ray.train.torch.TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_S),
            # Logical CPUs: nothing else of Ray's runs beside the workers, whose data come from torch's own loader.
            scaling_config=ray.train.ScalingConfig(
                num_workers=(options.min_workers, options.num_workers) if options.min_workers else options.num_workers,  # type: ignore[arg-type]
                use_gpu=device == "cuda",
                resources_per_worker={"CPU": options.worker_cpus, **({"GPU": 1} if device == "cuda" else {})},
            ),
            run_config=ray.train.RunConfig(
                storage_path=folder,  # nothing of ours goes there
                failure_config=ray.train.FailureConfig(
                    max_failures=-1,  # `count_start` sets the limit
                    # Without one Ray starts a worker group that cannot start again and again, for ever.
                    controller_failure_limit=MAX_WAITING_STARTS
                    if options.min_workers or can_grow
                    else MAX_FAILED_STARTS,  # type: ignore[call-arg]  # its types are of Train v1
                ),
                # Ray says of each worker what it does; what a person wants to know is the line of metrics.
                logging_config=ray.train.LoggingConfig(log_level="WARNING"),
            ),
        )
        fault: str | None = trainer.fit().return_value  # type: ignore[attr-defined]
        return fault


def with_absolute_paths(experiment: Experiment) -> Experiment:
    """Ray's workers have a folder of their own."""
    start, cache = experiment.train.start_from, experiment.storage.cache_dir
    sections = {
        "train": experiment.train.model_copy(update={"start_from": start and os.path.abspath(start)}),
        "storage": experiment.storage.model_copy(update={"cache_dir": cache and os.path.abspath(cache)}),
    }
    return experiment.model_copy(update=sections)


def has_validation(num_clips: int, shards_dir: str) -> bool:
    """Whether there are clips to validate on, and any are wanted."""
    try:
        return bool(num_clips) and bool(read_index(shards_dir, "validation").clips)
    except ShardError:
        log.info(
            "%s: no clips for validation; with corpus.validation_share above 0 build_shards keeps some of two videos",
            shards_dir,
        )
        return False


def train_worker(job: dict[str, Any]) -> str | None:
    """What each worker does: restore or start, then step by step to the end.

    Args:
        job: the experiment as plain values, run_dir, shards_dir, has_validation, device and precision.

    Returns:
        What stopped it, where another try would end the same way; else None.
    """
    # Our lines alone: at this level Ray tells every report of every worker.
    ours = logging.getLogger("sttn_ray")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(ShownFormatter())
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False
    run_dir = as_path(job["run_dir"])
    try:
        return _work(job, run_dir)
    except Exception as error:
        # The others are stopped by Ray. A store or a disk that fails would take its time to fail once more.
        if not isinstance(error, StorageError):
            with suppress(StorageError):
                note_fault(run_dir, str(error) if isinstance(error, SttnError) else f"{type(error).__name__}: {error}")
        raise


def _work(job: dict[str, Any], run_dir: StoragePath) -> str | None:
    experiment = Experiment.model_validate(job["experiment"])
    options, storage, context = experiment.train, experiment.storage, ray.train.get_context()
    rank, num_workers = context.get_world_rank(), context.get_world_size()
    # Ray gives a process one math thread for a fraction of a CPU up to one; the number counts here.
    torch.set_num_threads(options.worker_cpus)
    cv2.setNumThreads(1)
    device = torch.device("mps") if job["device"] == "mps" else ray.train.torch.get_device()

    checkpoint, fault = _find_start(run_dir, num_workers) if rank == 0 else (None, None)
    checkpoint, fault = told_by_first(checkpoint, num_workers), told_by_first(fault, num_workers)
    if fault is not None:
        return fault
    use_exact_numbers(fixed_shapes=True)
    require_right_numbers(device.type, job["precision"], trains=True)
    state = _create_state(experiment, device, num_workers, job["precision"], is_new=checkpoint is None)
    if checkpoint is not None:
        with on_this_machine(state_path(run_dir, checkpoint)) as path:
            load_state(path, state)
        if rank == 0:
            log.info("going on from step %d", state.step)
    index = read_index(job["shards_dir"], "train")
    cache = RowCache(storage.cache_dir, int(storage.cache_gb * 1e9)) if storage.cache_dir else None
    dataset = ClipDataset(
        job["shards_dir"],
        index,
        sample_frames=options.sample_frames,
        weights=experiment.masks.weights(),
        seed=experiment.run.seed,
        color_jitter=options.color_jitter,
        crop=crop_size(experiment, index),
        cache=cache,
    )
    num_processes = options.loader_processes
    if num_processes is None:
        num_processes = CUDA_LOADER_PROCESSES if device.type == "cuda" else 0
    batches = worker_batches(
        state.step, options.num_steps, batch_size=options.batch_size, rank=rank, num_workers=num_workers
    )
    settings = LoopSettings(
        step=StepSettings(
            learning_rate=options.learning_rate,
            decay_at=options.decay_at,
            hole_weight=options.hole_weight,
            valid_weight=options.valid_weight,
            adversarial_weight=options.adversarial_weight,
            adversarial_loss=options.adversarial_loss,
            ema_decay=options.ema_decay,
            precision=job["precision"],
            max_gradient_norm=options.max_gradient_norm,
            clips_at_once=options.clips_at_once,
        ),
        num_steps=options.num_steps,
        batch_size=options.batch_size,
        log_interval=options.log_interval,
        checkpoint_interval=options.checkpoint_interval,
        validation_interval=options.validation_interval,
        num_checkpoints=options.num_checkpoints,
    )
    return train_to_end(
        state,
        iter(make_loader(dataset, batches, num_processes=num_processes, pins=device.type == "cuda")),
        settings,
        rank=rank,
        num_workers=num_workers,
        run_dir=run_dir,
        examples=_read_examples(experiment, job["shards_dir"], cache) if job["has_validation"] else [],
        has_notice=_make_notice(),
    )


def _find_start(run_dir: StoragePath, num_workers: int) -> tuple[str | None, str | None]:
    """The last checkpoint, or None; and what makes it useless to start there, or None."""
    try:
        found = find_checkpoints(run_dir)
        checkpoint = found[-1] if found else None
        return checkpoint, count_start(run_dir, checkpoint, num_workers)
    except StorageError as error:
        # A disk is full, or a store away for long: where starts cannot be counted they would have no end.
        return None, f"{error}; the same command goes on"


def _make_notice() -> Callable[[], bool]:
    """A function that tells once of each preemption that Ray has been told of; all workers call it together."""
    told = None

    def has_notice() -> bool:
        nonlocal told
        latest = ray.train.get_preemption_info()
        if latest is None or latest == told:
            return False
        told = latest
        return True

    return has_notice


def _read_examples(experiment: Experiment, shards_dir: str, cache: RowCache | None) -> list[Example]:
    index, num_clips = read_index(shards_dir, "validation"), experiment.train.validation_clips
    return read_examples(shards_dir, index, num_clips=num_clips, seed=experiment.run.seed, cache=cache)


def _create_state(
    experiment: Experiment, device: torch.device, num_workers: int, precision: Precision, *, is_new: bool
) -> TrainState:
    """The state before the first step, on the device, wrapped for several workers."""
    options = experiment.train
    generator, discriminator = create_networks(
        _generator_config(experiment), seed=experiment.run.seed, initialization=experiment.model.initialization
    )
    if options.start_from is not None and is_new:
        start_from(options.start_from, generator, discriminator)
    for_precision(precision, generator, discriminator)
    if options.compile:
        generator.compile()
    # torch 2.13 has another word for it, which earlier ones do not know.
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
    wrapped = (
        ray.train.torch.prepare_model(
            network.train(),
            move_to_device=device,
            parallel_strategy="ddp" if num_workers > 1 else None,
            # All that there is are spectral norm's, which all workers begin with and change alike.
            parallel_strategy_kwargs={"broadcast_buffers": False} if num_workers > 1 else None,
        )
        for network in (generator, discriminator)
    )
    return create_state(*wrapped, beta1=options.beta1, beta2=options.beta2, keeps_average=options.ema_decay > 0)


def crop_size(experiment: Experiment, index: ShardIndex) -> tuple[int, int]:
    """Width and height of what is trained on.

    Raises:
        ConfigError: it is larger than the clips.
    """
    options = experiment.train
    width, height = options.crop_width or index.width, options.crop_height or index.height
    if width > index.width or height > index.height:
        raise ConfigError(
            f"train.crop_width and train.crop_height: {width}x{height} is more than the clips' "
            f"{index.width}x{index.height}"
        )
    return width, height


def _generator_config(experiment: Experiment) -> GeneratorConfig:
    return replace(PRESETS[experiment.model.preset], mask_keys=experiment.model.mask_keys)


def check(experiment: Experiment) -> None:
    """Refuse settings of a training that do not go together.

    Raises:
        ConfigError: all faults, one a line.
    """
    faults = [f"{name}: is missing" for name, value in _paths(experiment).items() if not value]
    options = experiment.train
    if options.batch_size % options.num_workers:
        faults.append(
            f"train.batch_size={options.batch_size}: does not divide into train.num_workers={options.num_workers}; "
            "each worker takes an equal part of the batch"
        )
    if options.start_from and is_remote(options.start_from):
        faults.append(f"train.start_from={options.start_from}: give a local file")
    if options.min_workers and options.min_workers > options.num_workers:
        faults.append(f"train.min_workers={options.min_workers}: is more than train.num_workers={options.num_workers}")
    if not any(experiment.masks.model_dump().values()):
        faults.append("masks: all weights are 0; give one family a weight")
    if faults:
        raise ConfigError(*faults)


def _paths(experiment: Experiment) -> dict[str, str | None]:
    return {"run.dir": experiment.run.dir, "shards.dir": experiment.shards.dir}


def _claim(run_dir: StoragePath, experiment: Experiment, shards_dir: str) -> None:
    """Write what the run is, or check that it is the same run."""
    sections = experiment.model_dump(mode="json", include={"masks", "model", "train"})
    ours = {f"{s}.{key}": value for s, keys in sections.items() for key, value in keys.items() if key not in FREE_KEYS}
    ours |= {"run.seed": experiment.run.seed, "shards": file_sha256(as_path(shards_dir) / INDEX_FILE)}
    advice = "choose another run.dir for another training, or delete the folder to train anew"
    claim(run_dir / "run.json", ours, run_dir, advice)
    with published(run_dir / "config.yaml") as temporary:
        temporary.write_text(to_yaml(experiment))
    versions = {"sttn_ray": sttn_ray.__version__, "torch": torch.__version__, "ray": ray.__version__}
    with published(run_dir / "versions.json") as temporary:
        temporary.write_text(json.dumps(versions))


def _cause(error: Exception) -> str:
    """What went wrong in the workers, in one line a worker where it is one of our errors."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    ours = {rank: failure for rank, failure in failures.items() if isinstance(failure, SttnError)}
    return "\n".join(f"worker {rank}: {failure}" for rank, failure in (ours or failures).items()) or str(error)
