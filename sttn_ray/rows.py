"""Rows of a table that people write: a CSV, JSON lines or Parquet file."""

import csv
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sttn_ray.errors import SttnError

Row = dict[str, Any]


def read_rows(path: str, what: str, error: type[SttnError], *, columns: Collection[str], required: str) -> list[Row]:
    """All rows of a .csv, .jsonl or .parquet file, each with some of the columns.

    Args:
        path: of the file.
        what: what it is, for messages, as in "catalog".
        error: to be raised.
        columns: that are known.
        required: the one that must be there; a row may still leave it empty.

    Raises:
        `error`: the file is missing, is of another kind, has other columns, or has no rows.
    """
    readers = {".csv": _read_csv, ".jsonl": _read_json_lines, ".parquet": _read_parquet}
    reader = readers.get(Path(path).suffix.lower())
    if reader is None:
        raise error(f"{path}: a {what} is a file ending in {', '.join(readers)}")
    try:
        rows = reader(path)
    except FileNotFoundError as fault:
        raise error(f"{path}: no such {what}") from fault
    except (OSError, ValueError, csv.Error, pa.ArrowException) as fault:
        raise error(f"{path}: cannot be read as a {what}: {fault}") from fault
    if not rows:
        raise error(f"{path}: holds no rows")
    found = set().union(*rows)
    if unknown := found.difference(columns):
        raise error(
            f"{path}: unknown columns {', '.join(sorted(map(str, unknown)))}; expected {', '.join(sorted(columns))}"
        )
    if required not in found:
        raise error(f"{path}: has no column {required!r}")
    return rows


def _read_csv(path: str) -> list[Row]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise ValueError(f"line {number} has another number of fields than the header")
    return rows


def _read_json_lines(path: str) -> list[Row]:
    rows = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"line {number} is not an object")
                rows.append(row)
    return rows


def _read_parquet(path: str) -> list[Row]:
    return pq.read_table(path).to_pylist()
