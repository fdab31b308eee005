"""`pipelines.build_shards` from and to an object store, moto's server, on real clusters; with faults and kills."""

import random
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from ray.cluster_utils import Cluster

from pipelines import build_shards
from sttn_ray.config import load_experiment
from sttn_ray.shards.read import read_clip, read_index
from sttn_ray.shards.verify import verify_shards
from tests.media import make_video
from tests.processes import Program, start, wait_until
from tests.ray.conftest import ray_address
from tests.ray.test_build_shards import SETTINGS, contents, make_corpus, videos_of
from tests.store import FaultyProxy, client, make_bucket, objects_in, upload
from tests.store import contents as objects

READ_BY_TRAINING = ("index.parquet", "clips/", "masks/")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, store: str) -> tuple[Path, str]:
    """The same corpus in a folder and in a store."""
    root = make_corpus(tmp_path_factory.mktemp("corpus") / "videos")
    upload(store, root, make_bucket(store, "corpus"))
    return root, "s3://corpus"


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, cluster: None, corpus: tuple[Path, str]) -> Path:
    """Shards of the folder, in a folder."""
    folder = tmp_path_factory.mktemp("shards") / "a"
    assert build(corpus[0], folder) == 1
    return folder


def build(root: Path | str, folder: Path | str, *more: str) -> int:
    return build_shards.run(load_experiment((f"corpus.root={root}", f"shards.dir={folder}", *SETTINGS, *more)))


def start_build(root: str, folder: str, *more: str, **environment: str) -> Program:
    """The program as a process, on the tests' Ray or another."""
    words = (f"corpus.root={root}", f"shards.dir={folder}", *SETTINGS, *more)
    return start("pipelines.build_shards", *words, **(environment or ray_address()))


def shards_of(store: str, folder: str) -> dict[str, bytes]:
    """The objects that training reads."""
    return {name: data for name, data in objects(store, folder).items() if name.startswith(READ_BY_TRAINING)}


def versions(store: str, folder: str) -> dict[str, Any]:
    """When shards and records were written."""
    found = client(store).find(folder.removeprefix("s3://"), detail=True)
    tables = ("index.parquet", "videos.parquet", "samples.png", "plan.json")
    return {name: info["LastModified"] for name, info in found.items() if not name.endswith(tables)}


def rows(store: str, folder: str) -> dict[str, dict[str, Any]]:
    with client(store).open(f"{folder}/videos.parquet") as file:
        return {row["path"]: row for row in pq.read_table(file).to_pylist()}


@pytest.mark.parametrize("ends", ["read", "write", "both"])
def test_a_store_gives_the_bytes_that_a_disk_gives(
    expected: Path, corpus: tuple[Path, str], store: str, bucket: str, tmp_path: Path, ends: str
):
    root = corpus[0] if ends == "write" else corpus[1]
    folder = tmp_path / "shards" if ends == "read" else f"{bucket}/shards"
    assert build(root, folder) == 1
    if ends == "read":
        assert contents(tmp_path / "shards") == contents(expected)
        return
    assert shards_of(store, f"{bucket}/shards") == contents(expected)
    keys = ("status", "step", "error", "sha256", "split", "frames", "clips", "clip_frames")
    found, known = rows(store, f"{bucket}/shards"), videos_of(expected)
    assert {path: [row[key] for key in keys] for path, row in found.items()} == {
        path: [row[key] for key in keys] for path, row in known.items()
    }


@pytest.mark.usefixtures("expected")
def test_a_rerun_does_what_is_missing(corpus: tuple[Path, str], store: str, bucket: str):
    root, folder = f"{bucket}/videos", f"{bucket}/shards"
    upload(store, corpus[0], root)
    assert build(root, folder) == 1
    before, shards = versions(store, folder), shards_of(store, folder)
    assert build(root, folder) == 1
    assert versions(store, folder) == before

    client(store).rm_file(f"{folder}/clips/shard-00001.parquet")
    client(store).pipe_file(f"{folder}/clips/shard-00002.parquet", b"something else")
    assert build(root, folder) == 1
    assert shards_of(store, folder) == shards
    changed = {name.rpartition("/")[2] for name, time_s in versions(store, folder).items() if before[name] != time_s}
    assert changed == {
        f"{stem}{n}.{end}" for n in (1, 2) for stem, end in [("shard-0000", "parquet"), ("clips-shard-0000", "json")]
    }


@pytest.mark.usefixtures("expected")
def test_a_video_replaced_under_its_name_is_seen(store: str, bucket: str, tmp_path: Path):
    root, folder = f"{bucket}/videos", f"{bucket}/shards"
    make_video(tmp_path / "a.mp4", num_frames=20, seed=1)
    make_video(tmp_path / "b.mp4", num_frames=20, seed=2)
    upload(store, tmp_path, root)
    assert build(root, folder) == 0
    first = shards_of(store, folder)
    make_video(tmp_path / "a.mp4", num_frames=20, seed=3)
    upload(store, tmp_path, root)
    assert build(root, folder) == 0
    second = shards_of(store, folder)
    added = second.keys() - first.keys()
    assert len(added) == 1
    assert all(second[name] == data for name, data in first.items() if name.startswith("clips/"))
    assert {row["sha256"] for row in rows(store, folder).values()} != set()


@pytest.mark.usefixtures("expected")
def test_shards_in_a_store_are_read_and_verified(expected: Path, corpus: tuple[Path, str], store: str, bucket: str):
    upload(store, expected, bucket)
    found = verify_shards(bucket)
    assert found.faults == []
    assert found.counts == verify_shards(str(expected)).counts
    local, remote = read_index(str(expected), "train"), read_index(bucket, "train")
    assert remote == local
    for clip in local.clips:
        assert (read_clip(bucket, clip, [0, 2]) == read_clip(str(expected), clip, [0, 2])).all()
    assert build_shards.main(["--verify", bucket, f"storage.endpoint_url={store}"]) == 0
    name = f"{bucket}/clips/shard-00002.parquet"
    data = bytearray(client(store).cat_file(name))
    data[700] ^= 0xFF
    client(store).pipe_file(name, bytes(data))
    assert build_shards.main(["--verify", bucket]) == 1


@pytest.mark.slow
def test_faults_of_the_store_never_make_a_wrong_shard(
    expected: Path, corpus: tuple[Path, str], store: str, bucket: str
):
    root, folder = f"{bucket}/videos", f"{bucket}/shards"
    upload(store, corpus[0], root)
    client(store).pipe_file(f"{root}/deep/secret.mp4", (corpus[0] / "a.mp4").read_bytes())
    # An answer that does not come costs 15 s each time; tests/unit/test_paths.py has those.
    with FaultyProxy(store, {"error": 0.03, "reset": 0.03}, seed=1, denied="secret.mp4") as proxy:
        for _ in range(4):
            builder = start_build(root, folder, f"storage.endpoint_url={proxy.url}")
            status = builder.finish(moves=objects_in(store, bucket))
            said = builder.said()
            unread = [row for row in rows(store, folder).values() if row["error"] == "StorageError"]
            if status == 1 and len(unread) == 1:
                break
            assert "cannot be" in said  # told, and mended by the same command
    assert shards_of(store, folder) == contents(expected), said
    assert min(proxy.counts["error"], proxy.counts["reset"]) > 3
    assert not [row for row in rows(store, folder).values() if row["is_unexpected"]]
    secret = rows(store, folder)["deep/secret.mp4"]
    assert (secret["status"], secret["step"], secret["error"]) == ("failed", "index", "StorageError")
    assert "secret.mp4: cannot be read" in secret["reason"]
    assert "Forbidden" in secret["reason"]


@pytest.mark.parametrize("num_kills", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_build_that_is_killed_gives_the_same_bytes(
    expected: Path, corpus: tuple[Path, str], store: str, bucket: str, num_kills: int
):
    folder, rng = f"{bucket}/shards", random.Random(5)
    for _ in range(num_kills):
        killed = start_build(corpus[1], folder)
        _wait_for_records(store, folder, len(_records(store, folder)) + 1, killed)
        time.sleep(rng.uniform(0, 0.5))
        assert not killed.has_ended
        killed.kill()
    assert build(corpus[1], folder) == 1
    assert shards_of(store, folder) == contents(expected)


def _records(store: str, folder: str) -> list[str]:
    return [name for name in client(store).find(f"{folder}/_sttn") if name.endswith(".json")]


def _wait_for_records(store: str, folder: str, number: int, program: Program) -> None:
    wait_until(
        lambda: len(_records(store, folder)) >= number,
        f"{number} records",
        program=program,
        moves=objects_in(store, folder),
    )


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_cluster_that_loses_a_node_gives_the_same_bytes(
    store: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root, folder = f"{bucket}/videos", f"{bucket}/shards"
    for number in range(6):
        make_video(tmp_path / f"videos/{number}.mp4", num_frames=160, width=320, height=240, seed=number)
    upload(store, tmp_path / "videos", root)
    assert build(tmp_path / "videos", tmp_path / "shards") == 0
    # The nodes know nothing of the store; the program tells them.
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = nodes.add_node(num_cpus=2)
        builder = start_build(root, folder, f"storage.endpoint_url={store}", RAY_ADDRESS=nodes.address)
        # The settings, the plan, six videos, and three of the shards.
        _wait_for_records(store, folder, 11, builder)
        assert not builder.has_ended
        nodes.remove_node(second, allow_graceful=False)
        assert builder.finish(moves=objects_in(store, bucket)) == 0, builder.said()
    finally:
        nodes.shutdown()
    assert shards_of(store, folder) == contents(tmp_path / "shards")
