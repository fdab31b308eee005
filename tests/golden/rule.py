"""The rule that makes the weights and inputs of the golden outputs (tests/golden/README.md)."""

import json
import zlib
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

HERE = Path(__file__).parent


def _rng(text: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(text.encode()))


def make_weight(name: str, shape: list[int], salt: str) -> Tensor:
    rng = _rng(salt + name)
    if len(shape) > 1:
        value = rng.standard_normal(shape) * 0.55 * np.sqrt(2 / (1.04 * prod(shape[1:])))
    else:
        value = rng.standard_normal(shape) * 0.01
    return torch.from_numpy(value.astype(np.float32))


def make_generator_state(salt: str) -> dict[str, Tensor]:
    names = json.loads((HERE / "official_generator_keys.json").read_text())
    return {name: make_weight(name, shape, salt) for name, shape in names.items()}


def make_inputs(salt: str, clips: int, frames: int) -> tuple[Tensor, Tensor]:
    """Unmasked frames (b, t, 3, 240, 432) and masks (b, t, 1, 240, 432)."""
    rng = _rng(salt + "frames")
    low = rng.uniform(-1, 1, (clips, frames, 3, 30, 54)).astype(np.float32)
    images = low.repeat(8, axis=3).repeat(8, axis=4)
    masks = np.zeros((clips, frames, 1, 240, 432), np.float32)
    for i in range(clips):
        for j in range(frames):
            y, x = int(rng.integers(0, 120)), int(rng.integers(0, 200))
            masks[i, j, :, y : y + 110, x : x + 190] = 1
    return torch.from_numpy(images), torch.from_numpy(masks)
