"""Whether shards are what was written: every byte by its hash, every schema, a frame of every row decoded."""

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from sttn_ray.errors import ShardError, StorageError
from sttn_ray.paths import StoragePath, as_path, is_file, open_binary, read_errors
from sttn_ray.shards.read import read_index_table
from sttn_ray.shards.tables import SCHEMAS, rows_sha256, unpack_frame, unpack_mask
from sttn_ray.storage import file_sha256


class Verification(NamedTuple):
    """What was found: faults, a line each; rows, frames and bytes by table and split or family."""

    faults: list[str]
    counts: dict[str, Counter[str]]


def verify_shards(
    folder: str | StoragePath, said: Callable[[int, int], None] = lambda done, total: None
) -> Verification:
    """Read every shard that the index names.

    Args:
        folder: of the shards.
        said: called after each file with the files done and their number.

    Raises:
        ShardError: there is no index to verify by.
    """
    by_file: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in read_index_table(folder).to_pylist():
        by_file[row["file"] or ""].append(row)
    faults: list[str] = []
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for number, (file, rows) in enumerate(sorted(by_file.items()), 1):
        faults += _verify_file(as_path(folder) / file, rows)
        for row in rows:
            counts[f"{row['table']} {row['split'] or row['family']}"].update(
                rows=1, frames=row["num_frames"] or 0, bytes=row["num_bytes"] or 0
            )
        said(number, len(by_file))
    return Verification(faults, dict(counts))


def _verify_file(path: StoragePath, rows: list[dict[str, Any]]) -> list[str]:
    try:
        if not is_file(path):
            return [f"{path}: is missing; build the shards again to have it back"]
        found = file_sha256(path)
    except (FileNotFoundError, StorageError) as error:
        return [str(error)]
    faults = []
    if {found} != {row["file_sha256"] for row in rows}:
        faults.append(f"{path}: its bytes are not those that were written; delete it and build the shards again")
    try:
        with open_binary(path) as opened, pq.ParquetFile(opened) as file:
            if not file.schema_arrow.equals(SCHEMAS[path.parent.name]):
                return [*faults, f"{path}: its columns are {file.schema_arrow.names}"]
            if file.num_row_groups != len(rows):
                faults.append(f"{path}: has {file.num_row_groups} row groups, the index names {len(rows)}")
            for row in rows:
                faults += _verify_row(path, row, file)
    except (
        pa.ArrowException,
        *read_errors(),
        ValueError,
        TypeError,
        LookupError,
    ) as error:  # a damaged file may raise any
        faults.append(f"{path}: cannot be read ({error})")
    return faults


def _verify_row(path: StoragePath, row: dict[str, Any], file: pq.ParquetFile) -> list[str]:
    label = f"{path}: row group {row['row_group']} ({row['id']})"
    if row["row_group"] >= file.num_row_groups:
        return [f"{label}: is missing"]
    data = file.read_row_group(row["row_group"]).to_pylist()[0]
    table = path.parent.name
    column, unpack = ("frames", unpack_frame) if table == "clips" else ("masks", unpack_mask)
    parts = data[column]
    if rows_sha256(parts) != row["sha256"]:
        return [f"{label}: its {column} are not those that were written"]
    # The index has no hash of its own: what it says is checked against the shards.
    found = {
        "table": table,
        "id": data["clip_id" if table == "clips" else "mask_id"],
        "split": data.get("split"),
        "family": data.get("family"),
        "source": data["source"],
        "num_frames": len(parts),
        "num_bytes": sum(map(len, parts)),
    }
    if wrong := [f"{name}={row[name]}, not {value}" for name, value in found.items() if row[name] != value]:
        return [f"{label}: the index says {'; '.join(wrong)}"]
    try:
        unpack(parts[len(parts) // 2], data["height"], data["width"])
    except ShardError as error:
        return [f"{label}: {error}"]
    return []
