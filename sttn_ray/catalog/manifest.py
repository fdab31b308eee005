"""One row a video: what became of it, and why."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sttn_ray.catalog.items import MANIFEST, Item
from sttn_ray.paths import ALL, StoragePath, open_binary, reading
from sttn_ray.shown import shown, shown_lines
from sttn_ray.storage import published

SCHEMA = pa.schema(
    [
        ("video", pa.string()),
        ("mask", pa.string()),
        ("boxes", pa.string()),
        ("output", pa.string()),
        ("status", pa.string()),
        ("step", pa.string()),
        ("error", pa.string()),
        ("reason", pa.string()),
        ("is_unexpected", pa.bool_()),
        ("frames", pa.int64()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("hole_share", pa.float64()),
        ("min_psnr", pa.float64()),
        ("seconds", pa.float64()),
        ("fps", pa.float64()),
        ("source_bytes", pa.int64()),
        ("num_bytes", pa.int64()),
        ("sha256", pa.string()),
        ("notes", pa.list_(pa.string())),
    ]
)
ROWS_AT_ONCE = 20_000
FAILED = ("failed", "quarantined")
FINISHED = ("done", "degraded", "copied")
OUTCOME_FIELDS = [name for name in SCHEMA.names if name not in ("video", "mask", "boxes", "fps")]


def pack_outcomes(outcomes: Mapping[int, dict[str, Any]]) -> str:
    """What the manifest tells of outcomes, by number of the video, as text that travels to the driver."""
    told = {number: {name: o[name] for name in OUTCOME_FIELDS if name in o} for number, o in outcomes.items()}
    return json.dumps(told)


def unpack_outcomes(text: str) -> dict[int, dict[str, Any]]:
    """What `pack_outcomes` packed; none for an empty text."""
    return {int(number): outcome for number, outcome in json.loads(text or "{}", object_pairs_hook=_shared).items()}


def _shared(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # A driver holds an outcome for every video: with names of its own each would take a kilobyte more.
    return {sys.intern(name): value for name, value in pairs}


def pending_outcome(reason: str) -> dict[str, Any]:
    """The outcome of a video that this run did not come to."""
    return {"status": "pending", "reason": reason}


def manifest_row(item: Item, outcome: dict[str, Any]) -> dict[str, Any]:
    """A video's row."""
    row = {"video": item.video, "mask": item.mask, "boxes": item.boxes, "is_unexpected": False, **outcome}
    if row.get("seconds") and row.get("frames"):
        row["fps"] = row["frames"] / row["seconds"]
    return {name: _as_text(value, shown_lines if name == "reason" else shown) for name, value in row.items()}


def _as_text(value: Any, show: Callable[[str], str]) -> Any:
    """Text as people see it, which Parquet holds too: a file name in an error may not be UTF-8."""
    if isinstance(value, list):
        return [_as_text(part, show) for part in value]
    return show(value) if isinstance(value, str) else value


def write_manifest(output_dir: StoragePath, rows: Iterable[dict[str, Any]]) -> StoragePath:
    """Write manifest.parquet; returns its path."""
    path = output_dir / MANIFEST
    waiting = iter(rows)
    with published(path) as temporary, pq.ParquetWriter(temporary, SCHEMA) as writer:
        while some := list(islice(waiting, ROWS_AT_ONCE)):
            writer.write_table(pa.Table.from_pylist(some, SCHEMA))
    return path


def read_manifest(output_dir: StoragePath) -> list[dict[str, Any]]:
    """The rows of a folder's manifest; none where there is no file that can be read as one.

    Raises:
        StorageError: the folder cannot be read.
    """
    path = output_dir / MANIFEST
    try:
        with reading(path), open_binary(path, ahead=ALL) as file:
            data = file.read()
    except FileNotFoundError:
        return []
    try:
        return pq.read_table(pa.BufferReader(data), schema=SCHEMA).to_pylist()
    except (pa.ArrowException, OSError, ValueError):  # whatever a damaged one makes pyarrow raise
        return []
