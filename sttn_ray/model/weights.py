"""Checkpoints of the networks: our own layout and the published one, read without running code from the file."""

import pickle
import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from sttn_ray.errors import CheckpointError
from sttn_ray.model.discriminator import Discriminator
from sttn_ray.model.generator import PRESETS, Generator, GeneratorConfig

FORMAT_VERSION = 1
# Where a training keeps the mean of its generator's weights, it is what is used.
AVERAGE = "generator_average"
_MAX_SIDE = 4096  # of channels, blocks, pixels and grids: a header must not ask for all memory
# What torch.load raises for files that are cut short or are something else.
_UNREADABLE = (
    RuntimeError,
    EOFError,
    OSError,
    LookupError,
    ValueError,
    NotImplementedError,
    struct.error,
    zipfile.BadZipFile,
)


def save_generator(path: Path | str | BinaryIO, generator: Generator) -> None:
    """Write a generator as our checkpoint, to a path or an open file: tensors, numbers, strings, and lists of them."""
    torch.save(
        {
            "format_version": FORMAT_VERSION,
            "model": generator.config.as_dict(),
            "generator": generator.state_dict(),
        },
        path,
    )


def load_generator(path: Path | str, *, mask_keys: bool | None = None) -> Generator:
    """Read a generator from our checkpoint or from the published layout `{"netG": state_dict}`.

    Args:
        path: a local file.
        mask_keys: drop keys that lie in the hole; None takes what the checkpoint was trained with (the published
            weights: no, whatever the paper says; decision D-1).

    Returns:
        The generator in evaluation mode, float32, on the CPU.

    Raises:
        CheckpointError: the file is missing, is not a checkpoint, or does not fit the network.
    """
    data = read_checkpoint(path)
    if "format_version" in data:
        if not isinstance(data["format_version"], int) or data["format_version"] != FORMAT_VERSION:
            raise CheckpointError(
                f"{path}: checkpoint format {data['format_version']!r}, this version reads "
                f"{FORMAT_VERSION}; use the sttn-ray that wrote it"
            )
        state, config = data.get(AVERAGE, data.get("generator")), _own_config(path, data.get("model"))
    else:
        state = data.get("netG")
        config = _published_config(state) if isinstance(state, dict) else PRESETS["sttn"]
    if not isinstance(state, dict):
        raise CheckpointError(
            f"{path}: no generator in this checkpoint: found the keys {sorted(map(str, data))[:8]}, expected "
            "'netG' (published layout) or 'format_version', 'model' and 'generator' (ours)"
        )
    if mask_keys is not None:
        config = replace(config, mask_keys=mask_keys)
    generator = Generator(config)
    _load_state(path, generator, state)
    return generator.eval()


def load_discriminator(path: Path | str) -> Discriminator:
    """Read a discriminator in the published layout `{"netD": state_dict}` with old-style spectral norm.

    Raises:
        CheckpointError: as `load_generator`.
    """
    data = read_checkpoint(path)
    state = data.get("netD")
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: no discriminator: expected the key 'netD'")
    renamed = {
        name.replace("weight_orig", "parametrizations.weight.original")
        .replace("weight_u", "parametrizations.weight.0._u")
        .replace("weight_v", "parametrizations.weight.0._v"): value
        for name, value in state.items()
    }
    discriminator = Discriminator()
    _load_state(path, discriminator, renamed)
    return discriminator


def read_checkpoint(path: Path | str) -> dict[str, Any]:
    """A checkpoint's dictionary, read without running code from the file.

    Raises:
        CheckpointError: the file is missing, cut short, or holds anything but tensors and plain values.
    """
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint file") from error
    except IsADirectoryError as error:
        raise CheckpointError(f"{path}: is a folder; give the checkpoint file inside it") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused: not a checkpoint of plain tensors and numbers ({str(error).splitlines()[0]}); "
            "files that hold other Python objects could run code and are never loaded"
        ) from error
    except _UNREADABLE as error:
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({error}); is it complete?") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected a dictionary, got {type(data).__name__}")
    return data


def _published_config(state: dict[str, Any]) -> GeneratorConfig:
    """The published network, at the width and depth that the weights have: people train smaller ones."""
    preset = PRESETS["sttn"]
    names = {str(name).removeprefix("module."): value for name, value in state.items()}
    bias = names.get("encoder.6.bias")
    blocks = {name.split(".")[1] for name in names if name.startswith("transformer.")}
    if not isinstance(bias, Tensor) or bias.ndim != 1 or not blocks:
        return preset
    is_usable = len(bias) % (4 * len(preset.grids)) == 0 and 0 < len(bias) <= _MAX_SIDE
    return replace(preset, channels=len(bias), num_blocks=len(blocks)) if is_usable else preset


def _own_config(path: Path | str, model: Any) -> GeneratorConfig:
    names = ("channels", "num_blocks", "width", "height")
    try:
        numbers = [*(model[name] for name in names), *model["grids"]]
        is_usable = all(isinstance(n, int) and 0 < n <= _MAX_SIDE for n in numbers) and bool(model["grids"])
        is_usable = is_usable and model["channels"] % (4 * len(model["grids"])) == 0
        config = GeneratorConfig(**{**model, "grids": tuple(model["grids"])})
    except (TypeError, LookupError) as error:
        raise CheckpointError(f"{path}: its 'model' section is not usable: {error}") from error
    if not is_usable:
        raise CheckpointError(
            f"{path}: its 'model' section is not usable: {model}; expected integers from 1 to {_MAX_SIDE}, "
            "and channels that four times the number of grids divides"
        )
    return config


def _load_state(path: Path | str, network: torch.nn.Module, state: dict[str, Tensor]) -> None:
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()):
        raise CheckpointError(f"{path}: its weights are not a table of names and tensors")
    # DistributedDataParallel writes "module." before every name.
    state = {name.removeprefix("module."): value for name, value in state.items()}
    wanted = network.state_dict()
    faults = [f"missing {name}" for name in wanted if name not in state]
    faults += [f"unexpected {name}" for name in state if name not in wanted]
    for name, value in wanted.items():
        found = state.get(name)
        if found is None:
            continue
        if found.shape != value.shape:
            faults.append(f"{name} has shape {tuple(found.shape)}, expected {tuple(value.shape)}")
        elif not found.isfinite().all():
            faults.append(f"{name} holds values that are not finite")
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise CheckpointError(f"{path}: does not fit the network: {'; '.join(faults[:5])}{more}")
    network.load_state_dict(state)
