"""The losses against values computed by hand and against the published formulas."""

from math import exp, log

import pytest
import torch
from torch import Tensor

from sttn_ray.choices import AdversarialLoss
from sttn_ray.model.losses import discriminator_loss, generator_adversarial_loss, hole_loss, valid_loss


def make_clips(num_clips: int) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    predicted, frames = (torch.rand((num_clips, 3, 3, 8, 10), generator=rng) * 2 - 1 for _ in range(2))
    masks = torch.zeros(num_clips, 3, 1, 8, 10)
    for i in range(num_clips):
        masks[i, :, :, 1 : 3 + i, 2 : 6 + i] = 1
    return predicted, frames, masks


def test_losses_of_two_by_two_pixels() -> None:
    """One frame, one hole pixel of four; each pixel's error in its three channels is written out."""
    frames = torch.zeros(1, 1, 3, 2, 2)
    predicted = torch.tensor([[[0.1, 0.2], [0.3, 0.4]], [[0.5, -0.2], [0.0, 0.1]], [[0.9, 0.2], [0.3, 0.4]]])[
        None, None
    ]
    masks = torch.tensor([[[[[1.0, 0.0], [0.0, 0.0]]]]])
    inside = (0.1 + 0.5 + 0.9) / 3
    outside = (0.2 + 0.3 + 0.4 + 0.2 + 0.0 + 0.1 + 0.2 + 0.3 + 0.4) / 9
    assert hole_loss(predicted, frames, masks).item() == pytest.approx(inside, rel=1e-6)
    assert valid_loss(predicted, frames, masks).item() == pytest.approx(outside, rel=1e-6)


def test_one_clip_equals_the_published_formula() -> None:
    predicted, frames, masks = make_clips(1)
    for loss, weights in ((hole_loss, masks), (valid_loss, 1 - masks)):
        published = torch.nn.L1Loss()(predicted * weights, frames * weights) / weights.mean()
        torch.testing.assert_close(loss(predicted, frames, masks), published)


def test_two_clips_equal_the_mean_of_each_alone() -> None:
    """So that two workers with a clip each give the gradient of one worker with both."""
    predicted, frames, masks = make_clips(2)
    for loss in (hole_loss, valid_loss):
        alone = [loss(predicted[i : i + 1], frames[i : i + 1], masks[i : i + 1]) for i in (0, 1)]
        torch.testing.assert_close(loss(predicted, frames, masks), sum(alone) / 2)


@pytest.mark.parametrize(("loss", "value"), [(hole_loss, 0.0), (valid_loss, 1.0)])
def test_no_pixel_to_judge_gives_zero_and_finite_gradients(loss: object, value: float) -> None:
    """An empty mask for the hole, a full one for the rest: the published code divides by zero."""
    predicted, frames, _ = make_clips(1)
    predicted.requires_grad_()
    result = loss(predicted, frames, torch.full((1, 3, 1, 8, 10), value))
    result.backward()
    assert result.item() == 0
    assert predicted.grad is not None
    assert not predicted.grad.any()


def test_a_clip_without_hole_leaves_the_others_gradient() -> None:
    predicted, frames, masks = make_clips(2)
    masks[1] = 0
    predicted.requires_grad_()
    hole_loss(predicted, frames, masks).backward()
    assert predicted.grad.isfinite().all()
    assert predicted.grad[0].any()
    assert not predicted.grad[1].any()


REAL, FAKE = [2.0, 0.5, -1.0], [-3.0, -0.5, 0.25]


def _cross_entropy(logit: float, target: float) -> float:
    share = 1 / (1 + exp(-logit))
    return -log(share) if target else -log(1 - share)


@pytest.mark.parametrize(
    ("kind", "real", "fake", "adversarial"),
    [
        ("hinge", (0 + 0.5 + 2) / 3, (0 + 0.5 + 1.25) / 3, (3 + 0.5 - 0.25) / 3),
        (
            "nsgan",
            sum(_cross_entropy(x, 1) for x in REAL) / 3,
            sum(_cross_entropy(x, 0) for x in FAKE) / 3,
            sum(_cross_entropy(x, 1) for x in FAKE) / 3,
        ),
        (
            "lsgan",
            (1 + 0.25 + 4) / 3,
            (9 + 0.25 + 0.0625) / 3,
            (16 + 2.25 + 0.5625) / 3,
        ),
    ],
)
def test_adversarial_losses_by_hand(kind: AdversarialLoss, real: float, fake: float, adversarial: float) -> None:
    real_logits, fake_logits = torch.tensor([REAL]), torch.tensor([FAKE])
    judged = discriminator_loss(real_logits, fake_logits, kind).item()
    assert judged == pytest.approx((real + fake) / 2, rel=1e-6)
    fooled = generator_adversarial_loss(fake_logits, kind).item()
    assert fooled == pytest.approx(adversarial, rel=1e-6)


def test_adversarial_loss_on_logits_is_finite_where_the_sigmoid_is_not_invertible() -> None:
    """The published sigmoid and BCELoss clamp at 100; on logits the loss stays exact (D-21)."""
    logits = torch.tensor([-500.0, 500.0])
    assert generator_adversarial_loss(logits, "nsgan").item() == pytest.approx(250.0)
