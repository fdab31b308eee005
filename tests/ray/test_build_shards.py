"""`pipelines.build_shards` on a real local cluster, with real videos, images and zips."""

import os
import shutil
import subprocess
import sys
import zipfile
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
from PIL import Image

from pipelines import build_shards
from sttn_ray.config import load_experiment
from sttn_ray.corpus import Entry, index_source
from sttn_ray.errors import ConfigError, CorpusError
from sttn_ray.shards.read import read_clip, read_index
from sttn_ray.shards.verify import verify_shards
from tests.media import flip_byte, make_damaged_copy, make_images, make_pictures, make_video, zip_folder
from tests.processes import ROOT, start_command
from tests.ray.conftest import NUM_CPUS

SETTINGS = (
    "shards.width=48",
    "shards.height=32",
    "shards.clip_frames=10",
    "shards.min_clip_frames=5",
    "shards.clips_per_shard=2",
    "shards.masks_per_family=1",
    "corpus.validation_share=0.5",
)
Row = dict[str, Any]


class Built(NamedTuple):
    root: Path
    folder: Path
    status: int


def make_corpus(root: Path) -> Path:
    make_video(root / "a.mp4", num_frames=27)
    make_video(root / "deep/er/turned.mp4", num_frames=20, rotation=90, seed=1)
    make_images(root / "walk", make_pictures(10, seed=2))
    folder = make_images(root.parent / "zipped", make_pictures(16, seed=3), ".jpg")
    zip_folder(folder, root / "zipped.zip")
    shutil.rmtree(folder)
    make_video(root / "short.mp4", num_frames=4)
    (root / "words.mp4").write_text("not a video")
    whole = make_video(root.parent / "whole.mkv", num_frames=60, seed=4)
    make_damaged_copy(whole, root / "damaged.mkv", start=0.5, stop=0.53)
    whole.unlink()
    shutil.copy(root / "a.mp4", root / "z_copy.mp4")
    ids = [(np.arange(96) // 8 == number)[None].repeat(64, 0).astype(np.uint8) for number in range(7)]
    make_images(root / "Annotations/cow", ids)
    return root


def words_for(root: Path, folder: Path, *more: str) -> tuple[str, ...]:
    return (f"corpus.root={root}", f"shards.dir={folder}", *SETTINGS, *more)


def build(root: Path, folder: Path, *more: str) -> int:
    return build_shards.run(load_experiment(words_for(root, folder, *more)))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, cluster: None) -> Built:
    root = make_corpus(tmp_path_factory.mktemp("corpus") / "videos")
    folder = tmp_path_factory.mktemp("shards") / "a"
    return Built(root, folder, build(root, folder))


@pytest.fixture
def shards(built: Built, tmp_path: Path) -> Built:
    """A copy that a test may change; times of change are kept."""
    shutil.copytree(built.folder, tmp_path / "shards")
    return built._replace(folder=tmp_path / "shards")


def rows_of(folder: Path, name: str) -> list[Row]:
    return pq.read_table(folder / f"{name}.parquet").to_pylist()


def videos_of(folder: Path) -> dict[str, Row]:
    return {row["path"]: row for row in rows_of(folder, "videos")}


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of everything that training reads."""
    files = [folder / "index.parquet", *(folder / "clips").iterdir(), *(folder / "masks").iterdir()]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def clip_rows(folder: Path) -> list[Row]:
    files = sorted((folder / "clips").iterdir())
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def times(folder: Path) -> dict[Path, int]:
    """When shards and records were written."""
    files = [file for part in ("clips", "masks", "_sttn/videos", "_sttn/done") for file in (folder / part).iterdir()]
    return {file: file.stat().st_mtime_ns for file in files}


def test_every_video_is_a_row(built: Built):
    assert built.status == 1
    found = videos_of(built.folder)
    assert {path: (row["kind"], row["status"], row["step"]) for path, row in found.items()} == {
        "a.mp4": ("video", "done", ""),
        "damaged.mkv": ("video", "partial", "decode"),
        "deep/er/turned.mp4": ("video", "done", ""),
        "short.mp4": ("video", "failed", "plan"),
        "walk": ("frames", "done", ""),
        "words.mp4": ("video", "failed", "index"),
        "z_copy.mp4": ("video", "duplicate", "plan"),
        "zipped.zip": ("zip", "done", ""),
    }
    assert not any(row["is_unexpected"] for row in found.values())
    assert [(path, row["frames"], row["clips"], row["clip_frames"]) for path, row in found.items()] == [
        ("a.mp4", 27, 3, 27),
        ("damaged.mkv", 49, 4, 39),  # 11 frames are gone altogether, and 10 have a gap before or among them
        ("deep/er/turned.mp4", 20, 2, 20),
        ("short.mp4", 4, 0, 0),
        ("walk", 10, 1, 10),
        ("words.mp4", 0, 0, 0),
        ("z_copy.mp4", 27, 0, 0),
        ("zipped.zip", 16, 2, 16),
    ]
    for path, word in [
        ("damaged.mkv", "damaged.mkv: damaged"),
        ("short.mp4", "short.mp4: has 4 frames, a clip needs shards.min_clip_frames=5"),
        ("words.mp4", "words.mp4: cannot be read as a video"),
        ("z_copy.mp4", "the same content as a.mp4"),
    ]:
        assert word in found[path]["reason"]


def test_the_index_holds_every_clip_and_mask(built: Built):
    rows = rows_of(built.folder, "index")
    clips = [row for row in rows if row["table"] == "clips"]
    count = {source: sum(row["source"] == source for row in clips) for source in {row["source"] for row in clips}}
    videos = videos_of(built.folder).values()
    assert count == {row["path"]: row["clips"] for row in videos if row["clips"]}
    splits = {source: {row["split"] for row in clips if row["source"] == source} for source in count}
    assert all(len(split) == 1 for split in splits.values())
    assert set.union(*splits.values()) == {"train", "validation"}
    masks = [(row["family"], row["source"], row["num_frames"]) for row in rows if row["table"] == "masks"]
    drawn = ("moving_shape", "static_shape", "strip", "box", "text", "object")
    assert masks == [*((family, None, 10) for family in drawn), ("object", "Annotations/cow", 7)]
    files = {row["file"] for row in rows}
    assert files == contents(built.folder).keys() - {"index.parquet"}
    assert max(sum(row["file"] == file for row in clips) for file in files) == 2
    assert verify_shards(built.folder).faults == []


def test_what_training_reads_is_what_was_given(built: Built):
    clips = {row.id: row for split in ("train", "validation") for row in read_index(built.folder, split).clips}
    sha256 = videos_of(built.folder)["walk"]["sha256"]
    frames = read_clip(built.folder, clips[f"{sha256[:16]}-0000000-0000010"], range(10))
    expected = np.stack(make_pictures(10, seed=2)).reshape(10, 32, 2, 48, 2, 3).mean((2, 4))
    change = (frames - expected) @ (0.299, 0.587, 0.114)  # JPEG keeps chroma at half the resolution
    assert np.abs(change).mean() < 2


def test_a_rerun_does_no_work(shards: Built):
    before, stamps, videos = contents(shards.folder), times(shards.folder), rows_of(shards.folder, "videos")
    assert build(shards.root, shards.folder) == 1
    assert times(shards.folder) == stamps
    assert contents(shards.folder) == before
    assert rows_of(shards.folder, "videos") == videos


def test_a_shard_that_is_missing_or_damaged_is_made_again(shards: Built):
    before, stamps = contents(shards.folder), times(shards.folder)
    removed, damaged = (shards.folder / f"clips/shard-0000{number}.parquet" for number in (1, 3))
    drawn = shards.folder / "masks/drawn.parquet"
    removed.unlink()
    drawn.unlink()
    flip_byte(damaged, 900)
    (shards.folder / "index.parquet").unlink()
    assert build(shards.root, shards.folder) == 1
    assert contents(shards.folder) == before
    changed = {path.name for path, stamp in times(shards.folder).items() if stamps[path] != stamp}
    assert {name for name in changed if name.endswith(".parquet")} == {removed.name, damaged.name, drawn.name}
    assert {name for name in changed if name.endswith(".json")} == {
        "clips-shard-00001.json",
        "clips-shard-00003.json",
        "masks-drawn.json",
    }


@pytest.mark.usefixtures("cluster")
def test_new_videos_come_into_new_shards(tmp_path: Path):
    root, folder = tmp_path / "videos", tmp_path / "shards"
    make_video(root / "b.mp4", num_frames=30, seed=1)
    assert build(root, folder) == 0
    old, stamps = contents(folder), times(folder)
    assert sorted(old) == [
        "clips/shard-00000.parquet",
        "clips/shard-00001.parquet",
        "index.parquet",
        "masks/drawn.parquet",
    ]

    make_video(root / "a.mp4", num_frames=12, seed=2)
    assert build(root, folder) == 0
    new = contents(folder)
    assert new.keys() - old.keys() == {"clips/shard-00002.parquet"}
    assert {name for name in old if new[name] != old[name]} == {"index.parquet"}
    assert {path: times(folder)[path] for path in stamps} == stamps
    ids = {row["id"] for row in rows_of(folder, "index") if row["table"] == "clips"}
    assert len(ids) == 4
    assert [row["clips"] for row in videos_of(folder).values()] == [1, 3]

    # A video that is gone keeps its clips while its shards are there.
    (root / "b.mp4").unlink()
    assert build(root, folder) == 0
    assert contents(folder) == new
    assert list(videos_of(folder)) == ["a.mp4"]

    # A video that was replaced is another one.
    make_video(root / "a.mp4", num_frames=12, seed=3)
    assert build(root, folder) == 0
    assert contents(folder).keys() - new.keys() == {"clips/shard-00003.parquet"}
    assert verify_shards(folder).faults == []


@pytest.mark.usefixtures("cluster")
def test_a_video_that_was_away_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    root, folder = tmp_path / "videos", tmp_path / "shards"
    make_video(root / "a.mp4", num_frames=20, seed=1)
    make_video(root / "b.mp4", num_frames=20, seed=2)
    assert build(root, folder) == 0
    whole = contents(folder)
    lost = next(folder / row["file"] for row in rows_of(folder, "index") if row["source"] == "a.mp4")

    # Its shard is made again while it is away: without it, and that is said.
    (root / "a.mp4").rename(tmp_path / "a.mp4")
    lost.unlink()
    assert build(root, folder) == 1
    assert "gone from the corpus" in caplog.text
    assert {row["source"] for row in rows_of(folder, "index") if row["table"] == "clips"} == {"b.mp4"}

    (tmp_path / "a.mp4").rename(root / "a.mp4")
    assert build(root, folder) == 0
    assert contents(folder) == whole


def splits_of(folder: Path) -> dict[str, str]:
    """The split of every video that has clips."""
    rows = [row for row in rows_of(folder, "index") if row["table"] == "clips"]
    assert {(row["source"], row["split"]) for row in rows} == {
        (row["source"], row["split"]) for row in clip_rows(folder)
    }
    return {row["source"]: row["split"] for row in rows}


@pytest.mark.usefixtures("cluster")
def test_a_small_corpus_keeps_a_video_for_validation_also_as_it_grows(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    root, folder = tmp_path / "videos", tmp_path / "shards"
    few = "corpus.validation_share=0.000001"
    make_images(root / "a", make_pictures(10, seed=1))
    assert build(root, folder, few) == 0
    assert splits_of(folder) == {"a": "train"}
    make_images(root / "b", make_pictures(10, seed=2))
    assert build(root, folder, few) == 0
    assert splits_of(folder) == {"a": "train", "b": "validation"}
    assert "b: goes to validation, where corpus.validation_share=1e-06 leaves no video by content alone" in caplog.text
    assert "train: 1 clip of 1 video" in caplog.messages
    assert "validation: 0 clips of 0 videos" in caplog.messages
    for seed in range(3, 7):
        make_images(root / str(seed), make_pictures(10, seed=seed))
    assert build(root, folder, few) == 0
    assert {path for path, split in splits_of(folder).items() if split == "validation"} == {"b"}
    assert verify_shards(folder).faults == []


@pytest.mark.usefixtures("cluster")
def test_a_split_whose_videos_fail_gets_another(tmp_path: Path):
    root, folder = tmp_path / "videos", tmp_path / "shards"
    for seed, name in enumerate(("a", "b", "broken")):
        make_images(root / name, make_pictures(10, seed=seed))
    path = root / "broken/7.png"
    cut = path.read_bytes()[:3000]
    for number in range(256):  # until it is the first by content, which validation gets
        path.write_bytes(cut + bytes([number]))
        found = {
            n: index_source(str(root), Entry(n, "frames"), frames_fps=Fraction(24)).sha256 for n in os.listdir(root)
        }
        if min(found, key=found.__getitem__) == "broken":
            break
    assert build(root, folder, "corpus.validation_share=0.000001") == 1
    assert videos_of(folder)["broken"]["status"] == "failed"
    assert sorted(splits_of(folder).values()) == ["train", "validation"]
    assert verify_shards(folder).faults == []
    before = contents(folder)
    assert build(root, folder, "corpus.validation_share=0.000001") == 1
    assert contents(folder) == before


@pytest.mark.usefixtures("cluster")
def test_a_zip_of_several_videos_gives_a_video_a_folder(tmp_path: Path):
    root, folder = tmp_path / "videos", tmp_path / "shards"
    ids = [(np.arange(96) // 8 == number)[None].repeat(64, 0).astype(np.uint8) for number in range(7)]
    for seed, name in enumerate(("bear", "cow")):
        make_images(tmp_path / f"DAVIS/JPEGImages/480p/{name}", make_pictures(10, seed=seed))
        make_images(tmp_path / f"DAVIS/Annotations/480p/{name}", ids)
    root.mkdir()
    shutil.make_archive(str(root / "DAVIS"), "zip", tmp_path, "DAVIS")
    assert build(root, folder) == 0
    paths = [f"DAVIS.zip/DAVIS/JPEGImages/480p/{name}" for name in ("bear", "cow")]
    assert {path: row["clips"] for path, row in videos_of(folder).items()} == dict.fromkeys(paths, 1)
    masks = {row["source"] for row in rows_of(folder, "index") if row["table"] == "masks" and row["source"]}
    assert masks == {f"DAVIS.zip/DAVIS/Annotations/480p/{name}" for name in ("bear", "cow")}
    before, stamps = contents(folder), times(folder)
    assert build(root, folder) == 0
    assert (contents(folder), times(folder)) == (before, stamps)
    shutil.copytree(tmp_path / "DAVIS", tmp_path / "unpacked/DAVIS")
    assert build(tmp_path / "unpacked", tmp_path / "same") == 0
    assert [row["frames"] for row in clip_rows(tmp_path / "same")] == [row["frames"] for row in clip_rows(folder)]


@pytest.mark.usefixtures("cluster")
def test_a_corpus_at_another_place_gives_the_same_bytes(built: Built, tmp_path: Path):
    shutil.copytree(built.root, tmp_path / "elsewhere", copy_function=shutil.copyfile)
    assert build(tmp_path / "elsewhere", tmp_path / "b") == 1
    assert contents(tmp_path / "b") == contents(built.folder)


BUILD_ON_ONE_CPU = """
import sys, ray
from pipelines import build_shards
from sttn_ray.alone import started_lean
with started_lean(has_dashboard=False):
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
sys.exit(build_shards.main(sys.argv[1:]))
"""


def test_one_worker_gives_the_same_bytes_as_several(built: Built, tmp_path: Path):
    assert ray.cluster_resources()["CPU"] == NUM_CPUS  # that `built` was built on
    alone = start_command([sys.executable, "-c", BUILD_ON_ONE_CPU, *words_for(built.root, tmp_path / "b")])
    assert alone.finish(tmp_path / "b") == 1, alone.said()
    assert "shards" in alone.said(), alone.said()
    assert contents(tmp_path / "b") == contents(built.folder)
    assert (tmp_path / "b/videos.parquet").read_bytes() == (built.folder / "videos.parquet").read_bytes()


@pytest.mark.usefixtures("cluster")
def test_odd_files_are_done_or_error_rows(tmp_path: Path):
    root, folder = tmp_path / "videos", tmp_path / "shards"
    make_video(root / "good 'quoted' ü\n.mp4", num_frames=10)
    make_video(root / "deep.mkv", num_frames=10, codec="ffv1", pix_fmt="yuv422p10le", seed=1)
    make_video(root / "tiny.mkv", num_frames=10, codec="ffv1", width=6, height=2, seed=2)
    make_video(root / "flat.mkv", num_frames=10, codec="ffv1", picture=lambda _: np.full((64, 96, 3), 0.5))
    make_video(root / "gray.mkv", num_frames=10, codec="ffv1", pix_fmt="gray", seed=3)
    make_video(root / "wide.mkv", num_frames=10, width=1024, height=4, codec="ffv1", seed=4)
    make_video(root / "flashes.mkv", num_frames=12, picture=lambda n: np.full((64, 96, 3), float(n % 8 < 4)))
    make_images(root / "folder.mp4", make_pictures(10, seed=5))
    make_images(root / "sizes", [*make_pictures(9), *make_pictures(1, width=32)])
    cut = make_images(root / "cut", make_pictures(10, seed=6))
    (cut / "7.png").write_bytes((cut / "7.png").read_bytes()[:3000])
    (root / "empty.mp4").write_bytes(b"")
    (root / "none.zip").write_bytes(b"PK no zip")
    with zipfile.ZipFile(root / "void.zip", "w") as archive:
        archive.writestr("notes.txt", "no images")
    (root / "link.mp4").symlink_to(root / "absent.mp4")
    (make_images(root / "links", make_pictures(10, seed=7)) / "10.png").symlink_to(root / "absent.png")
    (root / "loop").symlink_to(root)
    os.mkfifo(root / "pipe.mp4")
    odd_names = {}
    if sys.platform == "linux":
        shutil.copy(root / "flat.mkv", os.fsdecode(os.fsencode(root) + b"/\xff.mkv"))
        odd_names["\ufffd.mkv"] = "failed"
    (root / "Annotations/bad").mkdir(parents=True)
    (root / "Annotations/bad/0.png").write_text("not an image")
    (root / "Annotations/links").mkdir()
    (root / "Annotations/links/0.png").symlink_to(root / "absent.png")

    assert build(root, folder) == 1
    found = videos_of(folder)
    assert {path: row["status"] for path, row in found.items()} == {
        "good 'quoted' ü\n.mp4": "done",
        "deep.mkv": "done",
        "tiny.mkv": "done",
        "flat.mkv": "done",
        "gray.mkv": "done",
        "wide.mkv": "done",
        "flashes.mkv": "failed",
        "folder.mp4": "done",
        "sizes": "failed",
        "cut": "failed",
        "empty.mp4": "failed",
        "none.zip": "failed",
        "void.zip": "failed",
        "link.mp4": "failed",
        "links": "failed",
        "pipe.mp4": "failed",
        **odd_names,
    }
    assert {path: row["reason"] for path, row in found.items() if row["is_unexpected"]} == {}
    assert (found["flashes.mkv"]["step"], found["cut"]["step"]) == ("cut", "decode")
    assert all(path.split("/")[-1] in row["reason"] for path, row in found.items() if row["status"] == "failed")
    assert verify_shards(folder).faults == []


@pytest.mark.usefixtures("cluster")
def test_object_masks_that_cannot_be_read_are_left_out_and_told_by_the_status(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    root, folder = tmp_path / "videos", tmp_path / "shards"
    make_video(root / "a.mp4", num_frames=10)
    (root / "Annotations").mkdir()
    (root / "Annotations/0.png").write_text("not an image")
    assert build(root, folder) == 1
    assert "0.png: cannot be read as an image" in caplog.text
    assert [row["status"] for row in rows_of(folder, "videos")] == ["done"]
    assert {row["source"] for row in rows_of(folder, "index")} == {"a.mp4", None}


@pytest.mark.usefixtures("cluster")
def test_a_manifest_chooses_videos_parts_and_splits(built: Built, tmp_path: Path):
    manifest = tmp_path / "chosen.csv"
    rows = ["path,start_s,end_s,split", "a.mp4,0.2,0.8,train", "walk,,,validation", "zipped.zip,,,", "gone.mp4,,,"]
    manifest.write_text("\n".join([*rows, "deep/er/turned.mp4,9,,train"]))
    folder = tmp_path / "shards"
    assert build(built.root, folder, f"corpus.manifest={manifest}", "corpus.validation_share=0") == 1
    found = videos_of(folder)
    assert {path: (row["status"], row["step"], row["split"], row["clip_frames"]) for path, row in found.items()} == {
        "a.mp4": ("done", "", "train", 15),  # 25 frames a second: numbers 5 to 19
        "walk": ("done", "", "validation", 10),
        "zipped.zip": ("done", "", "train", 16),
        "gone.mp4": ("failed", "index", "", 0),
        "deep/er/turned.mp4": ("failed", "plan", "train", 0),
    }
    assert "is not below corpus.root" in found["gone.mp4"]["reason"]
    assert "at most 0 in a part asked for" in found["deep/er/turned.mp4"]["reason"]
    starts = {(row["start"], len(row["frames"])) for row in clip_rows(folder) if row["source"] == "a.mp4"}
    assert starts == {(5, 10), (15, 5)}
    assert verify_shards(folder).faults == []
    with Image.open(folder / "samples.png") as sheet:
        assert sheet.width > 48

    before = contents(folder)
    with pytest.raises(CorpusError, match=r"other parts or another split .* choose another shards\.dir"):
        build(built.root, folder, "corpus.validation_share=0")
    assert contents(folder) == before


def test_published_lists_and_patterns(built: Built, tmp_path: Path):
    root = tmp_path / "videos"
    shutil.copytree(built.root, root)
    (root / "train.json").write_text('{"walk": 10}')
    (root / "test.json").write_text('{"zipped": 16}')
    assert build(root, tmp_path / "a") == 0
    assert {path: row["split"] for path, row in videos_of(tmp_path / "a").items()} == {
        "walk": "train",
        "zipped.zip": "validation",
    }
    assert build(built.root, tmp_path / "b", "corpus.include=deep/*,w*k") == 0
    assert sorted(videos_of(tmp_path / "b")) == ["deep/er/turned.mp4", "walk"]


def test_too_many_failures_stop_the_job(built: Built, tmp_path: Path):
    words = ("corpus.include=*.mp4", "corpus.max_error_fraction=0.2")  # of five, one is no video, and one is short
    with pytest.raises(CorpusError) as stopped:
        build(built.root, tmp_path / "shards", *words)
    lines = str(stopped.value).splitlines()
    assert lines[0].startswith("2 of 5 videos failed, more than corpus.max_error_fraction=0.2 allows")
    assert sorted(line.split(",")[0] for line in lines[1:]) == ["1 at index", "1 at plan"]
    assert not (tmp_path / "shards/index.parquet").exists()
    assert build(built.root, tmp_path / "shards", words[0], "corpus.max_error_fraction=0.4") == 1
    assert (tmp_path / "shards/index.parquet").exists()


def test_a_corpus_without_one_clip_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    make_video(tmp_path / "videos/short.mp4", num_frames=3)
    (tmp_path / "videos/words.mp4").write_text("not a video")
    with pytest.raises(CorpusError, match="not one clip could be made of its 2 videos"):
        build(tmp_path / "videos", tmp_path / "shards")
    assert "short.mp4: failed at plan" in caplog.text
    assert "words.mp4: failed at index" in caplog.text
    assert not (tmp_path / "shards/index.parquet").exists()


def test_other_settings_on_the_same_folder_are_refused(shards: Built):
    before = contents(shards.folder)
    with pytest.raises(ConfigError, match=r"clip_frames was 10, now 12; quality was 95, now 90\); choose another"):
        build(shards.root, shards.folder, "shards.quality=90", "shards.clip_frames=12")
    assert contents(shards.folder) == before


# The command line


def test_verify_tells_by_its_status(shards: Built, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    assert build_shards.main(["--verify", str(shards.folder)]) == 0
    assert "0 faults" in caplog.text
    assert "masks object: 2 rows, 17 frames" in caplog.text
    flip_byte(shards.folder / "clips/shard-00002.parquet", 700)
    assert build_shards.main([str(shards.folder), "--verify"]) == 1
    assert "fault: " in caplog.text
    assert "shard-00002.parquet: its bytes are not those that were written" in caplog.text


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """The faults that a command line is refused with."""
    with pytest.raises(SystemExit) as raised:
        build_shards.main(words)
    assert raised.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    return lines


def test_verify_without_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert refused(capsys, "--verify") == ["error: --verify takes one folder: --verify DIR"]
    assert refused(capsys, "--verify", "a", "b") == ["error: --verify takes one folder: --verify DIR"]
    (line,) = refused(capsys, "--verify", str(tmp_path))
    assert "index.parquet: no such file" in line


def test_wrong_requests_name_every_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert refused(capsys) == ["error: corpus.root: is missing", "error: shards.dir: is missing"]
    lines = refused(capsys, "shards.widht=48", "shards.quality=101", "shards.fit=squeeze", "corpus.frames_fps=0")
    for word in ("shards.width", "shards.quality=101", "shards.fit=squeeze", "corpus.frames_fps=0"):
        assert any(word in line for line in lines)
    lines = refused(
        capsys,
        f"corpus.root={tmp_path}",
        f"shards.dir={tmp_path}/a",
        "shards.clip_frames=8",
        "shards.min_clip_frames=9",
    )
    assert lines == [
        "error: shards.min_clip_frames=9: is more than shards.clip_frames=8",
        f"error: shards.dir={tmp_path}/a: lies inside corpus.root={tmp_path}; choose a folder beside it",
    ]
    lines = refused(capsys, "corpus.root=gs://a/b", "shards.dir=s3:///c", "corpus.manifest=http://a/d.csv")
    assert [line.split(": ")[1] for line in lines] == [
        "corpus.root=gs://a/b",
        "shards.dir=s3:///c",
        "corpus.manifest=http://a/d.csv",
    ]
    assert all(line.endswith("expected a local path or s3://bucket/key") for line in lines)
    (line,) = refused(capsys, f"corpus.root={tmp_path}/none", f"shards.dir={tmp_path}/a")
    assert "none: no such folder" in line
    (line,) = refused(capsys, f"corpus.root={tmp_path}", f"shards.dir={tmp_path.parent}/a")
    assert "holds no video file" in line


def test_the_program_runs_as_a_module_and_leaves_no_traceback(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.build_shards", f"corpus.root={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, "error: shards.dir: is missing\n")
