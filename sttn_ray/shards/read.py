"""The reading side: the index of a folder of shards, and any clip or mask by its file and row group."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sttn_ray.errors import ShardError
from sttn_ray.shards.tables import INDEX_SCHEMA, unpack_frame, unpack_mask

INDEX_FILE = "index.parquet"
OPEN_FILES = 64  # shard files a reader keeps open


class IndexedRow(NamedTuple):
    """Where a clip or a mask lies: its id, number of frames, file below the shards' folder, and row group."""

    id: str
    num_frames: int
    file: str
    row_group: int


class ShardIndex(NamedTuple):
    """What training reads of an index: the clips of a split, and the object masks, each sorted by id."""

    clips: list[IndexedRow]
    object_masks: list[IndexedRow]
    width: int
    height: int


def read_index_table(folder: str | Path) -> pa.Table:
    """The whole index.

    Raises:
        ShardError: there is none, or it is not an index.
    """
    path = Path(folder) / INDEX_FILE
    if not path.is_file():
        raise ShardError(
            f"{path}: no such file: the shards are missing, or were not finished; build them with "
            f"python -m pipelines.build_shards corpus.root=... shards.dir={folder}"
        )
    try:
        table = pq.read_table(path)
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ShardError(f"{path}: cannot be read ({error}); build the shards again") from error
    if not table.schema.equals(INDEX_SCHEMA):
        raise ShardError(f"{path}: is not an index of this version; its columns: {table.column_names}")
    return table


def read_index(folder: str | Path, split: str) -> ShardIndex:
    """The clips of a split, with the object masks and the size of all frames.

    Raises:
        ShardError: no index, or no clip of the split in it.
    """
    rows = read_index_table(folder).to_pylist()
    clips = [row for row in rows if row["table"] == "clips"]
    chosen = sorted(_indexed(row) for row in clips if row["split"] == split)
    if not chosen:
        raise ShardError(f"{folder}: holds no clip of the split {split!r}; it has {len(clips)} of others")
    # Drawn ones have no source: training draws its own.
    objects = sorted(_indexed(row) for row in rows if row["family"] == "object" and row["source"])
    header = _read_row(folder, chosen[0], ["width", "height"])
    return ShardIndex(chosen, objects, header["width"], header["height"])


def _indexed(row: dict[str, Any]) -> IndexedRow:
    return IndexedRow(**{name: row[name] for name in IndexedRow._fields})


def read_clip(folder: str | Path, row: IndexedRow, numbers: Sequence[int]) -> NDArray[np.uint8]:
    """Frames of a clip by their numbers in it, (frames, height, width, 3) RGB; only these are decoded.

    Raises:
        ShardError: the file is missing or damaged.
    """
    data = _read_row(folder, row, ["clip_id", "height", "width", "frames"])
    if data["clip_id"] != row.id:
        raise ShardError(f"{folder}/{row.file}: row group {row.row_group} is {data['clip_id']}, not {row.id}")
    return np.stack([unpack_frame(data["frames"][n], data["height"], data["width"]) for n in numbers])


def read_masks(folder: str | Path, row: IndexedRow, numbers: Sequence[int]) -> NDArray[np.bool_]:
    """Masks of a row by their numbers in it, (masks, height, width).

    Raises:
        ShardError: the file is missing or damaged.
    """
    data = _read_row(folder, row, ["height", "width", "masks"])
    return np.stack([unpack_mask(data["masks"][n], data["height"], data["width"]) for n in numbers])


def _read_row(folder: str | Path, row: IndexedRow, columns: list[str]) -> dict[str, Any]:
    path = str(Path(folder) / row.file)
    try:
        group = _open(path).read_row_group(row.row_group, columns=columns, use_threads=False)
        found: dict[str, Any] = group.to_pylist()[0]
        return {name: found[name] for name in columns}
    except (pa.ArrowException, OSError, ValueError, LookupError) as error:
        raise ShardError(f"{path}: row group {row.row_group} cannot be read ({error}); verify the shards") from error


@lru_cache(maxsize=OPEN_FILES)
def _open(path: str) -> pq.ParquetFile:
    return pq.ParquetFile(path, memory_map=True)
