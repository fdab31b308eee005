"""One segment of a video that is completed: blended, encoded and recorded. Without torch."""

import time
from collections.abc import Iterator, Sequence
from itertools import tee
from typing import Any

from sttn_ray.catalog.plan import Plan, Settings, plan_holes
from sttn_ray.catalog.records import ItemDir
from sttn_ray.completion.compositing import paste_samples
from sttn_ray.masks.hole import Hole
from sttn_ray.storage import file_stamp, published
from sttn_ray.video.color import ColorFormat, frame_planes
from sttn_ray.video.decode import decode_range
from sttn_ray.video.encode import encode_segment


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
    to_blend, to_verify = tee(plan_holes(plan, settings, start, stop))
    with published(item_dir.segment_path(segment)) as temporary:
        frames = decode_range(plan.index, start, stop, on_damage=settings.on_damage, concealed=concealed)
        encoded = encode_segment(
            temporary,
            _blended_frames(frames, to_blend, samples, plan.color),
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
