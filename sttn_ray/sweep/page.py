"""The page of a sweep: pictures and a table of its trials."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from sttn_ray.paths import StoragePath
from sttn_ray.report.chart import line_chart
from sttn_ray.report.page import write_page
from sttn_ray.storage import published
from sttn_ray.sweep.charts import Mark, make_scale, parallel_coordinates, scatter
from sttn_ray.sweep.space import Dimension, as_text
from sttn_ray.sweep.trials import Trial, best_trial, last_report, rank, tell_counts

NUM_CURVES = 7  # as many as there are colors


def write_sweep_page(
    run_dir: StoragePath,
    trials: Sequence[Trial],
    dimensions: Sequence[Dimension],
    *,
    metric: str,
    num_trials: int,
    num_steps: int,
) -> StoragePath:
    """Write report/index.html below a sweep's folder; returns its path.

    Args:
        run_dir: of the sweep.
        trials: their records.
        dimensions: what was searched.
        metric: the objective, as it was asked for.
        num_trials: in all, also those that have not begun.
        num_steps: of a whole trial.
    """
    best = best_trial(trials)
    marks = [_mark(trial, is_best=trial is best) for trial in trials]
    scales = {
        d.key: make_scale(
            [trial["values"][d.key] for trial in trials],
            is_log=d.kind == "loguniform",
            are_options=d.kind in ("choice", "grid"),
        )
        for d in dimensions
    }
    charts = [
        parallel_coordinates(marks, scales, objective=metric),
        *(scatter(marks, key, scale, objective=metric) for key, scale in scales.items()),
        _steps_chart(trials, metric),
    ]
    page = run_dir / "report" / "index.html"
    with tempfile.TemporaryDirectory(prefix="sttn-ray-") as folder, published(page) as temporary:
        written = write_page(
            Path(folder),
            title=f"Sweep: {metric}",
            text=_text(trials, best, num_trials=num_trials, num_steps=num_steps),
            charts=charts,
            table=_table(trials, best, [d.key for d in dimensions]),
            sections=[],
            sheets=[],
        )
        shutil.copyfile(written, temporary)
    return page


def _text(trials: Sequence[Trial], best: Trial | None, *, num_trials: int, num_steps: int) -> str:
    told = [f"{num_trials} trial{'s'[: num_trials != 1]}: {tell_counts(trials, num_trials=num_trials)}."]
    last = None if best is None else last_report(best)
    if best is not None and last is not None:
        told.append(f"The best is {best['trial']}, {last['objective']:.4g} at step {last['step']}.")
    told.append(
        f"Done are those that were trained to step {num_steps}; stopped ones (empty circles) were measured earlier, "
        "which is part of why they lie lower. The better a trial, the bluer its line; orange: the best; dashed: "
        "failed. Rest the pointer on a line or a circle to see which it is."
    )
    return " ".join(told)


def _mark(trial: Trial, *, is_best: bool) -> Mark:
    last = last_report(trial)
    return Mark(
        name=trial["trial"],
        values=trial["values"],
        objective=None if last is None else last["objective"],
        is_whole=trial["status"] == "done",
        is_best=is_best,
        has_failed=trial["status"] == "failed",
    )


def _steps_chart(trials: Sequence[Trial], metric: str) -> str:
    """The objective over the steps of the best trials that were judged."""
    curves = _curves(trials)
    shown = dict(list(curves.items())[:NUM_CURVES])
    title = f"The trial{'s'[: len(curves) != 1]} over {'its' if len(curves) == 1 else 'their'} steps"
    if len(curves) > len(shown):
        title = f"The best {len(shown)} of {len(curves)} trials over their steps"
    return line_chart(shown, title=title, x_label="step", y_label=metric)


def _curves(trials: Sequence[Trial]) -> Mapping[str, Sequence[tuple[float, float]]]:
    """Each of the training that the trial holds now, without one that it gave up for another's, the best ones first."""
    curves = {}
    for trial in sorted(trials, key=rank, reverse=True):
        own = [report for report in trial["reports"] if report["generation"] == len(trial["generations"]) - 1]
        curves[trial["trial"]] = [(report["step"], report["objective"]) for report in own]
    return {name: points for name, points in curves.items() if points}


def _table(trials: Sequence[Trial], best: Trial | None, keys: Sequence[str]) -> list[list[str]]:
    rows = [["trial", "status", "step", "objective", *keys, "seconds", "notes"]]
    for trial in sorted(trials, key=rank, reverse=True):
        last = last_report(trial)
        rows.append(
            [
                trial["trial"] + (" (best)" if trial is best else ""),
                trial["status"],
                str(last["step"]) if last else "",
                f"{last['objective']:.4g}" if last else "",
                *(as_text(trial["values"][key]) for key in keys),
                f"{sum(report['seconds'] for report in trial['reports']):.0f}",
                _notes(trial),
            ]
        )
    return rows


def _notes(trial: Trial) -> str:
    notes = [
        f"from {generation['origin']['trial']} at step {generation['origin']['step']}"
        for generation in trial["generations"]
        if generation["origin"]
    ]
    if trial["status"] == "failed":
        notes.append(trial["reason"].splitlines()[0])
    return "; ".join(notes)
