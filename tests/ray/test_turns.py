"""Several programs on one Ray cluster: each comes to its end, at once or in turn, and says what it waits for."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group, remove_placement_group

from tests import processes
from tests.media import make_video
from tests.processes import Program, files_in, start, wait_until
from tests.ray.conftest import NUM_CPUS, ray_address
from tests.training import words

BOX = "16,12,30,20"


def make_catalog(folder: Path, num_videos: int) -> Path:
    folder.mkdir()
    for number in range(num_videos):
        make_video(folder / f"{number}.mp4", num_frames=60, seed=number)
    catalog = folder / "catalog.csv"
    catalog.write_text("video,boxes\n" + "".join(f'{n}.mp4,"{BOX}"\n' for n in range(num_videos)))
    return catalog


@pytest.fixture(autouse=True)
def ends_programs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test that fails has started would else wait for a cluster that is gone."""
    begun: list[Program] = []

    def start_noted(*told: str, **how: str) -> Program:
        begun.append(processes.start(*told, **how))  # type: ignore[arg-type]
        return begun[-1]

    monkeypatch.setattr(f"{__name__}.start", start_noted)
    yield
    for program in begun:
        program.kill()


def begin(catalog: Path, output: Path, checkpoint: Path, *more: str, **environment: str) -> Program:
    told = [f"inpaint.catalog={catalog}", f"inpaint.output={output}", f"inpaint.checkpoint={checkpoint}"]
    told += ["inpaint.segment_frames=20", "encode.preset=ultrafast", "run.actor_cpus=1"]
    return start("pipelines.inpaint", *told, *more, **environment)


def videos(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.mp4")}


@contextmanager
def all_cpus_held() -> Iterator[None]:
    """The tests' Ray is another job's until the block ends."""
    group = placement_group([{"CPU": NUM_CPUS}])
    assert group.wait(60)
    try:
        yield
    finally:
        remove_placement_group(group)


WAITING = f"0 of {NUM_CPUS} CPUs are free; job "


@pytest.mark.usefixtures("cluster")
def test_a_job_says_what_it_waits_for_and_begins_when_that_is_free(tmp_path: Path, checkpoint: Path) -> None:
    catalog = make_catalog(tmp_path / "in", 1)
    with all_cpus_held():
        run = begin(catalog, tmp_path / "out", checkpoint, **ray_address())
        held = begin(catalog, tmp_path / "late", checkpoint, "inpaint.max_hours=0.006", **ray_address())
        wait_until(lambda: WAITING in run.said(), "the line of what it waits for", program=run)
        assert "waiting for 1 CPU for a process of the network and " in run.said()
        assert f"process {os.getpid()} on " in run.said()
        assert f"holds {NUM_CPUS} CPUs\n" in run.said()  # and nobody else anything
        # One whose time is over has not begun anything.
        assert held.finish() == 1, held.said()
        assert "stopped: inpaint.max_hours: other jobs held the cluster until then" in held.said()
        assert (tmp_path / "late/manifest.parquet").exists()
        assert not videos(tmp_path / "late")
    assert run.finish(tmp_path / "out") == 0, run.said()
    assert "going on after " in run.said()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_training_waits_for_its_turn(training_shards: Path, tmp_path: Path) -> None:
    told = words(training_shards, tmp_path / "run", 1, "train.crop_width=120", "train.crop_height=72")
    with all_cpus_held():
        run = start("sttn_ray.train", *told, **ray_address())
        wait_until(lambda: WAITING in run.said(), "the line of what it waits for", program=run)
        assert "waiting for CPUs or GPUs for all workers: " in run.said()
    assert run.finish(tmp_path / "run") == 0, run.said()


@pytest.mark.usefixtures("cluster")
def test_shards_wait_for_their_turn(tmp_path: Path) -> None:
    make_video(tmp_path / "corpus/a.mp4", num_frames=40, width=432, height=240)
    with all_cpus_held():
        told = [f"corpus.root={tmp_path / 'corpus'}", f"shards.dir={tmp_path / 'shards'}"]
        run = start("pipelines.build_shards", *told, **ray_address())
        wait_until(lambda: WAITING in run.said(), "the line of what it waits for", program=run)
    assert run.finish(tmp_path / "shards") == 0, run.said()


@pytest.fixture
def two_nodes() -> Iterator[str]:
    """The address of a cluster of two nodes of 3 CPUs."""
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 3})
    nodes.add_node(num_cpus=3)
    try:
        yield nodes.address
    finally:
        nodes.shutdown()


def finish_all(runs: list[Program], *folders: Path) -> None:
    for run in runs:
        assert run.finish(*folders) == 0, run.said()


@pytest.mark.slow
def test_two_jobs_on_two_small_nodes_both_end_with_the_bytes_of_undisturbed_runs(
    two_nodes: str, tmp_path: Path, checkpoint: Path
) -> None:
    catalog = make_catalog(tmp_path / "in", 8)
    names = ["alone", "one", "other"]
    finish_all([begin(catalog, tmp_path / "alone", checkpoint, RAY_ADDRESS=two_nodes)], tmp_path / "alone")
    runs = [begin(catalog, tmp_path / name, checkpoint, RAY_ADDRESS=two_nodes) for name in names[1:]]
    finish_all(runs, *(tmp_path / name for name in names[1:]))
    alone, one, other = (videos(tmp_path / name) for name in names)
    assert len(alone) == 8
    assert alone == one == other


@pytest.mark.slow
def test_a_job_takes_what_another_leaves(two_nodes: str, tmp_path: Path, checkpoint: Path) -> None:
    catalog = make_catalog(tmp_path / "in", 8)
    first = begin(catalog, tmp_path / "one", checkpoint, "run.num_actors=1", RAY_ADDRESS=two_nodes)
    wait_until(lambda: "1 process of 1 threads" in first.said(), "the first job", program=first)
    second = begin(catalog, tmp_path / "other", checkpoint, RAY_ADDRESS=two_nodes)
    told = "the cluster carries 4 processes, but other jobs hold some of its CPUs or GPUs"
    wait_until(lambda: told in second.said(), "the second job", program=second)
    assert "waiting for" not in second.said()
    assert not first.has_ended
    finish_all([first, second], tmp_path / "one", tmp_path / "other")
    assert videos(tmp_path / "one") == videos(tmp_path / "other")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_of_two_drivers_on_one_output_one_ends_and_the_other_does_the_rest(
    two_nodes: str, tmp_path: Path, checkpoint: Path, number: int
) -> None:
    catalog = make_catalog(tmp_path / "in", 8)
    first = begin(catalog, tmp_path / "out", checkpoint, RAY_ADDRESS=two_nodes)
    wait_until(lambda: len(videos(tmp_path / "out")) > 1, "some videos", program=first, moves=files_in(tmp_path))
    second = begin(catalog, tmp_path / "out", checkpoint, RAY_ADDRESS=two_nodes)
    wait_until(lambda: "joined the Ray cluster" in second.said(), "the second driver", program=second)
    os.kill(first.pid, number)
    assert first.finish() == (143 if number == signal.SIGTERM else -number), first.said()
    finish_all([second], tmp_path / "out")
    finish_all([begin(catalog, tmp_path / "alone", checkpoint, RAY_ADDRESS=two_nodes)], tmp_path / "alone")
    assert videos(tmp_path / "out") == videos(tmp_path / "alone")


@pytest.mark.slow
def test_a_training_shards_and_two_jobs_at_once(
    two_nodes: str, training_shards: Path, tmp_path: Path, checkpoint: Path
) -> None:
    catalog = make_catalog(tmp_path / "in", 4)
    make_video(tmp_path / "corpus/a.mp4", num_frames=40, width=432, height=240)
    shutil.copy(tmp_path / "corpus/a.mp4", tmp_path / "corpus/b.mp4")
    told = words(training_shards, tmp_path / "run", 1, "train.crop_width=120", "train.crop_height=72")
    runs = [
        begin(catalog, tmp_path / "one", checkpoint, RAY_ADDRESS=two_nodes),
        start("sttn_ray.train", *told, RAY_ADDRESS=two_nodes),
        start(
            "pipelines.build_shards",
            *(f"corpus.root={tmp_path / 'corpus'}", f"shards.dir={tmp_path / 'shards'}"),
            RAY_ADDRESS=two_nodes,
        ),
        begin(catalog, tmp_path / "other", checkpoint, RAY_ADDRESS=two_nodes),
    ]
    finish_all(runs, *(tmp_path / name for name in ("one", "run", "shards", "other")))
    assert videos(tmp_path / "one") == videos(tmp_path / "other")
