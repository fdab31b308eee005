"""Frames on the network's device: planes of code values to RGB at the network's size, and predictions back to planes.

Everything here is launched and not waited for: no number is read back. Letters in names: C channels, H, W a picture's
size. `video.color` has the same colors in numpy, for pictures that people look at.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sttn_ray.video.color import ColorFormat, code_scales


def upload(array: NDArray[Any], device: torch.device) -> Tensor:
    """An array on a device; the host goes on while it is copied."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cuda":
        tensor = tensor.pin_memory()  # from other memory the copy would have the host wait
    # Elsewhere the copy must have ended before the array goes: on MPS one that had not was seen to read freed memory.
    return tensor.to(device, non_blocking=device.type == "cuda")


def to_rgb(planes: Sequence[Tensor], color: ColorFormat) -> Tensor:
    """Planes of code values (H, W), chroma smaller by its step, to RGB (3, H, W), float32 in [0, 1].

    Chroma is enlarged bilinearly.
    """
    if color.is_rgb:
        return torch.stack([planes[number].float() * (1 / color.maximum) for number in (2, 0, 1)])
    luma_offset, luma_scale, chroma_offset, chroma_scale = code_scales(color)
    y_HW = (planes[0].float() - luma_offset) * (1 / luma_scale)
    height, width = y_HW.shape
    if not color.has_chroma:
        return y_HW.clamp(0, 1).expand(3, height, width)
    chroma_CHW = (torch.stack([plane.float() for plane in planes[1:]]) - chroma_offset) * (1 / chroma_scale)
    step_x, step_y = color.chroma_step
    if (step_x, step_y) != (1, 1):
        scales = (float(step_y), float(step_x))
        chroma_CHW = F.interpolate(chroma_CHW[None], scale_factor=scales, mode="bilinear", align_corners=False)[0]
    u_HW, v_HW = chroma_CHW[:, :height, :width]
    kr, kb = color.kr, color.kb
    kg = 1 - kr - kb
    red = y_HW + 2 * (1 - kr) * v_HW
    blue = y_HW + 2 * (1 - kb) * u_HW
    green = y_HW - (2 * kr * (1 - kr) / kg) * v_HW - (2 * kb * (1 - kb) / kg) * u_HW
    return torch.stack([red, green, blue]).clamp(0, 1)


def to_planes(rgb_CHW: Tensor, color: ColorFormat) -> list[Tensor]:
    """RGB (3, H, W) in [0, 1] to planes of code values (H, W), float32, not rounded; chroma is the mean of its pixels.

    A chroma sample at the right or lower edge that has fewer pixels takes the last ones again.
    """
    if color.is_rgb:
        return [rgb_CHW[number] * color.maximum for number in (1, 2, 0)]
    luma_offset, luma_scale, chroma_offset, chroma_scale = code_scales(color)
    kr, kb = color.kr, color.kb
    red, green, blue = rgb_CHW
    y_HW = kr * red + (1 - kr - kb) * green + kb * blue
    planes = [y_HW * luma_scale + luma_offset]
    if color.has_chroma:
        step_x, step_y = color.chroma_step
        height, width = y_HW.shape
        chroma_CHW = torch.stack([(blue - y_HW) / (2 * (1 - kb)), (red - y_HW) / (2 * (1 - kr))])
        padded = F.pad(chroma_CHW[None], (0, -width % step_x, 0, -height % step_y), mode="replicate")
        means_CHW = F.avg_pool2d(padded, (step_y, step_x))[0]
        planes += list(means_CHW * chroma_scale + chroma_offset)
    return planes


_ALL = (slice(None), slice(None))


class Scaler:
    """Changes sizes of pictures on a device: the mean of the pixels where one shrinks, bilinear where it grows.

    Each axis is a product with a matrix, which is kept: regions of a video have few sizes. On a CPU OpenCV does the
    same, ten times faster (3 ms instead of 28 from 1080p to 432x240).
    """

    def __init__(self, device: torch.device, *, has_matrices: bool | None = None) -> None:
        self._device = device
        self._has_matrices = device.type != "cpu" if has_matrices is None else has_matrices
        self._kept: dict[tuple[int, int], Tensor] = {}

    def forget(self) -> None:
        """Drop the matrices."""
        self._kept.clear()

    def __call__(self, x_CHW: Tensor, width: int, height: int, part: tuple[slice, slice] = _ALL) -> Tensor:
        """A picture (C, H, W), float32, at another width and height; of that, only some rows and columns."""
        if not self._has_matrices:
            return _scaled_by_opencv(x_CHW, width, height)[:, part[0], part[1]]
        axes = [(1, height, part[0]), (2, width, part[1])]
        # The axis first that leaves less for the other one.
        for axis, size, wanted in sorted(axes, key=lambda a: len(range(a[1])[a[2]]) / x_CHW.shape[a[0]]):
            x_CHW = self._along(x_CHW, axis, size, wanted)
        return x_CHW

    def _along(self, x_CHW: Tensor, axis: int, size: int, wanted: slice) -> Tensor:
        if x_CHW.shape[axis] == size:
            return x_CHW[:, wanted] if axis == 1 else x_CHW[:, :, wanted]
        weights = self._weights(x_CHW.shape[axis], size)[wanted]
        return weights @ x_CHW if axis == 1 else x_CHW @ weights.T

    def _weights(self, old: int, new: int) -> Tensor:
        if (old, new) not in self._kept:
            self._kept[old, new] = upload(resize_weights(old, new), self._device)
        return self._kept[old, new]


def _scaled_by_opencv(x_CHW: Tensor, width: int, height: int) -> Tensor:
    channels, old_height, old_width = x_CHW.shape
    # Axis by axis: OpenCV's area mean skips pixels where the other axis grows.
    shrunk = (min(width, old_width), min(height, old_height))
    scaled = np.empty((channels, height, width), np.float32)
    for channel, into in zip(x_CHW.contiguous().numpy(), scaled, strict=True):
        reduced = channel
        if shrunk != (old_width, old_height):
            reduced = cv2.resize(channel, shrunk, interpolation=cv2.INTER_AREA)
        into[:] = cv2.resize(reduced, (width, height), interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(scaled)


def resize_weights(old: int, new: int) -> NDArray[np.float32]:
    """(new, old): what each of `old` pixels gives to each of `new` ones, by the length of both that lies together.

    A pixel that gives nothing has exactly 0, so that a mask's edge stays where it is.
    """
    weights = np.zeros((new, old))
    if new <= old:
        # In units of 1 / (old * new) of the whole, in which all edges are integers.
        first, last = np.arange(new)[:, None] * old, np.arange(1, new + 1)[:, None] * old
        start, stop = np.arange(old) * new, np.arange(1, old + 1) * new
        weights = np.clip(np.minimum(last, stop) - np.maximum(first, start), 0, None) / old
    else:
        # Centers of the new pixels among the old ones', in units of half a new one; none lies beyond the last old one.
        place = np.clip((2 * np.arange(new) + 1) * old - new, 0, 2 * new * (old - 1))
        left, right_share = place // (2 * new), place % (2 * new) / (2 * new)
        rows = np.arange(new)
        weights[rows, left] = 1 - right_share
        weights[rows, np.minimum(left + 1, old - 1)] += right_share
    return weights.astype(np.float32)
