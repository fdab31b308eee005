"""Cores for a GPU by hand, and that the simulation reads as much as the engine does."""

from argparse import Namespace
from typing import Any

import pytest

from benchmarks.rates import Cost
from benchmarks.sizing import _archive, _cores, _run_rates, _tables, _training, _training_cores
from sttn_ray.completion.engine import SHOT_MARGIN, Engine
from sttn_ray.completion.schedule import Schedule
from sttn_ray.model.generator import Generator, GeneratorConfig

COST = Cost(frame_tflop=1.0, clip_tflop=4.0, exchanged_bytes=100_000_000)
SIZE = {
    "videos": 1,
    "plan_s": 0.001,
    "read_s": 0.0,
    "own_s": 0.01,
    "encode_s": 0.05,
    "publish_s": 0.001,
    "shard_s": 0.01,
    "seek_frames": 40.0,
}
RATES: dict[str, Any] = {"sizes": {"1080p": SIZE}, "folder_shard_s": 0.02, "sample_s": 0.01}
ARGUMENTS = Namespace(cores=None, hours_between_kills=1.0, minutes_away=5.0, gbits=8.0)


def test_a_segment_reads_what_the_engine_reads():
    config = GeneratorConfig(channels=16, num_blocks=1, width=96, height=48, mask_keys=True)
    engine = Engine(Generator(config), device="cpu", precision="fp32", schedule=Schedule())
    rates = _run_rates(SIZE, COST, 40.0)
    margin = rates.margin_frames
    assert engine.read_range(1000, 1250, 5000) == (1000 - margin, 1250 + margin)
    assert rates.ahead_frames == Schedule().reach(5000) + SHOT_MARGIN + 1


def test_cores_of_a_gpu_by_hand():
    """A frame takes 25 ms on the GPU and 10 on a core; 260 are worked on for 250, and 52 ms a frame come after."""
    one = _cores("1080p", 1, SIZE, COST, 40.0)
    assert one["frames_per_s"] == pytest.approx(250 / (260 * 0.035))
    assert one["gpu_share"] == pytest.approx(25 / 35)
    assert one["cores_of_processes"] == pytest.approx(10 / 35)
    assert one["cores_beside"] == pytest.approx(0.052 * 250 / (260 * 0.035))
    two = _cores("1080p", 2, SIZE, COST, 40.0)
    assert two["gpu_share"] == pytest.approx(1)
    assert two["frames_per_s"] == pytest.approx(250 / (260 * 0.025))
    assert two["cores_with_headroom"] == 3  # 2.5


def test_cores_of_a_training_by_hand():
    found = _training_cores(RATES, COST, 40.0)
    assert found["clips_per_s"] == pytest.approx(10)
    assert found["reading"] == pytest.approx(0.1)
    assert found["sharding"] == pytest.approx({"1080p": 0.5, "folder": 1.0})


def test_more_gpus_than_clips_do_nothing():
    one, eight, many = _training(COST, 40.0, ARGUMENTS)
    assert one["step_s"] == pytest.approx(0.8)
    assert eight["step_s"] == pytest.approx(0.1 + 2 * 7 / 8 * 0.1)  # and the gradients
    assert {**many, "gpus": 8} == eight
    assert one["short_interval"]["lost_steps"] < one["as_published"]["lost_steps"]


def test_the_tables_hold_every_row():
    archive = _archive(SIZE, COST, 40.0, 50, ARGUMENTS)
    assert [(row["gpus"], row["processes"]) for row in archive] == [(1, 1), (1, 2), (8, 1), (8, 2), (64, 1), (64, 2)]
    for row in archive:
        assert row["divided_s"] <= row["simulated"]["seconds"]
    results = {
        "rates": RATES,
        "cost": COST._asdict(),
        "tflops": {"is_assumed": True, "network": 40.0, "training": 40.0},
        "cores": [_cores("1080p", processes, SIZE, COST, 40.0) for processes in (1, 2)],
        "cores_for_training": _training_cores(RATES, COST, 40.0),
        "archive": archive,
        "training": _training(COST, 40.0, ARGUMENTS),
        "shards": {"youtube_vos_frames": 1000, "youtube_vos_core_hours": 1.0},
    }
    lines = _tables(results).splitlines()
    assert sum(line.startswith("|") for line in lines) == (2 + 1) + (2 + 2) + (2 + 6) + (2 + 3)
    assert "(assumed)" in _tables(results)
