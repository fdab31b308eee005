"""What is asked for: videos with their masks, from a catalog file or from one request."""

import csv
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sttn_ray.errors import CatalogError

COLUMNS = {"video", "mask", "boxes", "output"}


@dataclass(frozen=True, kw_only=True)
class Item:
    """One video to be inpainted.

    Attributes:
        video: absolute path.
        mask: absolute path, or None where there are boxes.
        boxes: text, or None where there is a mask.
        output: relative path of the output without its suffix, which the container decides.
        fault: why the row cannot be used, or None.
    """

    video: str
    mask: str | None
    boxes: str | None
    output: str
    fault: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def single_item(video: str, mask: str | None, boxes: str | None) -> list[Item]:
    """The item of a request for one video, paths relative to the working directory."""
    return _named([{"video": video, "mask": mask, "boxes": boxes}], Path.cwd())


def read_catalog(path: str) -> list[Item]:
    """Read a catalog: CSV, JSON lines or Parquet with `video`, `mask` or `boxes`, and optionally `output`.

    Relative paths are taken from the catalog's own folder. A row that cannot be used becomes an item with a fault.

    Raises:
        CatalogError: the file is missing, is of another kind, has other columns, or has no rows.
    """
    readers = {".csv": _read_csv, ".jsonl": _read_json_lines, ".parquet": _read_parquet}
    reader = readers.get(Path(path).suffix.lower())
    if reader is None:
        raise CatalogError(f"{path}: a catalog is a file ending in {', '.join(readers)}")
    try:
        rows = reader(path)
    except FileNotFoundError as error:
        raise CatalogError(f"{path}: no such catalog") from error
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        raise CatalogError(f"{path}: cannot be read as a catalog: {error}") from error
    if not rows:
        raise CatalogError(f"{path}: holds no rows")
    columns = set().union(*rows)
    if unknown := columns - COLUMNS:
        raise CatalogError(
            f"{path}: unknown columns {', '.join(sorted(map(str, unknown)))}; expected {', '.join(sorted(COLUMNS))}"
        )
    if "video" not in columns:
        raise CatalogError(f"{path}: has no column 'video'")
    return _named(rows, Path(path).absolute().parent)


def _read_csv(path: str) -> list[dict[str, Any]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise ValueError(f"line {number} has another number of fields than the header")
    return rows


def _read_json_lines(path: str) -> list[dict[str, Any]]:
    rows = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"line {number} is not an object")
                rows.append(row)
    return rows


def _read_parquet(path: str) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def _named(rows: Sequence[dict[str, Any]], folder: Path) -> list[Item]:
    """Items with absolute paths and an output name each; names that two items share are faults."""
    videos = [_absolute(row.get("video"), folder) for row in rows]
    known = [video for video in videos if video]
    root = os.path.commonpath([os.path.dirname(video) for video in known]) if known else "/"
    items = []
    for row, video in zip(rows, videos, strict=True):
        text = {name: str(row.get(name) or "").strip() for name in COLUMNS}
        fault = None
        if not video:
            fault = "the row names no video"
        elif "://" in f"{row.get('video')}{row.get('mask')}":
            fault = f"{row.get('video')}: object stores are not supported yet; copy the files to a shared folder"
        elif bool(text["mask"]) == bool(text["boxes"]):
            fault = f"{video}: give a mask or boxes" + (", not both" if text["mask"] else "")
        name = text["output"] or (os.path.relpath(video, root) if video else "")
        parts = PurePosixPath(name).parts
        if name and (not parts or PurePosixPath(name).is_absolute() or ".." in parts or parts[0] == "_sttn"):
            fault = f"{video}: its output {name!r} is not a path below the output folder"
        items.append(
            Item(
                video=video,
                mask=_absolute(text["mask"], folder) or None,
                boxes=text["boxes"] or None,
                output=_without_suffix(PurePosixPath(name)) if parts else "",
                fault=fault,
            )
        )
    counts = Counter(item.output for item in items)
    return [
        _with_fault(item, f"{item.video}: {counts[item.output]} items would write {item.output}; set their 'output'")
        if item.fault is None and counts[item.output] > 1
        else item
        for item in items
    ]


def _without_suffix(name: PurePosixPath) -> str:
    # "clip.01" and "clip.02" are two names, not one with two suffixes.
    return str(name if name.suffix[1:].isdigit() else name.with_suffix(""))


def _with_fault(item: Item, fault: str) -> Item:
    return Item(**{**item.as_dict(), "fault": fault})


def _absolute(path: Any, folder: Path) -> str:
    text = str(path or "").strip()
    return os.path.normpath(folder / text) if text else ""
