"""Programs as jobs of a head node as people start it: `ray start --head`, tokens, `ray job submit`."""

import os
import secrets
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest
import torch
from ray._common.utils import reset_ray_address  # what `ray stop` does

from sttn_ray.model.generator import Generator, GeneratorConfig
from sttn_ray.model.weights import save_generator
from sttn_ray.sweep.trials import read_trials
from tests.media import make_video
from tests.processes import ROOT, descendants, files_in, wait_until
from tests.store import free_port
from tests.training import NUM_STEPS, final_state, has_checkpoint, train, words

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent


class Head(NamedTuple):
    """A head node: where its job server listens, the environment of who may use it, its process."""

    url: str
    environment: dict[str, str]
    pid: int

    def ray(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [str(BIN / "ray"), "job", words[0], "--address", self.url, *words[1:]]
        return subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)

    def submit(self, *words: str, name: str = "") -> subprocess.CompletedProcess[str]:
        named = ["--submission-id", name, "--no-wait"] if name else []
        return self.ray("submit", *named, "--working-dir", ".", "--", "python", "-m", *words)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    folder = tmp_path_factory.mktemp("head")
    (folder / "token").write_text(secrets.token_hex(32))
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    # `python` in a job is the first one on the node's path.
    environment |= {"PATH": f"{BIN}:{os.environ['PATH']}", "RAY_USAGE_STATS_ENABLED": "0"}
    environment.pop("RAY_ADDRESS", None)
    port, dashboard = free_port(), free_port()
    command = [str(BIN / "ray"), "start", "--head", "--block", f"--port={port}", f"--dashboard-port={dashboard}"]
    command.append("--dashboard-agent-listen-port=0")  # by default the same for all Rays of a machine
    with open(folder / "log", "wb") as log:
        # Not `ray stop`, which ends every Ray of this machine.
        process = subprocess.Popen(
            [*command, "--num-cpus=4"], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    url = f"http://127.0.0.1:{dashboard}"
    try:
        wait_until(lambda: _answers(url), "the job server")
        started = Head(url, environment, process.pid)
        # The node's agent, which starts jobs, is up later than the server.
        wait_until(lambda: started.ray("submit", "--no-wait", "--", "true").returncode == 0, "the node's agent")
        yield started
    finally:
        below = [pid for pid, _ in descendants(process.pid)]
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        for pid in below:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        # Every later program of this machine would join it, or try to.
        reset_ray_address()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/api/version", timeout=5).close()
    except OSError as error:
        return getattr(error, "code", None) in (401, 403)
    return True


def training_workers(head: Head) -> list[str]:
    return [command for _, command in descendants(head.pid) if "RayTrainWorker" in command]


def test_who_has_no_token_is_refused(head: Head) -> None:
    stranger = {**head.environment, "RAY_AUTH_MODE": "disabled"}
    stranger.pop("RAY_AUTH_TOKEN_PATH")
    refused = head._replace(environment=stranger).submit("sttn_ray.train", "--help")
    assert refused.returncode != 0
    assert "usage:" not in refused.stdout


def test_a_training_is_submitted_stopped_and_submitted_again(head: Head, training_shards: Path, tmp_path: Path) -> None:
    assert train(*words(training_shards, tmp_path / "alone", 2)).returncode == 0
    run_dir = tmp_path / "run"
    request = ["sttn_ray.train", *words(training_shards, run_dir, 2)]
    assert head.submit(*request, name="first").returncode == 0
    wait_until(lambda: has_checkpoint(run_dir), "a checkpoint", moves=files_in(run_dir))
    assert training_workers(head)
    stopped = head.ray("stop", "first")
    assert stopped.returncode == 0, stopped.stderr
    wait_until(lambda: not training_workers(head), "the workers' end")
    done = head.submit(*request)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "going on from step" in done.stdout
    assert f"trained to step {NUM_STEPS}" in done.stdout
    whole, parts = final_state(tmp_path / "alone"), final_state(run_dir)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_shards_are_built_and_videos_inpainted_by_jobs(head: Head, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    make_video(tmp_path / "corpus/film.mp4", num_frames=30, width=240, height=144, audio=True)
    words = [f"corpus.root={tmp_path}/corpus", f"shards.dir={tmp_path}/shards", "model.preset=small"]
    built = head.submit("pipelines.build_shards", *words)
    assert built.returncode == 0, built.stdout[-3000:]
    assert (tmp_path / "shards/index.parquet").is_file()
    config = GeneratorConfig(channels=16, num_blocks=1, width=96, height=48, mask_keys=True)
    save_generator(tmp_path / "tiny.pt", Generator(config))
    words = [f"inpaint.video={tmp_path}/corpus/film.mp4", "inpaint.boxes=16,12,30,20"]
    words += [f"inpaint.checkpoint={tmp_path}/tiny.pt", f"inpaint.output={tmp_path}/out"]
    done = head.submit("pipelines.inpaint", *words)
    assert done.returncode == 0, done.stdout[-3000:]
    (row,) = pq.read_table(tmp_path / "out/manifest.parquet").to_pylist()
    assert row["status"] == "done"


def test_a_sweep_is_submitted_stopped_and_submitted_again(head: Head, training_shards: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "sweep"
    (tmp_path / "space.yaml").write_text("tune: {scheduler: fifo, space: {train.hole_weight: 'grid(1, 3)'}}")
    part = ("train.num_steps=2", "train.crop_width=96", "train.crop_height=48", "tune.max_concurrent=1")
    request = ["sttn_ray.tune", f"{tmp_path}/space.yaml", *words(training_shards, run_dir, 1, *part)]
    assert head.submit(*request, name="sweep").returncode == 0
    wait_until(
        lambda: "done" in {trial["status"] for trial in read_trials(run_dir)}, "a trial", moves=files_in(run_dir)
    )
    (first,) = [trial for trial in read_trials(run_dir) if trial["status"] == "done"]
    assert head.ray("stop", "sweep").returncode == 0
    wait_until(lambda: not training_workers(head), "the workers' end")
    swept = head.submit(*request)
    assert swept.returncode == 0, swept.stdout[-3000:]
    rows = pq.read_table(run_dir / "trials.parquet").to_pylist()
    assert [(row["status"], row["train.hole_weight"]) for row in rows] == [("done", 1), ("done", 3)]
    assert first in read_trials(run_dir)
    assert (run_dir / "best.yaml").is_file()


def test_a_relative_path_in_a_job_is_refused(head: Head, tmp_path: Path) -> None:
    make_video(tmp_path / "film.mp4", num_frames=12)
    relative = head.submit("pipelines.build_shards", f"corpus.root={tmp_path}", "shards.dir=shards")
    assert relative.returncode != 0
    assert "shards.dir=shards: is relative, and this job runs in a copy of the working directory" in relative.stdout
