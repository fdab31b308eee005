"""What `sttn_ray.tune` does: the search with Ray Tune, and its results."""

import logging
import math
import os
import shutil
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.fs
import ray.tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import Searcher

from sttn_ray import cluster, train_run, turns
from sttn_ray.config import Experiment, TuneSection, apply_override, to_yaml
from sttn_ray.errors import ConfigError, StorageError, TrialError
from sttn_ray.paths import StoragePath, absolute, on_this_machine
from sttn_ray.shards.read import INDEX_FILE
from sttn_ray.storage import claim, file_sha256, published, write_record
from sttn_ray.sweep.objective import read_objective
from sttn_ray.sweep.optuna import propose, require_optuna
from sttn_ray.sweep.page import write_sweep_page
from sttn_ray.sweep.space import Dimension, count_trials, draw_trial, explore, overrides, read_space
from sttn_ray.sweep.trials import (
    UNFINISHED,
    Trial,
    best_trial,
    describe,
    failed,
    last_report,
    leave_out,
    lineage,
    new_trial,
    read_trial,
    read_trials,
    trial_name,
    trial_number,
    write_table,
    write_trial,
)
from sttn_ray.training.validation import METRICS
from sttn_ray.trial import judged_steps, make_trial

log = logging.getLogger(__name__)

TABLE_ROWS = 20
# A trial itself only starts and awaits its workers, which ask for what they need. Ray takes no request for nothing, and
# CPUs in place of a byte of memory would leave a cluster whose CPUs all work too few for the last worker.
TRIAL_RESOURCES = {"CPU": 0.0, "memory": 1.0}
# Settings with which a sweep may go on with others.
FREE_KEYS = {f"train.{key}" for key in train_run.FREE_KEYS - {"num_steps", "validation_clips"}} | {
    "tune.max_concurrent",
    "tune.num_trials",
}
# Beside model.*: what a state is made of, or where it began.
OF_A_WHOLE_TRAINING = ("train.start_from", "train.ema_decay")


def run(experiment: Experiment) -> int:
    """Search as an experiment says, or go on with it; returns the exit status.

    Raises:
        SttnError: the request itself is wrong; nothing was done.
    """
    dimensions, num_trials = _check(experiment)
    run_dir = absolute(experiment.run.dir or "")
    _claim(run_dir, experiment)
    leave_out(run_dir, num_trials)
    trials = read_trials(run_dir)
    num_trials = max(num_trials, len(trials))
    fault = None
    if len(trials) < num_trials or any(trial["status"] in UNFINISHED for trial in trials):
        try:
            fault = _search(experiment, run_dir, dimensions, num_trials)
        except KeyboardInterrupt:
            _conclude(experiment, run_dir, dimensions, num_trials, fault)
            raise
    return _conclude(experiment, run_dir, dimensions, num_trials, fault)


def _search(
    experiment: Experiment, run_dir: StoragePath, dimensions: Sequence[Dimension], num_trials: int
) -> str | None:
    """Train the trials that are not finished; returns what broke the search off, if anything did."""
    options = experiment.tune
    cluster.connect(shows_workers=False)  # what they say of many trainings at once tells nothing; Ray's logs keep it
    cluster.require_shared_paths(
        {
            "run.dir": experiment.run.dir,
            "shards.dir": experiment.shards.dir,
            "train.start_from": experiment.train.start_from,
        }
    )
    can_grow, train_options = experiment.run.autoscaling, experiment.train
    num_workers, worker_cpus = train_options.num_workers, train_options.worker_cpus
    device = cluster.choose_device(experiment.run.device, can_grow=can_grow)
    cluster.require_workers(num_workers, worker_cpus, device, can_grow=can_grow)
    at_once = cluster.choose_num_trials(options.max_concurrent, num_workers, worker_cpus, device, can_grow=can_grow)
    steps = judged_steps(experiment)
    if options.search == "random":
        known = {trial["trial"] for trial in read_trials(run_dir)}
        for number in range(num_trials):
            if trial_name(number) not in known:
                write_trial(run_dir, new_trial(number, draw_trial(dimensions, number, experiment.run.seed)))
    trials = read_trials(run_dir)
    unfinished = [trial for trial in trials if trial["status"] in UNFINISHED]
    num_todo = len(unfinished) + num_trials - len(trials)
    log.info(
        "%d trials, %d of them to do, %d at a time, each of %d worker%s of %d threads on %s; judged at step %s",
        *(num_trials, num_todo, at_once, num_workers, "s"[: num_workers != 1], worker_cpus, device),
        ", ".join(map(str, steps)),
    )
    # Tune writes a folder of tables and events for each trial; what there is to know stands in our records.
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    # Nor does it print of its own: a trial that fails is a row of ours.
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    # It would end on SIGINT as if all were done.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    job = {"experiment": _with_absolute_paths(experiment).model_dump(mode="json"), "run_dir": str(run_dir)}
    resources = TRIAL_RESOURCES
    if options.scheduler == "pbt":
        # Tune lets members of a population take turns only where resources are short, not by its number of trials at
        # a time; and of this one there is exactly one. Ray counts ten-thousandths.
        resources = {**TRIAL_RESOURCES, cluster.head_resource(): math.floor(1e4 / at_once) / 1e4}
    searcher, space, num_samples = None, {}, 1
    if options.search == "optuna":
        num_samples = num_todo
        searcher = _Proposals(run_dir, dimensions, unfinished, experiment.run.seed)
    else:
        space = {"trial": ray.tune.grid_search([_as_config(trial) for trial in unfinished])}
    tuner = ray.tune.Tuner(
        ray.tune.with_resources(make_trial(job), resources),
        param_space=space,
        tune_config=ray.tune.TuneConfig(
            scheduler=_make_scheduler(experiment, run_dir, dimensions),
            search_alg=searcher,
            num_samples=num_samples,
            max_concurrent_trials=None if options.scheduler == "pbt" else at_once,
            trial_name_creator=lambda trial: trial_name(trial.config["trial"]["number"]),
            trial_dirname_creator=lambda trial: trial_name(trial.config["trial"]["number"]),
        ),
        run_config=ray.tune.RunConfig(
            name="tune",
            **_storage(run_dir),
            verbose=0,
            failure_config=ray.tune.FailureConfig(max_failures=0),
            callbacks=[_Watch(run_dir, [d.key for d in dimensions], num_trials, experiment)],
        ),
    )
    try:
        with turns.PendingWatch("CPUs or GPUs for a trial's workers"):
            tuner.fit()
    except (ray.tune.TuneError, StorageError) as error:  # of a callback, in which Tune wraps what it raises
        return str(error).strip().rpartition("\n")[2]
    return None


class _Proposals(Searcher):
    """Gives Tune the trials that are not finished, then new ones that Optuna proposes."""

    def __init__(
        self, run_dir: StoragePath, dimensions: Sequence[Dimension], unfinished: Sequence[Trial], seed: int
    ) -> None:
        super().__init__(metric="objective", mode="max")
        self._run_dir, self._dimensions, self._seed = run_dir, dimensions, seed
        self._waiting = list(unfinished)

    def suggest(self, trial_id: str) -> dict[str, Any]:
        if self._waiting:
            return {"trial": _as_config(self._waiting.pop(0))}
        trials = read_trials(self._run_dir)
        number = len(trials)
        trial = new_trial(number, propose(self._dimensions, trials, number=number, seed=self._seed))
        write_trial(self._run_dir, trial)
        return {"trial": _as_config(trial)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The records tell."""

    def save(self, checkpoint_path: str) -> None:
        """The records tell."""

    def restore(self, checkpoint_path: str) -> None:
        """The records tell."""


class _Watch(ray.tune.Callback):
    """Notes what Tune decided, and tells how the sweep goes."""

    def __init__(self, run_dir: StoragePath, keys: Sequence[str], num_trials: int, experiment: Experiment) -> None:
        self._run_dir, self._keys, self._num_trials = run_dir, keys, num_trials
        self._num_steps, self._interval_s = experiment.train.num_steps, experiment.run.log_interval_s
        self._told_s = -math.inf

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        self._tell()

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        found = read_trial(self._run_dir, str(trial))
        if found is not None and found["status"] == "running":
            write_trial(self._run_dir, {**found, "status": "stopped"})
        self._tell()

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        found = read_trial(self._run_dir, str(trial))
        if found is not None and found["status"] != "failed":  # its process died
            write_trial(self._run_dir, failed(found, TrialError("its process died; see Ray's logs")))
        self._tell()

    def _tell(self) -> None:
        if time.monotonic() - self._told_s >= self._interval_s:
            self._told_s = time.monotonic()
            counts = {"num_trials": self._num_trials, "num_steps": self._num_steps, "num_rows": TABLE_ROWS}
            try:
                trials = read_trials(self._run_dir)
                log.info("%s", describe(trials, keys=self._keys, **counts))
                write_table(self._run_dir, trials, self._keys)
            except StorageError as error:  # it is told again soon; the trials go on meanwhile
                log.warning("the sweep's table was not written: %s", error)


def _make_scheduler(experiment: Experiment, run_dir: StoragePath, dimensions: Sequence[Dimension]) -> TrialScheduler:
    options, num_steps = experiment.tune, experiment.train.num_steps
    told: dict[str, Any] = {"time_attr": "step", "metric": "objective", "mode": "max"}
    if options.scheduler == "fifo":
        return FIFOScheduler()
    if options.scheduler == "pbt":
        # Other changes where a sweep goes on than where it began.
        num_reports = sum(len(trial["reports"]) for trial in read_trials(run_dir))
        rng = np.random.default_rng([experiment.run.seed, num_reports])

        def change(config: dict[str, Any]) -> dict[str, Any]:
            trial = config["trial"]
            return {**config, "trial": {**trial, "values": explore(dimensions, trial["values"], rng)}}

        # Our trials have no state in their processes that would be worth keeping.
        warnings.filterwarnings("ignore", "Consider boosting PBT performance", UserWarning)
        return PopulationBasedTraining(
            **told, perturbation_interval=judged_steps(experiment)[0], custom_explore_fn=change, log_config=False
        )
    asha = ASHAScheduler(
        **told, max_t=num_steps, grace_period=judged_steps(experiment)[0], reduction_factor=options.reduction_factor
    )
    # Tune keeps no scheduler over an interruption: what it had been told it is told again.
    controller: Any = None
    for trial in read_trials(run_dir):
        known: Any = SimpleNamespace(trial_id=trial["trial"])  # all that it looks at
        asha.on_trial_add(controller, known)
        for report in trial["reports"]:
            asha.on_trial_result(controller, known, report)
    return asha


def _conclude(
    experiment: Experiment, run_dir: StoragePath, dimensions: Sequence[Dimension], num_trials: int, fault: str | None
) -> int:
    """Write what a sweep leaves behind; returns the exit status."""
    trials, keys = read_trials(run_dir), [d.key for d in dimensions]
    num_steps = experiment.train.num_steps
    log.info("%s", describe(trials, num_trials=num_trials, num_steps=num_steps, keys=keys, num_rows=TABLE_ROWS))
    table = write_table(run_dir, trials, keys)
    page = write_sweep_page(
        run_dir, trials, dimensions, metric=experiment.tune.metric, num_trials=num_trials, num_steps=num_steps
    )
    for trial in trials:
        if trial["status"] == "failed":
            log.error("%s failed: %s", trial["trial"], trial["reason"].splitlines()[0])
    best = best_trial(trials)
    if best is not None:
        _write_best(experiment, run_dir, best)
        log.info("the best: %s, %s: %s", best["trial"], experiment.tune.metric, " ".join(overrides(best["values"])))
        log.info("train it: python -m sttn_ray.train %s", run_dir / "best.yaml")
    log.info("all trials: %s; as a page: %s", table, page)
    num_unfinished = num_trials - len(trials) + sum(trial["status"] in ("waiting", "running") for trial in trials)
    if fault is not None:
        log.error("the search broke off: %s", fault)
    if num_unfinished:
        log.error("%d trials are not finished; the same command goes on", num_unfinished)
    return int(fault is not None or num_unfinished > 0 or any(trial["status"] == "failed" for trial in trials))


def _write_best(experiment: Experiment, run_dir: StoragePath, best: Trial) -> None:
    """best.yaml, best.json and best.pt, of which the last is what a training with the first ends with."""
    experiment, report = _with_absolute_paths(experiment), last_report(best)
    assert report is not None
    # Of its own name: the best of a sweep that goes on may be another one.
    folder = run_dir / f"best-{best['trial']}"
    words = [*overrides(best["values"]), f"run.dir={folder}", f"train.num_steps={report['step']}"]
    for word in words:
        experiment = apply_override(experiment, word)
    notes = [f"{best['trial']} of a sweep: {experiment.tune.metric} = {report['objective']:.6g} at its last step"]
    if len(best["generations"]) > 1:
        notes += ["its settings changed on the way, so that a training with the last ones alone ends elsewhere:"]
        notes += [f"  {line}" for line in lineage(best)]
    text = "".join(f"# {note}\n" for note in notes) + to_yaml(experiment.model_copy(update={"tune": TuneSection()}))
    with published(run_dir / "best.yaml") as temporary:
        temporary.write_text(text)
    with (
        on_this_machine(run_dir / best["generations"][-1]["folder"] / train_run.GENERATOR_FILE) as path,
        published(run_dir / "best.pt") as temporary,
    ):
        shutil.copyfile(path, temporary)
    record = {"trial": best["trial"], "overrides": overrides(best["values"]), "lineage": lineage(best), **report}
    write_record(run_dir / "best.json", record)


def _check(experiment: Experiment) -> tuple[list[Dimension], int]:
    """What is searched, and the number of trials.

    Raises:
        SttnError: the request itself is wrong.
    """
    _, index = train_run.check_request(experiment)
    options, faults = experiment.tune, []
    dimensions: list[Dimension] = []
    num_trials = 0

    def check_word(word: str) -> None:
        changed = apply_override(experiment, word)
        train_run.check(changed)
        train_run.check_sizes(changed, index)

    try:
        dimensions = read_space(options.space, check_word)
        num_trials = count_trials(dimensions, options.num_trials)
    except ConfigError as error:
        faults += str(error).splitlines()
    try:
        read_objective(options.metric, METRICS)
        if options.search == "optuna":
            require_optuna()
    except ConfigError as error:
        faults.append(str(error))
    faults += [
        f"tune.space.train.start_from: {value}: give an absolute path; each trial has a folder of its own"
        for d in dimensions
        if d.key == "train.start_from"
        for value in d.values
        if value and not Path(value).is_absolute()
    ]
    if options.search == "optuna" and any(d.kind == "grid" for d in dimensions):
        faults.append("tune.search=optuna: takes no grid; give choice(...) instead")
    if options.scheduler == "pbt" and options.search == "optuna":
        faults.append("tune.scheduler=pbt: changes the values itself; it goes with tune.search=random")
    if options.scheduler == "pbt":
        faults += [
            f"tune.space.{d.key}: a member of a population cannot change it when it takes over another's training; "
            "take tune.scheduler=asha, or leave it out"
            for d in dimensions
            if d.key.startswith("model.") or d.key in OF_A_WHOLE_TRAINING
        ]
    if options.scheduler == "pbt" and num_trials == 1:
        faults.append("tune.scheduler=pbt: needs several trials, of which one can take over another's training")
    if options.interval and options.interval > experiment.train.num_steps:
        faults.append(f"tune.interval={options.interval}: is more than train.num_steps={experiment.train.num_steps}")
    shards_dir = str(absolute(experiment.shards.dir or ""))
    if not train_run.has_validation(experiment.train.validation_clips, shards_dir):
        faults.append(
            f"{shards_dir}: trials are judged by validation, for which there are no clips; build shards of "
            "two videos or more with corpus.validation_share above 0, and give train.validation_clips"
        )
    if faults:
        raise ConfigError(*faults)
    return dimensions, num_trials


def _claim(run_dir: StoragePath, experiment: Experiment) -> None:
    """Write what the sweep is, or check that it is the same one."""
    sections = experiment.model_dump(mode="json", include={"masks", "model", "train", "tune"})
    ours = {f"{section}.{key}": value for section, keys in sections.items() for key, value in keys.items()}
    ours = {key: value for key, value in ours.items() if key not in FREE_KEYS}
    index = absolute(experiment.shards.dir or "") / INDEX_FILE
    ours |= {"run.seed": experiment.run.seed, "shards": file_sha256(index)}
    advice = "choose another run.dir for another sweep, or delete the folder to search anew"
    claim(run_dir / "sweep.json", ours, run_dir, advice)
    with published(run_dir / "config.yaml") as temporary:
        temporary.write_text(to_yaml(experiment))


def _as_config(trial: Trial) -> dict[str, Any]:
    return {"number": trial_number(trial["trial"]), "values": trial["values"]}


def _with_absolute_paths(experiment: Experiment) -> Experiment:
    """Tune's processes have a folder of their own."""
    shards = experiment.shards.model_copy(update={"dir": str(absolute(experiment.shards.dir or ""))})
    return train_run.with_absolute_paths(experiment).model_copy(update={"shards": shards})


def _storage(run_dir: StoragePath) -> dict[str, Any]:
    """Where Tune keeps its own files, as it wants to be told."""
    if isinstance(run_dir, Path):
        return {"storage_path": str(run_dir)}
    filesystem = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(run_dir.fs))
    return {"storage_path": run_dir.path, "storage_filesystem": filesystem}
