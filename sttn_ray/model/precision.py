"""The number format in which a network's convolutions and products are computed."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sttn_ray.choices import Precision
from sttn_ray.errors import DeviceError
from sttn_ray.model.discriminator import Discriminator
from sttn_ray.model.generator import PRESETS, Generator

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

# Least cosines of what bf16 and float32 give; on a sound processor 0.9999 for outputs, 0.996 for each gradient.
MIN_COSINE, MIN_GRADIENT_COSINE = 0.999, 0.97
# A gradient so much smaller than the largest is rounding alone, as that of a bias of keys, which is 0.
_NEGLIGIBLE = 1e-6
OUTPUT = "output"
_CLIPS_AND_FRAMES = ((1, 1), (1, 2), (2, 3))


def fastest_precision(device: str, *, trains: bool = False) -> Precision:
    """bf16 where the device computes it faster than float32, and gives the right numbers; else float32.

    CUDA, and CPUs with instructions for it. It is the driver that asks, whose machine may have no GPU of its own, or
    one that is not its to use: GPUs are taken to be sound, until `require_right_numbers` says otherwise there.

    Args:
        device: "cuda", "mps" or "cpu".
        trains: whether the discriminator and gradients are computed too.
    """
    if device == "cuda":
        is_old = torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False)
        return "fp32" if is_old else "bf16"
    names = ("amx_bf16", "avx512_bf16", "bf16")
    is_fast = device == "cpu" and any(torch.cpu.get_capabilities().get(name) for name in names)
    return "bf16" if is_fast and find_wrong_numbers(device, trains=trains) is None else "fp32"


def require_right_numbers(device: str, precision: Precision, *, trains: bool = False) -> None:
    """Refuse a number format that this process's device gets wrong; arguments as in `fastest_precision`.

    Raises:
        DeviceError: it does.
    """
    wrong = find_wrong_numbers(device, trains=trains) if precision == "bf16" else None
    if wrong is not None:
        raise DeviceError(f"bf16 on {device} gives wrong numbers here: {wrong}; say precision=fp32")


def use_exact_numbers(*, fixed_shapes: bool) -> None:
    """Have CUDA compute, in this process, what the CPU computes but for the order of sums; elsewhere it does nothing.

    float32 is float32, not TensorFloat-32; sums of bf16 products are float32, since a token has up to 414,720 numbers.

    Args:
        fixed_shapes: few shapes are computed again and again: then the fastest kernels are looked for, which may be
            others each time. Else a shape always gives the same bits.
    """
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = fixed_shapes
    torch.backends.cudnn.deterministic = not fixed_shapes


@cache
def find_wrong_numbers(device: str, *, trains: bool = False) -> str | None:
    """What of small networks bf16 computes unlike float32 on a device; None: nothing. It is looked at once a process.

    Args:
        device: as in `fastest_precision`.
        trains: whether of both networks, forward and backward; else of the generator, forward.
    """
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.set_grad_enabled(trains):
        torch.manual_seed(0)
        networks = [_small_generator(), Discriminator(channels=16).eval()] if trains else [_small_generator()]
        for network in networks:
            for clips, frames in _CLIPS_AND_FRAMES if trains else _CLIPS_AND_FRAMES[-1:]:
                if (found := _compare(network.to(device), clips, frames)) is not None:
                    return f"{type(network).__name__}, {clips} clips of {frames} frames: {found}"
    return None


def _small_generator() -> Generator:
    generator = Generator(replace(PRESETS["small"], num_blocks=1))
    for weight in generator.parameters():
        if weight.ndim > 1:  # of the size of trained ones: from N(0, 0.02) attention has hardly a gradient
            nn.init.kaiming_normal_(weight, a=1.0)
    return generator


def _compare(network: nn.Module, clips: int, frames: int) -> str | None:
    pictures, masks = torch.rand(clips, frames, 3, 48, 96) * 2 - 1, torch.zeros(clips, frames, 1, 48, 96)
    masks[..., 10:30, 20:50] = 1
    device = next(network.parameters()).device
    given = [pictures.to(device), masks.to(device)][: 2 if isinstance(network, Generator) else 1]
    exact, rough = (_run(network, given, dtype) for dtype in (torch.float32, torch.bfloat16))
    largest = max((value.norm() for name, value in exact.items() if name != OUTPUT), default=0)
    for name, value in exact.items():
        if name != OUTPUT and value.norm() < _NEGLIGIBLE * largest:
            continue
        least = MIN_COSINE if name == OUTPUT else MIN_GRADIENT_COSINE
        cosine = F.cosine_similarity(value, rough[name], dim=0).item()
        if not cosine >= least:  # nor where it is not a number
            return f"{name} has cosine {cosine:.4f} to that of float32, expected at least {least}"
    return None


def _run(network: nn.Module, given: Sequence[Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The output of a network, and where they are computed its gradients, each as one row of numbers."""
    with torch.autocast(given[0].device.type, dtype, enabled=dtype != torch.float32):
        output = network(*given).float()
    if not output.requires_grad:
        return {OUTPUT: output.flatten()}
    parameters = dict(network.named_parameters())
    gradients = torch.autograd.grad(output.square().mean(), list(parameters.values()))
    return {OUTPUT: output.detach().flatten(), **{n: g.flatten() for n, g in zip(parameters, gradients, strict=True)}}
