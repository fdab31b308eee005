"""The loop of a worker: step by step to the end, with lines of metrics, validations and checkpoints; no Ray."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from sttn_ray.errors import StorageError
from sttn_ray.model.generator import Generator
from sttn_ray.paths import StoragePath
from sttn_ray.training.best import ValidationWriter
from sttn_ray.training.checkpoints import CheckpointWriter
from sttn_ray.training.data import Batch
from sttn_ray.training.metrics import Writer
from sttn_ray.training.state import TrainState, unwrapped
from sttn_ray.training.step import StepSettings, to_device, train_step
from sttn_ray.training.validation import Example, complete, make_strip, measure
from sttn_ray.training.workers import all_clip_ids, mean_losses, mean_metrics

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """What a loop is told; intervals in steps.

    Attributes:
        step: what each step is told.
        batch_size: clips of a step, over all workers.
        num_checkpoints: the last ones, which are kept.
    """

    step: StepSettings
    num_steps: int
    batch_size: int
    log_interval: int
    checkpoint_interval: int
    validation_interval: int
    num_checkpoints: int = 2


class _Outputs(NamedTuple):
    """What the first worker writes to."""

    writer: Writer
    validations: ValidationWriter
    checkpoints: CheckpointWriter

    def finish(self) -> None:
        """Bring all that was written where it belongs."""
        self.checkpoints.wait()
        self.validations.flush()
        self.writer.upload()


def train_to_end(
    state: TrainState,
    batches: Iterator[Batch],
    settings: LoopSettings,
    *,
    rank: int,
    num_workers: int,
    run_dir: StoragePath,
    examples: Sequence[Example],
    has_notice: Callable[[], bool],
) -> str | None:
    """Train a state with batches until all steps are done.

    Args:
        state: on its device; changed in place.
        batches: this worker's part of each step's clips.
        settings: of the loop.
        rank: of this worker; the first one writes metrics, validations and checkpoints.
        num_workers: that train together. Each takes every way here as the others do: they wait for each other.
        run_dir: where they go.
        examples: to validate on; may be empty.
        has_notice: whether this worker's machine, or another's, will be taken away, told once; a checkpoint follows.

    Returns:
        What makes it useless to go on; None where all steps are done.

    Raises:
        ShardError: a clip cannot be read.
        StorageError: run_dir cannot be written.
    """
    opened = _opened_outputs(run_dir, settings, after_step=state.step) if rank == 0 else nullcontext(None)
    with opened as outputs:
        fault = _train(state, batches, settings, rank, num_workers, examples, outputs, has_notice)
        try:
            if outputs is not None:
                outputs.finish()
        except StorageError as error:
            if fault is None:
                raise
            log.warning("what the last steps wrote is lost: %s", error)  # trained again, they would end as they did
    return fault


@contextmanager
def _opened_outputs(run_dir: StoragePath, settings: LoopSettings, *, after_step: int) -> Iterator[_Outputs]:
    """Where the first worker writes, closed on every way out of the block."""
    with ExitStack() as closing:
        writer = Writer(run_dir, after_step=after_step)
        closing.callback(writer.close)
        checkpoints = CheckpointWriter(run_dir, num_kept=settings.num_checkpoints)
        closing.callback(checkpoints.close)  # before the writer, whose files a checkpoint brings along
        yield _Outputs(writer, ValidationWriter(run_dir), checkpoints)


def _train(
    state: TrainState,
    batches: Iterator[Batch],
    settings: LoopSettings,
    rank: int,
    num_workers: int,
    examples: Sequence[Example],
    outputs: _Outputs | None,
    has_notice: Callable[[], bool],
) -> str | None:
    device = state.first_bad_step.device
    most_clips = -(-settings.batch_size // num_workers)
    sums: dict[str, Tensor] = {}
    recent: list[list[str]] = []  # the clips of each step since the last line
    start_s, wait_s = time.monotonic(), 0.0
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
            return fault
        metrics = mean_losses(sums, len(recent), num_workers)
        clip_ids = all_clip_ids(batch.clip_ids, num_workers)
        seconds = time.monotonic() - start_s
        speed = {"steps_per_s": len(recent) / seconds, "data_wait_share": wait_s / seconds}
        if is_validation:
            mine = examples[rank::num_workers]
            metrics |= _validate(state, mine, settings.step, num_workers, outputs)
        if outputs is not None:
            line = {"step": state.step, **metrics, "learning_rate": _rate(state)}
            outputs.writer.write({**line, **speed, "clip_ids": clip_ids}, num_steps=settings.num_steps)
            if is_checkpoint:
                outputs.validations.flush_if_possible()  # a run goes on after them
                outputs.checkpoints.write(state, beside=outputs.writer.upload)
        sums, recent, start_s, wait_s = {}, [], time.monotonic(), 0.0
    return None


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
    settings: StepSettings,
    num_workers: int,
    outputs: _Outputs | None,
) -> dict[str, float]:
    """Measure the generator, or its average, on this worker's examples, and take the mean over those of all.

    The worker that writes keeps a picture, and the best generator.
    """
    generator = unwrapped(state.generator) if state.average is None else state.average
    assert isinstance(generator, Generator)
    device = state.first_bad_step.device
    completed = [complete(generator, example, device=device, precision=settings.precision) for example in mine]
    found = mean_metrics([measure(*pair) for pair in zip(mine, completed, strict=True)], num_workers, device)
    if outputs is not None:
        strip = make_strip(mine, completed)
        outputs.writer.show("validation", strip, state.step)
        outputs.validations.write(state.step, strip, found, generator)
    return {f"validation_{name}": value for name, value in found.items()}


def _rate(state: TrainState) -> float:
    return float(state.generator_optimizer.param_groups[0]["lr"])
