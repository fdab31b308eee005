"""A training on two nodes through ten kills of drivers, workers and nodes at random times has the undisturbed bits."""

import os
import random
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from ray.cluster_utils import Cluster

from sttn_ray.corpus import Entry, index_source
from sttn_ray.shards.plan import Range
from sttn_ray.shards.tables import INDEX_SCHEMA
from sttn_ray.shards.write import ShardSettings, write_clips
from sttn_ray.training.metrics import read_metrics
from tests.media import make_video
from tests.processes import ROOT, kill_ray_process

NUM_STEPS = 60
SETTINGS = ShardSettings(
    width=240, height=144, fit="crop", codec="jpeg", quality=95, clip_frames=12, min_clip_frames=5, clips_per_shard=8
)
KILLS = ["driver"] * 3 + ["worker"] * 4 + ["node"] * 3


def make_shards(root: Path, folder: Path) -> Path:
    sources = {}
    for seed in range(3):
        make_video(root / f"{seed}.mp4", num_frames=12, width=240, height=144, seed=seed)
        source = index_source(str(root), Entry(f"{seed}.mp4", "video"), frames_fps=Fraction(24))
        sources[source.sha256] = source
    ranges = [Range(sha256, 0, 12) for sha256 in sources]
    rows, _ = write_clips(str(root), folder / "clips/0.parquet", ranges, sources, SETTINGS)
    pq.write_table(pa.Table.from_pylist(rows, INDEX_SCHEMA), folder / "index.parquet")
    return folder


def command(shards: Path, run_dir: Path) -> list[str]:
    words = [f"shards.dir={shards}", f"run.dir={run_dir}", "model.preset=small", "model.initialization=fast"]
    words += [f"train.num_steps={NUM_STEPS}", "train.batch_size=2", "train.num_workers=2", "train.worker_cpus=1"]
    words += ["train.learning_rate=1e-3", "train.log_interval=1", "train.checkpoint_interval=3"]
    return [sys.executable, "-m", "sttn_ray.train", *words]


def steps_done(run_dir: Path) -> int:
    return max((line["step"] for line in read_metrics(run_dir / "metrics.jsonl")), default=0)


def final_weights(run_dir: Path) -> dict[str, torch.Tensor]:
    path = run_dir / f"checkpoints/step-{NUM_STEPS:08d}/state.pt"
    state = torch.load(path, weights_only=True)
    return {f"{part}.{name}": value for part in ("generator", "discriminator") for name, value in state[part].items()}


@pytest.mark.slow
def test_ten_kills_change_no_bit(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "corpus", tmp_path / "shards")
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    assert subprocess.run(command(shards, undisturbed), cwd=ROOT, capture_output=True, check=False).returncode == 0

    rng = random.Random(7)
    kills = KILLS.copy()
    rng.shuffle(kills)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    environment = {**os.environ, "RAY_ADDRESS": cluster.address, "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30"}
    num_starts = 0

    def start() -> subprocess.Popen[bytes]:
        nonlocal num_starts
        num_starts += 1
        with open(tmp_path / f"said-{num_starts}.log", "wb") as said:
            return subprocess.Popen(
                command(shards, disturbed), cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT
            )

    try:
        second = cluster.add_node(num_cpus=1)
        run = start()
        for kill in kills:
            before, end = steps_done(disturbed), time.monotonic() + 150
            while run.poll() is None and time.monotonic() < end and not 0 < steps_done(disturbed) != before:
                time.sleep(0.2)
            time.sleep(rng.uniform(0, 3))
            if run.poll() is not None:  # given up after a kill: the same command goes on
                assert run.returncode != 0, f"done at step {steps_done(disturbed)}, before all kills"
                run = start()
                continue
            if kill == "driver":
                run.kill()
                run.wait(30)
                run = start()
            elif kill == "worker":
                kill_ray_process(os.getpid(), "RayTrainWorker")
            else:
                cluster.remove_node(second, allow_graceful=False)
                second = cluster.add_node(num_cpus=1)
        while run.wait(600) != 0:
            assert num_starts < 12
            run = start()
    finally:
        cluster.shutdown()
    whole, parts = final_weights(undisturbed), final_weights(disturbed)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    lines = [
        [(line["step"], line["clip_ids"]) for line in read_metrics(d / "metrics.jsonl")]
        for d in (undisturbed, disturbed)
    ]
    assert lines[0] == lines[1]
