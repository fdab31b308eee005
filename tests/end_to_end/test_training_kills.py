"""A training on two nodes through ten kills of drivers, workers and nodes at random times has the undisturbed bits."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from ray.cluster_utils import Cluster

from tests.processes import ROOT, kill_ray_process
from tests.training import final_state, seen, steps_done, words

NUM_STEPS = 60
KILLS = ["driver"] * 3 + ["worker"] * 4 + ["node"] * 3


def command(shards: Path, run_dir: Path) -> list[str]:
    more = f"train.num_steps={NUM_STEPS}", "train.checkpoint_interval=3", "train.validation_clips=0"
    return [sys.executable, "-m", "sttn_ray.train", *words(shards, run_dir, 2, *more)]


@pytest.mark.slow
def test_ten_kills_change_no_bit(training_shards: Path, tmp_path: Path) -> None:
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    alone = subprocess.run(command(training_shards, undisturbed), cwd=ROOT, capture_output=True, check=False)
    assert alone.returncode == 0

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
                command(training_shards, disturbed), cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT
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
    whole, parts = final_state(undisturbed, NUM_STEPS), final_state(disturbed, NUM_STEPS)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert seen(undisturbed) == seen(disturbed)
