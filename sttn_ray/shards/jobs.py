"""What one task of a build does, in any process: find a video's content, or write one shard file."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, get_args

from sttn_ray.attempts import Place, attempt
from sttn_ray.choices import Family
from sttn_ray.corpus import Corpus, Entry, Source, file_of, index_source
from sttn_ray.errors import CorpusError, StorageError
from sttn_ray.paths import below, stamps
from sttn_ray.shards.plan import Range
from sttn_ray.shards.records import FoundSource, ShardsDir, object_masks_file, path_key
from sttn_ray.shards.write import (
    Fault,
    IndexRow,
    ShardSettings,
    write_clips,
    write_drawn_masks,
    write_object_masks,
)
from sttn_ray.storage import record_hash

DRAWN_MASKS = "masks/drawn.parquet"
_REPLACED = "was replaced while the job ran; give the same command again"
Row = dict[str, Any]


def find_source(root: str, entry: Entry, shards: ShardsDir, frames_fps: Fraction, place: Place) -> Source:
    """What a video holds, from its record where its files are as they were.

    Raises:
        VideoError, CorpusError: it is missing or damaged, or of a kind that is not supported.
        PoisonError: processes died of it.
        StorageError: it cannot be read.
    """
    path = str(below(root, file_of(entry)))
    try:
        now = stamps(path)
    except FileNotFoundError as error:  # a link to nothing, or a name with replaced bytes
        advice = "; its name is not UTF-8: rename it" if "\N{REPLACEMENT CHARACTER}" in entry.path else ""
        raise CorpusError(f"{entry.path}: cannot be read (no such file){advice}") from error
    found = shards.read_source(entry.path)
    if found is not None and found.stamps == now:
        return found.source
    with attempt(shards.attempts, f"index-{path_key(entry.path)}", place):
        source = index_source(root, entry, frames_fps=frames_fps)
    _require_unchanged(path, now)
    shards.write_source(FoundSource(source, now))
    return source


def shards_to_do(
    root: str, plan: Sequence[Sequence[Range]], videos: Mapping[str, Row], corpus: Corpus, masks_per_family: int
) -> list[Row]:
    """A row for every shard file: its name, its content, and the frames in it.

    Those that take longest come first: at the end nobody waits for one that was begun last.

    Args:
        root: the corpus's folder.
        plan: the ranges of each shard.
        videos: that can be used, by their sha256; with their path and the pixels of a frame.
        corpus: for its object masks.
        masks_per_family: to be drawn.
    """

    def cost(shard: Sequence[Range]) -> int:
        return sum((p.stop - p.start) * videos[p.sha256]["pixels"] for p in shard if p.sha256 in videos)

    rows: list[Row] = [
        {
            "file": f"clips/shard-{number:05d}.parquet",
            "ranges": [
                {**part._asdict(), "path": videos[part.sha256]["path"] if part.sha256 in videos else ""}
                for part in shard
            ],
            "content": record_hash(shard),
            "frames": sum(part.stop - part.start for part in shard),
        }
        for number, shard in sorted(enumerate(plan), key=lambda item: -cost(item[1]))
    ]
    masks: list[Row] = [
        {"file": object_masks_file(entry), "path": entry.path, "kind": entry.kind, "content": _content(root, entry)}
        for entry in corpus.object_masks
    ]
    if masks_per_family:
        masks.append({"file": DRAWN_MASKS, "content": f"{masks_per_family} of each family", "count": masks_per_family})
    blank = {"ranges": [], "path": "", "kind": "", "count": 0, "frames": 0}
    return [blank | row | {"number": number} for number, row in enumerate([*masks, *rows])]


def _content(root: str, entry: Entry) -> str:
    try:
        return record_hash(stamps(below(root, file_of(entry))))
    except (FileNotFoundError, StorageError) as error:  # a link to nothing, which reading passes over
        return str(error)


def write_shard(
    root: str, shards: ShardsDir, row: Row, settings: ShardSettings, seed: int, place: Place
) -> dict[str, Any]:
    """Write a shard file that is not there yet, and its record; returns the record.

    Args:
        root: the corpus's folder.
        shards: where it is to lie.
        row: of `shards_to_do`.
        settings: of the shards.
        seed: of masks that are drawn.
        place: where this runs.

    Raises:
        SttnError: it cannot be written, or a video was replaced meanwhile.
    """
    present = {part["sha256"] for part in row["ranges"] if part["path"]}
    done = shards.read_done(row["file"], row["content"], present)
    if done is not None:
        return done
    with attempt(shards.attempts, f"write-{path_key(row['file'])}", place):
        rows, faults = _write(root, shards, row, settings, seed)
    return shards.write_done(row["file"], row["content"], rows, faults)


def _write(
    root: str, shards: ShardsDir, row: Row, settings: ShardSettings, seed: int
) -> tuple[list[IndexRow], list[Fault]]:
    path = shards.folder / row["file"]
    faults: list[Fault] = []
    if row["file"] == DRAWN_MASKS:
        families = get_args(Family)
        rows = write_drawn_masks(path, families, masks_per_family=row["count"], seed=seed, settings=settings)
    elif row["path"]:
        rows = write_object_masks(root, path, Entry(row["path"], row["kind"]), settings)
    else:
        found, ranges, faults = _find_ranges(root, shards, row["ranges"])
        sources = {sha256: video.source for sha256, video in found.items()}

        def require_unchanged() -> None:
            for video in found.values():
                _require_unchanged(str(below(root, video.source.file)), video.stamps)

        rows, more = write_clips(root, path, ranges, sources, settings, before_publishing=require_unchanged)
        faults += more
    return rows, faults


def _find_ranges(
    root: str, shards: ShardsDir, parts: Sequence[Row]
) -> tuple[dict[str, FoundSource], list[Range], list[Fault]]:
    """The videos of some ranges by their sha256, the ranges of those that are there, and faults for the others.

    Raises:
        StorageError: another job has found another content since, where one of them was.
    """
    videos: dict[str, FoundSource | None] = {}
    ranges: list[Range] = []
    faults: list[Fault] = []
    for part in parts:
        wanted = Range(part["sha256"], part["start"], part["stop"], part["split"])
        if wanted.sha256 not in videos:
            found = shards.read_source(part["path"]) if part["path"] else None
            if found is not None and found.source.sha256 != wanted.sha256:
                raise StorageError(f"{part['path']}: {_REPLACED}")
            videos[wanted.sha256] = found
        if videos[wanted.sha256] is not None:
            ranges.append(wanted)
            continue
        gone = CorpusError(f"the video {wanted.sha256[:16]} is planned for this shard, and gone from the corpus")
        faults.append(Fault(wanted.sha256, wanted.start, wanted.stop, gone, "gone"))
    return {sha256: video for sha256, video in videos.items() if video is not None}, ranges, faults


def _require_unchanged(path: str, then: list[list[Any]]) -> None:
    """Refuse to take frames of one content for those of another."""
    try:
        is_same = stamps(path) == then
    except FileNotFoundError:
        is_same = False
    if not is_same:
        raise StorageError(f"{path}: {_REPLACED}")
