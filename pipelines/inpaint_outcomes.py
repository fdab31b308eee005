"""What becomes of each video, as it reaches the driver of `pipelines.inpaint`: told, counted, and written."""

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from sttn_ray.catalog.items import Item
from sttn_ray.catalog.manifest import (
    FAILED,
    OUTCOME_FIELDS,
    manifest_row,
    pending_outcome,
    read_manifest,
    unpack_outcomes,
    write_manifest,
)
from sttn_ray.catalog.plan import input_stats
from sttn_ray.catalog.publish import outcome_if_current
from sttn_ray.catalog.records import ItemDir
from sttn_ray.errors import ConfigError, StorageError, SttnError, describe_failures, failed_outcome
from sttn_ray.paths import StoragePath, is_remote
from sttn_ray.shown import shown

log = logging.getLogger(__name__)

Row = dict[str, Any]
RECORDS_AT_ONCE = 32  # a request each, where they lie in a store
# Before Ray is started. On a disk outputs are hashed, which many nodes do faster than this one; one that is begun is
# hashed to its end.
ASKING_S = 20.0
# A job of days is looked at while it runs, and its driver may be lost.
MANIFEST_INTERVAL_S = 300.0
# So many failures are no sign of a catalog, a disk or a key that is bad as a whole: a small catalog is tried in full.
FEW_FAILURES = 10


def collect(
    rows: Iterable[Row],
    items: Sequence[Item],
    outcomes: dict[int, Row],
    max_error_fraction: float,
    *,
    tell: Callable[[str], None],
    keep: Callable[[], None],
) -> str | None:
    """Take down outcomes, by item, as they come; returns why the job is to stop before all are done, or None.

    Args:
        rows: of the chain of operators.
        items: of the catalog.
        outcomes: is filled; it may hold some from before.
        max_error_fraction: `inpaint.max_error_fraction`.
        tell: is given a line for each video that fails.
        keep: is called every few minutes.
    """
    failed = [outcome for outcome in outcomes.values() if outcome["status"] in FAILED]
    due_s = time.monotonic() + MANIFEST_INTERVAL_S
    for row in rows:
        for number, outcome in unpack_outcomes(row["outcomes"]).items():
            # A segment's failure is the video's; a later segment's success does not change that.
            if outcomes.get(number, {}).get("status") in FAILED:
                continue
            outcomes[number] = outcome
            if outcome["status"] in FAILED:
                failed.append(outcome)
                tell(describe_failure(items[number], outcome))
        # Not only at the end: of a hundred thousand files that would be days later.
        if len(outcomes) < len(items) and are_too_many(len(failed), len(items), max_error_fraction):
            title = (
                f"{len(failed)} of {len(items)} videos failed, more than inpaint.max_error_fraction="
                f"{max_error_fraction:g} allows; the others were left:"
            )
            return "\n".join([title, *describe_failures(failed)])
        if time.monotonic() >= due_s:
            keep()
            due_s = time.monotonic() + MANIFEST_INTERVAL_S
    return None


def are_too_many(num_failed: int, num_items: int, max_error_fraction: float) -> bool:
    """Whether so many failures of so many videos are to stop a job; a fraction of 0 allows none."""
    allowed = max(FEW_FAILURES, max_error_fraction * num_items) if max_error_fraction else 0
    return num_failed > allowed


def describe_failure(item: Item, outcome: Row) -> str:
    """The line that says why a video failed."""
    video = shown(item.video)
    named = "" if video in outcome["reason"] else f"{video}: "
    return f"{outcome['status']} at {outcome['step']}: {named}{outcome['reason']}"


def keep_manifest(output_dir: StoragePath, items: Sequence[Item], outcomes: dict[int, Row]) -> None:
    """Write the manifest of a job that goes on, or was broken off: of videos without an outcome, what was known before.

    One that cannot be written is told; the next one may be.
    """
    try:
        unknown = pending_outcome("the job had not come to its end; the same command goes on")
        wanted = {_request(manifest_row(item, unknown)) for n, item in enumerate(items) if n not in outcomes}
        before = {_request(row): row for row in read_manifest(output_dir) if _request(row) in wanted}
        records = (manifest_row(item, outcomes.get(n, unknown)) for n, item in enumerate(items))
        write_manifest(
            output_dir,
            (row if n in outcomes else before.get(_request(row), row) for n, row in enumerate(records)),
        )
    except StorageError as error:
        log.warning("the manifest of what is done so far was not written: %s", error)


def _request(row: Row) -> tuple[Any, ...]:
    return row["video"], row["mask"], row["boxes"]


def current_outcomes(items: Sequence[Item], output_dir: StoragePath, settings_hash: str) -> dict[int, Row]:
    """The outcomes of the videos of which records say that nothing is to be done, before Ray is started.

    Records are asked for some seconds; of the other videos the operators ask then, on all nodes.
    """
    end_s = time.monotonic() + ASKING_S

    def ask(item: Item) -> Row | None:
        return _current(item, output_dir, settings_hash) if time.monotonic() < end_s else None

    threads = RECORDS_AT_ONCE if is_remote(output_dir) else os.cpu_count()
    with ThreadPoolExecutor(threads) as pool:
        return {n: found for n, found in enumerate(pool.map(ask, items)) if found is not None}


def _current(item: Item, output_dir: StoragePath, settings_hash: str) -> Row | None:
    """The outcome of a video that would not be done again; what else a record may say is for the operators to tell."""
    if item.fault is not None:
        return failed_outcome("plan", ConfigError(item.fault))
    item_dir = ItemDir(output_dir, item.output)
    with suppress(SttnError, OSError):
        inputs = input_stats(item.video, item.mask, item.boxes)
        outcome = outcome_if_current(item_dir, inputs, settings_hash)
        if outcome is not None and outcome["status"] != "quarantined":
            item_dir.clear_work()  # of a run killed after the video was done
        return outcome and _told(outcome)
    return None


def _told(outcome: Row) -> Row:
    """What the manifest tells of an outcome."""
    return {name: outcome[name] for name in OUTCOME_FIELDS if name in outcome}


def missing_outcomes(
    items: Sequence[Item], known: Collection[int], output_dir: StoragePath, settings_hash: str, *, is_stopped: bool
) -> dict[int, Row]:
    """The outcomes of the videos of which no row told: their records', of an earlier run or another driver."""
    missing = [n for n in range(len(items)) if n not in known]
    with ThreadPoolExecutor(RECORDS_AT_ONCE) as pool:
        found = pool.map(lambda n: _recorded(items[n], output_dir, settings_hash, is_stopped=is_stopped), missing)
        outcomes = dict(zip(missing, found, strict=True))
    for number, outcome in outcomes.items():
        if outcome["status"] in FAILED:
            log.error("%s", describe_failure(items[number], outcome))
    return outcomes


def _recorded(item: Item, output_dir: StoragePath, settings_hash: str, *, is_stopped: bool) -> Row:
    """The outcome of a record; of a run that was stopped only where the video would not be done again."""
    if is_stopped:
        found = _current(item, output_dir, settings_hash)
        return found or pending_outcome("the job was stopped before it; the same command goes on")
    item_dir = ItemDir(output_dir, item.output)
    if (recorded := item_dir.read_outcome()) is not None:
        return _told(recorded)
    again = "while the job worked there; the same command does it again"
    plan = item_dir.read_plan()
    if plan is None:
        return failed_outcome("publish", StorageError(f"{item_dir.path}: was deleted {again}"))
    if missing := [n for n, found in enumerate(item_dir.read_segments(plan)) if found is None]:
        told = f"{len(missing)} of {len(plan.segments)} segments, as {item_dir.segment_path(missing[0])}"
        return failed_outcome("publish", StorageError(f"{told}: were deleted or changed {again}"))
    return failed_outcome("publish", RuntimeError("its segments ended without an outcome"))


def report(outcomes: Collection[Row], manifest: StoragePath, seconds: float) -> int:
    """Say what became of all videos; returns the exit status."""
    counts = Counter(outcome["status"] for outcome in outcomes)
    log.info(
        "%d done (%d frames), %d copied without a hole, %d failed%s, in %.0f s; manifest: %s",
        counts["done"],
        sum(outcome["frames"] for outcome in outcomes if outcome["status"] in ("done", "degraded")),
        counts["copied"],
        counts["failed"],
        "".join(f", {counts[name]} {name}" for name in ("degraded", "quarantined", "pending") if counts[name]),
        seconds,
        manifest,
    )
    return 1 if counts["failed"] or counts["quarantined"] or counts["pending"] else 0


def report_stop(reason: str, manifest: StoragePath) -> int:
    """Say why a job ended before all was done; returns the exit status."""
    log.error("stopped: %s", reason)
    log.error("the same command goes on; manifest: %s", manifest)
    return 1
