"""What is known of the trials of a sweep: a record each, from which everything else is made."""

import math
import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sttn_ray.errors import StorageError
from sttn_ray.paths import StoragePath, remove_file, walk
from sttn_ray.storage import published, read_record, write_record
from sttn_ray.sweep.space import Values, as_text, overrides

TRIALS, RECORD = "trials", "trial.json"
_IS_TRIAL = re.compile(r"trial-\d{3,9}", re.ASCII)
UNFINISHED = ("waiting", "running", "failed")  # a failed one is tried again by the same command
Trial = dict[str, Any]


def trial_name(number: int) -> str:
    """The folder of a trial."""
    return f"trial-{number:03d}"


def trial_number(name: str) -> int:
    """The number of a trial with this name."""
    return int(name.removeprefix("trial-"))


def new_trial(number: int, values: Values) -> Trial:
    """A trial before its first step.

    Of `generations` a trial has one, and another one each time that it takes over another trial's training: the folder
    below the sweep's, the values that it trains with, and where it began (`origin`: that trial's name and the step).
    """
    return {
        "trial": trial_name(number),
        "status": "waiting",
        "values": values,
        "generations": [],
        "reports": [],
        "error": None,
        "reason": None,
    }


def begin_generation(trial: Trial, values: Values, origin: dict[str, Any] | None, *, numbered: bool) -> Trial:
    """A trial that goes on in a folder of its own, with these values."""
    folder = f"{TRIALS}/{trial['trial']}"
    if numbered:
        folder += f"/generation-{len(trial['generations']):02d}"
    generation = {"folder": folder, "values": values, "origin": origin}
    return {**trial, "values": values, "generations": [*trial["generations"], generation]}


def add_report(
    trial: Trial, *, step: int, objective: float, metrics: dict[str, float], seconds: float, num_steps: int
) -> Trial:
    """A trial that was trained to a step, and validated there."""
    generation = len(trial["generations"]) - 1
    report = {"generation": generation, "step": step, "objective": objective, "metrics": metrics, "seconds": seconds}
    status = "done" if step >= num_steps else "running"
    return {**trial, "status": status, "reports": [*trial["reports"], report], "error": None, "reason": None}


def going_on(trial: Trial, *, num_steps: int) -> Trial:
    """A trial whose process begins, in its last generation.

    A member of a population that waited for its turn after its last report is done as before.
    """
    status = "done" if last_step(trial) >= num_steps else "running"
    return {**trial, "status": status, "error": None, "reason": None}


def failed(trial: Trial, error: Exception) -> Trial:
    """A trial that an error has ended."""
    return {**trial, "status": "failed", "error": type(error).__name__, "reason": str(error) or type(error).__name__}


def last_step(trial: Trial) -> int:
    """The step of the last report of a trial's last generation; that where it began, if there is none yet."""
    if report := last_report(trial):
        return int(report["step"])
    origin = trial["generations"][-1]["origin"] if trial["generations"] else None
    return int(origin["step"]) if origin else 0


def last_report(trial: Trial) -> dict[str, Any] | None:
    """The last report of a trial's last generation: of the training that it holds now, not of one it gave up."""
    generation = len(trial["generations"]) - 1
    return next((report for report in reversed(trial["reports"]) if report["generation"] == generation), None)


def rungs(scheduler: str, *, interval: int, reduction_factor: int, num_steps: int) -> list[int]:
    """The steps at which a trial is validated and judged; the last one is its end."""
    steps = []
    step = interval
    while scheduler != "fifo" and step < num_steps:
        steps.append(step)
        step = step * reduction_factor if scheduler == "asha" else step + interval
    return [*steps, num_steps]


def read_trials(run_dir: StoragePath) -> list[Trial]:
    """All trials of a sweep, by their numbers; of one that Optuna proposes, those that have begun.

    Raises:
        StorageError: a record cannot be read.
    """
    try:
        found = {where for where, name in walk(str(run_dir / TRIALS)) if name == RECORD}
    except FileNotFoundError:
        return []
    # Others are none of ours, as a copy that someone made of a trial.
    folders = sorted(filter(_IS_TRIAL.fullmatch, found), key=trial_number)
    return [trial for folder in folders if (trial := read_record(run_dir / TRIALS / folder / RECORD)) is not None]


def read_trial(run_dir: StoragePath, name: str) -> Trial | None:
    """A trial's record, or None."""
    return read_record(run_dir / TRIALS / name / RECORD)


def leave_out(run_dir: StoragePath, num_trials: int) -> None:
    """Delete the records of trials that have not begun, and are more than are wanted now."""
    for trial in read_trials(run_dir):
        if trial["status"] == "waiting" and trial_number(trial["trial"]) >= num_trials:
            remove_file(run_dir / TRIALS / trial["trial"] / RECORD)


def write_trial(run_dir: StoragePath, trial: Trial) -> None:
    """Keep a trial's record."""
    write_record(run_dir / TRIALS / trial["trial"] / RECORD, trial)


def rank(trial: Trial) -> tuple[bool, int, float]:
    """By which trials are compared; the greatest is the best.

    First by the step: one that was stopped was worse than others at that step, though they may have lost since.
    """
    last = last_report(trial)
    if last is None:
        return False, 0, -math.inf
    return trial["status"] != "failed", int(last["step"]), float(last["objective"])


def best_trial(trials: Sequence[Trial]) -> Trial | None:
    """The trial with the best last report of those that were trained furthest and did not fail; of equals the first."""
    best = max(trials, key=rank, default=None)
    return best if best is not None and rank(best)[0] else None


def lineage(trial: Trial) -> list[str]:
    """A line for each generation: from which step on which settings, and from whose training."""
    lines = []
    for generation in trial["generations"]:
        origin = generation["origin"]
        begins = f"from step {origin['step']} of {origin['trial']}" if origin else "from the beginning"
        lines.append(f"{begins}: {' '.join(overrides(generation['values']))}")
    return lines


def write_table(run_dir: StoragePath, trials: Sequence[Trial], keys: Sequence[str]) -> StoragePath:
    """Write trials.parquet, a row for each trial; returns its path.

    Args:
        run_dir: of the sweep.
        trials: their records.
        keys: that were searched; each is a column.
    """
    best = best_trial(trials)
    rows = [{**_row(trial), "is_best": trial is best} for trial in trials]
    metrics = sorted({name for row in rows for name in row["metrics"]})
    columns: dict[str, pa.Array] = {
        "trial": pa.array([row["trial"] for row in rows], pa.string()),
        "status": pa.array([row["status"] for row in rows], pa.string()),
        "is_best": pa.array([row["is_best"] for row in rows], pa.bool_()),
        "step": pa.array([row["step"] for row in rows], pa.int64()),
        "objective": pa.array([row["objective"] for row in rows], pa.float64()),
        **{name: pa.array([row["metrics"].get(name) for row in rows], pa.float64()) for name in metrics},
        **{key: _column([trial["values"].get(key) for trial in trials]) for key in keys},
        "overrides": pa.array([row["overrides"] for row in rows], pa.list_(pa.string())),
        "lineage": pa.array([row["lineage"] for row in rows], pa.list_(pa.string())),
        "folder": pa.array([row["folder"] for row in rows], pa.string()),
        "seconds": pa.array([row["seconds"] for row in rows], pa.float64()),
        "error": pa.array([row["error"] for row in rows], pa.string()),
        "reason": pa.array([row["reason"] for row in rows], pa.string()),
    }
    path = run_dir / "trials.parquet"
    with published(path) as temporary:
        pq.write_table(pa.table(columns), temporary)
    return path


def _row(trial: Trial) -> dict[str, Any]:
    last = last_report(trial) or {"step": last_step(trial), "objective": None, "metrics": {}}
    return {
        **{name: trial[name] for name in ("trial", "status", "error", "reason")},
        **{name: last[name] for name in ("step", "objective", "metrics")},
        "overrides": overrides(trial["values"]),
        "lineage": lineage(trial),
        "folder": trial["generations"][-1]["folder"] if trial["generations"] else None,
        "seconds": sum(report["seconds"] for report in trial["reports"]),
    }


def _column(values: Sequence[Any]) -> pa.Array:
    """Numbers as they are, anything else as the text of its word."""
    if all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in values):
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    return pa.array([as_text(value) for value in values], pa.string())


def describe(trials: Sequence[Trial], *, num_trials: int, num_steps: int, keys: Sequence[str], num_rows: int) -> str:
    """The state of a sweep as a table that stands in a log file too: the running trials, then the best.

    Args:
        trials: that have begun.
        num_trials: in all.
        num_steps: of a whole trial.
        keys: that are searched.
        num_rows: how many, at most.
    """
    head = tell_counts(trials, num_trials=num_trials)
    best = best_trial(trials)
    if best is not None:
        head += f" | best {best['reports'][-1]['objective']:.3f}: {best['trial']}"
    names = [key.split(".", 1)[1] for key in keys]
    rows = [["trial", "status", "step", "objective", *names]]
    ranked = sorted(trials, key=rank, reverse=True)
    for trial in sorted(ranked, key=lambda trial: trial["status"] != "running")[:num_rows]:
        row = _row(trial)
        objective = "" if row["objective"] is None else f"{row['objective']:.3f}"
        values = [as_text(trial["values"].get(key)) for key in keys]
        rows.append([row["trial"], row["status"], f"{row['step']}/{num_steps}", objective, *values])
    if len(trials) > num_rows:
        rows.append([f"and {len(trials) - num_rows} more"])
    return f"sweep: {head}\n{_aligned(rows)}"


def tell_counts(trials: Sequence[Trial], *, num_trials: int) -> str:
    """How many trials there are of each status, of `num_trials` in all."""
    counts = {status: sum(trial["status"] == status for trial in trials) for status in _ORDER}
    counts["waiting"] += num_trials - len(trials)
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count)


_ORDER = {status: place for place, status in enumerate(("running", "done", "stopped", "failed", "waiting"))}


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows if column < len(row)) for column in range(len(rows[0]))]
    return "\n".join("  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def require_trial(trial: Trial | None, name: str) -> Trial:
    """A record that must be there.

    Raises:
        StorageError: it is not.
    """
    if trial is None:
        raise StorageError(f"{name}: its {RECORD} is gone")
    return trial
