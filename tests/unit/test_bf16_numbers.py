"""bf16 gives float32's numbers, but for rounding, on this machine's processor: kernels differ from one to another."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from sttn_ray.errors import DeviceError
from sttn_ray.model.precision import fastest_precision, find_wrong_numbers, require_right_numbers
from sttn_ray.training.step import train_step
from tests.processes import ROOT
from tests.unit.test_step_numbers import SETTINGS, make_batch, make_state

HAS_BF16 = any(torch.cpu.get_capabilities().get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))
ALL_FRAMES = [str(n) for n in range(1, 9)]


def check_layers(preset: str, width: int, height: int, threads: int, frames: list[str]) -> None:
    """In a process of its own: what failed on some processors ended it."""
    words = [preset, str(width), str(height), "--threads", str(threads), "--frames", *frames]
    done = subprocess.run(
        [sys.executable, "-m", "tests.bf16_layers", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    last = "\n".join(done.stdout.splitlines()[-2:])
    assert (done.returncode, last.endswith("right")) == (0, True), (
        f"ended with {done.returncode} at {last}{done.stderr}"
    )


@pytest.mark.skipif(not HAS_BF16, reason="this processor computes nothing in bf16")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("width", "height"), [(240, 144), (144, 96)], ids=["small", "crops of the demo"])
def test_each_layer_in_bf16_is_near_float32(width: int, height: int, threads: int) -> None:
    check_layers("small", width, height, threads, ALL_FRAMES)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_BF16, reason="this processor computes nothing in bf16")
@pytest.mark.parametrize("threads", [1, 2])
def test_each_layer_of_full_size_in_bf16_is_near_float32(threads: int) -> None:
    check_layers("sttn", 432, 240, threads, ALL_FRAMES)


class Convolutions(TorchDispatchMode):
    """Notes the rank and the type of each convolution's weights, as they reach the kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, torch.dtype]] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default):
            weight = args[1 if func is torch.ops.aten.convolution.default else 2]
            self.seen.add((weight.ndim - 2, weight.dtype))
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("num_frames", [1, 2, 5])
def test_on_a_cpu_no_3d_convolution_is_computed_in_bf16(num_frames: int) -> None:
    """They crash, or are not finite, with AMX, and over two frames have wrong gradients everywhere (torch 2.13)."""
    frames, masks = make_batch(num_frames=num_frames)
    with Convolutions() as rough:
        train_step(make_state(), frames, masks, replace(SETTINGS, precision="bf16"))
    assert rough.seen == {(2, torch.bfloat16)}
    with Convolutions() as exact:
        train_step(make_state(), frames, masks, SETTINGS)
    assert exact.seen == {(2, torch.float32), (3, torch.float32)}


def test_a_format_with_right_numbers_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    for trains in (False, True):
        find_wrong_numbers.cache_clear()
        assert find_wrong_numbers("cpu", trains=trains) is None
        assert fastest_precision("cpu", trains=trains) == "bf16"
        require_right_numbers("cpu", "bf16", trains=trains)


def wrong_conv2d(plain: Callable[..., torch.Tensor], *, under_autocast: bool) -> Callable[..., torch.Tensor]:
    """Not a number in bf16: for the discriminator, which casts its weights itself, or for all under autocast."""

    def conv2d(x: torch.Tensor, weight: torch.Tensor, *rest: object) -> torch.Tensor:
        is_rough = weight.dtype == torch.bfloat16 or (under_autocast and torch.is_autocast_enabled("cpu"))
        return plain(x, weight, *rest) * (float("nan") if is_rough else 1.0)

    return conv2d


@pytest.mark.parametrize(("trains", "network"), [(True, "Discriminator"), (False, "Generator")])
def test_a_format_with_wrong_numbers_is_not_taken(trains: bool, network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(F, "conv2d", wrong_conv2d(F.conv2d, under_autocast=not trains))
    find_wrong_numbers.cache_clear()
    try:
        assert fastest_precision("cpu", trains=trains) == "fp32"
        wanted = rf"bf16 on cpu gives wrong numbers here: {network}.*cosine nan.*; say precision=fp32"
        with pytest.raises(DeviceError, match=wanted):
            require_right_numbers("cpu", "bf16", trains=trains)
        require_right_numbers("cpu", "fp32", trains=trains)
    finally:
        find_wrong_numbers.cache_clear()


def test_a_processor_without_instructions_for_bf16_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert fastest_precision("cpu") == "fp32"


def test_looking_at_numbers_leaves_chance_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    find_wrong_numbers.cache_clear()
    find_wrong_numbers("cpu", trains=True)
    assert torch.equal(torch.rand(3), expected)
