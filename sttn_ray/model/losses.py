"""Reconstruction and adversarial losses (paper, section 3.3; published `core/loss.py`).

Every loss is normalized per clip and then averaged over clips, so that N workers on parts of a batch equal one
worker on the whole.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sttn_ray.choices import AdversarialLoss


def hole_loss(predicted: Tensor, frames: Tensor, masks: Tensor) -> Tensor:
    """Mean absolute error inside the hole.

    Args:
        predicted, frames: (B, T, 3, H, W) in [-1, 1].
        masks: (B, T, 1, H, W), 1 = hole.

    Returns:
        A scalar. A clip without hole adds 0; the published code divides by zero there (D-11).
    """
    return _masked_l1(predicted, frames, masks)


def valid_loss(predicted: Tensor, frames: Tensor, masks: Tensor) -> Tensor:
    """Mean absolute error outside the hole; arguments as in `hole_loss`."""
    return _masked_l1(predicted, frames, 1 - masks)


def _masked_l1(predicted: Tensor, frames: Tensor, weights: Tensor) -> Tensor:
    error = ((predicted - frames).abs() * weights).flatten(1).mean(1)
    share = weights.flatten(1).mean(1)
    return (error / share.clamp_min(1.0 / weights[0].numel())).mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor, kind: AdversarialLoss) -> Tensor:
    """Half the sum of the losses on real and on generated clips; logits of any shape."""
    if kind == "hinge":
        return (F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()) / 2
    return (_to_target(real_logits, 1.0, kind) + _to_target(fake_logits, 0.0, kind)) / 2


def generator_adversarial_loss(fake_logits: Tensor, kind: AdversarialLoss) -> Tensor:
    """What the generator minimizes to have its clips taken for real; logits of any shape."""
    if kind == "hinge":
        return -fake_logits.mean()
    return _to_target(fake_logits, 1.0, kind)


def _to_target(logits: Tensor, target: float, kind: Literal["nsgan", "lsgan"]) -> Tensor:
    targets = torch.full_like(logits, target)
    if kind == "nsgan":
        # On logits: the published sigmoid followed by BCELoss is the same and is not safe under autocast (D-21).
        return F.binary_cross_entropy_with_logits(logits, targets)
    return F.mse_loss(logits, targets)
