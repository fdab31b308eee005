"""The networks, a training step and the engine on CUDA: the CPU's numbers, and the same bits however work is cut."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sttn_ray.choices import Precision
from sttn_ray.completion.engine import Engine
from sttn_ray.completion.schedule import Schedule
from sttn_ray.model.discriminator import Discriminator
from sttn_ray.model.precision import find_wrong_numbers, use_exact_numbers
from sttn_ray.model.weights import load_generator
from sttn_ray.training.state import TrainState, create_networks, create_state, for_precision
from sttn_ray.training.step import to_device, train_step
from tests.golden.rule import HERE, make_generator_state, make_inputs, make_weight
from tests.golden.test_golden import CASES
from tests.unit.test_engine import complete, draw_moving, make_engine, make_frames
from tests.unit.test_step_numbers import SETTINGS, TINY

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda", 0)
# Of outputs in [-1, 1]: sums in another order (float32), and numbers of 8 bits (bf16).
TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "bf16": 0.1}


@pytest.fixture(autouse=True)
def exact_numbers() -> None:
    use_exact_numbers(fixed_shapes=False)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("name", "salt", "clips", "frames", "mask_keys"), CASES)
def test_the_generator_gives_the_published_networks_outputs(
    tmp_path: Path, name: str, salt: str, clips: int, frames: int, mask_keys: bool | None, precision: Precision
) -> None:
    torch.save({"netG": make_generator_state(salt)}, tmp_path / "published.pth")
    generator = load_generator(tmp_path / "published.pth", mask_keys=mask_keys).to(CUDA)
    images, masks = (x.to(CUDA) for x in make_inputs(salt, clips, frames))
    golden = np.load(HERE / f"{name}.npz")["output"]
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
        output = generator(images * (1 - masks), masks).flatten(0, 1).float()[..., ::4, ::4].cpu().numpy()
    np.testing.assert_allclose(output, golden, rtol=0, atol=TOLERANCE[precision])
    assert np.abs(output - golden).mean() < TOLERANCE[precision] / 10


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_discriminator_gives_the_published_networks_outputs(precision: Precision) -> None:
    discriminator = Discriminator(spectral_norm=False)
    state = {k: make_weight(k, list(v.shape), "golden/") for k, v in discriminator.state_dict().items()}
    discriminator.load_state_dict(state)
    images, _ = make_inputs("golden/", 1, 5)
    golden = torch.from_numpy(np.load(HERE / "discriminator.npz")["output"])
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
        output = discriminator.to(CUDA)(images.to(CUDA)).float().cpu()
    error = ((output - golden).norm() / golden.norm()).item()
    assert error < (1e-4 if precision == "fp32" else 0.02)


def test_bf16_is_right_and_spectral_norm_is_float32() -> None:
    assert find_wrong_numbers("cuda", trains=True) is None
    torch.manual_seed(0)
    discriminator = Discriminator(channels=16).to(CUDA).eval()
    kept = []
    for layer in discriminator.conv[0:-1:2]:
        layer.parametrizations.weight[0].register_forward_hook(lambda _, inputs, output: kept.append(output.clone()))
    clip = torch.rand(1, 3, 3, 48, 96, device=CUDA)
    with torch.inference_mode():
        discriminator(clip)
        with torch.autocast("cuda", torch.bfloat16):
            discriminator(clip)
    assert all(torch.equal(a, b) for a, b in zip(kept[:5], kept[5:], strict=True))


def step_on(device: torch.device, precision: Precision) -> tuple[TrainState, dict[str, float]]:
    networks = create_networks(TINY, seed=0, initialization="fast")
    for_precision(precision, *networks)
    state = create_state(*(n.to(device) for n in networks), beta1=0.0, beta2=0.99, keeps_average=True)
    rng = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (4, 3, 3, 48, 96), generator=rng, dtype=torch.uint8)
    masks = torch.zeros(4, 3, 1, 48, 96, dtype=torch.uint8)
    masks[..., 8:24, 10:50] = 1
    if device.type == "cuda":
        frames, masks = frames.pin_memory(), masks.pin_memory()
        torch.cuda.set_sync_debug_mode("error")  # a step has the host wait for nothing
    try:
        losses = train_step(state, *to_device(frames, masks, device), replace(SETTINGS, precision=precision))
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    return state, {name: loss.item() for name, loss in losses.items()}


@pytest.mark.parametrize(("precision", "losses_within", "least_cosine"), [("fp32", 1e-3, 0.999), ("bf16", 0.03, 0.97)])
def test_a_training_step_is_the_cpus(precision: Precision, losses_within: float, least_cosine: float) -> None:
    exact, expected = step_on(torch.device("cpu"), "fp32")
    state, found = step_on(CUDA, precision)
    for name in ("hole", "valid", "discriminator"):
        assert found[name] == pytest.approx(expected[name], rel=losses_within)
    assert state.first_bad_step.item() == -1
    for ours, theirs in ((state.generator, exact.generator), (state.discriminator, exact.discriminator)):
        a, b = (torch.cat([p.grad.flatten().cpu() for p in n.parameters()]) for n in (ours, theirs))
        assert F.cosine_similarity(a, b, dim=0).item() > least_cosine


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_any_segmentation_gives_the_same_frames_bit_for_bit(precision: Precision) -> None:
    frames = make_frames(60, draw_moving, shots=((0, 0), (23, 1), (26, 2), (41, 3)))
    on_cpu = make_engine()
    engine = Engine(on_cpu.generator, device="cuda", precision=precision, schedule=Schedule())
    whole = complete(frames, engine=engine)
    for segment in (17, 10, None):
        for a, b in zip(whole, complete(frames, engine=engine, segment=segment), strict=True):
            assert np.array_equal(a, b)
    errors = []
    for a, b in zip(whole, complete(frames, engine=on_cpu), strict=True):
        errors.append(np.abs(a.astype(float) - b.astype(float)) / 65535)
    assert np.concatenate(errors).mean() < TOLERANCE[precision] / 10


def test_a_window_has_the_host_wait_for_nothing() -> None:
    frames = make_frames(30, draw_moving)
    engine = Engine(make_engine().generator, device="cuda", precision="bf16", schedule=Schedule())
    expected = complete(frames, engine=engine)  # and warmed up
    # Results are waited for by their events, which the mode lets pass.
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = complete(frames, engine=engine)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
