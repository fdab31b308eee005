"""Finds marks that stand over a whole film (a station's logo, a watermark, a clock's frame), as boxes for the mask.

Frames are taken from all over the film, mostly keyframes, so that a film of two hours costs little more than a short
one. What is found must be looked at before it is used: see docs/finding_marks.md.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from sttn_ray.choices import OnDamage
from sttn_ray.masks.overlays import find_overlays
from sttn_ray.video.color import frame_planes
from sttn_ray.video.decode import decode_range
from sttn_ray.video.index import VideoIndex

NUM_SAMPLES = 80
MIN_SAMPLES = 8
MAX_SIDE = 960
# With fewer keyframes than these, frames between them are taken as well. So that a film with hardly any keyframe does
# not have to be decoded to its end, no more than MAX_DECODED frames are decoded then.
MIN_KEYFRAMES = 40
MAX_DECODED = 2400
# Around what was found: letters end softly, and completion must not see the rest of them.
MIN_MARGIN_PX = 2
MARGIN = 0.003  # of the longer side


class FoundMark(NamedTuple):
    """A mark.

    `box` is left, top, width, height in pixels of the picture as displayed; `score` in [0, 1] is how constant its
    edges are.
    """

    box: tuple[int, int, int, int]
    score: float


class FoundMarks(NamedTuple):
    """The marks of a video, best first; where there are none, the reason."""

    marks: tuple[FoundMark, ...]
    reason: str | None


def find_marks(index: VideoIndex, *, on_damage: OnDamage = "fail") -> FoundMarks:
    """Find marks that stand still while the picture changes.

    Args:
        index: of the film.
        on_damage: what is done with damaged frames, as in `decode_range`.

    Raises:
        VideoError: a frame is missing or damaged, or its pixel format is not supported.
        StorageError: the file cannot be read.
    """
    numbers = frames_to_sample(index, NUM_SAMPLES)
    if len(numbers) < MIN_SAMPLES:
        return FoundMarks((), f"too short to tell: {len(numbers)} frames, at least {MIN_SAMPLES} are needed")
    luma = sample_luma(index, numbers, on_damage=on_damage)
    overlays, reason = find_overlays(luma)
    width, height = index.displayed_size
    scale = width / luma.shape[2], height / luma.shape[1]
    margin = max(MIN_MARGIN_PX, round(MARGIN * max(width, height)))
    marks = []
    for (left, top, right, bottom), score in overlays:
        x, y = max(0, math.floor(left * scale[0]) - margin), max(0, math.floor(top * scale[1]) - margin)
        end_x, end_y = math.ceil(right * scale[0]) + margin, math.ceil(bottom * scale[1]) + margin
        marks.append(FoundMark((x, y, min(width, end_x) - x, min(height, end_y) - y), round(score, 3)))
    return FoundMarks(tuple(marks), reason)


def marks_as_boxes(marks: Sequence[FoundMark]) -> str:
    """Marks as text, as `sttn_ray.masks.boxes.parse_boxes` reads it; empty where there are none."""
    return ";".join(",".join(map(str, mark.box)) for mark in marks)


def frames_to_sample(index: VideoIndex, count: int) -> list[int]:
    """Numbers of frames over the whole video, ascending: keyframes where there are enough of them."""
    pts = np.array(index.pts)
    keys = np.unique(np.searchsorted(pts, np.array([*index.keyframe_pts, index.pts[0]])))
    keys = keys[keys < len(pts)]
    if len(keys) < MIN_KEYFRAMES:
        numbers = np.arange(len(pts))
        after_key = numbers - keys[np.searchsorted(keys, numbers, "right") - 1]
        keys = numbers[after_key < max(1, MAX_DECODED // len(keys))]
    chosen = np.linspace(0, len(keys) - 1, min(count, len(keys)))
    return [int(number) for number in keys[np.round(chosen).astype(int)]]


def sample_luma(index: VideoIndex, numbers: Sequence[int], *, on_damage: OnDamage = "fail") -> NDArray[np.uint8]:
    """Luma of frames as displayed, (frames, height, width), scaled so that no side is above `MAX_SIDE`.

    Raises:
        VideoError: a frame is missing or damaged, or its pixel format is not supported.
        StorageError: the file cannot be read.
    """
    color = index.color_format()
    scale = min(1.0, MAX_SIDE / max(index.width, index.height))
    size = max(1, round(index.width * scale)), max(1, round(index.height * scale))
    samples = []
    for run in _runs(index, numbers):
        wanted = set(run)
        frames = decode_range(index, run[0], run[-1] + 1, on_damage=on_damage)
        for number, frame in enumerate(frames, run[0]):
            if number in wanted:
                luma = cv2.resize(frame_planes(frame, color)[0], size, interpolation=cv2.INTER_AREA)
                luma = (luma >> (color.bits - 8)).astype(np.uint8)
                samples.append(index.as_shown(luma))
    return np.stack(samples)


def _runs(index: VideoIndex, numbers: Sequence[int]) -> list[list[int]]:
    """Frame numbers by the keyframe that decoding starts at, so that each is decoded once."""
    keys = np.searchsorted(index.keyframe_pts, [index.pts[number] for number in numbers], "right")
    return [[n for n, k in zip(numbers, keys, strict=True) if k == key] for key in dict.fromkeys(keys)]
