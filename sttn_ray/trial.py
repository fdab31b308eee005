"""One trial of a sweep, in a process of its own: a training that stops where Tune decides, and goes on from there."""

import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.tune

from sttn_ray import train_run
from sttn_ray.config import Experiment, apply_override
from sttn_ray.errors import TrialError
from sttn_ray.paths import StoragePath, as_path, use_endpoint
from sttn_ray.storage import write_record
from sttn_ray.sweep.objective import read_objective, value_of
from sttn_ray.sweep.space import Values, overrides
from sttn_ray.sweep.takeover import take_over
from sttn_ray.sweep.trials import (
    Trial,
    add_report,
    begin_generation,
    failed,
    going_on,
    last_step,
    read_trial,
    require_trial,
    rungs,
    write_trial,
)
from sttn_ray.training.metrics import METRICS_FILE, read_metrics
from sttn_ray.training.validation import METRICS

HANDOVER_FILE = "handover.json"
# Of the last states of a population's trial: another may come for one when its trial has gone on already.
KEPT_FOR_OTHERS = 3


def judged_steps(experiment: Experiment) -> list[int]:
    """The steps at which each trial is validated, and Tune decides; the last one is its end."""
    options, num_steps = experiment.tune, experiment.train.num_steps
    share = 10 if options.scheduler == "pbt" else options.reduction_factor**2
    interval = min(options.interval or max(1, num_steps // share), num_steps)
    return rungs(options.scheduler, interval=interval, reduction_factor=options.reduction_factor, num_steps=num_steps)


def make_trial(job: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    """The function of a trial, which Tune runs in a process of its own."""

    def run_trial(config: dict[str, Any]) -> None:
        """Train slice by slice: between two of them, when Tune decides, no workers are alive that it could leave."""
        experiment = Experiment.model_validate(job["experiment"])
        use_endpoint(experiment.storage.endpoint_url)
        run_dir = as_path(job["run_dir"])
        # Not from the config, which in a population another trial's takes the place of.
        name = ray.tune.get_context().get_trial_name()
        trial = require_trial(read_trial(run_dir, name), name)
        weights = read_objective(experiment.tune.metric, METRICS)
        try:
            trial = _enter_generation(experiment, run_dir, trial, config["trial"]["values"])
            for step in judged_steps(experiment):
                if step > last_step(trial):
                    trial = _train_to(experiment, run_dir, trial, step, weights)
                    report = trial["reports"][-1]
                    _report(report, trial, with_handover=experiment.tune.scheduler == "pbt")
        except Exception as error:
            write_trial(run_dir, failed(trial, error))
            raise

    return run_trial


def _train_to(
    experiment: Experiment, run_dir: StoragePath, trial: Trial, step: int, weights: dict[str, float]
) -> Trial:
    """Train a trial to a step and take down how good it is there."""
    start_s = time.monotonic()
    folder = run_dir / trial["generations"][-1]["folder"]
    fault = train_run.fit(_slice(experiment, folder, trial["values"], step))
    if fault is not None:
        raise TrialError(*fault.splitlines())
    line = next(line for line in reversed(read_metrics(folder / METRICS_FILE)) if line["step"] == step)
    metrics = {name: float(line[f"validation_{name}"]) for name in METRICS}
    objective = value_of(weights, metrics)
    if not math.isfinite(objective):
        raise TrialError(f"tune.metric={experiment.tune.metric}: is {objective} at step {step}")
    seconds = time.monotonic() - start_s
    trial = add_report(
        trial,
        step=step,
        objective=objective,
        metrics=metrics,
        seconds=seconds,
        num_steps=experiment.train.num_steps,
    )
    write_trial(run_dir, trial)
    return trial


def _slice(experiment: Experiment, folder: StoragePath, values: Values, step: int) -> Experiment:
    words = [*overrides(values), f"run.dir={folder}", f"train.num_steps={step}"]
    if experiment.tune.scheduler == "pbt":
        words.append(f"train.num_checkpoints={max(experiment.train.num_checkpoints, KEPT_FOR_OTHERS)}")
    for word in words:
        experiment = apply_override(experiment, word)
    return experiment


def _report(report: dict[str, Any], trial: Trial, *, with_handover: bool) -> None:
    """Tell Tune, and wait for its decision."""
    told = {"step": report["step"], "objective": report["objective"]}
    if not with_handover:
        ray.tune.report(told)
        return
    with tempfile.TemporaryDirectory(prefix="sttn-ray-", ignore_cleanup_errors=True) as folder:
        # Where our own checkpoint lies, not the weights themselves, which are there already.
        handover = {"trial": trial["trial"], "folder": trial["generations"][-1]["folder"], "step": report["step"]}
        write_record(Path(folder) / HANDOVER_FILE, handover)
        ray.tune.report(told, checkpoint=ray.tune.Checkpoint.from_directory(folder))


def _enter_generation(experiment: Experiment, run_dir: StoragePath, trial: Trial, values: Values) -> Trial:
    """A trial in the folder where it goes on: its last one, or a new one with another trial's training."""
    is_population = experiment.tune.scheduler == "pbt"
    handed = _read_handover()
    if not trial["generations"]:
        trial = begin_generation(trial, values, None, numbered=is_population)
    elif handed is not None and handed["trial"] != trial["trial"]:
        last = trial["generations"][-1]
        asked = {**handed, "asked_step": handed["step"]}
        if {**(last["origin"] or {}), "step": handed["step"]} != asked or last["values"] != values:
            trial = take_over(run_dir, trial, values, handed, num_steps=experiment.train.num_steps)
    trial = going_on(trial, num_steps=experiment.train.num_steps)
    write_trial(run_dir, trial)
    return trial


def _read_handover() -> dict[str, Any] | None:
    checkpoint = ray.tune.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        handover: dict[str, Any] = json.loads((Path(folder) / HANDOVER_FILE).read_text())
    return handover
