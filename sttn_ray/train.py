"""Train STTN as a GAN on shards, with one worker or many.

Reads shards that pipelines.build_shards wrote. Writes into run.dir: config.yaml, metrics.jsonl, TensorBoard events,
checkpoints, and at the end generator.pt, which inpaint.checkpoint reads.

    python -m sttn_ray.train configs/davis.yaml shards.dir=shards/davis run.dir=runs/davis
    python -m sttn_ray.train runs/davis/config.yaml

The same command again goes on from the last checkpoint, also with another train.num_workers; with a larger
train.num_steps a finished training goes on.

Exit status: 0 trained, 1 the training failed, 2 the request is wrong.
"""

import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import ray
import ray.train
import ray.train.torch
import tensorboardX
import torch
import torch.distributed
from torch import Tensor

import sttn_ray
from sttn_ray import cluster
from sttn_ray.config import Experiment, run_program, to_yaml
from sttn_ray.errors import ConfigError, SttnError
from sttn_ray.model.generator import PRESETS, GeneratorConfig
from sttn_ray.model.weights import load_generator, read_checkpoint, save_generator
from sttn_ray.paths import as_path, is_remote, use_endpoint
from sttn_ray.samples import worker_batches
from sttn_ray.shards.cache import RowCache
from sttn_ray.shards.read import INDEX_FILE, ShardIndex, read_index
from sttn_ray.storage import claim, file_sha256, published, read_record, require_local, write_record
from sttn_ray.training.data import ClipDataset, make_loader
from sttn_ray.training.metrics import MetricsFile, describe
from sttn_ray.training.state import TrainState, create_networks, create_state, load_state, save_state
from sttn_ray.training.step import StepSettings, to_device, train_step

log = logging.getLogger(__name__)

SECTIONS = ("run", "storage", "shards", "masks", "model", "train")
STATE_FILE = "state.pt"
GENERATOR_FILE = "generator.pt"
# Of a worker group, before the training is given up: a killed worker is replaced, and goes on from the checkpoint.
MAX_FAILURES = 3
# A worker that is gone without a word must not keep the others waiting for half an hour, as torch's default has it.
COLLECTIVE_TIMEOUT_S = 300
# Settings that change neither weights nor their order, so that a run may go on with others.
FREE_KEYS = {
    *("num_steps", "num_workers", "worker_cpus", "loader_processes"),
    *("log_interval", "checkpoint_interval", "num_checkpoints"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    return run_program(__doc__ or "", SECTIONS, run, argv)


def run(experiment: Experiment) -> int:
    """Train as an experiment says, or go on with it; returns the exit status.

    Raises:
        SttnError: the request itself is wrong; nothing was done.
    """
    _check(experiment)
    run_dir, options = Path(experiment.run.dir or "").absolute(), experiment.train
    use_endpoint(experiment.storage.endpoint_url)
    shards_dir = experiment.shards.dir or ""
    shards_dir = shards_dir if is_remote(shards_dir) else os.path.abspath(shards_dir)
    config = _generator_config(experiment)
    index = read_index(shards_dir, "train")
    if (index.width, index.height) != (config.width, config.height):
        raise ConfigError(
            f"{shards_dir}: its frames are {index.width}x{index.height}, model.preset={experiment.model.preset} takes "
            f"{config.width}x{config.height}; build shards of that size, or choose another preset"
        )
    crop_size(experiment, index)
    _claim(run_dir, experiment, shards_dir)
    done = read_record(run_dir / "done.json")
    if done is not None and done["step"] >= options.num_steps and (run_dir / GENERATOR_FILE).is_file():
        log.info("%s: already trained, %d steps; %s", run_dir, done["step"], run_dir / GENERATOR_FILE)
        return 0
    cluster.connect()
    cluster.require_shared_paths(_paths(experiment))
    device = cluster.choose_device(experiment.run.device)
    cluster.require_workers(options.num_workers, options.worker_cpus, device)
    log.info(
        "%d clips of %dx%d, network %d channels x %d blocks, %d worker%s of %d threads on %s, to step %d",
        len(index.clips),
        index.width,
        index.height,
        config.channels,
        config.num_blocks,
        options.num_workers,
        "s"[: options.num_workers != 1],
        options.worker_cpus,
        device,
        options.num_steps,
    )
    trainer = ray.train.torch.TorchTrainer(
        train_worker,
        train_loop_config={
            "experiment": experiment.model_dump(mode="json"),
            "run_dir": str(run_dir),
            "shards_dir": shards_dir,
            "device": device,
        },
        torch_config=ray.train.torch.TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_S),
        # Logical CPUs: nothing else of Ray's runs beside the workers, whose data come from torch's own loader.
        scaling_config=ray.train.ScalingConfig(
            num_workers=options.num_workers,
            use_gpu=device == "cuda",
            resources_per_worker={"CPU": options.worker_cpus, **({"GPU": 1} if device == "cuda" else {})},
        ),
        run_config=ray.train.RunConfig(
            name="checkpoints",
            storage_path=str(run_dir),
            # Without a limit Ray starts a worker group that cannot start again and again, for ever.
            failure_config=ray.train.FailureConfig(
                max_failures=MAX_FAILURES,
                controller_failure_limit=MAX_FAILURES,  # type: ignore[call-arg]  # its types are of Train v1
            ),
            # Ray says of each worker what it does; what a person wants to know is the line of metrics.
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=options.num_checkpoints),
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        log.error("training failed: %s", _cause(error))
        log.error("the same command goes on from the last checkpoint in %s", run_dir / "checkpoints")
        return 1
    # Also where all steps were done before, by a driver that was killed: Ray keeps note of the last checkpoint.
    assert result.checkpoint is not None
    with result.checkpoint.as_directory() as folder, published(run_dir / GENERATOR_FILE) as temporary:
        step = read_checkpoint(Path(folder) / STATE_FILE)["step"]
        save_generator(temporary, load_generator(Path(folder) / STATE_FILE))
    write_record(run_dir / "done.json", {"step": step})
    log.info("trained to step %d; the generator: %s", step, run_dir / GENERATOR_FILE)
    return 0


def train_worker(job: dict[str, Any]) -> None:
    """What each worker does: restore or start, then step by step to the end.

    `job` holds the experiment as plain values, run_dir, shards_dir and device.
    """
    # Our lines alone: at this level Ray tells every report of every worker.
    log.addHandler(logging.StreamHandler(sys.stderr))
    log.setLevel(logging.INFO)
    log.propagate = False
    experiment = Experiment.model_validate(job["experiment"])
    options, storage, context = experiment.train, experiment.storage, ray.train.get_context()
    rank, num_workers = context.get_world_rank(), context.get_world_size()
    # Ray gives a process one math thread for a fraction of a CPU up to one; the number counts here.
    torch.set_num_threads(options.worker_cpus)
    cv2.setNumThreads(1)
    device = torch.device("mps") if job["device"] == "mps" else ray.train.torch.get_device()

    state = _start(experiment, device, num_workers)
    first_step = state.step
    index = read_index(job["shards_dir"], "train")
    dataset = ClipDataset(
        job["shards_dir"],
        index,
        sample_frames=options.sample_frames,
        weights=experiment.masks.weights(),
        seed=experiment.run.seed,
        color_jitter=options.color_jitter,
        crop=crop_size(experiment, index),
        cache=RowCache(storage.cache_dir, int(storage.cache_gb * 1e9)) if storage.cache_dir else None,
    )
    batches = worker_batches(
        state.step, options.num_steps, batch_size=options.batch_size, rank=rank, num_workers=num_workers
    )
    loader = iter(make_loader(dataset, batches, num_processes=options.loader_processes))
    settings = StepSettings(
        learning_rate=options.learning_rate,
        decay_at=options.decay_at,
        hole_weight=options.hole_weight,
        valid_weight=options.valid_weight,
        adversarial_weight=options.adversarial_weight,
        adversarial_loss=options.adversarial_loss,
        ema_decay=options.ema_decay,
    )
    writer = _Writer(Path(job["run_dir"]), first_step) if rank == 0 else None
    sums: dict[str, Tensor] = {}
    since, start_s, wait_s = 0, time.monotonic(), 0.0
    while state.step < options.num_steps:
        before_s = time.monotonic()
        batch = next(loader)
        wait_s += time.monotonic() - before_s
        losses = train_step(state, *to_device(batch.frames, batch.masks, device), settings)
        sums = {name: sums.get(name, 0) + loss for name, loss in losses.items()}
        since += 1
        is_last = state.step == options.num_steps
        is_checkpoint = is_last or state.step % options.checkpoint_interval == 0
        # At a checkpoint too, so that a run that goes on from it writes the lines that it would have written.
        if is_checkpoint or state.step % options.log_interval == 0:
            metrics = _means(sums, since, num_workers)
            clip_ids = _all_clip_ids(batch.clip_ids, num_workers)
            seconds = time.monotonic() - start_s
            if writer is not None:
                line = {"step": state.step, **metrics, "learning_rate": _rate(state)}
                speed = {"steps_per_s": since / seconds, "data_wait_share": wait_s / seconds}
                writer.write({**line, **speed, "clip_ids": clip_ids}, num_steps=options.num_steps)
            sums, since, start_s, wait_s = {}, 0, time.monotonic(), 0.0
            if is_checkpoint:
                _report(state, {"step": state.step, **metrics}, rank)
    if writer is not None:
        writer.close()


def _start(experiment: Experiment, device: torch.device, num_workers: int) -> TrainState:
    """The state of the last checkpoint, or the first one; on the device, wrapped for several workers."""
    generator, discriminator = create_networks(
        _generator_config(experiment), seed=experiment.run.seed, initialization=experiment.model.initialization
    )
    wrapped = (
        ray.train.torch.prepare_model(
            network.train(), move_to_device=device, parallel_strategy="ddp" if num_workers > 1 else None
        )
        for network in (generator, discriminator)
    )
    options = experiment.train
    state = create_state(*wrapped, beta1=options.beta1, beta2=options.beta2, keeps_average=options.ema_decay > 0)
    if (checkpoint := ray.train.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            load_state(Path(folder) / STATE_FILE, state)
        if ray.train.get_context().get_world_rank() == 0:
            log.info("going on from step %d", state.step)
    return state


class _Writer:
    """What the first worker writes beside checkpoints: metrics.jsonl, TensorBoard events, and a line to read."""

    def __init__(self, run_dir: Path, step: int) -> None:
        self._metrics = MetricsFile(run_dir / "metrics.jsonl", after_step=step)
        self._events = tensorboardX.SummaryWriter(str(run_dir / "tensorboard"), purge_step=step + 1)

    def write(self, line: dict[str, Any], *, num_steps: int) -> None:
        self._metrics.write(line)
        for name, value in line.items():
            if isinstance(value, float):
                self._events.add_scalar(name, value, line["step"])
        self._events.flush()
        log.info("%s", describe(line, num_steps=num_steps))

    def close(self) -> None:
        self._metrics.close()
        self._events.close()


def _means(sums: dict[str, Tensor], steps: int, num_workers: int) -> dict[str, float]:
    """Mean losses over the last steps and all workers, read from the device at once.

    Raises:
        RuntimeError: one is not finite; no checkpoint of it is written.
    """
    values = torch.stack(list(sums.values())) / steps
    if num_workers > 1:
        torch.distributed.all_reduce(values)
        values /= num_workers
    means = dict(zip(sums, values.tolist(), strict=True))
    if not torch.isfinite(values).all():
        raise RuntimeError(f"a loss is not finite: {means}; train in another run.dir with a lower train.learning_rate")
    return means


def _all_clip_ids(clip_ids: list[str], num_workers: int) -> list[str]:
    """The clips of the whole batch, in the order of their positions."""
    if num_workers == 1:
        return clip_ids
    gathered: list[list[str]] = [[] for _ in range(num_workers)]
    torch.distributed.all_gather_object(gathered, clip_ids)
    return [clip_id for part in gathered for clip_id in part]


def _report(state: TrainState, metrics: dict[str, float], rank: int) -> None:
    """Give Ray a checkpoint, which it copies into run.dir; all workers come here, the first one brings it."""
    name = f"step-{state.step:08d}"
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        if rank == 0:
            save_state(Path(folder) / STATE_FILE, state)
            checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report(metrics, checkpoint=checkpoint, checkpoint_dir_name=name)


def _rate(state: TrainState) -> float:
    return float(state.generator_optimizer.param_groups[0]["lr"])


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


def _check(experiment: Experiment) -> None:
    faults = [f"{name}: is missing" for name, value in _paths(experiment).items() if not value]
    options = experiment.train
    if options.batch_size % options.num_workers:
        faults.append(
            f"train.batch_size={options.batch_size}: does not divide into train.num_workers={options.num_workers}; "
            "each worker takes an equal part of the batch"
        )
    if not any(experiment.masks.model_dump().values()):
        faults.append("masks: all weights are 0; give one family a weight")
    if faults:
        raise ConfigError("\n".join(faults))
    require_local({"run.dir": experiment.run.dir})


def _paths(experiment: Experiment) -> dict[str, str | None]:
    return {"run.dir": experiment.run.dir, "shards.dir": experiment.shards.dir}


def _claim(run_dir: Path, experiment: Experiment, shards_dir: str) -> None:
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


if __name__ == "__main__":
    raise SystemExit(main())
