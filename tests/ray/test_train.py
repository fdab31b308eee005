"""`sttn_ray.train` as people run it: real processes, real kills."""

from pathlib import Path

import pytest
import torch
from ray.cluster_utils import Cluster

from sttn_ray import train as program
from sttn_ray.config import load_experiment
from sttn_ray.errors import ConfigError, ShardError
from sttn_ray.model.weights import load_generator
from sttn_ray.training.metrics import read_metrics
from tests.processes import files_in, kill_ray_process, run, start, wait_until
from tests.ray.conftest import NUM_CPUS, ray_address
from tests.store import client, objects_in, upload
from tests.training import NUM_STEPS, final_state, has_checkpoint, kill_after, losses, seen, steps_done, train, words

CROP = ("train.crop_width=120", "train.crop_height=72")  # of frames of 240x144: a step takes a quarter of the time


@pytest.mark.usefixtures("cluster")
# Two take over a minute; tests/distributed goes on with two, without Ray, and the test of a bad gradient starts two.
@pytest.mark.parametrize("num_workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_driver_and_the_same_command_give_the_same_bits(
    training_shards: Path, tmp_path: Path, num_workers: int
) -> None:
    assert program.run(load_experiment(words(training_shards, tmp_path / "undisturbed", num_workers, *CROP))) == 0
    # With a Ray of its own, as most people run it.
    kill_after(training_shards, tmp_path / "disturbed", num_workers, *CROP, steps=3)
    resumed = train(*words(training_shards, tmp_path / "disturbed", num_workers, *CROP), **ray_address())
    assert resumed.returncode == 0, resumed.text[-2000:]
    assert "going on from step" in resumed.text

    whole, parts = final_state(tmp_path / "undisturbed"), final_state(tmp_path / "disturbed")
    assert whole.keys() == parts.keys()
    assert len(whole) > 200
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert losses(tmp_path / "undisturbed") == losses(tmp_path / "disturbed")
    assert [step for step, _ in seen(tmp_path / "disturbed")] == list(range(1, NUM_STEPS + 1))
    for name in ("generator.pt", "best.pt"):
        assert load_generator(tmp_path / "disturbed" / name).config.channels == 64
    last = read_metrics(tmp_path / "disturbed/metrics.jsonl")[-1]
    assert (
        last["validation_hole_psnr"] == read_metrics(tmp_path / "undisturbed/metrics.jsonl")[-1]["validation_hole_psnr"]
    )
    assert 5 < last["validation_hole_psnr"] < 40
    assert (tmp_path / f"disturbed/validation/step-{NUM_STEPS:08d}.png").is_file()

    # Once more: there is nothing to do. Other settings are refused there.
    before = (tmp_path / "disturbed/metrics.jsonl").read_text()
    again = words(training_shards, tmp_path / "disturbed", num_workers, *CROP)
    assert program.run(load_experiment(again)) == 0
    assert (tmp_path / "disturbed/metrics.jsonl").read_text() == before
    with pytest.raises(ConfigError, match=r"train.learning_rate was 0.001, now 0.0001"):
        program.run(load_experiment([*again, "train.learning_rate=1e-4"]))


@pytest.mark.slow
def test_another_number_of_workers_sees_the_same_samples(training_shards: Path, tmp_path: Path) -> None:
    assert train(*words(training_shards, tmp_path / "two", 2)).returncode == 0
    kill_after(training_shards, tmp_path / "changed", 2, steps=3)
    assert train(*words(training_shards, tmp_path / "changed", 1)).returncode == 0
    assert seen(tmp_path / "two") == seen(tmp_path / "changed")
    for a, b in zip(losses(tmp_path / "two"), losses(tmp_path / "changed"), strict=True):
        assert a == pytest.approx(b, rel=0.02, abs=1e-3)


@pytest.mark.slow
def test_a_driver_killed_before_it_said_that_all_is_done(training_shards: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    assert train(*words(training_shards, run_dir, 1, "train.num_checkpoints=1")).returncode == 0
    whole = final_state(run_dir)
    for _ in range(2):
        (run_dir / "done.json").unlink()
        (run_dir / "generator.pt").unlink()
        assert train(*words(training_shards, run_dir, 1, "train.num_checkpoints=1")).returncode == 0
        assert (run_dir / "generator.pt").is_file()
        again = final_state(run_dir)
        assert all(torch.equal(whole[name], again[name]) for name in whole)
    longer = train(*words(training_shards, run_dir, 1, "train.num_checkpoints=1", f"train.num_steps={NUM_STEPS + 2}"))
    assert longer.returncode == 0, longer.text[-2000:]
    assert steps_done(run_dir) == NUM_STEPS + 2


@pytest.mark.slow
def test_a_killed_worker_is_replaced(training_shards: Path, tmp_path: Path) -> None:
    assert train(*words(training_shards, tmp_path / "undisturbed", 2)).returncode == 0
    disturbed = tmp_path / "disturbed"
    training = start("sttn_ray.train", *words(training_shards, disturbed, 2))
    wait_until(
        lambda: has_checkpoint(disturbed) and steps_done(disturbed) >= 3,
        "three steps",
        program=training,
        moves=files_in(disturbed),
    )
    kill_ray_process(training.pid, "RayTrainWorker")
    assert training.finish(disturbed) == 0
    whole, parts = final_state(tmp_path / "undisturbed"), final_state(tmp_path / "disturbed")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.usefixtures("cluster")
def test_a_gradient_that_is_no_number_ends_the_run_at_once(training_shards: Path, tmp_path: Path) -> None:
    request = words(training_shards, tmp_path / "run", 2, *CROP, "train.learning_rate=1e30")
    done = train(*request, **ray_address())
    assert done.returncode == 1, done.text[-2000:]
    assert "training stopped: the gradient of step " in done.text
    assert "no weight was changed by it" in done.text
    # Not tried again.
    assert done.text.count("step 1/9") <= 1


@pytest.mark.slow
def test_a_run_in_an_object_store_goes_on_with_the_same_bits(
    training_shards: Path, tmp_path: Path, store: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(*words(training_shards, tmp_path / "disk", 2)).returncode == 0
    upload(store, training_shards, f"{bucket}/shards")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    run_dir, cache = f"{bucket}/run", tmp_path / "cache"
    more = (f"storage.endpoint_url={store}", f"storage.cache_dir={cache}", "train.loader_processes=1")
    request = [f"shards.dir={bucket}/shards", f"run.dir={run_dir}", *words(training_shards, tmp_path, 2)[2:], *more]
    killed = start("sttn_ray.train", *request)
    wait_until(
        lambda: bool(client(store).glob(f"{run_dir}/checkpoints/step-*")),
        "a checkpoint",
        program=killed,
        moves=objects_in(store, bucket),
    )
    killed.kill()
    done = train(*request)
    assert done.returncode == 0, done.text[-2000:]
    assert "going on from step" in done.text

    found = tmp_path / "found"
    client(store).get(run_dir, str(found), recursive=True)
    assert seen(tmp_path / "disk") == seen(found)
    assert losses(tmp_path / "disk") == losses(found)
    whole, parts = final_state(tmp_path / "disk"), final_state(found)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert len([path for path in cache.rglob("*") if path.is_file()]) == 4  # the clips, each once
    assert load_generator(found / "best.pt").config == load_generator(found / "generator.pt").config
    assert list((found / "tensorboard").iterdir())
    assert list((found / "validation").iterdir())
    told = run("sttn_ray.train", "--summary", run_dir, AWS_ENDPOINT_URL_S3=store)
    assert told.returncode == 0
    assert f"done at step {NUM_STEPS}" in told.text
    assert "best validation" in told.text


@pytest.mark.slow
def test_a_run_that_loses_a_node_goes_on_with_fewer_workers(training_shards: Path, tmp_path: Path) -> None:
    assert train(*words(training_shards, tmp_path / "two", 2)).returncode == 0
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = cluster.add_node(num_cpus=1)
        environment = {"RAY_ADDRESS": cluster.address, "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15"}
        shrunk = tmp_path / "shrunk"
        training = start("sttn_ray.train", *words(training_shards, shrunk, 2, "train.min_workers=1"), **environment)
        wait_until(
            lambda: has_checkpoint(shrunk) and steps_done(shrunk) >= 3,
            "three steps",
            program=training,
            moves=files_in(shrunk),
        )
        cluster.remove_node(second, allow_graceful=False)
        assert training.finish(shrunk) == 0, training.said()
    finally:
        cluster.shutdown()
    assert seen(tmp_path / "shrunk") == seen(tmp_path / "two")
    for a, b in zip(losses(tmp_path / "two"), losses(tmp_path / "shrunk"), strict=True):
        assert a == pytest.approx(b, rel=0.02, abs=1e-3)
    # Far nearer than trainings that begin with other seeds.
    for seed in (1, 2):
        assert train(*words(training_shards, tmp_path / str(seed), 2, f"run.seed={seed}")).returncode == 0
        assert 10 * distance(tmp_path / "shrunk", tmp_path / "two") < distance(tmp_path / str(seed), tmp_path / "two")


def distance(one: Path, other: Path) -> float:
    """Mean difference of the hole's error over the steps of two runs."""
    pairs = list(zip(losses(one), losses(other), strict=True))
    return sum(abs(a[1] - b[1]) for a, b in pairs) / len(pairs)


def test_wrong_requests_are_refused_with_all_faults(training_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        program.run(load_experiment(["train.batch_size=3", "train.num_workers=2"]))
    for text in ("run.dir: is missing", "shards.dir: is missing", "train.batch_size=3: does not divide"):
        assert text in str(refused.value)
    with pytest.raises(ShardError, match="build them with"):
        program.run(load_experiment([f"shards.dir={tmp_path}", f"run.dir={tmp_path / 'run'}"]))
    wide = words(training_shards, tmp_path / "run", 1, "train.crop_width=241")
    with pytest.raises(ConfigError, match=r"241x144 is more than the clips' 240x144"):
        program.run(load_experiment(wide))
    with pytest.raises(ConfigError, match=r"frames are 240x144, .* takes 432x240"):
        program.run(load_experiment([f"shards.dir={training_shards}", f"run.dir={tmp_path / 'run'}"]))


@pytest.mark.usefixtures("cluster")
def test_more_workers_than_the_cluster_carries_are_refused(
    training_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        program.main(words(training_shards, tmp_path / "run", 64, "train.batch_size=64"))
    assert refused.value.code == 2
    said = capsys.readouterr().err
    assert "train.num_workers=64" in said
    assert f"the cluster of {NUM_CPUS} CPUs" in said
    assert "Traceback" not in said
