"""One GAN step, in the paper's order: the discriminator, then the generator; no Ray."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from sttn_ray.choices import AdversarialLoss, Precision
from sttn_ray.model.losses import discriminator_loss, generator_adversarial_loss, hole_loss, valid_loss
from sttn_ray.training.schedule import learning_rate
from sttn_ray.training.state import TrainState, unwrapped


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """What a step is told.

    Attributes:
        learning_rate, decay_at: see `schedule.learning_rate`.
        hole_weight, valid_weight, adversarial_weight, adversarial_loss: the losses (paper, section 3.3).
        ema_decay: of the mean of the generator's weights.
        precision: of the networks' convolutions and products; weights, losses and optimizers are float32 always.
        max_gradient_norm: to which each network's gradient is cut; None: it is not.
        clips_at_once: the most clips that go through the networks together; None: all.
    """

    learning_rate: float
    decay_at: tuple[int, ...]
    hole_weight: float
    valid_weight: float
    adversarial_weight: float
    adversarial_loss: AdversarialLoss
    ema_decay: float = 0.0
    precision: Precision = "fp32"
    max_gradient_norm: float | None = None
    clips_at_once: int | None = None


class _Part(NamedTuple):
    """Some clips of a batch, what they count in the mean of its losses, whether they are the first or last ones."""

    frames: Tensor
    masks: Tensor
    share: float
    is_first: bool
    is_last: bool


def train_step(
    state: TrainState,
    frames: Tensor,
    masks: Tensor,
    settings: StepSettings,
    *,
    weight: float = 1.0,
    most_clips: int | None = None,
) -> dict[str, Tensor]:
    """Train both networks on one batch, and count the step.

    The discriminator sees the source and the completed clip (prediction inside the hole, source outside). In the
    generator's pass its weights are frozen and it is called unwrapped: the published code computes, and averages over
    all workers, gradients that nothing reads (D-13). Its spectral norm iterates once in each of the three passes, as
    published (D-9). Where its judgment weighs nothing it is neither asked nor trained.

    With more clips than `clips_at_once` gradients add up over parts. The generator then runs once more for each part,
    without gradient, because what the discriminator learns from all parts comes before what the generator learns from
    any.

    Once a gradient is not finite neither optimizer writes any more, in this step and in all later ones, without the
    device being waited for: `state.first_bad_step` tells.

    Args:
        state: changed in place.
        frames: (B, T, 3, H, W) in [-1, 1].
        masks: (B, T, 1, H, W), 1 = hole, in the type of the frames.
        settings: of the step.
        weight: of these clips in the mean over the workers: their number by that of an even part of the batch.
        most_clips: that any worker has in this step; default: as many as these. All must take the same way, since they
            exchange gradients in its order.

    Returns:
        The losses times `weight` as scalars without gradient, still on the device: hole, valid, adversarial,
        discriminator; all before their own weights. The last two are 0 where `adversarial_weight` is.
    """
    rate = learning_rate(state.step, base=settings.learning_rate, decay_at=settings.decay_at)
    for optimizer in (state.generator_optimizer, state.discriminator_optimizer):
        for group in optimizer.param_groups:
            group["lr"] = rate
    parts = list(_parts(frames, masks, settings.clips_at_once, weight))
    # The generator's graph of a whole batch serves both networks.
    is_whole = settings.clips_at_once is None or (most_clips or len(frames)) <= settings.clips_at_once
    predicted = _predict(state.generator, parts[0], settings) if is_whole else None
    losses = {"discriminator": frames.new_zeros(())}
    if settings.adversarial_weight:
        losses["discriminator"] = _train_discriminator(state, parts, predicted, settings)
    losses |= _train_generator(state, parts, predicted, settings)
    state.step += 1
    if state.average is not None:
        _follow(state.average, unwrapped(state.generator), average_share(state.step, decay=settings.ema_decay))
    return losses


def _parts(frames: Tensor, masks: Tensor, clips_at_once: int | None, weight: float) -> Iterator[_Part]:
    num_clips = len(frames)
    size = min(clips_at_once or num_clips, num_clips)
    for start in range(0, num_clips, size):
        stop = min(start + size, num_clips)
        share = weight * (stop - start) / num_clips
        yield _Part(frames[start:stop], masks[start:stop], share, start == 0, stop == num_clips)


def _predict(generator: nn.Module, part: _Part, settings: StepSettings) -> Tensor:
    with _autocast(part.frames, settings):
        predicted: Tensor = generator(part.frames * (1 - part.masks), part.masks)
    return predicted.to(part.frames.dtype)


def _judge(discriminator: nn.Module, frames: Tensor, part: _Part, settings: StepSettings) -> Tensor:
    # Spectral norm iterates in training mode, and depends on weights alone: once for all parts, and in as many steps on
    # every worker, however many parts it has.
    unwrapped(discriminator).train(part.is_first)
    with _autocast(frames, settings):
        logits: Tensor = discriminator(frames)
    return logits.to(frames.dtype)


def _autocast(x: Tensor, settings: StepSettings) -> AbstractContextManager[None]:
    return torch.autocast(x.device.type, torch.bfloat16, enabled=settings.precision == "bf16")


def _completed(part: _Part, predicted: Tensor) -> Tensor:
    return part.frames * (1 - part.masks) + predicted * part.masks


def _train_discriminator(
    state: TrainState, parts: list[_Part], predicted: Tensor | None, settings: StepSettings
) -> Tensor:
    state.discriminator_optimizer.zero_grad()
    total = parts[0].frames.new_zeros(())
    for part in parts:
        if predicted is None:
            with torch.no_grad():
                fake = _completed(part, _predict(unwrapped(state.generator), part, settings))
        else:
            fake = _completed(part, predicted.detach())
        with _without_exchange(state.discriminator, part):
            real_logits = _judge(state.discriminator, part.frames, part, settings)
            fake_logits = _judge(state.discriminator, fake, part, settings)
            loss = discriminator_loss(real_logits, fake_logits, settings.adversarial_loss)
            (loss * part.share).backward()
        total += loss.detach() * part.share
    _update(state, state.discriminator, state.discriminator_optimizer, settings)
    return total


def _train_generator(
    state: TrainState, parts: list[_Part], predicted: Tensor | None, settings: StepSettings
) -> dict[str, Tensor]:
    judge = unwrapped(state.discriminator).requires_grad_(False)
    state.generator_optimizer.zero_grad()
    totals = {name: parts[0].frames.new_zeros(()) for name in ("hole", "valid", "adversarial")}
    weights = dict(zip(totals, (settings.hole_weight, settings.valid_weight, settings.adversarial_weight), strict=True))
    for part in parts:
        with _without_exchange(state.generator, part):
            output = _predict(state.generator, part, settings) if predicted is None else predicted
            losses = {
                "hole": hole_loss(output, part.frames, part.masks),
                "valid": valid_loss(output, part.frames, part.masks),
            }
            if settings.adversarial_weight:
                logits = _judge(judge, _completed(part, output), part, settings)
                losses["adversarial"] = generator_adversarial_loss(logits, settings.adversarial_loss)
            loss = sum((weights[name] * value for name, value in losses.items()), totals["hole"].new_zeros(()))
            (loss * part.share).backward()
        for name, value in losses.items():
            totals[name] += value.detach() * part.share
    _update(state, state.generator, state.generator_optimizer, settings)
    judge.requires_grad_(True)
    return totals


def _without_exchange(network: nn.Module, part: _Part) -> AbstractContextManager[None]:
    """Gradients are averaged over the workers once a step, with the last part's."""
    if part.is_last or not isinstance(network, nn.parallel.DistributedDataParallel):
        return nullcontext()
    exchange: AbstractContextManager[None] = network.no_sync()
    return exchange


def _update(state: TrainState, network: nn.Module, optimizer: torch.optim.Optimizer, settings: StepSettings) -> None:
    parameters = [p for p in network.parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if settings.max_gradient_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, settings.max_gradient_norm, norm)
    is_first_bad = (state.first_bad_step < 0) & ~torch.isfinite(norm)
    state.first_bad_step = torch.where(is_first_bad, state.step + 1, state.first_bad_step)
    # A fused optimizer reads this on the device, and writes nothing where it is 1.
    optimizer.found_inf = (state.first_bad_step >= 0).float()  # type: ignore[attr-defined]
    optimizer.step()


def average_share(step: int, *, decay: float) -> float:
    """The share of the newest weights in their average after a step (counted from 1).

    Exponential, 1 - decay, once there are steps enough; before, about a tenth of the steps counts, so that the random
    weights of the start are soon forgotten (the ramp of TensorFlow's ExponentialMovingAverage).
    """
    return 1 - min(decay, step / (9 + step))


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, share: float) -> None:
    # All at once, which on a GPU is one launch instead of one a parameter.
    get_ema_multi_avg_fn(1 - share)(list(average.parameters()), list(network.parameters()), None)


def to_device(frames: Tensor, masks: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """A batch's bytes as the networks take them: frames in [-1, 1] and masks, float32, on the device."""
    is_pinned = device.type == "cuda"  # from other memory the copy must have ended before the batch goes
    return (
        frames.to(device, non_blocking=is_pinned).float() / 127.5 - 1,
        masks.to(device, non_blocking=is_pinned).float(),
    )
