"""Rows of a table that people write: a CSV, JSON lines or Parquet file."""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from io import StringIO
from pathlib import PurePosixPath
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sttn_ray.errors import SttnError
from sttn_ray.paths import ALL, open_binary, reading
from sttn_ray.spreadsheet import decode_text, read_csv

Row = dict[str, Any]

MAX_ROWS = 1_000_000
MAX_BYTES = 256 * 2**20
MAX_TEXT_BYTES = 2**16  # of one value in a Parquet file, where it may stand in every row and take no space
_BATCH_ROWS = 2**14


def read_rows(path: str, what: str, error: type[SttnError], *, columns: Collection[str], required: str) -> list[Row]:
    """All rows of a .csv, .jsonl or .parquet file, each with some of the columns.

    A CSV may be as spreadsheet programs write it; see `sttn_ray.spreadsheet`.

    Args:
        path: of the file.
        what: what it is, for messages, as in "catalog".
        error: to be raised.
        columns: that are known.
        required: the one that must be there; a row may still leave it empty.

    Raises:
        `error`: the file is missing, is of another kind or too large, has other columns, or has no rows.
        StorageError: it cannot be read.
    """
    readers = {".csv": _read_csv, ".jsonl": _read_json_lines, ".parquet": _read_parquet}
    reader = readers.get(PurePosixPath(path).suffix.lower())
    if reader is None:
        raise error(f"{path}: a {what} is a file ending in {', '.join(readers)}")
    try:
        with reading(path), open_binary(path, ahead=ALL) as file:
            names, rows = reader(file, columns)
    except FileNotFoundError as fault:
        raise error(f"{path}: no such {what}") from fault
    except (ValueError, pa.ArrowException) as fault:
        raise error(f"{path}: cannot be read as a {what}: {fault}") from fault
    if not rows:
        raise error(f"{path}: holds no rows")
    if required not in names:
        raise error(f"{path}: has no column {required!r}")
    return rows


def _check_columns(names: Iterable[str], columns: Collection[str]) -> None:
    names = list(names)
    if twins := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"several columns are named {', '.join(twins)}; keep one")
    if unknown := set(names).difference(columns):
        hint = "" if set(names) & set(columns) else "; if its first line is no header, put one above it"
        raise ValueError(f"unknown columns {', '.join(sorted(unknown))}; expected {', '.join(sorted(columns))}{hint}")


def _check_count(num_rows: int) -> None:
    if num_rows > MAX_ROWS:
        raise ValueError(f"has more than {MAX_ROWS} rows; split it")


def _text(file: IO[bytes]) -> str:
    data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"has more than {MAX_BYTES} bytes; split it")
    return decode_text(data)


def _read_csv(file: IO[bytes], columns: Collection[str]) -> tuple[Sequence[str], list[Row]]:
    names, lines = read_csv(_text(file), columns)
    _check_columns(names, columns)
    rows = []
    for values in lines:
        rows.append(dict(zip(names, values, strict=True)))
        _check_count(len(rows))
    return names, rows


def _read_json_lines(file: IO[bytes], columns: Collection[str]) -> tuple[Sequence[str], list[Row]]:
    rows: list[Row] = []
    for number, line in enumerate(StringIO(_text(file), newline="\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_only_once)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number} is not JSON: {error.msg} at column {error.colno}") from error
        except RecursionError as error:
            raise ValueError(f"line {number} is nested too deeply") from error
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f'line {number} is not an object; expected one a line, as in {{"name": "value"}}')
        if nested := [name for name, value in row.items() if isinstance(value, dict | list)]:
            raise ValueError(f"line {number}: {nested[0]} is a list or an object; expected text or a number")
        rows.append(row)
        _check_count(len(rows))
    names = dict.fromkeys(name for row in rows for name in row)
    _check_columns(names, columns)
    return list(names), rows


def _only_once(pairs: Sequence[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        twin = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{twin} is said several times")
    return row


def _read_parquet(file: IO[bytes], columns: Collection[str]) -> tuple[Sequence[str], list[Row]]:
    schema = pq.read_schema(file)
    texts = [field.name for field in schema if _is_text(field.type)]
    for field in schema:
        if not (_is_text(field.type) or pa.types.is_null(field.type) or pa.types.is_primitive(field.type)):
            raise ValueError(f"its column {field.name} holds {field.type}; expected text or numbers")
    _check_columns(schema.names, columns)
    file.seek(0)
    table = pq.ParquetFile(file, read_dictionary=texts)
    _check_count(table.metadata.num_rows)
    num_bytes = sum(table.metadata.row_group(n).total_byte_size for n in range(table.metadata.num_row_groups))
    if num_bytes > MAX_BYTES:
        raise ValueError(f"claims to hold {num_bytes} bytes, more than {MAX_BYTES}; split it")
    rows: list[Row] = []
    num_bytes = 0  # of a dictionary, which holds a text once, each row makes its own
    for batch in table.iter_batches(_BATCH_ROWS):
        for name in texts:
            column = batch.column(name)
            lengths = pc.binary_length(column.dictionary if pa.types.is_dictionary(column.type) else column)
            if (pc.max(lengths).as_py() or 0) > MAX_TEXT_BYTES:
                raise ValueError(f"its column {name} holds a text of more than {MAX_TEXT_BYTES} bytes")
            if pa.types.is_dictionary(column.type):
                lengths = lengths.take(column.indices)
            num_bytes += pc.sum(lengths).as_py() or 0
            if num_bytes > MAX_BYTES:
                raise ValueError(f"holds more than {MAX_BYTES} bytes; split it")
        rows += batch.to_pylist()
        _check_count(len(rows))
    return schema.names, rows


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
