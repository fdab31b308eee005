"""One segment of a video, completed by the network."""

from collections.abc import Callable, Iterator

import cv2
import torch

from sttn_ray.catalog.plan import Plan, Settings, plan_holes
from sttn_ray.completion.engine import Engine, SourceFrame
from sttn_ray.completion.prefetch import prefetched
from sttn_ray.model.generator import Generator
from sttn_ray.model.precision import require_right_numbers, use_exact_numbers
from sttn_ray.video.color import frame_planes
from sttn_ray.video.decode import decode_range

PREFETCHED_FRAMES = 8
# Frames between two messages about progress, which cost nothing beside the work on a frame.
FRAMES_PER_MESSAGE = 5


def start_engine(generator: Generator, settings: Settings, *, threads: int) -> Engine:
    """An engine for a job's settings, in a process that has this many math threads from now on.

    Raises:
        DeviceError: the device is not there, or computes wrong numbers in the settings' format.
    """
    # Ray gives a process one math thread for a fraction of a CPU up to one; the number counts here.
    torch.set_num_threads(threads)
    cv2.setNumThreads(1)
    use_exact_numbers(fixed_shapes=False)
    require_right_numbers(settings.device, settings.precision)
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
    color = plan.color
    first, last = engine.read_range(start, stop, num_frames)
    frames = prefetched(_source_frames(plan, settings, first, last), PREFETCHED_FRAMES)
    unsent = 0
    for completed in engine.complete(frames, start=start, stop=stop, num_frames=num_frames, color=color):
        unsent += 1
        if unsent == FRAMES_PER_MESSAGE or completed.number in (start, stop - 1):
            report(unsent)
            unsent = 0
        yield completed.samples


def _source_frames(plan: Plan, settings: Settings, start: int, stop: int) -> Iterator[SourceFrame]:
    color = plan.color
    holes = plan_holes(plan, settings, start, stop, has_rim=False)
    frames = decode_range(plan.index, start, stop, on_damage=settings.on_damage)
    for number, (frame, hole) in enumerate(zip(frames, holes, strict=True), start):
        yield SourceFrame(number, frame_planes(frame, color), hole)
