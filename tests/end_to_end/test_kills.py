"""A catalog on two nodes, through ten kills of drivers, workers and nodes at random times, ends with the same bytes."""

import csv
import json
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from ray.cluster_utils import Cluster

from sttn_ray.model.generator import Generator, GeneratorConfig
from sttn_ray.model.weights import save_generator
from sttn_ray.storage import read_record
from tests.media import make_black_mask, make_video
from tests.processes import Program, descendants, files_in, kill_ray_process, start, wait_until

KILLS = ["driver"] * 3 + ["Completer"] * 2 + ["encode"] * 2 + ["node"] * 3
NUM_FILES = 16


def make_catalog(folder: Path) -> Path:
    """Films of 5 to 19 segments, one of them without a hole, one that is no video."""
    rows = []
    black = make_black_mask(folder / "black.png", width=128, height=96)
    for number in range(NUM_FILES):
        video = folder / f"videos/{number:02d}.mp4"
        video.parent.mkdir(exist_ok=True)
        if number == 5:
            video.write_bytes(b"no video")
        else:
            make_video(video, num_frames=100 + 20 * (number % 15), width=128, height=96, audio=True, seed=number)
        rows.append([video, *((black, "") if number == 9 else ("", "16,12,30,20; 70,50,30,30"))])
    with open(folder / "catalog.csv", "w", newline="") as file:
        csv.writer(file).writerows([["video", "mask", "boxes"], *rows])
    return folder / "catalog.csv"


@contextmanager
def watched_records(output: Path) -> Iterator[dict[Path, tuple[int, str]]]:
    """Every record of a segment that is ever seen, with when it was written; a second one must have begun before that.

    Yields:
        time in nanoseconds and node, by the record's path. Raises AssertionError at the end, where a segment was begun
        after it had been recorded.
    """
    seen: dict[Path, tuple[int, str]] = {}
    again: list[str] = []
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.02):
            for path in output.glob("_sttn/items/*/segment-*.json"):
                try:
                    written, record = path.stat().st_mtime_ns, read_record(path)
                except FileNotFoundError:
                    continue
                if record is None or written == seen.get(path, (0, ""))[0]:
                    continue
                if path in seen and record["completion"]["began_s"] * 1e9 > seen[path][0]:
                    again.append(f"{path}: {json.dumps(record)}")
                seen.setdefault(path, (written, record["completion"]["node"]))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        is_over.set()
        thread.join()
    assert not again, again


@pytest.mark.slow
def test_ten_kills_on_two_nodes_give_the_same_bytes(tmp_path: Path) -> None:
    seed = time.time_ns()
    chance = random.Random(seed)
    kills = KILLS.copy()
    chance.shuffle(kills)
    catalog = make_catalog(tmp_path)
    network = GeneratorConfig(channels=64, num_blocks=2, width=96, height=48, mask_keys=True)
    save_generator(tmp_path / "tiny.pt", Generator(network))

    def begin(output: Path, **environment: str) -> Program:
        words = [f"inpaint.catalog={catalog}", f"inpaint.output={output}"]
        words += [f"inpaint.checkpoint={tmp_path / 'tiny.pt'}", "inpaint.segment_frames=20", "run.actor_cpus=1"]
        return start("pipelines.inpaint", *words, log=output.with_suffix(".log"), **environment)

    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    assert begin(undisturbed).finish(undisturbed) == 1  # one is no video

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3})
    try:
        second = cluster.add_node(num_cpus=3)
        with watched_records(disturbed) as seen:
            run = begin(disturbed, RAY_ADDRESS=cluster.address)
            for kill in kills:
                before = len(seen)
                wait_until(lambda: len(seen) > before, "a segment", program=run, moves=files_in(disturbed))  # noqa: B023
                time.sleep(chance.uniform(0, 3))
                assert not run.has_ended, f"it ended before all kills (seed {seed}); make the films longer"
                if kill == "driver":
                    run.kill()
                    wait_until(lambda: not is_at_work(), "the end of the killed driver's processes")
                    run = begin(disturbed, RAY_ADDRESS=cluster.address)
                elif kill == "node":
                    cluster.remove_node(second, allow_graceful=False)
                    second = cluster.add_node(num_cpus=3)
                else:
                    kill_ray_process(os.getpid(), kill)
            assert run.finish(disturbed) == 1, seed
            assert len({node for _, node in seen.values()}) > 1
    finally:
        cluster.shutdown()
    names = [path.relative_to(undisturbed) for path in sorted(undisturbed.rglob("*.mp4"))]
    assert len(names) == NUM_FILES - 1
    for name in names:
        assert (disturbed / name).read_bytes() == (undisturbed / name).read_bytes(), (seed, name)
    assert told(undisturbed) == told(disturbed)


def is_at_work() -> bool:
    return any("Completer" in command or "encode" in command for _, command in descendants(os.getpid()))


def told(output: Path) -> list[tuple]:
    """What the manifest says of each video, but for how long it took."""
    rows = pq.read_table(output / "manifest.parquet").to_pylist()
    return [(row["video"], row["status"], row["frames"], row["sha256"]) for row in rows]
