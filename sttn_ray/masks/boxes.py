"""Boxes as text: where a mark stands, and when."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sttn_ray.choices import BOX_SYNTAX
from sttn_ray.errors import MaskError

_NUMBER = r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*(%?)\s*"
_TIME = r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*"
_BOX = re.compile(rf"{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}(?:@{_TIME}-(?:{_TIME})?\s*)?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle of the picture, upright, for a time; an anamorphic one as it is stored, not as players stretch it.

    Attributes:
        extent: left, top, width, height.
        is_percent: for each of the four, whether it is in percent of the picture's width or height, else in pixels.
        start_s, end_s: seconds after the first frame, end excluded; `end_s` None is the end of the video.
    """

    extent: tuple[float, float, float, float]
    is_percent: tuple[bool, bool, bool, bool]
    start_s: float = 0.0
    end_s: float | None = None

    def is_shown_at(self, time_s: float) -> bool:
        return self.start_s <= time_s and (self.end_s is None or time_s < self.end_s)

    @property
    def has_pixels(self) -> bool:
        """Whether a part of it is in pixels."""
        return not all(self.is_percent)

    def pixels(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Left, top, right, bottom in pixels, cut to a picture of the given size; a touched pixel belongs to it."""
        scale = (width, height, width, height)
        left, top, across, down = (
            value * full / 100 if percent else value
            for value, percent, full in zip(self.extent, self.is_percent, scale, strict=True)
        )
        right, bottom = min(width, _ceil(left + across)), min(height, _ceil(top + down))
        return int(left), int(top), right, bottom


def _ceil(value: float) -> int:
    # 11.8 % and 0.7 % of 432 pixels sum to 54.000000000000007.
    return int(np.ceil(round(value, 6)))


def parse_boxes(text: str) -> tuple[Box, ...]:
    """Read boxes from text.

    Raises:
        MaskError: not of the form `x,y,width,height[@start_s-end_s]`, several joined by `;`.
    """
    boxes = []
    for part in text.rstrip("; ").split(";"):
        part = part.strip()
        match = _BOX.fullmatch(part)
        if match is None:
            raise MaskError(f"box {part!r}: expected {BOX_SYNTAX}, as in '10,20,300,80@0-12.5'")
        *numbers, start, end = match.groups()
        box = Box(
            extent=tuple(float(n) for n in numbers[0::2]),  # type: ignore[arg-type]  # four
            is_percent=tuple(bool(p) for p in numbers[1::2]),  # type: ignore[arg-type]
            start_s=float(start or 0),
            end_s=float(end) if end else None,
        )
        if not (box.extent[2] and box.extent[3]):
            raise MaskError(f"box {part!r}: has no area")
        if box.end_s is not None and box.end_s <= box.start_s:
            raise MaskError(f"box {part!r}: ends at {box.end_s} s, before it starts")
        boxes.append(box)
    return tuple(boxes)


def draw_boxes(boxes: Sequence[Box], width: int, height: int, time_s: float) -> NDArray[np.bool_]:
    """The mask (height, width) of the boxes shown at a time."""
    mask = np.zeros((height, width), bool)
    for box in boxes:
        if box.is_shown_at(time_s):
            left, top, right, bottom = box.pixels(width, height)
            mask[top:bottom, left:right] = True
    return mask
