"""The published inference algorithm, written plainly in float32: what `benchmarks.engine` is measured against.

As published: whole frames at 432x240, the attention's mask computed and dropped (defect D-1), the transformer run on
all frames of a window to its end, predictions cut to eight bits, and overlaps halved again and again (D-37).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sttn_ray.model.generator import Generator

PATCHES = ((108, 60), (36, 20), (18, 10), (9, 5))


@torch.no_grad()
def encode(generator: Generator, frames: Tensor, masks: Tensor) -> Tensor:
    """Features of frames (N, 3, 240, 432) in [-1, 1], holes (N, 1, 240, 432) set to 0."""
    return generator.encoder(frames * (1 - masks))


@torch.no_grad()
def complete_window(
    generator: Generator,
    features: Tensor,
    masks: Tensor,
    frames: NDArray[np.uint8],
    num_neighbors: int,
    completed: list[NDArray[np.uint8] | None],
    numbers: Sequence[int],
) -> None:
    """Complete a window's neighbors and blend them into `completed`.

    Args:
        generator: the published network.
        features: (T, 256, 60, 108), neighbors first, then references.
        masks: (T, 1, 240, 432).
        frames: (num_neighbors, 240, 432, 3), the source.
        num_neighbors: how many come out.
        completed: by frame number, changed in place.
        numbers: the neighbors' frame numbers.
    """
    small_masks = F.interpolate(masks, scale_factor=0.25)
    x = features
    block: Any
    for block in generator.transformer:
        x = x + _attention(block.attention, x, small_masks)
        x = x + block.feed_forward.conv(x)
    predicted = torch.tanh(generator.decoder(x[:num_neighbors]))
    images = ((predicted + 1) / 2).permute(0, 2, 3, 1).numpy() * 255
    for i, number in enumerate(numbers):
        mask = masks[i, 0, :, :, None].numpy()
        image = images[i].astype(np.uint8) * mask.astype(np.uint8) + frames[i] * (1 - mask).astype(np.uint8)
        earlier = completed[number]
        if earlier is not None:
            image = (earlier.astype(np.float32) * 0.5 + image.astype(np.float32) * 0.5).astype(np.uint8)
        completed[number] = image


def _attention(attention: Any, x: Tensor, masks: Tensor) -> Tensor:
    t, channels, height, width = x.shape
    query, key, value = (
        embed(x).chunk(len(PATCHES), dim=1)
        for embed in (attention.query_embedding, attention.key_embedding, attention.value_embedding)
    )
    depth = channels // len(PATCHES)
    outputs = []
    for (patch_w, patch_h), q, k, v in zip(PATCHES, query, key, value, strict=True):
        rows, columns = height // patch_h, width // patch_w
        mask = masks.view(1, t, 1, rows, patch_h, columns, patch_w).permute(0, 1, 3, 5, 2, 4, 6)
        mask = mask.reshape(1, t * rows * columns, patch_h * patch_w)
        mask = (mask.mean(-1) > 0.5).unsqueeze(1).repeat(1, t * rows * columns, 1)
        q, k, v = (
            z.view(1, t, depth, rows, patch_h, columns, patch_w)
            .permute(0, 1, 3, 5, 2, 4, 6)
            .reshape(1, t * rows * columns, depth * patch_h * patch_w)
            for z in (q, k, v)
        )
        scores = torch.matmul(q, k.transpose(-2, -1)) / q.shape[-1] ** 0.5
        scores.masked_fill(mask, -1e9)  # not in place, as published: the result is dropped
        out = torch.matmul(F.softmax(scores, dim=-1), v)
        out = out.view(1, t, rows, columns, depth, patch_h, patch_w).permute(0, 1, 4, 2, 5, 3, 6)
        outputs.append(out.reshape(t, depth, height, width))
    return attention.output_linear(torch.cat(outputs, 1))
