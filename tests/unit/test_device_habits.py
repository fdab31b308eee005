"""What a GPU would refuse, or have the host wait for, is found without one: on a device that computes nothing."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from sttn_ray.completion.engine import Engine, _Average, pack_samples
from sttn_ray.completion.pictures import Scaler
from sttn_ray.completion.regions import find_regions
from sttn_ray.completion.schedule import Schedule
from sttn_ray.model.discriminator import Discriminator
from sttn_ray.model.generator import Generator
from sttn_ray.training.state import create_networks, create_state, for_precision
from sttn_ray.training.step import to_device, train_step
from tests.fake_device import DEVICE, HostWaitsError, fake_device, to_fake
from tests.unit.test_engine import COLOR, draw_moving, make_frames
from tests.unit.test_step_numbers import SETTINGS, TINY

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor:UserWarning")


@pytest.mark.parametrize("clips_at_once", [None, 1])
def test_a_training_step_mixes_no_devices_and_waits_for_none(clips_at_once: int | None) -> None:
    # float32: there is no autocast on a device of this kind.
    settings = replace(SETTINGS, max_gradient_norm=1.0, ema_decay=0.9, clips_at_once=clips_at_once)
    networks = create_networks(TINY, seed=0, initialization="fast")
    for_precision("bf16", *networks)
    average = copy.deepcopy(networks[0]).requires_grad_(False)
    with fake_device():
        state = create_state(*map(to_fake, networks), beta1=0.0, beta2=0.99)
        state.average = to_fake(average)
        for _ in range(2):
            frames = torch.empty(2, 3, 3, 48, 96, dtype=torch.uint8)
            masks = torch.empty(2, 3, 1, 48, 96, dtype=torch.uint8)
            losses = train_step(state, *to_device(frames, masks, DEVICE), settings)
        assert {loss.device for loss in losses.values()} == {DEVICE}
        assert state.first_bad_step.device == DEVICE
    assert state.step == 2


@pytest.mark.parametrize("frames_at_once", [None, 2])
def test_a_window_mixes_no_devices_and_waits_for_none(frames_at_once: int | None) -> None:
    frames = make_frames(12, draw_moving)
    engine = Engine(Generator(TINY), device="cpu", precision="bf16", schedule=Schedule())
    engine.frames_at_once = frames_at_once
    (region,) = find_regions(np.ones((120, 160), bool), engine.model_size)
    with fake_device():
        to_fake(engine.generator)
        engine.device = DEVICE
        engine._scale = Scaler(DEVICE)
        average = _Average((0, 0, 160, 120), DEVICE)
        for _ in range(2):  # with features to be made, and with those of before
            for rgb in engine.predict(region, frames, 7, COLOR, {}):
                average.add(rgb, region, engine._scale)
        samples = pack_samples(average.mean(), frames[1].hole._replace(box=(0, 0, 160, 120)), COLOR)
        assert (samples.device, samples.dtype) == (DEVICE, torch.int32)
        pixels = frames[1].hole.pixels
        assert samples.shape == (pixels.sum() + 2 * pixels[::2, ::2].sum(),)


def test_spectral_norm_is_computed_in_float32_under_autocast() -> None:
    """CUDA's autocast would take its products in low precision."""
    discriminator = Discriminator(channels=8)
    is_lowered = []
    for layer in discriminator.conv[0:-1:2]:
        norm = layer.parametrizations.weight[0]
        norm.register_forward_pre_hook(lambda *_: is_lowered.append(torch.is_autocast_enabled("cpu")))
    with torch.autocast("cpu", torch.bfloat16):
        logits = discriminator(torch.rand(1, 2, 3, 48, 48))
    assert logits.dtype == torch.bfloat16
    assert is_lowered == [False] * 5


def test_waiting_and_mixing_are_found() -> None:
    with fake_device():
        there, here = torch.empty(3, device=DEVICE), torch.empty(3)
        for wait in (
            lambda: there[0].item(),
            lambda: float(there.sum()),
            lambda: there.cpu(),
            lambda: there.tolist(),
            lambda: there[there > 0],
            lambda: there.nonzero(),
            lambda: bool(there.isfinite().all()),
            lambda: here.copy_(there),
        ):
            with pytest.raises(HostWaitsError):
                wait()
        assert there.to("cpu", non_blocking=True).device.type == "cpu"
        assert here.to(DEVICE).device == DEVICE
        with pytest.raises(RuntimeError, match="device"):
            there + here
