"""One segment of a video: completed by the network, then blended, encoded and recorded."""

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import tee
from typing import Any

import cv2
import torch

from sttn_ray.catalog.plan import Plan, Settings
from sttn_ray.catalog.records import ItemDir
from sttn_ray.completion.compositing import paste_samples
from sttn_ray.completion.engine import Engine, SourceFrame
from sttn_ray.completion.prefetch import prefetched
from sttn_ray.masks.hole import Hole, make_holes
from sttn_ray.masks.read import read_masks
from sttn_ray.model.generator import Generator
from sttn_ray.storage import file_stamp, published
from sttn_ray.video.color import ColorFormat, color_format, frame_planes
from sttn_ray.video.decode import decode_range
from sttn_ray.video.encode import encode_segment

PREFETCHED_FRAMES = 8
# Frames between two messages about progress, which cost nothing beside the work on a frame.
FRAMES_PER_MESSAGE = 5


def start_engine(generator: Generator, settings: Settings, *, threads: int) -> Engine:
    """An engine for a job's settings, in a process that has this many math threads from now on."""
    # Ray gives a process one math thread for a fraction of a CPU up to one; the number counts here.
    torch.set_num_threads(threads)
    cv2.setNumThreads(1)
    return Engine(generator, device=settings.device, precision=settings.precision, schedule=settings.schedule)


def complete_segment(
    plan: Plan, segment: int, engine: Engine, settings: Settings, report: Callable[[int], object]
) -> Iterator[bytes]:
    """The packed prediction of every frame of a segment; empty for frames without a hole.

    `report` is called now and then with the number of frames completed since.

    Raises:
        VideoError, MaskError: the source or its mask cannot be read.
    """
    start, stop = plan.segments[segment]
    if not plan.hole_frames[segment]:
        report(stop - start)
        yield from [b""] * (stop - start)
        return
    num_frames = plan.index.num_frames
    color = _color(plan)
    first, last = engine.read_range(start, stop, num_frames)
    frames = prefetched(_source_frames(plan, settings, color, first, last), PREFETCHED_FRAMES)
    unsent = 0
    for completed in engine.complete(frames, start=start, stop=stop, num_frames=num_frames, color=color):
        unsent += 1
        if unsent == FRAMES_PER_MESSAGE or completed.number == stop - 1:
            report(unsent)
            unsent = 0
        yield completed.samples


def write_segment(
    item_dir: ItemDir,
    plan: Plan,
    segment: int,
    samples: Sequence[bytes],
    settings: Settings,
    *,
    completion: dict[str, Any],
) -> None:
    """Decode a segment again, paste its predictions, encode it, check it, and record it.

    Args:
        item_dir: where the segment's file and record go.
        plan, segment, settings: what it is.
        samples: from `complete_segment`.
        completion: `seconds` that it took, and whatever else the record should tell of it.

    Raises:
        VideoError, MaskError, StorageError: nothing is recorded then.
    """
    start_s = time.monotonic()
    start, stop = plan.segments[segment]
    concealed: set[int] = set()
    to_blend, to_verify = tee(_holes(plan, settings, _color(plan), start, stop))
    with published(item_dir.segment_path(segment)) as temporary:
        frames = decode_range(plan.index, start, stop, on_damage=settings.on_damage, concealed=concealed)
        encoded = encode_segment(
            temporary,
            _blended_frames(frames, to_blend, samples, _color(plan)),
            plan.index.pts[start:stop],
            plan.index,
            plan.encoder,
            holes=(hole.pixels for hole in to_verify),
        )
    item_dir.write_segment(
        segment,
        {
            "plan_hash": plan.plan_hash,
            "num_frames": encoded.num_frames,
            "num_concealed": len(concealed),
            "min_psnr": encoded.min_psnr,
            "num_bytes": encoded.num_bytes,
            "sha256": encoded.sha256,
            "stamp": file_stamp(item_dir.segment_path(segment)),
            "extradata_sha256": encoded.extradata_sha256,
            "completion": completion,
            "seconds": completion["seconds"] + time.monotonic() - start_s,
        },
    )


def _blended_frames(
    frames: Iterator[Any], holes: Iterator[Hole], samples: Sequence[bytes], color: ColorFormat
) -> Iterator[Any]:
    for frame, hole, packed in zip(frames, holes, samples, strict=True):
        if packed:
            frame.make_writable()
            paste_samples(frame_planes(frame, color), packed, hole, color)
        yield frame


def _source_frames(plan: Plan, settings: Settings, color: ColorFormat, start: int, stop: int) -> Iterator[SourceFrame]:
    holes = _holes(plan, settings, color, start, stop)
    frames = decode_range(plan.index, start, stop, on_damage=settings.on_damage)
    for number, (frame, hole) in enumerate(zip(frames, holes, strict=True), start):
        yield SourceFrame(number, frame_planes(frame, color), hole)


def _holes(plan: Plan, settings: Settings, color: ColorFormat, start: int, stop: int) -> Iterator[Hole]:
    return make_holes(
        read_masks(plan.mask, plan.index, start, stop),
        dilation_px=settings.dilation_px,
        feather_px=settings.feather_px,
        chroma_step=color.chroma_step,
    )


def _color(plan: Plan) -> ColorFormat:
    return color_format(plan.index.pix_fmt, plan.index.color[0], plan.index.color[1])
