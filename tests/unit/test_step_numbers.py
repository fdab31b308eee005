"""What a step may be told beside its losses: precision, parts of a batch, limits, weights to begin with."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sttn_ray.errors import CheckpointError
from sttn_ray.model.generator import Generator, GeneratorConfig
from sttn_ray.model.weights import save_generator
from sttn_ray.training.state import TrainState, create_networks, create_state, load_state, save_state, start_from
from sttn_ray.training.step import StepSettings, train_step

TINY = GeneratorConfig(channels=16, num_blocks=1, width=96, height=48, mask_keys=True)
SETTINGS = StepSettings(
    learning_rate=1e-3,
    decay_at=(),
    hole_weight=1.0,
    valid_weight=1.0,
    adversarial_weight=0.01,
    adversarial_loss="hinge",
)


def make_state(seed: int = 0) -> TrainState:
    return create_state(*create_networks(TINY, seed=seed, initialization="fast"), beta1=0.0, beta2=0.99)


def make_batch(step: int = 0, num_clips: int = 4, num_frames: int = 3) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(step)
    frames = torch.rand((num_clips, num_frames, 3, 48, 96), generator=rng) * 2 - 1
    masks = torch.zeros(num_clips, num_frames, 1, 48, 96)
    for clip in range(num_clips):
        masks[clip, :, :, 8:24, 10 + 5 * clip : 40 + 12 * clip] = 1
    return frames, masks


def gradients(network: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in network.parameters() if p.grad is not None]


@pytest.mark.parametrize("clips_at_once", [1, 2, 3])
def test_parts_of_a_batch_add_up_to_the_whole(clips_at_once: int) -> None:
    whole, parts = make_state(), make_state()
    expected = train_step(whole, *make_batch(), SETTINGS)
    found = train_step(parts, *make_batch(), replace(SETTINGS, clips_at_once=clips_at_once))
    for name in ("hole", "valid", "discriminator"):
        assert found[name].item() == pytest.approx(expected[name].item(), rel=1e-5)
    # Adam's first step is the gradient's sign, of those near 0 too: the discriminator that judges is only nearly one.
    assert found["adversarial"].item() == pytest.approx(expected["adversarial"].item(), rel=0.2)
    for a, b in zip(gradients(parts.generator), gradients(whole.generator), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-5)
    for a, b in zip(gradients(parts.discriminator), gradients(whole.discriminator), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-5)


def test_spectral_norm_iterates_once_in_each_pass_whatever_the_parts() -> None:
    states = [make_state(), make_state()]
    counts = []
    for state, clips_at_once in zip(states, (None, 1), strict=True):
        norm = state.discriminator.conv[0].parametrizations.weight[0]
        seen = [norm._u.clone()]
        state.discriminator.register_forward_hook(lambda *_, norm=norm, seen=seen: seen.append(norm._u.clone()))
        train_step(state, *make_batch(), replace(SETTINGS, clips_at_once=clips_at_once))
        counts.append(sum(not torch.equal(a, b) for a, b in pairwise(seen)))
    assert counts == [3, 3]


def test_a_judgment_that_weighs_nothing_is_not_asked_for() -> None:
    state = make_state()
    before = {name: value.clone() for name, value in state.discriminator.state_dict().items()}
    state.discriminator.register_forward_pre_hook(lambda *_: pytest.fail("the discriminator ran"))
    losses = train_step(state, *make_batch(), replace(SETTINGS, adversarial_weight=0.0))
    assert losses["hole"] > 0
    assert (losses["adversarial"].item(), losses["discriminator"].item()) == (0.0, 0.0)
    assert all(torch.equal(before[name], value) for name, value in state.discriminator.state_dict().items())


def test_more_at_once_than_there_are_is_all() -> None:
    states = make_state(), make_state()
    train_step(states[0], *make_batch(), SETTINGS)
    train_step(states[1], *make_batch(), replace(SETTINGS, clips_at_once=9))
    assert all(
        torch.equal(a, b) for a, b in zip(gradients(states[0].generator), gradients(states[1].generator), strict=True)
    )


def test_bf16_is_near_and_keeps_weights_and_losses_in_float32() -> None:
    exact, rough = make_state(), make_state()
    expected = train_step(exact, *make_batch(), SETTINGS)
    found = train_step(rough, *make_batch(), replace(SETTINGS, precision="bf16"))
    for name in ("hole", "valid"):
        assert found[name].dtype == torch.float32
        assert found[name].item() == pytest.approx(expected[name].item(), rel=0.02)
        assert found[name].item() != expected[name].item()
    assert all(p.dtype == torch.float32 for p in rough.generator.parameters())
    a, b = (torch.cat([g.flatten() for g in gradients(state.generator)]) for state in (exact, rough))
    assert torch.nn.functional.cosine_similarity(a, b, dim=0) > 0.98


@pytest.mark.parametrize("num_frames", [1, 2, 3, 4])
def test_the_discriminators_gradient_in_bf16_is_near(num_frames: int) -> None:
    found = []
    for precision in ("fp32", "bf16"):
        state = make_state()
        train_step(state, *make_batch(num_frames=num_frames), replace(SETTINGS, precision=precision))
        found.append(torch.cat([g.flatten() for g in gradients(state.discriminator)]))
    assert torch.nn.functional.cosine_similarity(*found, dim=0) > 0.98


def test_a_gradient_is_cut_to_its_limit() -> None:
    free, cut = make_state(), make_state()
    train_step(free, *make_batch(), SETTINGS)
    norm = torch.cat([g.flatten() for g in gradients(free.generator)]).norm().item()
    train_step(cut, *make_batch(), replace(SETTINGS, max_gradient_norm=norm / 4))
    for a, b in zip(gradients(free.generator), gradients(cut.generator), strict=True):
        torch.testing.assert_close(a / 4, b, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nothing_is_written_once_a_gradient_is_not_finite(value: float) -> None:
    state, good = make_state(), make_state()
    for step in range(2):
        train_step(state, *make_batch(step), SETTINGS)
        train_step(good, *make_batch(step), SETTINGS)
    assert state.first_bad_step.item() == -1
    frames, masks = make_batch(2)
    frames[1, 0, 0, 5, 5] = value
    train_step(state, frames, masks, SETTINGS)
    assert state.first_bad_step.item() == 3
    train_step(state, *make_batch(3), SETTINGS)  # a good one again, before anybody looked
    assert (state.first_bad_step.item(), state.step) == (3, 4)
    for network, known in ((state.generator, good.generator), (state.discriminator, good.discriminator)):
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), known.parameters(), strict=True))


def test_a_checkpoint_of_another_optimizer_becomes_a_fused_one(tmp_path: Path) -> None:
    generator, discriminator = create_networks(TINY, seed=0, initialization="fast")
    state = make_state()
    state.generator_optimizer = torch.optim.Adam(state.generator.parameters(), betas=(0.0, 0.99))
    state.generator_optimizer.zero_grad()
    save_state(tmp_path / "a.pt", state)
    other = create_state(generator, discriminator, beta1=0.0, beta2=0.99)
    load_state(tmp_path / "a.pt", other)
    frames, masks = make_batch()
    frames[0, 0] = float("nan")
    before = [p.clone() for p in other.generator.parameters()]
    train_step(other, frames, masks, SETTINGS)
    assert all(torch.equal(a, b) for a, b in zip(other.generator.parameters(), before, strict=True))


def test_weights_to_begin_with_come_without_steps(tmp_path: Path) -> None:
    trained = make_state()
    for step in range(2):
        train_step(trained, *make_batch(step), SETTINGS)
    save_state(tmp_path / "state.pt", trained)
    generator, discriminator = create_networks(TINY, seed=1, initialization="published")
    start_from(tmp_path / "state.pt", generator, discriminator)
    for mine, theirs in ((generator, trained.generator), (discriminator, trained.discriminator)):
        found, known = mine.state_dict(), theirs.state_dict()
        assert all(torch.equal(found[name], known[name]) for name in known)
    fresh = create_state(generator, discriminator, beta1=0.0, beta2=0.99)
    assert (fresh.step, len(fresh.generator_optimizer.state)) == (0, 0)

    save_generator(tmp_path / "generator.pt", trained.generator)  # type: ignore[arg-type]
    _, judge = create_networks(TINY, seed=2, initialization="published")
    before = {name: value.clone() for name, value in judge.state_dict().items()}
    start_from(tmp_path / "generator.pt", generator, judge)
    assert all(torch.equal(judge.state_dict()[name], value) for name, value in before.items())


def test_weights_of_another_width_are_refused(tmp_path: Path) -> None:
    save_generator(tmp_path / "wide.pt", Generator(replace(TINY, channels=32)))
    with pytest.raises(CheckpointError, match=r"wide\.pt: its generator has channels 32 instead of 16"):
        start_from(tmp_path / "wide.pt", *create_networks(TINY, seed=0, initialization="fast"))


def test_unequal_parts_of_workers_weigh_by_their_clips() -> None:
    # A judgment near nothing: it is of a discriminator that has learned from each worker's clips alone here.
    settings = replace(SETTINGS, adversarial_weight=1e-9)
    frames, masks = make_batch(num_clips=4)
    whole, first, second = make_state(), make_state(), make_state()
    expected = train_step(whole, frames, masks, settings)
    # Three clips of two for an even part, and one: what DDP averages.
    found = [
        train_step(first, frames[:3], masks[:3], settings, weight=1.5),
        train_step(second, frames[3:], masks[3:], settings, weight=0.5),
    ]
    for name in ("hole", "valid", "discriminator"):
        assert sum(losses[name].item() for losses in found) / 2 == pytest.approx(expected[name].item(), rel=1e-4)
    for a, b, c in zip(
        gradients(first.generator), gradients(second.generator), gradients(whole.generator), strict=True
    ):
        torch.testing.assert_close((a + b) / 2, c, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("clips_at_once", "num_passes"), [(None, 1), (3, 1), (2, 2)])
def test_all_workers_take_the_way_of_the_one_with_most_clips(clips_at_once: int | None, num_passes: int) -> None:
    """Of five clips two workers have three and two: the second must not exchange gradients in another order."""
    state = make_state()
    passes = []
    state.generator.register_forward_hook(lambda *_: passes.append(1))
    settings = replace(SETTINGS, clips_at_once=clips_at_once)
    train_step(state, *make_batch(num_clips=2), settings, weight=0.8, most_clips=3)
    assert len(passes) == num_passes
