"""The last step of a video: its segments become the output, checked and named at once."""

import os
from collections import Counter
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any

from sttn_ray.catalog.plan import Plan, change_of_inputs
from sttn_ray.catalog.records import ItemDir
from sttn_ray.errors import CatalogError, StorageError, VideoError
from sttn_ray.paths import StoragePath, copy_file, on_this_machine
from sttn_ray.paths import is_file as is_file_there
from sttn_ray.storage import file_sha256, file_stamp, is_file, published
from sttn_ray.video.assemble import join_segments
from sttn_ray.video.verify import verify_output

MAX_KEY_BYTES = 1024  # of S3


def refuse_target(target: StoragePath, video: str) -> None:
    """Refuse an output that could not be written: known at plan it costs no work.

    Raises:
        CatalogError: its name is longer than the file system or the store takes, or something else is in its place.
    """
    advice = "give another name in the catalog's column 'output'"
    if not isinstance(target, Path):
        if (length := len(target.path.partition("/")[2].encode())) > MAX_KEY_BYTES:
            raise CatalogError(
                f"{video}: the name of its output {target} has {length} bytes, a store takes {MAX_KEY_BYTES}; {advice}"
            )
        return
    parent = next(folder for folder in target.parents if os.path.lexists(folder) or folder == folder.parent)
    if not parent.is_dir():
        raise CatalogError(f"{video}: its output {target} would lie in {parent}, which is a file; {advice}")
    most, most_in_all = os.pathconf(parent, "PC_NAME_MAX"), os.pathconf(parent, "PC_PATH_MAX")
    for part in target.relative_to(parent).parts:
        if (length := len(os.fsencode(part))) > most:
            raise CatalogError(
                f"{video}: the name of its output, {part}, has {length} bytes, the file system of {parent} takes "
                f"{most}; {advice}"
            )
    if (length := len(os.fsencode(target)) + 1) > most_in_all:
        raise CatalogError(
            f"{video}: the path of its output {target} has {length} bytes, the system takes {most_in_all}; {advice}"
        )
    if target.is_dir():
        raise CatalogError(f"{video}: its output {target} is a folder already; {advice}")
    if not os.access(parent, os.W_OK):
        raise CatalogError(f"{video}: its output would lie in {parent}, which this user cannot write; {advice}")


def refuse_foreign(item_dir: ItemDir, plan: Plan) -> None:
    """Refuse to take the place of a file that no run has written for this video: known at plan it costs no work.

    Raises:
        CatalogError: where its output would lie there is one.
        StorageError: that cannot be found out.
    """
    name = plan.output if plan.has_hole else _copy_name(plan)
    target = item_dir.output_dir / name
    is_there = os.path.lexists(target) if isinstance(target, Path) else is_file_there(target)
    # In this order: what another task publishes in this moment is noted before it is there.
    if is_there and name not in item_dir.read_outputs():
        raise CatalogError(
            f"{plan.index.path}: where its output would lie there is a file that was not made for it: {target}; move "
            "or delete that file, or give another name in the catalog's column 'output', or another inpaint.output"
        )


def _copy_name(plan: Plan) -> str:
    return str(PurePosixPath(plan.output).with_suffix(PurePosixPath(plan.index.path).suffix))


def publish_if_complete(item_dir: ItemDir, plan: Plan) -> dict[str, Any] | None:
    """Join a video's segments if all are there; returns its outcome, or None while some are missing.

    Two tasks may do this at once: they write the same bytes. None also where another one came first, which leaves a
    `done_outcome`.

    Raises:
        VideoError, StorageError: the output is not what it must be; nothing is published.
        CatalogError: a file of someone else stands in its place.
    """
    if not item_dir.has_all_segments(plan):
        return None
    done = [record for record in item_dir.read_segments(plan) if record is not None]
    if len(done) < len(plan.segments):
        return None
    _refuse_odd_segments(item_dir, plan, [record["extradata_sha256"] for record in done])
    target = item_dir.output_dir / plan.output
    try:
        with published(target, temporary_dir=_work_dir(item_dir)) as temporary, ExitStack() as stack:
            paths = (item_dir.segment_path(n) for n in range(len(plan.segments)))
            segments = [stack.enter_context(on_this_machine(path)) for path in paths]
            starts = [start for start, _ in plan.segments]
            join_segments(temporary, segments, starts, plan.index, plan.container)
            verify_output(temporary, segments, plan.index, plan.container)
            content = _content(temporary)
            _refuse_changed_inputs(plan)
            refuse_foreign(item_dir, plan)
            item_dir.note_output(plan.output)
    except (StorageError, OSError):
        # Another task may have published meanwhile and deleted the segments.
        if done_outcome(item_dir, plan) is None:
            raise
        return None
    seconds = sum(record["seconds"] for record in done)
    num_concealed = sum(record["num_concealed"] for record in done)
    is_damaged = num_concealed or plan.index.missing_bytes
    outcome = _outcome(plan, "degraded" if is_damaged else "done", target) | content
    psnrs = [record["min_psnr"] for record in done if record["min_psnr"] is not None]
    outcome |= {"seconds": seconds, "min_psnr": min(psnrs, default=None), "outputs": item_dir.read_outputs()}
    if num_concealed:
        outcome["notes"].append(f"{num_concealed} damaged frames of the source show the picture before them")
    item_dir.write_outcome(outcome)
    item_dir.clear_work()
    return outcome


def _refuse_odd_segments(item_dir: ItemDir, plan: Plan, parameter_sets: list[str]) -> None:
    usual = Counter(parameter_sets).most_common(1)[0][0]
    odd = [number for number, found in enumerate(parameter_sets) if found != usual]
    if not odd:
        return
    for number in odd:
        item_dir.clear_segment(number)
    raise StorageError(
        f"{plan.index.path}: {len(odd)} of its {len(parameter_sets)} segments were encoded with other parameter sets "
        "and cannot be joined to the rest, as by another build of the encoder; the same command does them again"
    )


def publish_copy(item_dir: ItemDir, plan: Plan) -> dict[str, Any]:
    """A video without a hole is copied as a file, in its own container."""
    name = _copy_name(plan)
    target = item_dir.output_dir / name
    with published(target, temporary_dir=_work_dir(item_dir)) as temporary:
        copy_file(plan.index.path, temporary)
        content = _content(temporary)
        _refuse_changed_inputs(plan)
        if content["sha256"] != plan.index.sha256:
            raise VideoError(f"{plan.index.path}: its copy is not what was read before; run again")
        refuse_foreign(item_dir, plan)
        item_dir.note_output(name)
    outcome = _outcome(plan, "copied", target) | content | {"output": name, "outputs": item_dir.read_outputs()}
    item_dir.write_outcome(outcome)
    item_dir.clear_work()
    return outcome


def _work_dir(item_dir: ItemDir) -> Path | None:
    """Where an output grows: out of sight on its own file system, or on this machine where it will be uploaded."""
    return item_dir.path if isinstance(item_dir.path, Path) else None


def _content(path: Path) -> dict[str, Any]:
    return {"num_bytes": path.stat().st_size, "sha256": file_sha256(path)}


def done_outcome(item_dir: ItemDir, plan: Plan) -> dict[str, Any] | None:
    """The outcome of a plan that another task, or another driver, has published meanwhile, and its output is whole."""
    outcome = item_dir.read_outcome()
    if outcome is None or outcome.get("plan_hash") != plan.plan_hash:
        return None
    if not is_file(item_dir.output_dir / outcome["output"], outcome):
        return None
    item_dir.clear_work()  # what this task has recorded since
    return outcome


def _refuse_changed_inputs(plan: Plan) -> None:
    if change := change_of_inputs(plan):
        raise VideoError(change)


def outcome_if_current(item_dir: ItemDir, inputs: list[Any], settings_hash: str) -> dict[str, Any] | None:
    """A finished video's outcome, if its inputs and settings are those of then and its output is whole.

    That of a quarantined one too, as long as nothing has changed.
    """
    outcome = item_dir.read_outcome()
    if outcome is None or outcome["status"] == "failed":
        return None
    if (outcome["inputs"], outcome["settings_hash"]) != (inputs, settings_hash):
        return None
    if outcome["status"] == "quarantined":
        return outcome
    return outcome if is_file(item_dir.output_dir / outcome["output"], outcome) else None


def outcome_for_touched_inputs(item_dir: ItemDir, plan: Plan) -> dict[str, Any] | None:
    """A finished video's outcome, if its inputs changed their times but not their content."""
    outcome = item_dir.read_outcome()
    if outcome is None or outcome.get("plan_hash") != plan.plan_hash:
        return None
    if not is_file(item_dir.output_dir / outcome["output"], outcome):
        return None
    outcome |= {"inputs": plan.inputs}
    item_dir.write_outcome(outcome)
    return outcome


def _outcome(plan: Plan, status: str, target: StoragePath) -> dict[str, Any]:
    width, height = plan.index.displayed_size
    return {
        "status": status,
        "output": plan.output,
        "frames": plan.index.num_frames,
        "width": width,
        "height": height,
        "hole_share": plan.hole_share,
        "notes": list(plan.notes),
        "seconds": 0.0,
        "source_bytes": plan.index.num_bytes,
        "stamp": file_stamp(target),
        "inputs": plan.inputs,
        "settings_hash": plan.settings_hash,
        "plan_hash": plan.plan_hash,
    }
