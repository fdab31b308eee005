"""One row a video: what became of it, and why."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sttn_ray.catalog.items import Item
from sttn_ray.catalog.records import ItemDir
from sttn_ray.errors import failed_outcome
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
        ("seconds", pa.float64()),
        ("num_bytes", pa.int64()),
        ("sha256", pa.string()),
        ("notes", pa.list_(pa.string())),
    ]
)
_SHORT = ("status", "step", "error", "reason", "is_unexpected")


def short_outcome(outcome: dict[str, Any]) -> dict[str, Any]:
    """The part of an outcome that travels to the driver."""
    return {name: outcome[name] for name in _SHORT if name in outcome}


def manifest_row(item: Item, short: dict[str, Any] | None, output_dir: str) -> dict[str, Any]:
    """A video's row, from what reached the driver and, where it is finished, from its record."""
    base = {"video": item.video, "mask": item.mask, "boxes": item.boxes, "is_unexpected": False}
    if short is not None and short["status"] == "failed":
        return base | short_outcome(short)
    # Another driver on the same output may have finished it.
    outcome = ItemDir(output_dir, item.output).read_outcome()
    if outcome is None:
        return base | failed_outcome("publish", RuntimeError("its segments ended without an outcome"))
    return base | {name: value for name, value in outcome.items() if name in SCHEMA.names}


def write_manifest(output_dir: str, rows: Sequence[dict[str, Any]]) -> Path:
    """Write manifest.parquet; returns its path."""
    path = Path(output_dir) / "manifest.parquet"
    with published(path) as temporary:
        pq.write_table(pa.Table.from_pylist(list(rows), SCHEMA), temporary)
    return path
