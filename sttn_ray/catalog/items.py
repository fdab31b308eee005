"""What is asked for: videos with their masks, from a catalog file or from one request."""

import os
import posixpath
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sttn_ray.addresses import SECRET_ADVICE, holds_secret
from sttn_ray.errors import CatalogError, ConfigError
from sttn_ray.paths import is_remote
from sttn_ray.rows import read_rows

MANIFEST = "manifest.parquet"
_OURS = ("_sttn", MANIFEST)
# Of the containers that are written; a copy of a video without a hole keeps its own.
OUTPUT_SUFFIXES = {".mp4", ".m4v", ".mov", ".mkv"}
COLUMNS = {"video", "mask", "boxes", "output"}
_VIDEO_SUFFIX = re.compile(
    r"\.(3gp|avi|flv|m2ts|m4v|mkv|mov|mp4|mpeg|mpg|mts|mxf|nut|ogv|ts|vob|webm|wmv|y4m)", re.IGNORECASE
)


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
    """The item of a request for one video, local paths relative to the working directory; it may have no mask."""
    row = {"video": video, "mask": mask, "boxes": boxes, "output": PurePosixPath(video).name}
    return _named([row], str(Path.cwd()), needs_mask=False)


def read_catalog(path: str) -> list[Item]:
    """Read a catalog: CSV, JSON lines or Parquet with `video`, `mask` or `boxes`, and optionally `output`.

    Relative paths are taken from the catalog's own folder. Without `output`, a video below that folder is named by its
    path from there, another by its whole path: names do not depend on the other rows. A row that cannot be used becomes
    an item with a fault.

    Raises:
        CatalogError: the file is missing, is of another kind, has other columns, has no rows, or several rows would
            write one output.
    """
    rows = read_rows(path, "catalog", CatalogError, columns=COLUMNS, required="video")
    items = _named(rows, path.rpartition("/")[0] if is_remote(path) else str(Path(path).absolute().parent))
    _refuse_collisions(items, path)
    return items


def _refuse_collisions(items: Sequence[Item], catalog: str) -> None:
    """All of them at once: which of the videos a name is for, nobody but the catalog's owner can say."""
    rows: dict[str, list[Item]] = {}
    for item in items:
        if item.fault is None:
            rows.setdefault(item.output, []).append(item)
    faults = [
        f"{catalog}: {len(same)} rows would write {same[0].output}: {', '.join(item.video for item in same)}"
        for same in rows.values()
        if len(same) > 1
    ]
    if faults:
        example = next(same for same in rows.values() if len(same) > 1)[-1]
        suffix = PurePosixPath(example.video).suffix.lower().lstrip(".")
        given = f"{example.output}-{suffix or 2}"
        faults.append(
            "an output's suffix is that of its container: give all but one of each another name in the column 'output' "
            f"(as {given} for {example.video}); rows without one there keep theirs"
        )
        raise CatalogError(*faults)


def refuse_overwriting(
    items: Sequence[Item], output_dir: str, catalog: str | None = None, checkpoint: str | None = None
) -> None:
    """Check that no output would take the place of a file of the request, nor the manifest of the catalog.

    Raises:
        ConfigError: which ones it would.
    """
    usable = [item for item in items if item.fault is None]
    paths = [p for i in usable for p in (i.video, i.mask) if p]
    # A link by its own name, and by what it leads to.
    inputs: dict[str, dict[str, str]] = {}
    for path in paths:
        for found in (_placed(path), _real(path)):
            stem, suffix = os.path.splitext(found)
            inputs.setdefault(stem, {})[suffix.lower()] = path
    targets = [_placed(f"{output_dir.rstrip('/')}/{item.output}") for item in usable]
    faults = [
        f"{path}: would be overwritten by an output; choose another inpaint.output"
        for target, item in zip(targets, usable, strict=True)
        for suffix, path in inputs.get(target, {}).items()
        if suffix in {*OUTPUT_SUFFIXES, PurePosixPath(item.video).suffix.lower()}
    ]
    # Of these it could only be a copy of a video without a hole, in its own container.
    others = {found: path for path in (catalog, checkpoint) if path for found in (_placed(path), _real(path))}
    copies = [f"{target}{PurePosixPath(i.video).suffix}" for target, i in zip(targets, usable, strict=True)]
    faults += [
        f"{others[copy]}: would be overwritten by an output; choose another inpaint.output"
        for copy in copies
        if copy in others
    ]
    if catalog and _placed(f"{output_dir.rstrip('/')}/{MANIFEST}") in (_placed(catalog), _real(catalog)):
        faults.append(f"{catalog}: would be overwritten by the manifest; choose another inpaint.output")
    if faults:
        raise ConfigError(*faults)


def _placed(path: str) -> str:
    """A path whose folders are no links."""
    return path if is_remote(path) else os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def _real(path: str) -> str:
    return path if is_remote(path) else os.path.realpath(path)


def _named(rows: Sequence[dict[str, Any]], folder: str, *, needs_mask: bool = True) -> list[Item]:
    """Items with absolute paths and an output name each."""
    videos = ["" if _odd_text(row) else _absolute(row.get("video"), folder) for row in rows]
    items = []
    for row, video in zip(rows, videos, strict=True):
        if odd := _odd_text(row):
            items.append(Item(video=odd, mask=None, boxes=None, output="", fault=f"{odd}: the row is no plain text"))
            continue
        text = {name: str(row.get(name) or "").strip() for name in COLUMNS}
        mask = _absolute(row.get("mask"), folder)
        fault = None
        if not video:
            fault = "the row names no video"
        elif secret := next((word for word in text.values() if holds_secret(word)), None):
            fault = f"{secret}: {SECRET_ADVICE}"
        elif scheme := _unknown_scheme(video, text["mask"]):
            fault = f"{video}: {scheme}:// is not supported; give a path, or s3://bucket/key"
        elif bool(text["mask"]) == bool(text["boxes"]) and (needs_mask or text["mask"]):
            fault = f"{video}: give a mask or boxes" + (", not both" if text["mask"] else "")
        name = text["output"] or _default_name(video, folder)
        parts = PurePosixPath(name).parts
        if name and (not parts or PurePosixPath(name).is_absolute() or ".." in parts or _is_ours(parts, video)):
            fault = f"{video}: its output {name!r} is not a path below the output folder, or one of our own there"
        items.append(
            Item(
                video=video,
                mask=mask or None,
                boxes=text["boxes"] or None,
                output=_without_suffix(PurePosixPath(name)) if parts else "",
                fault=fault,
            )
        )
    return items


def _is_ours(parts: Sequence[str], video: str) -> bool:
    """Whether an output, or the copy of a video without a hole in its own container, would be named as our own files.

    Some file systems know no capitals.
    """
    names = {parts[0].casefold()}
    if len(parts) == 1:
        copy = PurePosixPath(_without_suffix(PurePosixPath(parts[0]))).name + PurePosixPath(video).suffix
        names.add(copy.casefold())
    return not names.isdisjoint(_OURS)


def _odd_text(row: dict[str, Any]) -> str | None:
    """The video's name, escaped, of a row that holds what no path and no manifest can."""
    text = "".join(str(row.get(name) or "") for name in sorted(COLUMNS))
    try:
        text.encode()
    except UnicodeEncodeError:
        return ascii(row.get("video"))
    return ascii(row.get("video")) if "\0" in text else None


def _default_name(video: str, folder: str) -> str:
    if video.startswith(f"{folder.rstrip('/')}/"):
        return video.removeprefix(f"{folder.rstrip('/')}/")
    return video.removeprefix("s3://").lstrip("/")


def _unknown_scheme(*paths: str) -> str | None:
    schemes = [path.partition("://")[0] for path in paths if is_remote(path)]
    return next((scheme for scheme in schemes if scheme != "s3"), None)


def _without_suffix(name: PurePosixPath) -> str:
    # "clip.01" and "Mr. Smith" are names without a suffix.
    return str(name.with_suffix("") if _VIDEO_SUFFIX.fullmatch(name.suffix) else name)


def _absolute(path: Any, folder: str) -> str:
    """A row's path as it is found from a catalog's folder; a key of a store that is named in full may hold `..`.

    Blanks around it count where a file of this machine has them in its name.
    """
    text = str(path or "")
    if text != text.strip() and not os.path.lexists(os.path.join(folder, text)):
        text = text.strip()
    if not text.strip() or is_remote(text):
        return text
    if is_remote(folder) and not os.path.isabs(text):
        bucket, _, key = folder.removeprefix("s3://").partition("/")
        return f"s3://{bucket}/{posixpath.normpath(f'/{key}/{text}').lstrip('/')}"
    return os.path.normpath(os.path.join(folder, text))
