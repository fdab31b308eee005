"""Which videos of a corpus are taken, which parts, and for which split: patterns, a manifest, published lists."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import pairwise
from math import inf
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple

from sttn_ray.corpus import Entry
from sttn_ray.errors import CorpusError
from sttn_ray.paths import StoragePath, as_path, is_file, reading
from sttn_ray.rows import Row, read_rows
from sttn_ray.shown import shown

Split = Literal["train", "validation"]
# The lists that the published code keeps beside DAVIS and YouTube-VOS: {"bear": 82, ...}, names and frames.
PUBLISHED_LISTS: dict[str, Split] = {"train.json": "train", "test.json": "validation"}
COLUMNS = {"path", "start_s", "end_s", "split"}
_MAX_LIST_BYTES = 100_000_000


class Wanted(NamedTuple):
    """A video that is asked for.

    Attributes:
        entry: its path, and what it is made of.
        spans: seconds after the first frame, start and end (excluded; may be infinite), ascending; none: all of it.
        split: or None, where its content decides.
        fault: why it cannot be had, or "".
    """

    entry: Entry
    spans: tuple[tuple[float, float], ...] = ()
    split: Split | None = None
    fault: str = ""


def select_matching(entries: Iterable[Entry], patterns: Sequence[str]) -> list[Entry]:
    """Entries whose path matches one of the patterns, or all if there are none; `*` stands for `/` too.

    Raises:
        CorpusError: a pattern matches nothing.
    """
    if not patterns:
        return list(entries)
    matches = {pattern: [e for e in entries if fnmatchcase(e.path, pattern)] for pattern in patterns}
    if idle := [pattern for pattern, found in matches.items() if not found]:
        raise CorpusError(
            f"corpus.include: no video matches {', '.join(idle)}; patterns are of paths below corpus.root"
        )
    kept = {entry for found in matches.values() for entry in found}
    return [entry for entry in entries if entry in kept]


def select_listed(entries: Sequence[Entry], root: str) -> list[Wanted]:
    """Entries with their split, by the published lists in the corpus's root if there are any.

    Only videos that stand in a list are taken; one that is missing has a fault. A list names a folder or a zip of
    frames by its last part, without the suffix.

    Raises:
        CorpusError: a list cannot be read, or a video stands in two.
    """
    lists = {name: split for name, split in PUBLISHED_LISTS.items() if is_file(as_path(root) / name)}
    if not lists:
        return [Wanted(entry) for entry in entries]
    splits: dict[str, Split] = {}
    for file, split in lists.items():
        for name in _read_list(as_path(root) / file):
            if name in splits:
                raise CorpusError(f"{root}: {name} stands in {' and in '.join(lists)}; take it out of one of them")
            splits[name] = split
    found = [(PurePosixPath(entry.path).name.removesuffix(".zip"), entry) for entry in entries]
    wanted = [Wanted(entry, split=splits[name]) for name, entry in found if name in splits]
    missing = splits.keys() - {name for name, _ in found}
    fault = f"stands in {' or '.join(lists)}, and is not below {root}"
    return wanted + [Wanted(Entry(n, "frames"), (), splits[n], f"{n}: {fault}") for n in sorted(missing)]


def select_by_manifest(entries: Sequence[Entry], path: str) -> list[Wanted]:
    """Entries that a manifest names, in its order.

    A manifest is a CSV, JSON lines or Parquet file with `path`, from the corpus's root, and optionally `start_s`,
    `end_s` and `split`. Several rows of one path are several parts of it. A row that cannot be used is a fault.

    Raises:
        CorpusError: the manifest itself cannot be read.
    """
    rows = read_rows(path, "manifest", CorpusError, columns=COLUMNS, required="path")
    kinds = {entry.path: entry.kind for entry in entries}
    by_path: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        written = PurePosixPath(str(row.get("path") or "")).as_posix()
        # Blanks around a name count where a video has them.
        by_path[written if written in kinds else PurePosixPath(_text(row.get("path"))).as_posix()].append(row)
    return [_wanted(name, kinds, parts, path) for name, parts in by_path.items()]


def _wanted(name: str, kinds: dict[str, Any], rows: Sequence[Row], manifest: str) -> Wanted:
    entry = Entry(name, kinds.get(name, "video"))
    if name not in kinds:
        entry = Entry(shown(name), "video")
        return Wanted(entry, fault=f"{name}: stands in {manifest}, and is not below corpus.root")
    splits = {_text(row.get("split")) for row in rows}
    if len(splits) > 1 or not splits <= {"", "train", "validation"}:
        found = ", ".join(sorted(map(repr, splits)))
        return Wanted(entry, fault=f"{name}: its split in {manifest} is {found}; expected one of train, validation")
    try:
        spans = sorted(_span(row) for row in rows)
    except ValueError as error:
        return Wanted(entry, fault=f"{name}: in {manifest}: {error}")
    if any(later[0] < earlier[1] for earlier, later in pairwise(spans)):
        return Wanted(entry, fault=f"{name}: its rows in {manifest} overlap; a frame must lie in one clip")
    split: Any = splits.pop() or None
    return Wanted(entry, tuple(span for span in spans if span != (0.0, inf)), split)


def _span(row: Row) -> tuple[float, float]:
    start, end = (_text(row.get(name)) for name in ("start_s", "end_s"))
    span = (float(start or 0), float(end or inf))
    if not 0 <= span[0] < span[1]:
        raise ValueError(f"start_s={start} and end_s={end} are no part of a video; expected 0 <= start_s < end_s")
    return span


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _read_list(path: StoragePath) -> list[str]:
    try:
        with reading(path):
            if path.stat().st_size > _MAX_LIST_BYTES:
                raise CorpusError(f"{path}: is larger than {_MAX_LIST_BYTES} bytes; expected names of videos")
            names = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{path}: cannot be read as a list of videos ({error})") from error
    if not isinstance(names, dict | list) or not names or not all(isinstance(name, str) for name in names):
        raise CorpusError(f'{path}: expected names of videos, as in {{"bear": 82}} or ["bear"]')
    return list(names)
