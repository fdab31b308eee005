"""`pipelines.inpaint` from and to an object store, moto's server, on a real cluster; with faults."""

import hashlib
import io
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import inpaint
from sttn_ray.config import load_experiment
from sttn_ray.model.generator import Generator, GeneratorConfig
from sttn_ray.model.weights import save_generator
from tests.media import make_black_mask, make_damaged_copy, make_images, make_video, zip_folder
from tests.processes import Program
from tests.ray.conftest import start_ray, without_shared_ray
from tests.ray.test_inpaint_limits import begin as start_job
from tests.store import FaultyProxy, client, objects_in, upload
from tests.store import contents as objects

BOX = "16,12,30,20"
MASKS = {"image": "image/0.png", "images": "images", "zip": "images.zip", "video": "video.mkv"}
SETTINGS = ("inpaint.segment_frames=14", "encode.codec=x264-lossless", "encode.preset=ultrafast")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films, a catalog of them, and weights; one film is damaged, one has no hole."""
    folder = tmp_path_factory.mktemp("archive")
    (folder / "films").mkdir()
    make_video(folder / "films/sound.mp4", num_frames=36, audio=True)
    make_video(folder / "films/matroska.mkv", num_frames=20)
    make_video(folder / "films/plain.mp4", num_frames=12, seed=3)
    make_damaged_copy(folder / "films/sound.mp4", folder / "films/damaged.mp4", start=0.5, stop=0.7)
    make_black_mask(folder / "black.png")
    rows = [f'films/{name},,"{BOX}"' for name in ("sound.mp4", "matroska.mkv", "damaged.mp4")]
    rows.append("films/plain.mp4,black.png,")
    (folder / "catalog.csv").write_text("video,mask,boxes\n" + "\n".join(rows) + "\n")
    config = GeneratorConfig(channels=16, num_blocks=1, width=96, height=48, mask_keys=True)
    save_generator(folder / "tiny.pt", Generator(config))
    return folder


def run(root: Path | str, output: Path | str, *more: str, catalog: str = "catalog.csv") -> int:
    request = (f"inpaint.catalog={root}/{catalog}", f"inpaint.checkpoint={root}/tiny.pt", f"inpaint.output={output}")
    return inpaint.run(load_experiment((*request, *SETTINGS, *more)))


def files(folder: Path) -> dict[str, bytes]:
    """Outputs: neither records nor the manifest, which tell of times."""
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file() and "_sttn" not in p.parts and p.suffix != ".parquet"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def outputs_of(found: dict[str, bytes]) -> dict[str, bytes]:
    """The same of objects."""
    return {name: data for name, data in found.items() if not name.startswith("_sttn") and "manifest" not in name}


@pytest.fixture(scope="module")
def expected(archive: Path, tmp_path_factory: pytest.TempPathFactory, cluster: None) -> dict[str, bytes]:
    """What a run on a disk makes."""
    output = tmp_path_factory.mktemp("output") / "out"
    assert run(archive, output) == 1
    found = files(output)
    assert set(found) == {"films/sound.mp4", "films/matroska.mkv", "films/plain.mp4"}
    return found


def test_store_to_store_gives_the_bytes_of_a_disk(
    archive: Path, expected: dict[str, bytes], store: str, bucket: str, tmp_path: Path
) -> None:
    upload(store, archive, f"{bucket}/in")
    assert run(f"{bucket}/in", f"{bucket}/out") == 1
    found = objects(store, f"{bucket}/out")
    assert outputs_of(found) == expected
    # Of the work only outcomes are left, and the plan of the film that failed.
    left = Counter(name.rpartition("/")[2] for name in found if name.startswith("_sttn/items"))
    assert left == {"outcome.json": 4, "plan.json": 1}
    manifest = tmp_path / "manifest.parquet"
    manifest.write_bytes(found["manifest.parquet"])
    rows = {Path(row["video"]).name: row for row in pq.read_table(manifest).to_pylist()}
    assert {name: row["status"] for name, row in rows.items()} == {
        "sound.mp4": "done",
        "matroska.mkv": "done",
        "plain.mp4": "copied",
        "damaged.mp4": "failed",
    }
    assert rows["sound.mp4"]["frames"] == 36
    assert rows["sound.mp4"]["fps"] > 0
    assert not any(row["is_unexpected"] for row in rows.values())

    # Again: nothing that is done is done again, and a replaced source is.
    before = client(store).info(f"{bucket}/out/films/sound.mp4")["LastModified"]
    client(store).put_file(str(archive / "films/matroska.mkv"), f"{bucket}/in/films/damaged.mp4")
    assert run(f"{bucket}/in", f"{bucket}/out") == 0
    assert client(store).info(f"{bucket}/out/films/sound.mp4")["LastModified"] == before


@pytest.fixture(scope="module")
def masked(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film and a Parquet catalog that gives it masks of four kinds, a mark that moves but for the first of them."""
    folder = tmp_path_factory.mktemp("masked")
    make_video(folder / "films/a.mp4", num_frames=40, audio=True)
    (folder / "tiny.pt").write_bytes((archive / "tiny.pt").read_bytes())
    marks = np.zeros((40, 64, 96), np.uint8)
    for number, mark in enumerate(marks):
        mark[20 : 30 + number // 2, 10 + number : 30 + number] = 255
    make_images(folder / "masks/image", marks[:1])
    zip_folder(make_images(folder / "masks/images", marks), folder / "masks/images.zip")
    moving = [np.repeat(mark[..., None] / 255, 3, axis=2) for mark in marks]
    make_video(folder / "masks/video.mkv", num_frames=40, codec="ffv1", picture=moving.__getitem__)
    rows = [{"video": "films/a.mp4", "mask": f"masks/{mask}", "output": name} for name, mask in MASKS.items()]
    pq.write_table(pa.Table.from_pylist(rows), folder / "catalog.parquet")
    return folder


def test_masks_of_all_kinds_in_a_store_give_the_bytes_of_a_disk(
    masked: Path, cluster: None, store: str, bucket: str, tmp_path: Path
) -> None:
    upload(store, masked, f"{bucket}/in")
    assert run(masked, tmp_path / "out", catalog="catalog.parquet") == 0
    assert run(f"{bucket}/in", f"{bucket}/out", catalog="catalog.parquet") == 0
    on_disk, found = files(tmp_path / "out"), objects(store, f"{bucket}/out")
    assert outputs_of(found) == on_disk
    assert set(on_disk) == {f"{name}.mp4" for name in MASKS}
    # What all masks but the first one say is the same.
    assert on_disk["images.mp4"] == on_disk["zip.mp4"] == on_disk["video.mp4"] != on_disk["image.mp4"]
    rows = pq.read_table(io.BytesIO(found["manifest.parquet"])).to_pylist()
    assert [row["mask"] for row in rows] == [f"{bucket}/in/masks/{mask}" for mask in MASKS.values()]


@pytest.mark.slow
def test_a_store_with_faults_gives_the_same_bytes_or_error_rows(
    archive: Path, expected: dict[str, bytes], store: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(store, archive, f"{bucket}/in")
    shares = {"error": 0.03, "reset": 0.03, "stall": 0.01}
    with (
        without_shared_ray(),
        FaultyProxy(store, shares, seed=5, stall_s=20, denied="matroska") as proxy,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        start_ray()
        assert run(f"{bucket}/in", f"{bucket}/out") == 1
        counts = proxy.counts
    found = objects(store, f"{bucket}/out")
    assert outputs_of(found) == {name: data for name, data in expected.items() if "matroska" not in name}
    assert all(counts[fault] for fault in shares)


@pytest.mark.slow
def test_two_drivers_on_one_output_in_a_store_make_one_result(
    masked: Path, store: str, bucket: str, tmp_path: Path
) -> None:
    def begin(root: Path | str, output: Path | str) -> Program:
        return start_job(
            output, f"{root}/tiny.pt", f"inpaint.catalog={root}/catalog.parquet", "inpaint.segment_frames=10"
        )

    upload(store, masked, f"{bucket}/in")
    alone = begin(masked, tmp_path / "alone")
    assert alone.finish(tmp_path / "alone") == 0, alone.said()
    for driver in [begin(f"{bucket}/in", f"{bucket}/out") for _ in range(2)]:
        assert driver.finish(moves=objects_in(store, bucket)) == 0, driver.said()
    found = objects(store, f"{bucket}/out")
    assert outputs_of(found) == files(tmp_path / "alone")
    rows = pq.read_table(io.BytesIO(found["manifest.parquet"])).to_pylist()
    told = {row["output"]: (row["status"], row["frames"], row["sha256"]) for row in rows}
    assert told == {name: ("done", 40, hashlib.sha256(data).hexdigest()) for name, data in outputs_of(found).items()}
    # Neither has left work behind.
    left = Counter(name.rpartition("/")[2] for name in found if name.startswith("_sttn/items"))
    assert left == {"outcome.json": len(MASKS)}
