"""A training on two nodes through ten kills of drivers, workers and nodes at random times has the undisturbed bits."""

import os
import random
import time
from pathlib import Path

import pytest
import torch
from ray.cluster_utils import Cluster

from tests.processes import Program, files_in, kill_ray_process, start, wait_until
from tests.training import final_state, seen, steps_done, train, words

NUM_STEPS = 60
KILLS = ["driver"] * 3 + ["worker"] * 4 + ["node"] * 3


def request(shards: Path, run_dir: Path) -> list[str]:
    more = f"train.num_steps={NUM_STEPS}", "train.checkpoint_interval=3", "train.validation_clips=0"
    return words(shards, run_dir, 2, *more)


@pytest.mark.slow
def test_ten_kills_change_no_bit(training_shards: Path, tmp_path: Path) -> None:
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    assert train(*request(training_shards, undisturbed)).returncode == 0

    rng = random.Random(7)
    kills = KILLS.copy()
    rng.shuffle(kills)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    environment = {"RAY_ADDRESS": cluster.address, "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30"}
    num_starts = 0

    def begin() -> Program:
        nonlocal num_starts
        num_starts += 1
        log = tmp_path / f"said-{num_starts}.log"
        return start("sttn_ray.train", *request(training_shards, disturbed), log=log, **environment)

    try:
        second = cluster.add_node(num_cpus=1)
        run = begin()
        for kill in kills:
            before = steps_done(disturbed)
            wait_until(
                lambda: run.has_ended or 0 < steps_done(disturbed) != before,  # noqa: B023
                "a step",
                moves=files_in(disturbed),
            )
            time.sleep(rng.uniform(0, 3))
            if run.has_ended:  # given up after a kill: the same command goes on
                assert run.finish() != 0, f"done at step {steps_done(disturbed)}, before all kills"
                run = begin()
                continue
            if kill == "driver":
                run.kill()
                run = begin()
            elif kill == "worker":
                kill_ray_process(os.getpid(), "RayTrainWorker")
            else:
                cluster.remove_node(second, allow_graceful=False)
                second = cluster.add_node(num_cpus=1)
        while run.finish(disturbed) != 0:
            assert num_starts < 12
            run = begin()
    finally:
        cluster.shutdown()
    whole, parts = final_state(undisturbed, NUM_STEPS), final_state(disturbed, NUM_STEPS)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert seen(undisturbed) == seen(disturbed)
