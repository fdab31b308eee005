"""The reading side: the index of a folder of shards, and any clip or mask by its file and row group."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sttn_ray.errors import ShardError
from sttn_ray.paths import ALL, StoragePath, as_path, is_file, is_remote, open_binary, read_errors
from sttn_ray.shards.cache import RowCache
from sttn_ray.shards.tables import INDEX_SCHEMA, unpack_frame, unpack_mask

INDEX_FILE = "index.parquet"
OPEN_FILES = 64  # shard files a reader keeps open


class IndexedRow(NamedTuple):
    """Where a clip or a mask lies: its id, number of frames, file below the shards' folder, row group; its sha256."""

    id: str
    num_frames: int
    file: str
    row_group: int
    sha256: str


class ShardIndex(NamedTuple):
    """What training reads of an index: the clips of a split, and the masks, each sorted by id.

    `object_masks` are the corpus's own; `drawn_masks` were drawn for validation.
    """

    clips: list[IndexedRow]
    object_masks: list[IndexedRow]
    drawn_masks: list[IndexedRow]
    width: int
    height: int


def read_index_table(folder: str | StoragePath) -> pa.Table:
    """The whole index.

    Raises:
        ShardError: there is none, or it is not an index.
    """
    path = as_path(folder) / INDEX_FILE
    if not is_file(path):
        raise ShardError(
            f"{path}: no such file: the shards are missing, or were not finished; build them with "
            f"python -m pipelines.build_shards corpus.root=... shards.dir={folder}"
        )
    try:
        with open_binary(path, ahead=ALL) as file:
            table = pq.read_table(file)
        table.validate(full=True)
    except (pa.ArrowException, *read_errors(), ValueError) as error:
        raise ShardError(f"{path}: cannot be read ({error}); build the shards again") from error
    if not table.schema.equals(INDEX_SCHEMA):
        raise ShardError(f"{path}: is not an index of this version; its columns: {table.column_names}")
    return table


def read_index(folder: str | StoragePath, split: str) -> ShardIndex:
    """The clips of a split, with the object masks and the size of all frames.

    Raises:
        ShardError: no index, or no clip of the split in it.
    """
    rows = read_index_table(folder).to_pylist()
    clips = [row for row in rows if row["table"] == "clips"]
    chosen = sorted(_indexed(row) for row in clips if row["split"] == split)
    if not chosen:
        raise ShardError(f"{folder}: holds no clip of the split {split!r}; it has {len(clips)} of others")
    masks = [row for row in rows if row["table"] == "masks"]
    objects = sorted(_indexed(row) for row in masks if row["source"])
    drawn = sorted(_indexed(row) for row in masks if not row["source"])
    header = _read_row(folder, chosen[0], ["width", "height"])
    return ShardIndex(chosen, objects, drawn, header["width"], header["height"])


def _indexed(row: dict[str, Any]) -> IndexedRow:
    return IndexedRow(**{name: row[name] for name in IndexedRow._fields})


def read_clip(
    folder: str | StoragePath, row: IndexedRow, numbers: Sequence[int], cache: RowCache | None = None
) -> NDArray[np.uint8]:
    """Frames of a clip by their numbers in it, (frames, height, width, 3) RGB; only these are decoded.

    Args:
        folder: of the shards.
        row: from the index.
        numbers: of the frames.
        cache: that keeps the whole clip, where the shards lie in an object store.

    Raises:
        ShardError: the file is missing or damaged.
    """
    data = _read_row(folder, row, ["clip_id", "height", "width", "frames"], cache)
    if data["clip_id"] != row.id:
        raise ShardError(f"{folder}/{row.file}: row group {row.row_group} is {data['clip_id']}, not {row.id}")
    return np.stack([unpack_frame(data["frames"][n], data["height"], data["width"]) for n in numbers])


def read_masks(
    folder: str | StoragePath, row: IndexedRow, numbers: Sequence[int], cache: RowCache | None = None
) -> NDArray[np.bool_]:
    """Masks of a row by their numbers in it, (masks, height, width); arguments as for `read_clip`.

    Raises:
        ShardError: the file is missing or damaged.
    """
    data = _read_row(folder, row, ["height", "width", "masks"], cache)
    return np.stack([unpack_mask(data["masks"][n], data["height"], data["width"]) for n in numbers])


def _read_row(
    folder: str | StoragePath, row: IndexedRow, columns: list[str], cache: RowCache | None = None
) -> dict[str, Any]:
    path = str(as_path(folder) / row.file)

    def read() -> pa.Table:
        return _open(path).read_row_group(row.row_group, columns=columns, use_threads=False)

    try:
        if cache is not None and is_remote(path):
            # Clips of the same pictures differ in their ids.
            key = hashlib.sha256(f"{row.sha256}/{row.id}".encode()).hexdigest()
            group = _from_stream(cache.get(key, lambda: _as_stream(read())))
            if group is None:  # the disk has damaged it
                cache.drop(key)
                group = read()
        else:
            group = read()
        found: dict[str, Any] = group.to_pylist()[0]
        return {name: found[name] for name in columns}
    except (pa.ArrowException, *read_errors(), ValueError, LookupError) as error:
        raise ShardError(f"{path}: row group {row.row_group} cannot be read ({error}); verify the shards") from error


def _from_stream(data: bytes) -> pa.Table | None:
    try:
        return pa.ipc.open_stream(data).read_all()
    except (pa.ArrowException, OSError, ValueError):
        return None


def _as_stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


@lru_cache(maxsize=OPEN_FILES)
def _open(path: str) -> pq.ParquetFile:
    if is_remote(path):
        # What a row needs is asked for in one piece, and not a byte more.
        return pq.ParquetFile(open_binary(path, ahead=0), pre_buffer=True)
    return pq.ParquetFile(path, memory_map=True)
