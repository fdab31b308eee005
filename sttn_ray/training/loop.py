"""The loop of a worker: step by step to the end, with lines of metrics, validations and checkpoints; no Ray."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from sttn_ray.model.generator import Generator
from sttn_ray.model.weights import save_generator
from sttn_ray.paths import StoragePath
from sttn_ray.storage import published, read_record, write_record
from sttn_ray.training.checkpoints import CheckpointWriter
from sttn_ray.training.data import Batch
from sttn_ray.training.metrics import Writer
from sttn_ray.training.state import TrainState, unwrapped
from sttn_ray.training.step import StepSettings, to_device, train_step
from sttn_ray.training.validation import Example, complete, is_better, measure, write_strip
from sttn_ray.training.workers import all_clip_ids, mean_losses, mean_metrics

log = logging.getLogger(__name__)

BEST_FILE, BEST_RECORD = "best.pt", "best.json"


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """What a loop is told; intervals in steps.

    Attributes:
        step: what each step is told.
        batch_size: clips of a step, over all workers.
    """

    step: StepSettings
    num_steps: int
    batch_size: int
    log_interval: int
    checkpoint_interval: int
    validation_interval: int


def train_to_end(
    state: TrainState,
    batches: Iterator[Batch],
    settings: LoopSettings,
    *,
    rank: int,
    num_workers: int,
    run_dir: StoragePath,
    examples: Sequence[Example],
    checkpoints: CheckpointWriter | None,
    has_notice: Callable[[], bool],
) -> str | None:
    """Train a state with batches until all steps are done.

    Args:
        state: on its device; changed in place.
        batches: this worker's part of each step's clips.
        settings: of the loop.
        rank: of this worker; the first one writes metrics.
        num_workers: that train together. Each takes every way here as the others do: they wait for each other.
        run_dir: where metrics and the best validation's generator go.
        examples: to validate on; may be empty.
        checkpoints: where the first worker writes them.
        has_notice: whether this worker's machine, or another's, will be taken away, told once; a checkpoint follows.

    Returns:
        What makes it useless to go on; None where all steps are done.

    Raises:
        ShardError: a clip cannot be read.
        StorageError: run_dir cannot be written.
    """
    device = state.first_bad_step.device
    most_clips = -(-settings.batch_size // num_workers)
    writer = Writer(run_dir, after_step=state.step) if rank == 0 else None
    sums: dict[str, Tensor] = {}
    recent: list[list[str]] = []  # the clips of each step since the last line
    start_s, wait_s = time.monotonic(), 0.0
    fault = None
    while state.step < settings.num_steps:
        before_s = time.monotonic()
        batch = next(batches)
        wait_s += time.monotonic() - before_s
        weight = len(batch.clip_ids) * num_workers / settings.batch_size
        tensors = to_device(batch.frames, batch.masks, device)
        losses = train_step(state, *tensors, settings.step, weight=weight, most_clips=most_clips)
        sums = {name: sums.get(name, 0) + loss for name, loss in losses.items()}
        recent.append(batch.clip_ids)
        is_last = state.step == settings.num_steps
        is_checkpoint = is_last or state.step % settings.checkpoint_interval == 0
        is_validation = bool(examples) and (is_last or state.step % settings.validation_interval == 0)
        # At a checkpoint too, so that a run that goes on from it writes the lines that it would have written.
        if not (is_checkpoint or is_validation or state.step % settings.log_interval == 0):
            continue
        if has_notice():
            is_checkpoint = True
            if rank == 0:
                log.warning("a node will be taken away: a checkpoint is written at step %d", state.step)
        if (fault := _find_fault(state, recent, num_workers)) is not None:
            break
        metrics = mean_losses(sums, len(recent), num_workers)
        clip_ids = all_clip_ids(batch.clip_ids, num_workers)
        seconds = time.monotonic() - start_s
        speed = {"steps_per_s": len(recent) / seconds, "data_wait_share": wait_s / seconds}
        if is_validation:
            mine = examples[rank::num_workers]
            metrics |= _validate(state, mine, run_dir, settings.step, num_workers, writer)
        if writer is not None:
            line = {"step": state.step, **metrics, "learning_rate": _rate(state)}
            writer.write({**line, **speed, "clip_ids": clip_ids}, num_steps=settings.num_steps)
        if is_checkpoint and writer is not None and checkpoints is not None:
            checkpoints.write(state, beside=writer.upload)
        sums, recent, start_s, wait_s = {}, [], time.monotonic(), 0.0
    if checkpoints is not None:
        checkpoints.wait()
    if writer is not None:
        writer.close()
    return fault


def _find_fault(state: TrainState, recent: Sequence[list[str]], num_workers: int) -> str | None:
    """What makes it useless to go on: a gradient that is not finite, which all workers see alike."""
    bad = int(state.first_bad_step)
    if bad < 0:
        return None
    clip_ids = all_clip_ids(recent[bad - state.step - 1], num_workers)
    return (
        f"the gradient of step {bad} is not finite; its clips: {', '.join(clip_ids)}; no weight was changed by it. "
        "Look at these clips; or train in another run.dir with a lower train.learning_rate, a train.max_gradient_norm, "
        "or train.precision=fp32"
    )


def _validate(
    state: TrainState,
    mine: Sequence[Example],
    run_dir: StoragePath,
    settings: StepSettings,
    num_workers: int,
    writer: Writer | None,
) -> dict[str, float]:
    """Measure the generator, or its average, on this worker's examples, and take the mean over those of all.

    The worker that writes keeps a picture, and the best generator.
    """
    generator = unwrapped(state.generator) if state.average is None else state.average
    assert isinstance(generator, Generator)
    device = state.first_bad_step.device
    completed = [complete(generator, example, device=device, precision=settings.precision) for example in mine]
    found = mean_metrics([measure(*pair) for pair in zip(mine, completed, strict=True)], num_workers, device)
    if writer is not None:
        strip = write_strip(run_dir / "validation" / f"step-{state.step:08d}.png", mine, completed)
        writer.show("validation", strip, state.step)
        if is_better(found, read_record(run_dir / BEST_RECORD)):
            with published(run_dir / BEST_FILE) as temporary:
                save_generator(temporary, generator)
            write_record(run_dir / BEST_RECORD, {"step": state.step, **found})
    return {f"validation_{name}": value for name, value in found.items()}


def _rate(state: TrainState) -> float:
    return float(state.generator_optimizer.param_groups[0]["lr"])
