"""Multi-scale patch attention (paper, section 3.2).

Letters in tensor names: B clips, T frames, N = B * T, C channels, H, W feature size, L tokens, D token width.
"""

import math

import torch
from torch import Tensor, nn

LEAK = 0.2


class PatchAttention(nn.Module):
    """Attention between the patches of all frames of a clip, each share of the channels with its own grid.

    A grid of g cuts a frame into g x g patches, so a clip of T frames has T * g * g tokens. The published code
    gives patch sizes in pixels for 432x240 alone; its sizes are the grids 1, 3, 6 and 12.
    """

    def __init__(self, channels: int, grids: tuple[int, ...]) -> None:
        super().__init__()
        self.grids = grids
        self.query_embedding = nn.Conv2d(channels, channels, 1)
        self.value_embedding = nn.Conv2d(channels, channels, 1)
        self.key_embedding = nn.Conv2d(channels, channels, 1)
        self.output_linear = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.LeakyReLU(LEAK, inplace=True)
        )

    def forward(
        self,
        features_NCHW: Tensor,
        masks_BTHW: Tensor | None,
        num_clips: int,
        num_queries: int,
        frames_at_once: int | None = None,
    ) -> Tensor:
        """Attend from the first `num_queries` frames of each clip to all its frames.

        `masks_BTHW` (1 = hole, feature size) drops keys whose patch is more than half hole; None keeps all keys.
        `frames_at_once` go through a convolution together; None: all. Returns (num_clips * num_queries, C, H, W).
        """
        queries_from = first_frames(features_NCHW, num_clips, num_queries)
        query = in_parts(self.query_embedding, queries_from, frames_at_once).chunk(len(self.grids), dim=1)
        key = in_parts(self.key_embedding, features_NCHW, frames_at_once).chunk(len(self.grids), dim=1)
        value = in_parts(self.value_embedding, features_NCHW, frames_at_once).chunk(len(self.grids), dim=1)
        attended = []
        for grid, q, k, v in zip(self.grids, query, key, value, strict=True):
            q_BLD, k_BLD, v_BLD = (to_tokens(x, grid, num_clips) for x in (q, k, v))
            drop_BL = None if masks_BTHW is None else _patches_mostly_hole(masks_BTHW, grid)
            out_BLD = _attend(q_BLD, k_BLD, v_BLD, drop_BL)
            attended.append(_from_tokens(out_BLD, grid, q.shape))
        return in_parts(self.output_linear, torch.cat(attended, dim=1), frames_at_once)


def in_parts(layer: nn.Module, x_NCHW: Tensor, size: int | None) -> Tensor:
    """A layer that takes each frame for itself, on so many frames at once; None: on all."""
    if size is None or len(x_NCHW) <= size:
        result: Tensor = layer(x_NCHW)
        return result
    return torch.cat([layer(part) for part in x_NCHW.split(size)])


def first_frames(features_NCHW: Tensor, num_clips: int, num_frames: int) -> Tensor:
    """The first `num_frames` frames of each of `num_clips` clips, as (num_clips * num_frames, C, H, W)."""
    if num_clips == 1 or num_clips * num_frames == len(features_NCHW):
        return features_NCHW[: num_clips * num_frames]
    return features_NCHW.unflatten(0, (num_clips, -1))[:, :num_frames].flatten(0, 1)


def to_tokens(x_NCHW: Tensor, grid: int, num_clips: int) -> Tensor:
    """(B * T, D', H, W) to (B, T * grid * grid, D) with D = H / grid * W / grid * D'."""
    n, depth, height, width = x_NCHW.shape
    patches = x_NCHW.permute(0, 2, 3, 1).reshape(n, grid, height // grid, grid, width // grid, depth)
    return patches.permute(0, 1, 3, 2, 4, 5).reshape(num_clips, n // num_clips * grid * grid, -1)


def _from_tokens(tokens_BLD: Tensor, grid: int, shape_NCHW: torch.Size) -> Tensor:
    n, depth, height, width = shape_NCHW
    patches = tokens_BLD.reshape(n, grid, grid, height // grid, width // grid, depth)
    return patches.permute(0, 1, 3, 2, 4, 5).reshape(n, height, width, depth).permute(0, 3, 1, 2)


def _patches_mostly_hole(masks_BTHW: Tensor, grid: int) -> Tensor:
    b, t, height, width = masks_BTHW.shape
    patches = masks_BTHW.reshape(b, t, grid, height // grid, grid, width // grid)
    return (patches.float().mean((3, 5)) > 0.5).flatten(1)


def _attend(q_BLD: Tensor, k_BLD: Tensor, v_BLD: Tensor, drop_BL: Tensor | None) -> Tensor:
    # Plain matmul: at these token widths (up to 414,720) it is faster than scaled_dot_product_attention on a CPU.
    scores = q_BLD @ k_BLD.transpose(1, 2) / math.sqrt(q_BLD.shape[-1])
    if drop_BL is not None:
        # The lowest number of the type, not -1e9, which overflows in half precision. A row whose keys are all
        # dropped becomes uniform, as it does with -1e9.
        scores = scores.masked_fill(drop_BL[:, None, :], torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1) @ v_BLD
