"""Checkpoints of the networks: our own layout and the published one, read without running code from the file."""

import os
import pickle
import re
import reprlib
import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from sttn_ray.errors import CheckpointError
from sttn_ray.model.discriminator import Discriminator
from sttn_ray.model.generator import FEATURE_STRIDE, PRESETS, Generator, GeneratorConfig
from sttn_ray.model.pickles import is_zip, refuse_endless
from sttn_ray.shown import shown

FORMAT_VERSION = 1
# Where a training keeps the mean of its generator's weights, it is what is used.
AVERAGE = "generator_average"
# A header must not ask for all memory, nor for hours.
_MAX_SIDE = 4096  # of channels, pixels and grids
_MAX_BLOCKS = 256
_MAX_PIXELS = 4096 * 2304  # of the working size, to which every frame is scaled: those of 4K
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
# What torch.load raises for files that are cut short, are something else, or were made to be misread.
_UNREADABLE = (
    RuntimeError,
    EOFError,
    OSError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    MemoryError,
    struct.error,
    zipfile.BadZipFile,
)
_SAVE_ADVICE = "where it was made, save the weights alone: torch.save({'netG': model.state_dict()}, PATH)"
# A file can nest and repeat what it holds so that written out it has no end.
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxdict, _REPR.maxstring = 3, 12, 80


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
                f"{path}: checkpoint format {quoted(data['format_version'])}, this version reads "
                f"{FORMAT_VERSION}; use the sttn-ray that wrote it"
            )
        key = AVERAGE if AVERAGE in data else "generator"
        state, config = data.get(key), _own_config(path, data.get("model"))
    else:
        key = "netG"
        state = data.get(key)
        config = _published_config(state) if isinstance(state, dict) else PRESETS["sttn"]
    if key in data and not isinstance(state, dict):
        raise CheckpointError(
            f"{path}: no generator in this checkpoint: {key!r} holds {type(state).__name__}, expected a dictionary of "
            f"names and tensors; {_SAVE_ADVICE}"
        )
    if not isinstance(state, dict):
        raise CheckpointError(
            f"{path}: no generator in this checkpoint: found the keys {', '.join(map(quoted, [*data][:8]))}, "
            "expected 'netG' (published layout) or 'format_version', 'model' and 'generator' (ours)"
        )
    if mask_keys is not None:
        config = replace(config, mask_keys=mask_keys)
    with torch.device("meta"):  # shapes alone: the weights may not be there
        generator = Generator(config)
    load_weights(path, generator, state)
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
        str(name)
        .replace("weight_orig", "parametrizations.weight.original")
        .replace("weight_u", "parametrizations.weight.0._u")
        .replace("weight_v", "parametrizations.weight.0._v"): value
        for name, value in state.items()
    }
    discriminator = Discriminator()
    load_weights(path, discriminator, renamed)
    return discriminator


def read_checkpoint(path: Path | str) -> dict[str, Any]:
    """A checkpoint's dictionary, read without running code from the file.

    Raises:
        CheckpointError: the file is missing, cut short, or holds anything but tensors and plain values.
    """
    try:
        _check_zip(path)
        refuse_endless(path)
        data = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint file") from error
    except IsADirectoryError as error:
        raise CheckpointError(f"{path}: is a folder; give the checkpoint file inside it") from error
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)|function (<[^>]*>)|got (<[^>]*>)", str(error))
        named = f" ({quoted(next(filter(None, found.groups())))})" if found else ""
        raise CheckpointError(
            f"{path}: refused: not a checkpoint of plain tensors and numbers{named}; files that hold other Python "
            f"objects could run code and are never loaded; {_SAVE_ADVICE}"
        ) from error
    except _UNREADABLE as error:
        raise CheckpointError(f"{path}: cannot be read as a checkpoint{_told(error)}; is it complete?") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected a dictionary, got {type(data).__name__}")
    return data


def quoted(value: Any) -> str:
    """A short text of what a checkpoint holds, however large that is."""
    return _REPR.repr(shown(value) if isinstance(value, str) else value)


def _told(error: Exception) -> str:
    """The first line of what torch says, but for its advice to read a file unsafely, and for the bytes of a text."""
    line = str(error).partition("\n")[0] or type(error).__name__
    return "" if "weights_only" in line or not re.search("[A-Za-z]", line) else f" ({shown(line)[:200]})"


def _check_zip(path: Path | str) -> None:
    """Refuse a zip that holds a program, or unpacks to more than the file has: torch stores weights as they are."""
    if not is_zip(path):
        return
    with zipfile.ZipFile(path) as archive:
        claimed = sum(member.file_size for member in archive.infolist())
        is_program = any(name.endswith("/constants.pkl") for name in archive.namelist())
    if claimed > (size := os.path.getsize(path)):
        raise CheckpointError(
            f"{path}: unpacks to {claimed} bytes, and has {size}; torch.save writes weights as they are: save it anew"
        )
    if is_program:
        raise CheckpointError(f"{path}: refused: is a TorchScript archive, which holds code; {_SAVE_ADVICE}")


def _published_config(state: dict[str, Any]) -> GeneratorConfig:
    """The published network, at the width and depth that the weights have: people train smaller ones."""
    preset = PRESETS["sttn"]
    names = {str(name).removeprefix("module."): value for name, value in state.items()}
    bias = names.get("encoder.6.bias")
    blocks = {name.split(".")[1] for name in names if name.startswith("transformer.")}
    if not isinstance(bias, Tensor) or bias.ndim != 1 or not blocks:
        return preset
    is_usable = len(bias) % (4 * len(preset.grids)) == 0 and 0 < len(bias) <= _MAX_SIDE and len(blocks) <= _MAX_BLOCKS
    return replace(preset, channels=len(bias), num_blocks=len(blocks)) if is_usable else preset


def _own_config(path: Path | str, model: Any) -> GeneratorConfig:
    names = ("channels", "num_blocks", "width", "height")
    try:
        numbers = [*(model[name] for name in names), *model["grids"]]
        is_usable = all(type(n) is int and 0 < n <= _MAX_SIDE for n in numbers) and bool(model["grids"])
        is_usable = is_usable and model["channels"] % (4 * len(model["grids"])) == 0
        config = GeneratorConfig(**{**model, "grids": tuple(model["grids"])})
        # To whose multiple frames are padded.
        is_usable = (
            is_usable
            and config.num_blocks <= _MAX_BLOCKS
            and config.width * config.height <= _MAX_PIXELS
            and config.size_multiple <= _MAX_SIDE
            and type(config.mask_keys) is bool
        )
    except (TypeError, LookupError, AttributeError) as error:
        raise CheckpointError(f"{path}: its 'model' section is not usable: {shown(error)[:200]}") from error
    if not is_usable:
        raise CheckpointError(
            f"{path}: its 'model' section is not usable: {quoted(model)}; expected integers from 1 to {_MAX_SIDE}, "
            f"at most {_MAX_BLOCKS} blocks and {_MAX_PIXELS} pixels, channels that four times the number of grids "
            f"divides, grids whose least common multiple is at most {_MAX_SIDE // FEATURE_STRIDE}, mask_keys true or "
            "false"
        )
    return config


def load_weights(path: Path | str, network: torch.nn.Module, state: dict[Any, Any]) -> None:
    """Give a network the weights of a checkpoint; one on the meta device is given memory for them first.

    Raises:
        CheckpointError: they are not of this network, are no floating-point numbers, or are not finite.
    """
    size = os.path.getsize(path)
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()):
        raise CheckpointError(f"{path}: its weights are not a table of names and tensors")
    # DistributedDataParallel writes "module." before every name.
    weights: dict[str, Tensor] = {name.removeprefix("module."): value for name, value in state.items()}
    if faults := [fault for name, value in weights.items() if (fault := _tensor_fault(name, value))]:
        raise CheckpointError(f"{path}: cannot be used: {_first_few(faults)}")
    if (claimed := sum(value.numel() * value.itemsize for value in weights.values())) > size:
        raise CheckpointError(f"{path}: its weights claim {claimed} bytes, and the file has {size}")
    wanted = network.state_dict()
    faults = [f"missing {name}" for name in wanted if name not in weights]
    faults += [f"unexpected {quoted(name)}" for name in weights if name not in wanted]
    for name in [name for name in wanted if name in weights]:
        found, expected = tuple(weights[name].shape), tuple(wanted[name].shape)
        if found != expected:
            faults.append(f"{name} has shape {quoted(found)}, expected {expected}")
        elif not weights[name].to(torch.float32).isfinite().all():
            faults.append(f"{name} holds values that are not finite")
    if faults:
        raise CheckpointError(f"{path}: does not fit the network: {_first_few(faults)}")
    if any(value.is_meta for value in wanted.values()):
        network.to_empty(device="cpu")
    network.load_state_dict(weights)


def _tensor_fault(name: str, value: Tensor) -> str | None:
    if value.layout != torch.strided or value.is_nested:
        return f"{quoted(name)} is a sparse or nested tensor, expected a dense one"
    if value.is_meta:
        return f"{quoted(name)} has a shape and no values"
    if value.dtype not in _DTYPES:
        return f"{quoted(name)} holds {str(value.dtype).removeprefix('torch.')}, expected float32, float16 or bfloat16"
    return None


def _first_few(faults: list[str]) -> str:
    more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
    return f"{'; '.join(faults[:5])}{more}"
