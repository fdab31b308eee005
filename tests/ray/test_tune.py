"""`sttn_ray.tune` as people run it: real sweeps, real kills."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from sttn_ray import tune as program
from sttn_ray.config import load_experiment
from sttn_ray.errors import ConfigError
from sttn_ray.model.weights import load_generator
from sttn_ray.sweep.trials import Trial, read_trials
from sttn_ray.training.metrics import read_metrics
from tests.processes import Said, files_in, run, start, wait_until
from tests.ray.conftest import ray_address
from tests.store import client, upload
from tests.training import train, words

SPACE = {"train.hole_weight": "loguniform(0.3, 10)", "train.adversarial_weight": "loguniform(0.001, 0.1)"}


def request(shards: Path, run_dir: Path | str, space: dict[str, Any], *more: str) -> list[str]:
    """A sweep whose trials take a step or two a second."""
    return [
        *words(shards, Path("unused"), 1),
        f"run.dir={run_dir}",
        "run.log_interval_s=1",
        "train.crop_width=96",
        "train.crop_height=48",
        f"tune.space={json.dumps(space)}",
        *more,
    ]


def sweep(*arguments: str, **environment: str) -> Said:
    return run("sttn_ray.tune", *arguments, **environment)


def rows(run_dir: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(run_dir / "trials.parquet").to_pylist()
    return found


def reports(trial: Trial) -> list[tuple[int, int, float]]:
    return [(report["generation"], report["step"], report["objective"]) for report in trial["reports"]]


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_trial_that_fails_is_a_row_and_the_others_go_on(training_shards: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "sweep"
    space = {"train.learning_rate": "grid(0.001, 1e30)"}
    command = request(training_shards, run_dir, space, "train.num_steps=2", "tune.scheduler=fifo")
    done = sweep(*command, **ray_address())
    assert done.returncode == 1, done.text[-2000:]
    assert "Traceback" not in done.text
    assert "sweep: 1 done, 1 failed | best" in done.text
    good, bad = rows(run_dir)
    assert (good["status"], good["step"], good["is_best"]) == ("done", 2, True)
    assert (bad["status"], bad["error"]) == ("failed", "TrialError")
    assert "is not finite" in bad["reason"]
    assert bad["overrides"] == ["train.learning_rate=1e+30"]
    assert "is not finite" in (run_dir / "report/index.html").read_text()

    best = load_experiment([str(run_dir / "best.yaml")])
    assert (best.train.learning_rate, best.train.num_steps, best.run.dir) == (0.001, 2, str(run_dir / "best-trial-000"))
    assert load_generator(run_dir / "best.pt").config.channels == 64
    assert json.loads((run_dir / "best.json").read_text())["objective"] == good["objective"]
    with pytest.raises(ConfigError, match=r"tune.scheduler was 'fifo', now 'asha'"):
        program.run(load_experiment(request(training_shards, run_dir, space, "train.num_steps=2")))


@pytest.mark.slow
def test_a_killed_sweep_and_the_same_command(training_shards: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "sweep"
    space = {**SPACE, "train.learning_rate": "choice(1e-3, 1e-4, 1e-3, 1e-4, 1e30)"}
    command = request(
        *(training_shards, run_dir, space, "train.num_steps=8", "tune.num_trials=9"),
        *("tune.interval=2", "tune.reduction_factor=2", "tune.max_concurrent=2"),
    )
    killed = start("sttn_ray.tune", *command)
    wait_until(
        lambda: sum(trial["status"] in ("done", "stopped") for trial in read_trials(run_dir)) >= 2,
        "two trials",
        program=killed,
        moves=files_in(run_dir),
    )
    killed.kill()
    before = {trial["trial"]: trial for trial in read_trials(run_dir)}
    unfinished = {name for name, trial in before.items() if trial["status"] in ("waiting", "running")}
    assert unfinished

    resumed = sweep(*command)
    assert resumed.returncode == 1, resumed.text[-2000:]  # some fail
    after = {trial["trial"]: trial for trial in read_trials(run_dir)}
    assert len(after) == 9
    assert {trial["status"] for trial in after.values()} == {"done", "stopped", "failed"}
    for name, trial in after.items():
        is_bad = trial["values"]["train.learning_rate"] == 1e30
        assert (trial["status"] == "failed") == is_bad
        assert trial["values"] == before[name]["values"]
        # What was measured stays, and a trial that was ended is not touched.
        assert reports(trial)[: len(before[name]["reports"])] == reports(before[name])
        if name not in unfinished and not is_bad:
            assert trial == before[name]
        steps = [step for _, step, _ in reports(trial)]
        assert steps == [2, 4, 8][: len(steps)]
        assert (trial["status"] == "done") == (steps[-1:] == [8])
    table = rows(run_dir)
    assert [row["trial"] for row in table] == sorted(after)
    assert sum(row["is_best"] for row in table) == 1
    assert (run_dir / "report/index.html").read_text().count("<circle") >= 8

    # The best one again, by its own file: the same metric and the same weights.
    best = json.loads((run_dir / "best.json").read_text())
    assert train(str(run_dir / "best.yaml")).returncode == 0
    again = run_dir / f"best-{best['trial']}"
    last = read_metrics(again / "metrics.jsonl")[-1]
    assert last["step"] == best["step"]
    assert last["validation_hole_psnr"] == best["objective"]
    first, second = (load_generator(path).state_dict() for path in (run_dir / "best.pt", again / "generator.pt"))
    assert all(torch.equal(first[name], second[name]) for name in first)

    # Nothing is left to do, but for the failed ones; a larger number of trials goes on.
    whole = [word.replace("tune.num_trials=9", "tune.num_trials=10") for word in command]
    sweep(*whole)
    assert len(read_trials(run_dir)) == 10
    assert all(
        trial == after[trial["trial"]]
        for trial in read_trials(run_dir)
        if trial["trial"] in after and trial["status"] != "failed"
    )


@pytest.mark.slow
def test_members_of_a_population_take_over_the_training_of_others(training_shards: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "sweep"
    space = {"train.learning_rate": "loguniform(1e-6, 1e-2)", "train.hole_weight": "uniform(0.5, 5)"}
    command = request(
        *(training_shards, run_dir, space, "train.num_steps=6", "tune.num_trials=4", "tune.scheduler=pbt"),
        *("tune.interval=2", "tune.max_concurrent=2", "train.checkpoint_interval=1"),
    )
    killed = start("sttn_ray.tune", *command)
    wait_until(
        lambda: sum(bool(trial["reports"]) for trial in read_trials(run_dir)) >= 2,
        "reports of two trials",
        program=killed,
        moves=files_in(run_dir),
    )
    killed.kill()
    before = {trial["trial"]: reports(trial) for trial in read_trials(run_dir)}
    done = sweep(*command)
    assert done.returncode == 0, done.text[-2000:]
    trials = read_trials(run_dir)
    assert [trial["status"] for trial in trials] == ["done"] * 4
    assert all(reports(trial)[: len(before[trial["trial"]])] == before[trial["trial"]] for trial in trials)
    taken = [trial for trial in trials if len(trial["generations"]) > 1]
    assert taken
    for trial in taken:
        for number, generation in enumerate(trial["generations"][1:], 1):
            origin, folder = generation["origin"], run_dir / generation["folder"]
            assert origin["trial"] != trial["trial"]
            lines = read_metrics(folder / "metrics.jsonl")
            theirs = read_metrics(run_dir / origin["folder"] / "metrics.jsonl")
            # Its metrics are the other's up to there, and its own from there on.
            assert lines[: origin["step"]] == theirs[: origin["step"]]
            steps = [step for generation, step, _ in reports(trial) if generation == number]
            if steps:  # else it was taken from there again before it had trained
                settings = json.loads((folder / "run.json").read_text())
                assert settings["train.hole_weight"] == generation["values"]["train.hole_weight"]
            assert all(step > origin["step"] for step in steps)
        assert trial["reports"][-1]["generation"] == len(trial["generations"]) - 1
    lineages = [row["lineage"] for row in rows(run_dir)]
    assert any("of trial-" in line for lineage in lineages for line in lineage)
    best = next(trial for trial in trials if trial["trial"] == json.loads((run_dir / "best.json").read_text())["trial"])
    text = (run_dir / "best.yaml").read_text()
    assert (text.count("# ") > 1) == (len(best["generations"]) > 1)
    assert yaml.safe_load(text)["train"]["hole_weight"] == best["values"]["train.hole_weight"]


@pytest.mark.slow
def test_a_sweep_in_an_object_store(
    training_shards: Path, tmp_path: Path, store: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(store, training_shards, f"{bucket}/shards")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    space = {"train.learning_rate": "loguniform(1e-6, 1e-2)"}
    command = request(
        *(training_shards, f"{bucket}/sweep", space, "train.num_steps=2", "tune.num_trials=2", "tune.scheduler=pbt"),
        *("tune.interval=1", f"shards.dir={bucket}/shards", f"storage.endpoint_url={store}"),
    )
    done = sweep(*command)
    assert done.returncode == 0, done.text[-2000:]
    found = tmp_path / "found"
    client(store).get(f"{bucket}/sweep", str(found), recursive=True)
    assert [row["status"] for row in rows(found)] == ["done", "done"]
    assert (found / "report/index.html").is_file()
    assert load_generator(found / "best.pt").config.channels == 64
    assert load_experiment([str(found / "best.yaml")]).run.dir.startswith(f"{bucket}/sweep/best-trial-00")


def test_wrong_requests_are_refused_with_all_faults(training_shards: Path, tmp_path: Path) -> None:
    def refuse(*more: str, space: dict[str, Any] = SPACE) -> str:
        with pytest.raises(ConfigError) as raised:
            program.run(load_experiment(request(training_shards, tmp_path / "sweep", space, *more)))
        return str(raised.value)

    told = refuse(
        "tune.metric=loss",
        "tune.interval=10",
        "train.validation_clips=0",
        space={"train.hole_wieght": "uniform(1, 2)", "train.batch_size": "choice(2, 3)"},
    )
    for text in (
        "did you mean train.hole_weight?",
        "tune.metric=loss: expected a validation metric",
        "tune.interval=10: is more than train.num_steps=9",
        "trials are judged by validation",
    ):
        assert text in told
    assert "does not divide" in refuse("train.num_workers=2", space={"train.batch_size": "choice(2, 3)"})
    assert "takes no grid" in refuse("tune.search=optuna", space={"run.seed": "grid(0, 1)"})
    assert "goes with tune.search=random" in refuse("tune.search=optuna", "tune.scheduler=pbt")
    assert "needs several trials" in refuse("tune.scheduler=pbt", "tune.num_trials=1")
    assert "model.preset=sttn takes 432x240" in refuse(space={"model.preset": "choice(small, sttn)"})
    assert "weights/a.pt: give an absolute path" in refuse(space={"train.start_from": "choice(null, weights/a.pt)"})
    fixed = {"model.mask_keys": "choice(true, false)", "train.ema_decay": "choice(0, 0.999)"}
    told = refuse("tune.scheduler=pbt", space=fixed)
    assert all(f"tune.space.{key}: a member of a population cannot change it" in told for key in fixed)
    assert not (tmp_path / "sweep").exists()


@pytest.mark.usefixtures("cluster")
def test_more_trials_at_a_time_than_the_cluster_carries_are_refused(
    training_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        program.main(request(training_shards, tmp_path / "sweep", SPACE, "tune.max_concurrent=999"))
    assert refused.value.code == 2
    said = capsys.readouterr().err
    assert "tune.max_concurrent=999: with train.num_workers=1" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_optuna_proposes_values(training_shards: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "sweep"
    command = request(
        *(training_shards, run_dir, SPACE, "train.num_steps=1", "tune.num_trials=7", "tune.search=optuna"),
        *("tune.scheduler=fifo", "tune.max_concurrent=2"),
    )
    killed = start("sttn_ray.tune", *command)
    wait_until(
        lambda: any(trial["status"] == "done" for trial in read_trials(run_dir)),
        "a trial",
        program=killed,
        moves=files_in(run_dir),
    )
    killed.kill()
    done = sweep(*command)
    assert done.returncode == 0, done.text[-2000:]
    trials = read_trials(run_dir)
    assert [trial["status"] for trial in trials] == ["done"] * 7
    assert len({trial["values"]["train.hole_weight"] for trial in trials}) == 7
