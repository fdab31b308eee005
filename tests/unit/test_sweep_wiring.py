"""How a sweep uses a cluster, and what it remembers of an interrupted one: without a cluster."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from sttn_ray import cluster
from sttn_ray import tune_run as tune
from sttn_ray.config import load_experiment
from sttn_ray.errors import ConfigError, TrialError
from sttn_ray.sweep.optuna import NUM_RANDOM, propose
from sttn_ray.sweep.space import Dimension, draw_trial
from sttn_ray.sweep.takeover import take_over
from sttn_ray.sweep.trials import add_report, begin_generation, failed, new_trial, read_trials, write_trial
from sttn_ray.training.checkpoints import find_checkpoints, state_path

DIMENSIONS = [
    Dimension("train.hole_weight", "loguniform", (0.1, 10.0)),
    Dimension("train.decay_at", "choice", ([1], [2, 3])),
]


def use_nodes(monkeypatch: pytest.MonkeyPatch, *nodes: dict[str, float], cores: int = 64) -> None:
    monkeypatch.setattr(cluster.ray, "nodes", lambda: [{"Alive": True, "Resources": node} for node in nodes])
    monkeypatch.setattr(cluster, "num_nodes", lambda: len(nodes))
    monkeypatch.setattr(cluster.os, "cpu_count", lambda: cores)


def test_trials_at_a_time(monkeypatch: pytest.MonkeyPatch):
    # Four logical CPUs on two cores: the cores count.
    use_nodes(monkeypatch, {"CPU": 4}, cores=2)
    assert cluster.choose_num_trials(None, 1, 1, "cpu") == 2
    assert cluster.choose_num_trials(None, 1, 2, "cpu") == 1
    assert cluster.choose_num_trials(None, 2, 2, "cpu") == 1
    assert cluster.choose_num_trials(4, 1, 1, "cpu") == 4  # as asked for
    with pytest.raises(ConfigError, match=r"tune.max_concurrent=5: .* carries 4 on cpu"):
        cluster.choose_num_trials(5, 1, 1, "cpu")

    # 64 GPUs on eight nodes, and a head without any.
    use_nodes(monkeypatch, {"CPU": 8}, *[{"CPU": 96, "GPU": 8}] * 8)
    assert cluster.choose_num_trials(None, 1, 2, "cuda") == 64
    assert cluster.choose_num_trials(None, 8, 2, "cuda") == 8
    assert cluster.choose_num_trials(None, 3, 2, "cuda") == 21
    # Nodes that come as they are needed: then as many as were said.
    assert cluster.choose_num_trials(100, 1, 2, "cuda", can_grow=True) == 100
    with pytest.raises(ConfigError, match=r"say tune.max_concurrent"):
        cluster.choose_num_trials(None, 1, 2, "cuda", can_grow=True)
    # Few CPUs beside the GPUs are the limit then.
    use_nodes(monkeypatch, *[{"CPU": 4, "GPU": 8}] * 2)
    assert cluster.choose_num_trials(None, 1, 2, "cuda") == 4


def write_trained(run_dir: Path, number: int, objectives: list[float]) -> dict[str, Any]:
    values = draw_trial(DIMENSIONS, number, seed=0)
    trial = begin_generation(new_trial(number, values), values, None, numbered=False)
    for place, objective in enumerate(objectives):
        trial = add_report(trial, step=10 * 2**place, objective=objective, metrics={}, seconds=1, num_steps=40)
    write_trial(run_dir, trial)
    return trial


def test_early_stopping_remembers_the_trials_of_an_interrupted_sweep(tmp_path: Path):
    words = ["train.num_steps=40", "tune.interval=10", "tune.reduction_factor=2", "tune.scheduler=asha"]
    experiment = load_experiment([f"run.dir={tmp_path}", *words])

    def decision(objective: float) -> str:
        asha = tune._make_scheduler(experiment, tmp_path, DIMENSIONS)
        trial: Any = SimpleNamespace(trial_id="another")
        controller: Any = None
        asha.on_trial_add(controller, trial)
        return asha.on_trial_result(controller, trial, {"step": 10, "objective": objective})

    assert decision(1.0) == TrialScheduler.CONTINUE  # the first one
    for number in range(4):
        write_trained(tmp_path, number, [10.0 + number, 20.0])
    assert decision(1.0) == TrialScheduler.STOP
    assert decision(12.5) == TrialScheduler.CONTINUE


def make_run(folder: Path, *steps: int) -> None:
    for step in steps:
        path = state_path(folder, f"step-{step:08d}")
        assert isinstance(path, Path)
        path.parent.mkdir(parents=True)
        path.write_text(f"state {step}")
    (folder / "metrics.jsonl").write_text('{"step": 10}\n')


def test_the_state_that_is_taken_over_is_the_one_asked_for_or_the_next(tmp_path: Path):
    trial = write_trained(tmp_path, 0, [1.0])
    make_run(tmp_path / "trials/trial-001/generation-00", 20, 30, 40)
    handed = {"trial": "trial-001", "folder": "trials/trial-001/generation-00", "step": 10}
    values = {**trial["values"], "train.hole_weight": 3.0}
    # Remains of a copy that was cut off.
    make_run(tmp_path / "trials/trial-000/generation-01", 35)
    taken = take_over(tmp_path, trial, values, handed, num_steps=40)
    generation = taken["generations"][-1]
    assert generation["origin"] == {**handed, "step": 20, "asked_step": 10}
    assert generation["values"] == values
    target = tmp_path / generation["folder"]
    assert find_checkpoints(target) == ["step-00000020"]
    assert (target / "checkpoints/step-00000020/state.pt").read_text() == "state 20"
    assert (target / "metrics.jsonl").is_file()
    # At its end there is nothing to train any more.
    assert take_over(tmp_path, trial, values, {**handed, "step": 40}, num_steps=40) == trial


def test_optuna_goes_where_it_was_better(tmp_path: Path):
    for number in range(30):
        values = draw_trial(DIMENSIONS, number, seed=0)
        write_trained(tmp_path, number, [-abs(values["train.hole_weight"] - 2.0)])
    write_trial(tmp_path, failed(write_trained(tmp_path, 30, []), TrialError("no number")))
    write_trained(tmp_path, 31, [])
    trials = read_trials(tmp_path)
    found = [propose(DIMENSIONS, trials, number=number, seed=0) for number in range(32, 52)]
    assert found[0] == propose(DIMENSIONS, trials, number=32, seed=0)
    near = sum(1 <= values["train.hole_weight"] <= 4 for values in found)
    assert near > 10  # 6 of 20 by chance
    assert all(values["train.decay_at"] in ([1], [2, 3]) for values in found)
    assert propose(DIMENSIONS, [], number=NUM_RANDOM - 1, seed=3) == draw_trial(DIMENSIONS, NUM_RANDOM - 1, 3)
