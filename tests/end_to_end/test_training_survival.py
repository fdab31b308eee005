"""A training through what a week on a cluster brings beside kills: new nodes, full disks, stores that are away."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from ray.cluster_utils import Cluster

from sttn_ray.paths import as_path
from sttn_ray.storage import read_record
from sttn_ray.training.checkpoints import find_checkpoints
from tests.processes import ROOT, Program, files_in, start, wait_until
from tests.store import FaultyProxy, client, free_port
from tests.training import NUM_STEPS, final_state, losses, seen, steps_done, train, words

pytestmark = pytest.mark.slow
Start = Callable[..., Program]


@contextmanager
def small_disk(folder: Path, num_bytes: int) -> Iterator[Path]:
    """A file system of its own in memory; skips where nobody may mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def start_logged() -> Iterator[Start]:
    """Starts trainings that write what they say to a file; one that still runs at the end is killed."""
    runs: list[Program] = []

    def begin(log: Path, *arguments: str, **environment: str) -> Program:
        runs.append(start("sttn_ray.train", *arguments, log=log, **environment))
        return runs[-1]

    yield begin
    for run in runs:
        run.kill()


def test_a_run_grows_when_a_node_comes(training_shards: Path, tmp_path: Path, start_logged: Start) -> None:
    num_steps, run_dir = 300, tmp_path / "run"
    more = ("train.min_workers=1", f"train.num_steps={num_steps}", "train.checkpoint_interval=20")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        request = words(training_shards, run_dir, 2, *more, "train.validation_clips=0")
        run = start_logged(tmp_path / "log", *request, RAY_ADDRESS=cluster.address)
        wait_until(lambda: steps_done(run_dir) >= 3, "three steps", program=run, moves=files_in(run_dir))
        assert (read_record(run_dir / "starts.json") or {})["workers"] == 1
        cluster.add_node(num_cpus=1)
        wait_until(
            lambda: (read_record(run_dir / "starts.json") or {}).get("workers") == 2,
            "two workers",
            program=run,
            moves=files_in(run_dir),
        )
        assert run.finish(run_dir) == 0, run.said()[-2000:]
    finally:
        cluster.shutdown()
    assert [step for step, _ in seen(run_dir)] == list(range(1, num_steps + 1))
    # Two workers did the last steps: what they saw is what one would have seen.
    assert (read_record(run_dir / "starts.json") or {})["place"] != "the beginning"


def test_a_full_disk_ends_the_run_and_the_same_command_goes_on(
    training_shards: Path, tmp_path: Path, start_logged: Start
) -> None:
    assert train(*words(training_shards, tmp_path / "undisturbed", 1)).returncode == 0
    size = (tmp_path / f"undisturbed/checkpoints/step-{NUM_STEPS:08d}/state.pt").stat().st_size
    with small_disk(tmp_path / "disk", int(3.5 * size)) as disk:
        run_dir, filler = disk / "run", disk / "filler"
        run = start_logged(tmp_path / "log", *words(training_shards, run_dir, 1))
        wait_until(lambda: steps_done(run_dir) >= 3, "three steps", program=run, moves=files_in(run_dir))
        subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=64K"], capture_output=True, check=False)
        assert run.finish() == 1, run.said()[-3000:]
        assert "No space left on device" in run.said()
        assert "the same command goes on" in run.said()
        filler.unlink()
        done = train(*words(training_shards, run_dir, 1))
        assert done.returncode == 0, done.text[-2000:]
        whole, parts = final_state(tmp_path / "undisturbed"), final_state(run_dir)
        assert all(torch.equal(whole[name], parts[name]) for name in whole)
        assert losses(tmp_path / "undisturbed") == losses(run_dir)


def test_a_store_that_is_away_for_half_a_minute_costs_nothing(
    training_shards: Path, tmp_path: Path, store: str, bucket: str, start_logged: Start
) -> None:
    assert train(*words(training_shards, tmp_path / "disk", 1)).returncode == 0
    port = free_port()
    request = [*words(training_shards, tmp_path, 1), f"run.dir={bucket}/run"]
    environment = {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}"}
    with FaultyProxy(store, {}, seed=0, port=port):
        run = start_logged(tmp_path / "log", *request, **environment)
        wait_until(lambda: bool(client(store).glob(f"{bucket}/run/checkpoints/step-*")), "a checkpoint", program=run)
    time.sleep(30)
    with FaultyProxy(store, {}, seed=0, port=port):
        assert run.finish() == 0, run.said()[-3000:]
    found = tmp_path / "found"
    client(store).get(f"{bucket}/run", str(found), recursive=True)
    whole, parts = final_state(tmp_path / "disk"), final_state(found)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert losses(tmp_path / "disk") == losses(found)
    assert "workers died" not in run.said()


def test_a_store_that_stays_away_ends_the_run_and_the_same_command_goes_on(
    training_shards: Path, tmp_path: Path, store: str, bucket: str, start_logged: Start
) -> None:
    port = free_port()
    request = [*words(training_shards, tmp_path, 1), f"run.dir={bucket}/run"]
    environment = {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}"}
    with FaultyProxy(store, {}, seed=0, port=port):
        run = start_logged(tmp_path / "log", *request, **environment)
        wait_until(lambda: bool(client(store).glob(f"{bucket}/run/checkpoints/step-*")), "a checkpoint", program=run)
    assert run.finish() == 1, run.said()[-3000:]
    assert "cannot be" in run.said()
    # Whatever lies there is whole.
    for path in client(store).glob(f"{bucket}/run/checkpoints/step-*/state.pt"):
        client(store).get(path, str(tmp_path / "state.pt"))
        torch.load(tmp_path / "state.pt", weights_only=True)
    done = train(*request)
    assert done.returncode == 0, done.text[-2000:]


def test_an_upload_that_is_cut_off_leaves_nothing(tmp_path: Path, store: str, bucket: str) -> None:
    """A process that is killed while it uploads many parts: no object of that name, not even a short one."""
    upload = (
        "import sys\nfrom sttn_ray.paths import as_path\nfrom sttn_ray.storage import published\n"
        "with published(as_path(sys.argv[1])) as temporary:\n"
        "    with open(temporary, 'wb') as file: file.truncate(200_000_000)\n"
    )
    path = f"{bucket}/run/checkpoints/step-00000002/state.pt"
    with FaultyProxy(store, {"stall": 0.5}, seed=1, stall_s=3) as proxy:
        environment = {**os.environ, "AWS_ENDPOINT_URL_S3": proxy.url}
        process = subprocess.Popen([sys.executable, "-c", upload, path], cwd=ROOT, env=environment)
        wait_until(lambda: proxy.counts.total() >= 3, "a few parts")
        process.kill()
        process.wait()
    assert not client(store).exists(path)
    assert find_checkpoints(as_path(f"{bucket}/run")) == []
