"""One GAN step, in the paper's order: the discriminator, then the generator; no Ray."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sttn_ray.model.losses import (
    AdversarialLoss,
    discriminator_loss,
    generator_adversarial_loss,
    hole_loss,
    valid_loss,
)
from sttn_ray.training.schedule import learning_rate
from sttn_ray.training.state import TrainState, unwrapped


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """What a step is told: the learning rate, the weights and kind of the losses (paper, section 3.3), the average."""

    learning_rate: float
    decay_at: tuple[int, ...]
    hole_weight: float
    valid_weight: float
    adversarial_weight: float
    adversarial_loss: AdversarialLoss
    ema_decay: float = 0.0


def train_step(state: TrainState, frames: Tensor, masks: Tensor, settings: StepSettings) -> dict[str, Tensor]:
    """Train both networks on one batch, and count the step.

    The discriminator sees the source and the completed clip (prediction inside the hole, source outside). In the
    generator's pass its weights are frozen and it is called unwrapped: the published code computes, and averages over
    all workers, gradients that nothing reads (D-13). Its spectral norm iterates in all three passes, as published
    (D-9).

    Args:
        state: changed in place.
        frames: (B, T, 3, H, W) in [-1, 1].
        masks: (B, T, 1, H, W), 1 = hole, in the type of the frames.
        settings: of the step.

    Returns:
        The losses as scalars without gradient, still on the device: hole, valid, adversarial, discriminator; all
        before their weights.
    """
    rate = learning_rate(state.step, base=settings.learning_rate, decay_at=settings.decay_at)
    for optimizer in (state.generator_optimizer, state.discriminator_optimizer):
        for group in optimizer.param_groups:
            group["lr"] = rate
    kind = settings.adversarial_loss

    predicted = state.generator(frames * (1 - masks), masks)
    completed = frames * (1 - masks) + predicted * masks

    real_logits = state.discriminator(frames)
    fake_logits = state.discriminator(completed.detach())
    loss_discriminator = discriminator_loss(real_logits, fake_logits, kind)
    state.discriminator_optimizer.zero_grad()
    loss_discriminator.backward()
    state.discriminator_optimizer.step()

    judge = unwrapped(state.discriminator)
    judge.requires_grad_(False)
    loss_adversarial = generator_adversarial_loss(judge(completed), kind)
    loss_hole = hole_loss(predicted, frames, masks)
    loss_valid = valid_loss(predicted, frames, masks)
    loss = (
        settings.hole_weight * loss_hole
        + settings.valid_weight * loss_valid
        + settings.adversarial_weight * loss_adversarial
    )
    state.generator_optimizer.zero_grad()
    loss.backward()
    state.generator_optimizer.step()
    judge.requires_grad_(True)

    state.step += 1
    if state.average is not None:
        _follow(state.average, unwrapped(state.generator), average_share(state.step, decay=settings.ema_decay))
    return {
        "hole": loss_hole.detach(),
        "valid": loss_valid.detach(),
        "adversarial": loss_adversarial.detach(),
        "discriminator": loss_discriminator.detach(),
    }


def average_share(step: int, *, decay: float) -> float:
    """The share of the newest weights in their average after a step (counted from 1).

    Exponential, 1 - decay, once there are steps enough; before, about a tenth of the steps counts, so that the random
    weights of the start are soon forgotten (the ramp of TensorFlow's ExponentialMovingAverage).
    """
    return 1 - min(decay, step / (9 + step))


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, share: float) -> None:
    for mean, newest in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(newest, share)


def to_device(frames: Tensor, masks: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """A batch's bytes as the networks take them: frames in [-1, 1] and masks, float32, on the device."""
    return (
        frames.to(device, non_blocking=True).float() / 127.5 - 1,
        masks.to(device, non_blocking=True).float(),
    )
