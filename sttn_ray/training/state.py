"""What a training is made of at one step, and its checkpoint: tensors, numbers and strings only."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sttn_ray.choices import Initialization, Precision
from sttn_ray.errors import CheckpointError
from sttn_ray.model.attention import LEAK
from sttn_ray.model.discriminator import Discriminator
from sttn_ray.model.generator import Generator, GeneratorConfig
from sttn_ray.model.weights import AVERAGE, FORMAT_VERSION, load_generator, load_weights, quoted, read_checkpoint


@dataclass
class TrainState:
    """Both networks, which may be wrapped for several workers, their optimizers, and the steps that are done.

    Attributes:
        average: the mean of the generator's weights over its steps, the last ones weighing most; None: not kept.
        first_bad_step: the first step with a gradient that was not finite, counted from 1, on the device; or -1.
    """

    generator: nn.Module
    discriminator: nn.Module
    generator_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer
    first_bad_step: Tensor
    average: nn.Module | None = None
    step: int = 0


def create_networks(
    config: GeneratorConfig, *, seed: int, initialization: Initialization
) -> tuple[Generator, Discriminator]:
    """Networks with the weights that a seed gives; every worker makes the same."""
    torch.manual_seed(seed)
    generator, discriminator = Generator(config), Discriminator(channels=discriminator_channels(config))
    if initialization == "fast":
        _start_fast(generator)
    return generator, discriminator


def discriminator_channels(config: GeneratorConfig) -> int:
    """A quarter of the generator's, as published (64 for 256)."""
    return config.channels // 4


def create_state(
    generator: nn.Module, discriminator: nn.Module, *, beta1: float, beta2: float, keeps_average: bool = False
) -> TrainState:
    """The state before the first step, with an Adam for each network; each step sets the learning rate.

    Fused: faster, and told on the device not to write.
    """
    return TrainState(
        generator,
        discriminator,
        generator_optimizer=torch.optim.Adam(generator.parameters(), betas=(beta1, beta2), fused=True),
        discriminator_optimizer=torch.optim.Adam(discriminator.parameters(), betas=(beta1, beta2), fused=True),
        first_bad_step=torch.tensor(-1, device=next(generator.parameters()).device),
        average=copy.deepcopy(unwrapped(generator)).requires_grad_(False) if keeps_average else None,
    )


def save_state(path: Path, state: TrainState) -> None:
    """Write a checkpoint: all that is needed to go on, in a layout that `load_generator` reads too."""
    generator = unwrapped(state.generator)
    assert isinstance(generator, Generator)
    data = {
        "format_version": FORMAT_VERSION,
        "model": generator.config.as_dict(),
        "step": state.step,
        "generator": generator.state_dict(),
        "discriminator": unwrapped(state.discriminator).state_dict(),
        "generator_optimizer": state.generator_optimizer.state_dict(),
        "discriminator_optimizer": state.discriminator_optimizer.state_dict(),
    }
    if state.average is not None:
        data[AVERAGE] = state.average.state_dict()
    torch.save(data, path)


def load_state(path: Path, state: TrainState) -> None:
    """Set a state to a checkpoint's.

    Raises:
        CheckpointError: it cannot be read, or is of another network or another version.
    """
    data: dict[str, Any] = read_checkpoint(path)
    generator = unwrapped(state.generator)
    assert isinstance(generator, Generator)
    if data.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: checkpoint format {quoted(data.get('format_version'))}, this version reads {FORMAT_VERSION}; "
            "go on with the sttn-ray that wrote it, or begin anew with train.start_from"
        )
    if data.get("model") != generator.config.as_dict():
        theirs = quoted(data.get("model"))
        raise CheckpointError(f"{path}: is of another network: {theirs}, not {generator.config.as_dict()}")
    try:
        unwrapped(state.generator).load_state_dict(data["generator"])
        unwrapped(state.discriminator).load_state_dict(data["discriminator"])
        state.generator_optimizer.load_state_dict(data["generator_optimizer"])
        state.discriminator_optimizer.load_state_dict(data["discriminator_optimizer"])
        if state.average is not None:
            state.average.load_state_dict(data[AVERAGE])
        for optimizer in (state.generator_optimizer, state.discriminator_optimizer):
            for group in optimizer.param_groups:  # whatever the checkpoint's were
                group.update(fused=True, foreach=None)
        state.step = int(data["step"])
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: does not hold a training of this network ({error})") from error


def for_precision(precision: Precision, generator: nn.Module, discriminator: nn.Module) -> None:
    """Lay the networks' weights out as their convolutions take them fastest in a number format; no value changes."""
    if precision == "bf16":
        generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in its types
        discriminator.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def start_from(path: str | Path, generator: Generator, discriminator: nn.Module) -> None:
    """Give networks a checkpoint's weights, and neither its steps nor its optimizers: ours, or the published layout.

    The discriminator keeps its own where the checkpoint has none that fits.

    Raises:
        CheckpointError: it cannot be read, or its generator is of another width or depth.
    """
    found = load_generator(path)
    names = ("channels", "num_blocks", "grids")
    theirs, ours = ([getattr(network.config, name) for name in names] for network in (found, generator))
    if theirs != ours:
        told = ", ".join(f"{name} {a} instead of {b}" for name, a, b in zip(names, theirs, ours, strict=True) if a != b)
        raise CheckpointError(f"{path}: its generator has {told}; choose the model.preset that it was trained with")
    generator.load_state_dict(found.state_dict())
    judge = read_checkpoint(path).get("discriminator")
    shapes = {name: value.shape for name, value in discriminator.state_dict().items()}
    if isinstance(judge, dict) and {name: getattr(value, "shape", None) for name, value in judge.items()} == shapes:
        load_weights(path, discriminator, judge)


def unwrapped(network: nn.Module) -> nn.Module:
    """The network itself, where it is wrapped for several workers."""
    inner = getattr(network, "module", network)
    assert isinstance(inner, nn.Module)
    return inner


def _start_fast(generator: Generator) -> None:
    """Weights by He's rule, with branches that begin small: the network starts as an encoder and a decoder.

    The published N(0, 0.02) shrinks what passes through each layer, from which training takes long to recover. What
    ends a residual branch, and the last layer, begins at a tenth; queries and keys at half, so that attention begins
    near the mean.
    """
    for name, layer in generator.named_modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, a=LEAK)
            layer.weight.data.mul_(next((scale for part, scale in _SCALES.items() if part in name), 1.0))


# By a part of the layer's name, as published.
_SCALES = {
    "output_linear": 0.1,
    "feed_forward.conv.2": 0.1,
    "query_embedding": 0.5,
    "key_embedding": 0.5,
    "decoder.6": 0.1,
}
