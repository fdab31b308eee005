"""A video's preview: the frames where its hole is largest, before and after, as its segments will have them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sttn_ray.catalog.complete import complete_segment
from sttn_ray.catalog.plan import Plan, Settings
from sttn_ray.choices import OnDamage
from sttn_ray.completion.compositing import paste_samples
from sttn_ray.completion.engine import Engine
from sttn_ray.masks.hole import make_hole
from sttn_ray.masks.read import MaskSource, read_masks
from sttn_ray.report.preview import Picture, draw_preview
from sttn_ray.video.color import ColorFormat, Planes, frame_planes, planes_to_rgb
from sttn_ray.video.decode import decode_range
from sttn_ray.video.index import VideoIndex


def preview_frames(index: VideoIndex, source: MaskSource, *, num_frames: int = 3) -> list[int]:
    """Numbers of the frames that show most of the hole, spread over the film, ascending.

    The frames with a hole are cut into `num_frames` runs, and of each the one with the largest mask is taken; of those
    as large, the one in the middle. A film without a hole gives frames at even distances.

    Raises:
        MaskError: the mask cannot be read.
    """
    areas = _mask_areas(source, index)
    found = np.flatnonzero(areas) if areas.any() else np.arange(index.num_frames)
    chosen = []
    for run in np.array_split(found, num_frames):
        largest = run[areas[run] == areas[run].max(initial=0)]
        chosen += largest[len(largest) // 2 :][:1].tolist()
    return chosen


def make_preview(plan: Plan, engine: Engine | None, settings: Settings, frames: Sequence[int]) -> list[Picture]:
    """A picture, from `draw_preview`, for each of some frames of a video.

    Args:
        plan: of the video.
        engine: completes the frames, each as in the whole job; None shows them with their holes only.
        settings: of the plan.
        frames: their numbers.

    Raises:
        VideoError, MaskError: the source or its mask cannot be read.
    """
    return [_draw_frame(plan, engine, settings, number) for number in frames]


def displayed_frame(index: VideoIndex, number: int, *, on_damage: OnDamage = "fail") -> Picture:
    """A frame as a player shows it, (height, width, 3) RGB.

    Raises:
        VideoError: it cannot be read.
    """
    color = index.color_format()
    (frame,) = decode_range(index, number, number + 1, on_damage=on_damage)
    return _as_displayed(frame_planes(frame, color), color, index)


def _draw_frame(plan: Plan, engine: Engine | None, settings: Settings, number: int) -> Picture:
    index = plan.index
    color = index.color_format()
    (mask,) = read_masks(plan.mask, index, number, number + 1)
    hole = make_hole(
        mask,
        dilation_px=settings.dilation_px,
        feather_px=settings.feather_px,
        chroma_step=color.chroma_step,
    )
    (frame,) = decode_range(index, number, number + 1, on_damage=settings.on_damage)
    before = _as_displayed(frame_planes(frame, color), color, index)
    after = None
    if engine is not None:
        after = before
        if hole.pixels.any():
            # A frame's prediction does not depend on how the video is cut into segments.
            alone = replace(plan, segments=((number, number + 1),), hole_frames=(1,))
            (packed,) = complete_segment(alone, 0, engine, settings, lambda frames: None)
            frame.make_writable()
            planes = frame_planes(frame, color)
            paste_samples(planes, packed, hole, color)
            after = _as_displayed(planes, color, index)
    return draw_preview(before, _turned(hole.pixels, index), after)


def _mask_areas(source: MaskSource, index: VideoIndex) -> NDArray[np.int64]:
    """Pixels of each frame's mask."""
    areas = []
    last, area = None, 0
    for mask in read_masks(source, index, 0, index.num_frames):
        if mask is not last:
            last, area = mask, int(mask.sum())
        areas.append(area)
    return np.array(areas, np.int64)


def _as_displayed(planes: Planes, color: ColorFormat, index: VideoIndex) -> Picture:
    rgb = np.rint(planes_to_rgb(planes, color) * 255).astype(np.uint8)
    return np.ascontiguousarray(index.as_shown(rgb))


def _turned(pixels: NDArray[np.bool_], index: VideoIndex) -> NDArray[np.bool_]:
    return np.ascontiguousarray(index.as_shown(pixels))
