"""The temporal PatchGAN discriminator (paper, section 3.3).

Letters in tensor names: B clips, T frames, N = B * T, C channels, H, W picture size, O channels of a result.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as apply_spectral_norm

from sttn_ray.model.attention import LEAK
from sttn_ray.model.generator import initialize

KERNEL, STRIDE = (3, 5, 5), (1, 2, 2)


class Discriminator(nn.Module):
    """Six 3D convolutions that judge overlapping space-time patches of a clip.

    Follows the published code in its layers (spectral norm on all but the last, the first padded by 1 only, which
    differs from the paper's table 5; decision D-5). Departs in its input: the published code joins the clips of a
    batch along time, so that neighboring clips mix (D-2); here each clip is judged alone.
    """

    def __init__(self, *, spectral_norm: bool = True, channels: int = 64) -> None:
        super().__init__()
        widths = [3, channels, channels * 2, channels * 4, channels * 4, channels * 4, channels * 4]
        layers: list[nn.Module] = []
        for i, (c_in, c_out) in enumerate(pairwise(widths)):
            is_last = i == len(widths) - 2
            bias = is_last or not spectral_norm
            padding = 1 if i == 0 else (1, 2, 2)
            layers.append(nn.Conv3d(c_in, c_out, KERNEL, STRIDE, padding, bias=bias))
            if not is_last:
                layers.append(nn.LeakyReLU(LEAK, inplace=True))
        self.conv = nn.Sequential(*layers)
        initialize(self)
        if spectral_norm:
            for layer in list(self.conv)[:-1]:
                if isinstance(layer, nn.Conv3d):
                    apply_spectral_norm(layer)

    def forward(self, frames: Tensor) -> Tensor:
        """Judge clips: (B, T, 3, H, W) in [-1, 1] to logits (B, T, channels * 4, H', W'), each clip alone.

        Under autocast the convolutions are computed in its type, and spectral norm in float32.
        """
        with torch.autocast(frames.device.type, enabled=False):  # CUDA's would take its products in low precision
            weights = [layer.weight for layer in self.conv if isinstance(layer, nn.Conv3d)]
        x_BCTHW = frames.transpose(1, 2)
        for layer in self.conv:
            if isinstance(layer, nn.Conv3d):
                x_BCTHW = _convolve(x_BCTHW, weights.pop(0), layer.bias, int(layer.padding[1]))
            else:
                x_BCTHW = layer(x_BCTHW)
        return x_BCTHW.transpose(1, 2)


def _convolve(x_BCTHW: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    if x_BCTHW.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        return _convolve_frames(x_BCTHW, weight, bias, padding, torch.get_autocast_dtype("cpu"))
    return F.conv3d(x_BCTHW, weight, bias, STRIDE, (1, padding, padding))


def _convolve_frames(x_BCTHW: Tensor, weight: Tensor, bias: Tensor | None, padding: int, dtype: torch.dtype) -> Tensor:
    """A 3D convolution over three frames as a 2D one, with the same result but for rounding.

    On CPUs 3D ones in bf16 crash, are not finite or have wrong gradients (torch 2.13, oneDNN 3.12, with AMX; over two
    frames everywhere). 2D ones are right, and faster than 3D ones in float32. Frames lie with their channels last.
    """
    num_clips, num_out = len(x_BCTHW), len(weight)
    x_NCHW = x_BCTHW.transpose(1, 2).flatten(0, 1).to(dtype, memory_format=torch.channels_last)
    weight_TOCHW, bias = weight.movedim(2, 0), None if bias is None else bias.to(dtype)
    if 4 * weight.shape[1] < num_out:
        # Three frames side by side as channels of one: less to copy where there are few of them.
        beside = F.pad(x_NCHW.unflatten(0, (num_clips, -1)), (0, 0, 0, 0, 0, 0, 1, 1)).unfold(1, 3, 1)
        x_NCHW = beside.movedim(-1, 2).flatten(2, 3).flatten(0, 1)
        return _convolve_2d(x_NCHW, torch.cat([*weight_TOCHW], 1), bias, padding, num_clips)
    # What each frame gives to the one after it, to itself, and to the one before it.
    x_BCTHW = _convolve_2d(x_NCHW, weight_TOCHW.flatten(0, 1), None, padding, num_clips)
    after, own, before = x_BCTHW.split(num_out, 1)
    x_BCTHW = own.clone() if bias is None else own + bias[:, None, None, None]
    x_BCTHW[:, :, 1:] += after[:, :, :-1]
    x_BCTHW[:, :, :-1] += before[:, :, 1:]
    return x_BCTHW


def _convolve_2d(x_NCHW: Tensor, weight: Tensor, bias: Tensor | None, padding: int, num_clips: int) -> Tensor:
    x_NCHW = x_NCHW.contiguous(memory_format=torch.channels_last)
    weight = weight.to(x_NCHW.dtype, memory_format=torch.channels_last)
    result = F.conv2d(x_NCHW, weight, bias, STRIDE[1:], padding)
    return result.unflatten(0, (num_clips, -1)).transpose(1, 2)
