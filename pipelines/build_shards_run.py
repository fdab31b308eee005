"""What `pipelines.build_shards` does: index the corpus, write its shards, and report."""

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import cv2
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from PIL import Image

import sttn_ray
from sttn_ray import cluster, turns
from sttn_ray.config import Experiment
from sttn_ray.corpus import Entry, find_entries
from sttn_ray.errors import ConfigError, CorpusError, ShardError, failed_outcome
from sttn_ray.model.generator import PRESETS
from sttn_ray.paths import StoragePath, as_path, is_file, is_remote, use_endpoint
from sttn_ray.report.samples import sample_sheet
from sttn_ray.selection import Wanted, select_by_manifest, select_listed, select_matching
from sttn_ray.shards.jobs import find_source, shards_to_do, write_shard
from sttn_ray.shards.plan import Range, frame_spans, grow_plan
from sttn_ray.shards.read import INDEX_FILE, read_index, read_index_table
from sttn_ray.shards.records import ShardsDir
from sttn_ray.shards.splits import fill_empty_side, planned_splits, resplit, set_splits
from sttn_ray.shards.tables import INDEX_SCHEMA
from sttn_ray.shards.verify import verify_shards
from sttn_ray.shards.videos import (
    BLANK,
    VIDEOS_SCHEMA,
    count_clips,
    mark_unusable,
    refuse_too_many_failures,
    to_plan,
)
from sttn_ray.shards.write import IndexRow, ShardSettings
from sttn_ray.shown import shown
from sttn_ray.storage import claim, published
from sttn_ray.training.data import ClipDataset

from .place import this_place
from .progress import ProgressLine, prepare_data, start_progress

log = logging.getLogger(__name__)

# One task a video, and a shard, up to here: Ray Data's driver spends 8 ms on each.
MAX_TASKS = 4096
SHEET = "samples.png"
SHEET_ROWS = 8
# To be raised when the same settings give other shards.
FORMAT_VERSION = 4
Row = dict[str, Any]


def verify(folder: str) -> int:
    """Check shards and say what is in them; returns the exit status."""
    found = verify_shards(folder, lambda done, total: log.info("verified %d/%d files", done, total))
    for name, count in sorted(found.counts.items()):
        log.info("%s: %d rows, %d frames, %.1f MB", name, count["rows"], count["frames"], count["bytes"] / 1e6)
    for fault in found.faults:
        log.error("fault: %s", shown(fault))
    log.info("%d faults", len(found.faults))
    return 1 if found.faults else 0


def run(experiment: Experiment) -> int:
    """Build or complete the shards that an experiment describes; returns the exit status.

    Raises:
        SttnError: the request itself is wrong; nothing was done.
    """
    start_s = time.monotonic()
    _check(experiment)
    use_endpoint(experiment.storage.endpoint_url)
    root, shards = experiment.corpus.root or "", ShardsDir(experiment.shards.dir or "")
    corpus = find_entries(root)
    wanted = _wanted(corpus.entries, experiment)
    settings = _settings(experiment)
    cluster.connect(has_dashboard=False)
    cluster.require_shared_paths(_paths(experiment))
    ours = {**vars(settings), "frames_fps": experiment.corpus.frames_fps, "seed": experiment.run.seed}
    ours |= {"validation_share": experiment.corpus.validation_share}
    ours |= {"format_version": FORMAT_VERSION, "sttn_ray": sttn_ray.__version__}
    claim(shards.settings_path, ours, shards.folder, "choose another shards.dir, or delete the folder to build anew")
    log.info(
        "%d videos%s, %d folders of object masks below %s%s",
        len(wanted),
        f" of {len(corpus.entries)}" if len(wanted) != len(corpus.entries) else "",
        len(corpus.object_masks),
        root,
        f"; ignored by suffix: {dict(corpus.ignored)}" if corpus.ignored else "",
    )
    turns.await_task(cluster.cpus_per_core())
    interval_s, max_error_fraction = experiment.run.log_interval_s, experiment.corpus.max_error_fraction
    videos = _index_videos(root, wanted, shards, experiment)
    mark_unusable(videos, min_clip_frames=settings.min_clip_frames)
    plan = shards.read_plan()
    published = _published(shards, plan)
    share = experiment.corpus.validation_share
    set_splits(videos, share, planned=planned_splits(plan), published=published)
    refuse_too_many_failures(_failed(videos), len(videos), max_error_fraction)
    known = {row["sha256"] for row in videos}
    short = {sha256[:16] for sha256 in known}
    others = [
        split for sha256, split in planned_splits(plan).items() if sha256[:16] in published and sha256 not in known
    ]
    if moved := fill_empty_side(videos, [row for row in videos if row["status"] == "done"], share, others=others):
        _tell_moved(moved, share)
        plan = resplit(plan, moved["sha256"], moved["split"])
    plan = grow_plan(
        plan,
        to_plan(videos),
        clip_frames=settings.clip_frames,
        min_clip_frames=settings.min_clip_frames,
        clips_per_shard=settings.clips_per_shard,
    )
    usable = {row["sha256"]: row for row in videos if row["status"] == "done"}
    while True:
        shards.write_plan(plan)
        todo = shards_to_do(root, plan, usable, corpus, experiment.shards.masks_per_family)
        index, faults, failed = _write_shards(root, shards, todo, settings, experiment.run.seed, interval_s)
        _refuse_missing(failed, len(todo), shards)
        count_clips(videos, index, faults)
        # All videos of a side may have failed.
        others = [row["split"] for row in index if row["table"] == "clips" and row["id"].split("-")[0] not in short]
        moved = fill_empty_side(videos, [row for row in videos if row["clips"]], share, others=others)
        if moved is None:
            break
        _tell_moved(moved, share)
        plan = resplit(plan, moved["sha256"], moved["split"])
    _write_table(shards.folder / "videos.parquet", videos, VIDEOS_SCHEMA)
    refuse_too_many_failures(_failed(videos), len(videos), max_error_fraction)
    if not any(row["table"] == "clips" for row in index):
        for row in videos:
            log.error("%s: %s at %s: %s", shown(row["path"]), row["status"], row["step"], row["reason"])
        raise CorpusError(f"{root}: not one clip could be made of its {len(videos)} videos")
    _write_table(shards.folder / INDEX_FILE, index, INDEX_SCHEMA)
    _write_sheet(shards.folder, experiment)
    status = _report(videos, index, shards, time.monotonic() - start_s)
    gone = {fault["sha256"]: fault["reason"] for fault in faults if fault["sha256"] not in known}
    for reason in gone.values():
        log.error("%s", reason)
    return 1 if failed or gone else status


def _published(shards: ShardsDir, plan: Sequence[Sequence[Range]]) -> set[str]:
    """The first digits of the sha256 of videos whose clips a training may have seen."""
    if not is_file(shards.folder / INDEX_FILE):
        return set()
    try:
        rows = read_index_table(shards.folder).to_pylist()
    except ShardError:  # damaged
        return {sha256[:16] for sha256 in planned_splits(plan)}
    return {row["id"].split("-")[0] for row in rows if row["table"] == "clips"}


def _tell_moved(video: Row, validation_share: float) -> None:
    log.info(
        "%s: goes to %s, where corpus.validation_share=%g leaves no video by content alone",
        shown(video["path"]),
        video["split"],
        validation_share,
    )


def _refuse_missing(failed: Sequence[Row], num_shards: int, shards: ShardsDir) -> None:
    """Tell which shards failed; those of object masks that cannot be read are left out, a clip's would be a hole.

    Raises:
        ShardError: shards of clips are missing.
    """
    for row in failed:
        log.error("%s: not written: %s", shown(row["file"]), row["reason"])
    if missing := [row for row in failed if row["is_unexpected"] or not row["file"].startswith("masks/objects-")]:
        raise ShardError(
            f"{shards.folder}: {len(missing)} of {num_shards} shards were not written, so {INDEX_FILE} was not either; "
            "mend the cause and give the same command again"
        )


def _check(experiment: Experiment) -> None:
    corpus, shards = experiment.corpus, experiment.shards
    faults = [f"{name}: is missing" for name, value in _paths(experiment).items() if not value]
    if shards.min_clip_frames > shards.clip_frames:
        faults.append(
            f"shards.min_clip_frames={shards.min_clip_frames}: is more than shards.clip_frames={shards.clip_frames}"
        )
    for name, path in {**_paths(experiment), "corpus.manifest": corpus.manifest}.items():
        try:
            as_path(path or "")
        except ConfigError as error:
            faults.append(f"{name}={error}")
    if corpus.root and shards.dir and _real(shards.dir).is_relative_to(_real(corpus.root)):
        faults.append(f"shards.dir={shards.dir}: lies inside corpus.root={corpus.root}; choose a folder beside it")
    if faults:
        raise ConfigError(*faults)


def _real(path: str) -> PurePath:
    return PurePosixPath(path) if is_remote(path) else Path(path).resolve()


def _paths(experiment: Experiment) -> dict[str, str | None]:
    return {"corpus.root": experiment.corpus.root, "shards.dir": experiment.shards.dir}


def _settings(experiment: Experiment) -> ShardSettings:
    shards, network = experiment.shards, PRESETS[experiment.model.preset]
    names = ("fit", "codec", "quality", "clip_frames", "min_clip_frames", "clips_per_shard")
    return ShardSettings(
        width=shards.width or network.width,
        height=shards.height or network.height,
        **{name: getattr(shards, name) for name in names},
    )


def _wanted(entries: Sequence[Entry], experiment: Experiment) -> list[Wanted]:
    corpus = experiment.corpus
    matching = select_matching(entries, corpus.include)
    if corpus.manifest:
        return select_by_manifest(matching, corpus.manifest)
    return select_listed(matching, corpus.root or "")


def _index_videos(root: str, wanted: Sequence[Wanted], shards: ShardsDir, experiment: Experiment) -> list[Row]:
    """A row for every video, in the corpus's order."""
    prepare_data()
    progress = start_progress()
    frames_fps = Fraction(str(experiment.corpus.frames_fps))
    rows = [
        {"number": n, **v.entry._asdict(), "spans": v.spans, "split": v.split or "", "fault": v.fault}
        for n, v in enumerate(wanted)
    ]
    # 1. Index each video (1:1): all its packets, its content's hash. One core: one demuxer.
    dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), MAX_TASKS)).map(
        make_index_fn(root, shards, frames_fps, progress), num_cpus=cluster.cpus_per_core()
    )
    videos: list[Row] = []
    failed: list[Row] = []
    interval_s = experiment.run.log_interval_s
    with ProgressLine(progress, num_items=len(rows), interval_s=interval_s, items="indexed: videos"):
        for row in dataset.iter_rows():
            videos.append(row)
            if row["status"] == "failed":
                failed.append(row)
            # Not only at the end: of a hundred thousand files that would be hours later.
            refuse_too_many_failures(failed, len(rows), experiment.corpus.max_error_fraction)
    return sorted(videos, key=lambda row: row["number"])


def make_index_fn(
    root: str, shards: ShardsDir, frames_fps: Fraction, progress: ray.actor.ActorHandle
) -> Callable[[Row], Row]:
    """Rows of number, path, kind, spans, split, fault to rows of a video; adds the columns of `VIDEOS_SCHEMA`.

    What was found is kept in a record, from which the other operators read it.
    """

    def index(row: Row) -> Row:
        entry = Entry(row["path"], row["kind"])
        try:
            if row["fault"]:
                raise CorpusError(row["fault"])
            source = find_source(root, entry, shards, frames_fps, this_place())
            times_s = [float((pts - source.pts[0]) * source.time_base) for pts in source.pts]
            spans = frame_spans(row["spans"], times_s)
        except Exception as error:  # noqa: BLE001 -- this operator's one boundary
            progress.finish.remote(row["number"], "failed")
            return row | BLANK | failed_outcome("index", error)
        progress.finish.remote(row["number"], "done")
        found = {"sha256": source.sha256, "frames": source.num_frames, "frame_spans": spans}
        return row | BLANK | found | {"pixels": source.width * source.height}

    return index


def _failed(videos: Iterable[Row]) -> list[Row]:
    return [row for row in videos if row["status"] == "failed"]


def _write_shards(
    root: str, shards: ShardsDir, todo: Sequence[Row], settings: ShardSettings, seed: int, interval_s: float
) -> tuple[list[IndexRow], list[Row], list[Row]]:
    """Write the shards that are not done; returns the index, the ranges that failed, and the shards that failed."""
    progress = start_progress()
    progress.add.remote("planned", sum(row["frames"] for row in todo))
    # 2. Write each shard (1:1). One core: decoding, scaling and packing share one thread.
    dataset = ray.data.from_items(list(todo), override_num_blocks=min(len(todo), MAX_TASKS)).map(
        make_write_fn(root, shards, settings, seed, progress), num_cpus=cluster.cpus_per_core()
    )
    with ProgressLine(progress, num_items=len(todo), interval_s=interval_s, items="shards", plans_all=True):
        rows = sorted(dataset.iter_rows(), key=lambda row: row["number"])
    failed = [row for row in rows if row["status"] == "failed"]
    index: list[IndexRow] = []
    faults: list[Row] = []
    for record in (json.loads(row["record"]) for row in rows if row["status"] != "failed"):
        index += record["rows"]
        faults += record["faults"]
    return sorted(index, key=lambda row: (row["table"], row["file"], row["row_group"])), faults, failed


def make_write_fn(
    root: str, shards: ShardsDir, settings: ShardSettings, seed: int, progress: ray.actor.ActorHandle
) -> Callable[[Row], Row]:
    """Rows of `shards_to_do` to rows of number, file, the record of what was written, status and what failed."""

    def write(row: Row) -> Row:
        cv2.setNumThreads(1)
        short = {"number": row["number"], "file": row["file"], "record": ""}
        short |= {"status": "done", "step": "", "error": "", "reason": "", "is_unexpected": False}
        try:
            # As text: Ray would make one type of all records, some of which are empty.
            short["record"] = json.dumps(write_shard(root, shards, row, settings, seed, this_place()))
        except Exception as error:  # noqa: BLE001 -- this operator's one boundary
            progress.finish.remote(row["number"], "failed")
            return short | failed_outcome("write", error)
        progress.add.remote("completed", row["frames"])
        progress.finish.remote(row["number"], "done")
        return short

    return write


def _write_table(path: StoragePath, rows: Sequence[Row], schema: pa.Schema) -> None:
    table = pa.Table.from_pylist([{name: row[name] for name in schema.names} for row in rows], schema)
    with published(path) as temporary:
        pq.write_table(table, temporary)


def _write_sheet(folder: StoragePath, experiment: Experiment) -> None:
    """A picture of random clips with masks as training draws them, so that a person sees what was built."""
    try:
        index = read_index(folder, "train")
    except ShardError:  # every clip is for validation
        return
    dataset = ClipDataset(
        folder,
        index,
        sample_frames=experiment.train.sample_frames,
        weights=experiment.masks.weights(),
        seed=experiment.run.seed,
    )
    with published(folder / SHEET) as temporary:
        Image.fromarray(sample_sheet(dataset, min(SHEET_ROWS, len(index.clips))).picture).save(temporary, format="png")


def _report(videos: Sequence[Row], index: Sequence[IndexRow], shards: ShardsDir, seconds: float) -> int:
    for row in videos:
        if row["status"] in ("failed", "partial"):
            log.error("%s at %s: %s", row["status"], row["step"], row["reason"])
    statuses = Counter(row["status"] for row in videos)
    clips = [row for row in index if row["table"] == "clips"]
    frames = sum(row["num_frames"] for row in clips)
    for split in ("train", "validation"):
        own = [row for row in clips if row["split"] == split]
        count = len({row["id"].split("-")[0] for row in own})
        log.info("%s: %d clip%s of %d video%s", split, len(own), "s"[: len(own) != 1], count, "s"[: count != 1])
    log.info(
        "%d clips (%d frames, %.1f MB; %s) and %d masks of %d videos (%s), in %.0f s; index: %s%s",
        len(clips),
        frames,
        sum(row["num_bytes"] for row in clips) / 1e6,
        ", ".join(f"{count} {split}" for split, count in sorted(Counter(row["split"] for row in clips).items())),
        len(index) - len(clips),
        len(videos),
        ", ".join(f"{count} {status}" for status, count in sorted(statuses.items())),
        seconds,
        shards.folder / INDEX_FILE,
        f"; look at {shards.folder / SHEET}" if (shards.folder / SHEET).exists() else "",
    )
    return 1 if statuses["failed"] or statuses["partial"] else 0
