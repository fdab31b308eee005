"""`pipelines.inpaint` where GPUs fail: errors as CUDA raises them, in processes on nodes of a real cluster."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
from ray import cloudpickle
from ray.cluster_utils import Cluster

from pipelines import inpaint, inpaint_network, inpaint_nodes
from sttn_ray.config import load_experiment
from sttn_ray.model.weights import load_generator
from tests.media import make_video
from tests.ray.conftest import without_shared_ray
from tests.sick import Sickness, make_sick

BOX = "16,12,30,20"
NUM_VIDEOS = 8


@pytest.fixture
def one_node(cluster: None) -> str:
    return str(ray.get_runtime_context().get_node_id())


@pytest.fixture
def two_nodes() -> Iterator[tuple[str, str]]:
    """The ids of two nodes; each has room for one process of the network, of two CPUs, and for one task of video."""
    with without_shared_ray():
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "include_dashboard": False})
        cluster.add_node(num_cpus=3)
        ray.init(address=cluster.address, log_to_driver=False)
        here = ray.get_runtime_context().get_node_id()
        (other,) = (node["NodeID"] for node in ray.nodes() if node["NodeID"] != here)
        yield here, other
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def sickness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sickness:
    found = Sickness(tmp_path)
    found.set()
    read = inpaint_network.read_network
    monkeypatch.setattr(
        inpaint_network,
        "read_network",
        lambda path: read(path)._replace(pickled=cloudpickle.dumps(make_sick(load_generator(path), found))),
    )
    monkeypatch.setattr(inpaint_nodes, "CHECK_INTERVAL_S", 0.5)
    return found


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    # Enough for three to be tried on the sick node, whichever rows already wait for the other one.
    for number in range(NUM_VIDEOS):
        make_video(tmp_path / f"{number}.mp4", num_frames=20, seed=number)
    path = tmp_path / "catalog.csv"
    path.write_text("video,boxes\n" + "".join(f'{n}.mp4,"{BOX}"\n' for n in range(NUM_VIDEOS)))
    return path


def run(catalog: Path, output: Path, checkpoint: Path) -> int:
    words = (
        f"inpaint.catalog={catalog}",
        f"inpaint.output={output}",
        f"inpaint.checkpoint={checkpoint}",
        "inpaint.segment_frames=10",
        "encode.preset=ultrafast",
        "run.actor_cpus=2",
    )
    return inpaint.run(load_experiment(words))


def outputs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.mp4")}


def statuses(output: Path) -> dict[str, str]:
    rows = pq.read_table(output / "manifest.parquet").to_pylist()
    return {Path(row["video"]).stem: row["status"] for row in rows}


@pytest.mark.slow
def test_a_sick_node_is_named_and_gets_no_more_work_and_all_is_done(
    two_nodes: tuple[str, str],
    sickness: Sickness,
    catalog: Path,
    tmp_path: Path,
    checkpoint: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    here, other = two_nodes
    sickness.set(other, first=3)
    assert run(catalog, tmp_path / "out", checkpoint) == 0
    assert set(statuses(tmp_path / "out").values()) == {"done"}
    calls = sickness.calls()
    assert [what for node, what in calls if node == other] == ["fails"] * 3
    (told,) = (text for text in caplog.messages if "gets no more work: its device failed 3 times" in text)
    assert other in told
    assert "an illegal memory access was encountered; look at `nvidia-smi`" in told
    assert f"({other}): 3 faults" in caplog.text

    sickness.set()
    assert run(catalog, tmp_path / "undisturbed", checkpoint) == 0
    assert {node for node, _ in sickness.calls()} == {here, other}
    assert outputs(tmp_path / "out") == outputs(tmp_path / "undisturbed")


@pytest.mark.slow
def test_a_node_without_its_gpu_is_named_too(
    two_nodes: tuple[str, str],
    sickness: Sickness,
    catalog: Path,
    tmp_path: Path,
    checkpoint: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other, _ = two_nodes  # the driver's
    sickness.set(other, at_start=True, first=3)
    assert run(catalog, tmp_path / "out", checkpoint) == 0
    assert set(statuses(tmp_path / "out").values()) == {"done"}
    assert [what for node, what in sickness.calls() if node == other] == ["starts"] * 3
    wanted = "gets no more work: its device failed 3 times (at its start)"
    (told,) = (text for text in caplog.messages if wanted in text)
    assert other in told


@pytest.mark.slow
def test_a_sick_node_alone_ends_the_job_and_the_same_command_goes_on(
    one_node: str,
    sickness: Sickness,
    catalog: Path,
    tmp_path: Path,
    checkpoint: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for at_start, is_killed in ((True, False), (False, False), (False, True)):
        sickness.set(one_node, at_start=at_start, is_killed=is_killed)
        caplog.clear()
        assert run(catalog, tmp_path / "out", checkpoint) == 1
        assert len(sickness.calls()) == 3
        assert "stopped: no node is left that could run the network:\nnode " in caplog.text
        assert ("3 processes of the network were killed there while they loaded it" in caplog.text) == is_killed
        assert set(statuses(tmp_path / "out").values()) == {"pending"}
    sickness.set()
    assert run(catalog, tmp_path / "out", checkpoint) == 0
    assert set(statuses(tmp_path / "out").values()) == {"done"}


@pytest.mark.slow
def test_a_video_that_fails_on_each_node_fails_and_no_node_is_sick(
    two_nodes: tuple[str, str],
    sickness: Sickness,
    catalog: Path,
    tmp_path: Path,
    checkpoint: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    make_video(tmp_path / "1.mp4", num_frames=20, picture=lambda number: np.full((64, 96, 3), 0.97 - number / 1000))
    sickness.set(bright_pictures=True)
    assert run(catalog, tmp_path / "out", checkpoint) == 1
    assert statuses(tmp_path / "out") == {"0": "done", "1": "failed", "2": "done", "3": "done"}
    reasons = [row["reason"] for row in pq.read_table(tmp_path / "out/manifest.parquet").to_pylist()]
    assert "ended the network's processes on several nodes" in reasons[1]
    assert "gets no more work" not in caplog.text
    fails = [node for node, what in sickness.calls() if what == "fails"]
    assert set(fails) == set(two_nodes)
