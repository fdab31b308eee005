"""Holds bf16 against float32 for each kind and shape of layer of both networks. A program: a fault may be a crash.

    python -m tests.bf16_layers small 240 144 --threads 2 --frames 1 2 3

It says what it is about to compute, line by line, and ends with status 1 at the first layer whose numbers are wrong.
"""

import argparse
import sys
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sttn_ray.model import discriminator as discriminator_module
from sttn_ray.model.attention import PatchAttention
from sttn_ray.model.discriminator import Discriminator
from sttn_ray.model.generator import PRESETS, Generator, UpsampledConv
from sttn_ray.training.state import discriminator_channels

# Of outputs and gradients, in the L2 norm. Single layers are 0.5 % off, attention up to 5 %; what was wrong was 100 %
# off, or not a number.
MAX_ERROR = 0.1

Layer = tuple[str, Callable[..., Tensor], tuple[Tensor, ...], list[nn.Parameter]]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("preset", choices=PRESETS)
    parser.add_argument("width", type=int)
    parser.add_argument("height", type=int)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--frames", type=int, nargs="+", required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    for frames in given.frames:
        layers = [*generator_layers(given, frames), *discriminator_layers(given, frames)]
        for name, layer, inputs, parameters in layers:
            sys.stdout.write(f"{frames} frames, {given.threads} threads: {name}\n")
            sys.stdout.flush()
            if (fault := find_fault(layer, inputs, parameters)) is not None:
                sys.stdout.write(f"wrong: {fault}\n")
                return 1
    sys.stdout.write("right\n")
    return 0


def generator_layers(given: argparse.Namespace, frames: int) -> Iterator[Layer]:
    """Each layer once for each shape of its weights and of what it is given."""
    config = PRESETS[given.preset]
    shapes = _shapes_in(Generator(config).to("meta"), given, frames)
    generator = Generator(config)
    for weight in generator.parameters():
        if weight.ndim > 1:  # of the size of trained ones: from N(0, 0.02) attention has hardly a gradient
            nn.init.kaiming_normal_(weight, a=1.0)
    networks = dict(generator.named_modules())
    for name, shape in shapes.items():
        module = networks[name]
        inputs = torch.randn(shape)
        if isinstance(module, PatchAttention):
            masks = (torch.rand(1, frames, *shape[-2:]) < 0.3).float()
            yield name, lambda x, m=module, k=masks: m(x, k, 1, frames), (inputs,), list(module.parameters())
        else:
            yield name, module, (inputs,), list(module.parameters())


def _shapes_in(network: nn.Module, given: argparse.Namespace, frames: int) -> dict[str, torch.Size]:
    """The names of layers, one of each kind and shape, with the shapes that they are given."""
    found: dict[object, tuple[str, torch.Size]] = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | UpsampledConv | PatchAttention):
            kind = (str(module), *(p.shape for p in module.parameters()))
            module.register_forward_pre_hook(
                lambda _, inputs, name=name, kind=kind: (
                    found.setdefault((kind, inputs[0].shape), (name, inputs[0].shape)) and None
                )
            )
    clip = torch.empty(1, frames, 3, given.height, given.width, device="meta")
    network(clip, clip[:, :, :1])
    return dict(found.values())


def discriminator_layers(given: argparse.Namespace, frames: int) -> Iterator[Layer]:
    network = Discriminator(channels=discriminator_channels(PRESETS[given.preset]))
    shape = (2, 3, frames, given.height, given.width)  # source and completed clip
    for number, layer in enumerate(network.conv):
        if isinstance(layer, nn.Conv3d):
            weight = nn.Parameter(layer.weight.detach().clone())
            padding = layer.padding[1]

            def convolve(
                x: Tensor, weight: Tensor = weight, bias: Tensor | None = layer.bias, p: int = padding
            ) -> Tensor:
                return discriminator_module._convolve(x, weight, bias, p)

            inputs = torch.randn(shape)
            biases = [] if layer.bias is None else [layer.bias]
            yield f"discriminator {number}", convolve, (inputs,), [weight, *biases]
            out = (n + 2 * padding - 5 for n in shape[3:])
            shape = (2, len(weight), frames, *(n // 2 + 1 for n in out))


def find_fault(layer: Callable[..., Tensor], inputs: tuple[Tensor, ...], parameters: list[nn.Parameter]) -> str | None:
    exact, rough = (run(layer, inputs, parameters, is_rough=is_rough) for is_rough in (False, True))
    for number, (a, b) in enumerate(zip(exact, rough, strict=True)):
        what = ("output", *("gradient of input",) * len(inputs), *(str(tuple(p.shape)) for p in parameters))[number]
        if a.norm() < 1e-6 * max(value.norm() for value in exact):
            continue  # rounding alone, as the gradient of a bias of keys
        error = ((a - b).norm() / a.norm()).item()
        if not error <= MAX_ERROR:
            return f"{what} differs by {error:.3f}, at most {MAX_ERROR} expected"
    return None


def run(
    layer: Callable[..., Tensor], inputs: tuple[Tensor, ...], parameters: list[nn.Parameter], *, is_rough: bool
) -> list[Tensor]:
    inputs = tuple(x.detach().clone().requires_grad_() for x in inputs)
    with torch.autocast("cpu", torch.bfloat16, enabled=is_rough):
        output = layer(*inputs).float()
    # Smooth, so that what is summed up over pixels does not cancel to rounding alone.
    wanted = F.interpolate(torch.linspace(-1, 2, 7).view(1, 1, 7), output.shape[-1], mode="linear").view(-1)
    gradients = torch.autograd.grad((output * wanted).sum(), [*inputs, *parameters])
    return [output.detach(), *gradients]


if __name__ == "__main__":
    raise SystemExit(main())
