"""Rows of a table that people write: a CSV, JSON lines or Parquet file."""

import csv
import json
from collections.abc import Collection
from io import TextIOWrapper
from pathlib import PurePosixPath
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from sttn_ray.errors import SttnError
from sttn_ray.paths import ALL, open_binary, reading

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
        StorageError: it cannot be read.
    """
    readers = {".csv": _read_csv, ".jsonl": _read_json_lines, ".parquet": _read_parquet}
    reader = readers.get(PurePosixPath(path).suffix.lower())
    if reader is None:
        raise error(f"{path}: a {what} is a file ending in {', '.join(readers)}")
    try:
        with reading(path), open_binary(path, ahead=ALL) as file:
            rows = reader(file)
    except FileNotFoundError as fault:
        raise error(f"{path}: no such {what}") from fault
    except (ValueError, csv.Error, pa.ArrowException) as fault:
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


def _read_csv(file: IO[bytes]) -> list[Row]:
    with TextIOWrapper(file, newline="", encoding="utf-8-sig") as text:
        rows: list[Row] = list(csv.DictReader(text))
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise ValueError(f"line {number} has another number of fields than the header")
    return rows


def _read_json_lines(file: IO[bytes]) -> list[Row]:
    rows = []
    with TextIOWrapper(file, encoding="utf-8") as text:
        for number, line in enumerate(text, 1):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"line {number} is not an object")
                rows.append(row)
    return rows


def _read_parquet(file: IO[bytes]) -> list[Row]:
    return pq.read_table(file).to_pylist()
