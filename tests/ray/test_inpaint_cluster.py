"""`pipelines.inpaint` on several nodes, and its processes on GPUs."""

import csv
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from sttn_ray import cluster as placement
from sttn_ray.model.generator import Generator, GeneratorConfig
from sttn_ray.model.weights import save_generator
from sttn_ray.storage import read_record
from tests.media import make_video
from tests.processes import Program, files_in, start, start_command, wait_until
from tests.ray.conftest import start_ray, without_shared_ray

BOX = "16,12,30,20"


def begin(video: Path, output: Path, checkpoint: Path, **environment: str) -> Program:
    words = [f"inpaint.video={video}", f"inpaint.boxes={BOX}", f"inpaint.output={output}"]
    words += [f"inpaint.checkpoint={checkpoint}", "inpaint.segment_frames=60", "run.actor_cpus=1"]
    return start("pipelines.inpaint", *words, **environment)


@pytest.mark.slow
def test_one_film_is_on_both_nodes_at_once_with_the_same_bytes(tmp_path: Path) -> None:
    checkpoint = tmp_path / "tiny.pt"
    save_generator(
        checkpoint, Generator(GeneratorConfig(channels=32, num_blocks=2, width=96, height=48, mask_keys=True))
    )
    video = make_video(tmp_path / "film.mp4", num_frames=1200, audio=True)  # two minutes at ten frames a second
    assert begin(video, tmp_path / "alone", checkpoint).finish(tmp_path / "alone") == 0
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 3})
    kept: dict[Path, dict] = {}
    try:
        nodes.add_node(num_cpus=3)
        run = begin(video, tmp_path / "spread", checkpoint, RAY_ADDRESS=nodes.address)

        def is_done() -> bool:
            # The records of segments are deleted when the film is published.
            for path in (tmp_path / "spread").glob("_sttn/items/*/segment-*.json"):
                kept.setdefault(path, read_record(path) or {})
            return run.has_ended

        wait_until(is_done, "the film", moves=files_in(tmp_path / "spread"))
        assert run.finish() == 0, run.said()
    finally:
        nodes.shutdown()
    assert (tmp_path / "spread/film.mp4").read_bytes() == (tmp_path / "alone/film.mp4").read_bytes()
    spans: dict[str, list[tuple[float, float]]] = {}
    for record in filter(None, kept.values()):
        told = record["completion"]
        spans.setdefault(told["node"], []).append((told["began_s"], told["began_s"] + told["seconds"]))
    assert len(spans) == 2
    first, second = spans.values()
    together_s = sum(max(0, min(a[1], b[1]) - max(a[0], b[0])) for a in first for b in second)
    busy_s = min(sum(stop - start for start, stop in span) for span in (first, second))
    assert together_s > 0.5 * busy_s, spans


@pytest.mark.slow
def test_a_node_that_is_lost_for_good_leaves_room_for_tasks_of_video_and_a_new_one_is_used(tmp_path: Path) -> None:
    checkpoint = tmp_path / "tiny.pt"
    save_generator(
        checkpoint, Generator(GeneratorConfig(channels=32, num_blocks=2, width=96, height=48, mask_keys=True))
    )
    film = make_video(tmp_path / "film.mp4", num_frames=60, width=128, height=96)
    rows = []
    for number in range(150):
        video = tmp_path / f"videos/{number:03d}.mp4"
        video.parent.mkdir(exist_ok=True)
        rows.append([shutil.copy(film, video), BOX])
    with open(tmp_path / "catalog.csv", "w", newline="") as file:
        csv.writer(file).writerows([["video", "boxes"], *rows])
    words = [f"inpaint.catalog={tmp_path / 'catalog.csv'}", f"inpaint.output={tmp_path / 'out'}"]
    words += [f"inpaint.checkpoint={checkpoint}", "inpaint.segment_frames=20", "run.actor_cpus=1"]
    quick = "nodes.FEWER_AFTER_S, nodes.MORE_AFTER_S, nodes.CHECK_INTERVAL_S = 15, 15, 2"
    program = f"from pipelines import inpaint, inpaint_nodes as nodes; {quick}; raise SystemExit(inpaint.main())"

    def outputs() -> list[Path]:
        return list((tmp_path / "out/videos").glob("*.mp4"))

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 3})
    run = None
    try:
        second = nodes.add_node(num_cpus=3)
        run = start_command([sys.executable, "-c", program, *words], RAY_ADDRESS=nodes.address)

        def await_line(text: str) -> None:
            # Where it ends before, the catalog is too short.
            wait_until(lambda: text in run.said(), text, program=run, moves=outputs)

        wait_until(lambda: len(outputs()) > 5, "some videos", program=run)
        nodes.remove_node(second, allow_graceful=False)
        await_line("lost nodes: going on with 1 instead of 4 processes")
        before = len(outputs())
        wait_until(lambda: len(outputs()) > before + 5, "more videos", program=run, moves=outputs)
        nodes.add_node(num_cpus=3)
        await_line("got nodes: going on with 4 instead of 1 processes")
        assert run.finish(tmp_path / "out") == 0, run.said()
    finally:
        if run is not None:
            run.kill()
        nodes.shutdown()
    assert len(outputs()) == 150
    assert len({path.read_bytes() for path in outputs()}) == 1


@pytest.fixture(scope="module")
def two_gpus() -> Iterator[None]:
    """Two GPUs by name only: where processes are placed does not depend on what they find there."""
    with without_shared_ray():
        start_ray(num_cpus=6, num_gpus=2)
        yield


@pytest.mark.usefixtures("two_gpus")
def test_encoding_takes_whole_cores_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "cpus_per_core", lambda: 3)
    assert placement.choose_video_cpus(1, 2) == 3
    assert placement.choose_video_cpus(2, 2) == 4  # of six, beside a process of two
    assert placement.choose_video_cpus(1, 5) == 1
    assert placement.choose_video_cpus(2, 6) == 2  # there is no room at all, which is refused with these numbers


@pytest.mark.usefixtures("two_gpus")
def test_processes_share_gpus_by_the_share_they_ask_for(tmp_path: Path) -> None:
    assert placement.choose_device("auto") == "cuda"
    choose = placement.choose_num_actors
    assert choose(None, "cuda", 1, 1) == (2, 2)
    assert choose(None, "cuda", 1, 1, gpus_per_actor=0.5) == (4, 4)
    # Three of 0.4 would need parts of two GPUs.
    assert choose(None, "cuda", 1, 1, gpus_per_actor=0.4) == (4, 4)
    assert choose(None, "cuda", 2, 1, gpus_per_actor=0.5) == (2, 2)  # there are no more CPUs
    with pytest.raises(placement.ConfigError, match=r"run.num_actors=5: .* carries 4 on cuda"):
        choose(5, "cuda", 1, 1, gpus_per_actor=0.5)
    assert choose(5, "cuda", 1, 1, gpus_per_actor=0.5, can_grow=True) == (1, 5)
    with pytest.raises(placement.ConfigError, match=r"say run\.num_actors"):
        choose(None, "cuda", 1, 1, can_grow=True)
    with pytest.raises(placement.ConfigError, match=r"say run\.device"):
        placement.choose_device("auto", can_grow=True)

    class Seer:
        def __call__(self, row: dict) -> dict:
            # A process that comes late would find no rows left.
            (tmp_path / f"{os.getpid()}").touch()
            wait_until(lambda: len(list(tmp_path.iterdir())) == 4, "four processes")
            return row | {"gpu": os.environ["CUDA_VISIBLE_DEVICES"], "pid": os.getpid()}

    rows = (
        ray.data.from_items([{"n": n} for n in range(40)], override_num_blocks=40)
        .map(Seer, compute=ray.data.ActorPoolStrategy(size=4), num_cpus=1, num_gpus=0.5)
        .take_all()
    )
    pids = {row["pid"]: row["gpu"] for row in rows}
    assert sorted(pids.values()) == ["0", "0", "1", "1"]
