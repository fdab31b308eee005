"""Shards of small videos, for tests of what writes them and what reads them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sttn_ray.corpus import Entry, Kind, Source, index_source, read_pictures
from sttn_ray.shards.plan import Range, clip_ranges
from sttn_ray.shards.tables import CLIP_SCHEMA, unpack_frame
from sttn_ray.shards.write import Fault, IndexRow, ShardSettings, write_clips
from tests.media import make_texture

WIDTH, HEIGHT = 96, 64
SETTINGS = ShardSettings(
    width=WIDTH,
    height=HEIGHT,
    fit="crop",
    codec="png",
    quality=95,
    clip_frames=20,
    min_clip_frames=5,
    clips_per_shard=4,
)
SPLIT = "validation"
Picture = NDArray[np.uint8]


class Written(NamedTuple):
    """What `write_clips` returned, and what lies in the file."""

    rows: list[IndexRow]
    faults: list[Fault]
    clips: list[dict[str, Any]]


def index(root: Path, name: str, kind: Kind = "video") -> Source:
    return index_source(str(root), Entry(name, kind), frames_fps=Fraction(24))


def whole(source: Source, settings: ShardSettings = SETTINGS) -> list[Range]:
    ranges = clip_ranges(
        0, source.num_frames, clip_frames=settings.clip_frames, min_clip_frames=settings.min_clip_frames
    )
    return [Range(source.sha256, start, stop, SPLIT) for start, stop in ranges]


def write(root: Path, path: Path, sources: Sequence[Source], ranges: Sequence[Range], **changes: Any) -> Written:
    by_sha256 = {source.sha256: source for source in sources}
    rows, faults = write_clips(str(root), path, ranges, by_sha256, replace(SETTINGS, **changes))
    if not path.exists():
        return Written(rows, faults, [])
    with pq.ParquetFile(path) as file:
        assert file.schema_arrow.equals(CLIP_SCHEMA)
        clips = [file.read_row_group(number).to_pylist() for number in range(file.num_row_groups)]
    assert all(len(group) == 1 for group in clips)
    return Written(rows, faults, [clip for group in clips for clip in group])


def spans(written: Written) -> list[tuple[int, int]]:
    return [(clip["start"], clip["start"] + len(clip["frames"])) for clip in written.clips]


def frames_of(clip: dict[str, Any]) -> list[Picture]:
    return [unpack_frame(data, HEIGHT, WIDTH) for data in clip["frames"]]


def pictures_of(root: Path, source: Source, start: int, stop: int) -> list[Picture]:
    return list(read_pictures(str(root), source, start, stop, width=WIDTH, height=HEIGHT, fit="crop"))


def cut_at(*cuts: int) -> Callable[[int], NDArray[np.floating]]:
    """Still pictures, another one from each of the frames on."""
    pictures = [make_texture(WIDTH, HEIGHT, seed=number)(0) for number in range(len(cuts) + 1)]
    for number, picture in enumerate(pictures):
        picture[:] = picture * 0.3 + 0.7 * (number % 2)
    return lambda frame: pictures[sum(frame >= cut for cut in cuts)]


def object_ids(number: int, height: int = HEIGHT, width: int = WIDTH) -> Picture:
    """Two objects, numbered 1 and 2, in a gray picture."""
    ids = np.zeros((height, width), np.uint8)
    ids[height // 4 : height // 2, number : number + width // 4] = 1
    ids[height // 2 :, width // 2 :] = 2
    return ids
