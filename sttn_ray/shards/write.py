"""From ranges of videos, and from masks, to one shard file."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sttn_ray.choices import Family, Fit, FrameCodec
from sttn_ray.completion.shots import ShotFinder
from sttn_ray.corpus import Entry, Source, entry_images, read_pictures, scaled_size
from sttn_ray.errors import MaskError, StorageError, SttnError
from sttn_ray.images import image_files
from sttn_ray.masks.draw import draw_masks
from sttn_ray.masks.picture import read_picture
from sttn_ray.paths import StoragePath
from sttn_ray.shards.plan import Range, contiguous_runs
from sttn_ray.shards.tables import CLIP_SCHEMA, MASK_CODEC, MASK_SCHEMA, one_row, pack_frame, pack_mask, rows_sha256
from sttn_ray.storage import file_sha256, published

IndexRow = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ShardSettings:
    """Everything that changes what lies in shards.

    `width`, `height` of frames; `fit` from `corpus.read_pictures`; `codec`, `quality` of frames; `clip_frames`,
    `min_clip_frames`, the longest and the shortest clip; `clips_per_shard`.
    """

    width: int
    height: int
    fit: Fit
    codec: FrameCodec
    quality: int
    clip_frames: int
    min_clip_frames: int
    clips_per_shard: int


class Fault(NamedTuple):
    """What went wrong in one range of a video: "gone" from the corpus, not to be "read", or it did not "decode"."""

    sha256: str
    start: int
    stop: int
    error: Exception
    step: str = "decode"


def write_clips(
    root: str,
    path: StoragePath,
    ranges: Sequence[Range],
    sources: Mapping[str, Source],
    settings: ShardSettings,
    *,
    before_publishing: Callable[[], None] = lambda: None,
) -> tuple[list[IndexRow], list[Fault]]:
    """Decode ranges, cut them where the picture cuts, and write the clips as one shard file.

    A range that cannot be read is a fault, and the others are written. Pieces between cuts that are shorter than
    `min_clip_frames` are left out. Without any clip no file is written.

    Args:
        root: the corpus's folder.
        path: the shard's file, in a folder named "clips".
        ranges: what the plan puts into it.
        sources: by sha256.
        settings: of the shards.
        before_publishing: called once all is written; what it raises keeps the file from appearing.

    Returns:
        The index's rows, and the faults.
    """
    faults: list[Fault] = []

    def clips() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        for run in contiguous_runs(ranges):
            source = sources[run[0].sha256]
            for start, pictures in _clips_of_run(root, source, run, settings, faults):
                row = _clip_row(source, start, pictures, run[0].split, settings)
                yield row, {"table": "clips", "id": row["clip_id"], "family": None, "split": row["split"]}
        before_publishing()

    return _write(path, clips(), CLIP_SCHEMA, "frames"), faults


def write_drawn_masks(
    path: StoragePath, families: Sequence[Family], *, masks_per_family: int, seed: int, settings: ShardSettings
) -> list[IndexRow]:
    """Draw masks once and for all, as validation needs them; the same seed gives the same file."""

    def masks() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        for family in families:
            for number in range(masks_per_family):
                rng = np.random.default_rng([seed, number, families.index(family)])
                drawn = draw_masks(
                    family,
                    height=settings.height,
                    width=settings.width,
                    frames=range(settings.clip_frames),
                    rng=rng,
                )
                yield _mask_row(f"{family}-{number:04d}", family, drawn, settings, seed=seed, source=None)

    return _write(path, masks(), MASK_SCHEMA, "masks")


def write_object_masks(root: str, path: StoragePath, entry: Entry, settings: ShardSettings) -> list[IndexRow]:
    """Write the object masks of one folder or zip, at the shards' size, in rows of up to `clip_frames`.

    Masks without any object are left out, since they make no hole.

    Raises:
        MaskError: one cannot be read.
    """

    def masks() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        folder, names = entry_images(root, entry, MaskError)
        read = (read_picture(data, name).hole for name, data in image_files(folder, names, MaskError))
        fitted = (_fitted(mask, settings) for mask in read)
        present = (mask for mask in fitted if mask.any())
        number = 0
        while part := list(islice(present, settings.clip_frames)):
            if len(part) >= settings.min_clip_frames:
                row_id = f"object-{entry.path}-{number:04d}"
                yield _mask_row(row_id, "object", np.stack(part), settings, seed=None, source=entry.path)
            number += 1

    return _write(path, masks(), MASK_SCHEMA, "masks")


def _clips_of_run(
    root: str, source: Source, run: Sequence[Range], settings: ShardSettings, faults: list[Fault]
) -> Iterator[tuple[int, list[NDArray[np.uint8]]]]:
    """First frame number and pictures of each clip of ranges that follow each other in one video."""
    pictures: Iterator[NDArray[np.uint8]] | None = None
    for part in run:
        if pictures is None:  # at the run's beginning, and after a fault
            pictures = read_pictures(
                root,
                source,
                part.start,
                run[-1].stop,
                width=settings.width,
                height=settings.height,
                fit=settings.fit,
            )
        try:
            decoded = list(islice(pictures, part.stop - part.start))
        except SttnError as error:
            step = "read" if isinstance(error, StorageError) else "decode"
            faults.append(Fault(part.sha256, part.start, part.stop, error, step))
            pictures = None
            continue
        for start, stop in _shots(decoded):
            if stop - start >= settings.min_clip_frames:
                yield part.start + start, decoded[start:stop]


def _shots(pictures: Sequence[NDArray[np.uint8]]) -> Iterator[tuple[int, int]]:
    finder = ShotFinder(0)
    for picture in pictures:
        finder.add(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), 255)
    finder.finish()
    start = 0
    while start < len(pictures):
        shot = finder.shot_at(start, start=start, stop=len(pictures))
        yield start, shot.stop
        start = shot.stop


def _clip_row(
    source: Source, start: int, pictures: Sequence[NDArray[np.uint8]], split: str, settings: ShardSettings
) -> dict[str, Any]:
    stop = start + len(pictures)
    return {
        "clip_id": f"{source.sha256[:16]}-{start:07d}-{stop:07d}",
        "video_sha256": source.sha256,
        "source": source.path,
        "start": start,
        "pts": list(source.pts[start:stop]),
        "time_base_num": source.time_base.numerator,
        "time_base_den": source.time_base.denominator,
        "fps_num": source.rate.numerator,
        "fps_den": source.rate.denominator,
        "height": settings.height,
        "width": settings.width,
        "split": split,
        "codec": settings.codec,
        "frames": [pack_frame(picture, settings.codec, settings.quality) for picture in pictures],
    }


def _mask_row(
    row_id: str,
    family: Family,
    masks: NDArray[np.bool_],
    settings: ShardSettings,
    *,
    seed: int | None,
    source: str | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    row = {
        "mask_id": row_id,
        "family": family,
        "seed": seed,
        "source": source,
        "height": settings.height,
        "width": settings.width,
        "codec": MASK_CODEC,
        "masks": [pack_mask(mask) for mask in masks],
    }
    return row, {"table": "masks", "id": row_id, "family": family, "split": None}


def _fitted(mask: NDArray[np.bool_], settings: ShardSettings) -> NDArray[np.bool_]:
    height, width = mask.shape
    size = scaled_size(width, height, settings.width, settings.height, settings.fit)
    scaled = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    left, top = (size[0] - settings.width) // 2, (size[1] - settings.height) // 2
    return scaled[top : top + settings.height, left : left + settings.width] > 0


def _write(
    path: StoragePath, rows: Iterable[tuple[dict[str, Any], dict[str, Any]]], schema: Any, column: str
) -> list[IndexRow]:
    """Write rows as they come, one a row group, and return their index rows; no rows, no file."""
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        return []
    index: list[IndexRow] = []
    with published(path) as temporary:
        with pq.ParquetWriter(
            temporary, schema, compression="none", use_dictionary=False, write_statistics=False
        ) as writer:
            pending: tuple[dict[str, Any], dict[str, Any]] | None = first
            while pending is not None:
                row, entry = pending
                writer.write_table(one_row(row, schema))
                parts = row[column]
                index.append(
                    entry
                    | {
                        "source": row["source"],
                        "num_frames": len(parts),
                        "file": f"{path.parent.name}/{path.name}",
                        "row_group": len(index),
                        "num_bytes": sum(map(len, parts)),
                        "sha256": rows_sha256(parts),
                    }
                )
                pending = next(rows, None)
        file_hash = file_sha256(temporary)
    return [row | {"file_sha256": file_hash} for row in index]
