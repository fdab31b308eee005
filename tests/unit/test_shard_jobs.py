"""One task of a build: a video is found, a shard written, and nothing of one content is taken for another."""

import multiprocessing
import os
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from pipelines import build_shards_run
from sttn_ray.attempts import MAX_DEATHS, Place
from sttn_ray.config import load_experiment
from sttn_ray.corpus import Corpus, Entry, Kind, Source, index_source
from sttn_ray.errors import ConfigError, PoisonError, StorageError, VideoError
from sttn_ray.shards import jobs
from sttn_ray.shards.jobs import find_source, shards_to_do, write_shard
from sttn_ray.shards.plan import Range
from sttn_ray.shards.records import ShardsDir
from sttn_ray.shards.write import Fault, ShardSettings
from tests.media import make_images, make_pictures, make_video

SETTINGS = ShardSettings(
    width=96, height=64, fit="crop", codec="png", quality=95, clip_frames=20, min_clip_frames=5, clips_per_shard=4
)

PLACE = Place("job", "node", lambda: {"node"})


@pytest.mark.parametrize("kind", ["video", "frames"])
def test_a_video_is_read_again_once_its_files_change(tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch):
    root, name = tmp_path / "v", "a b/ü.mkv"
    if kind == "video":
        file = make_video(root / name, num_frames=5)
    else:
        file = make_images(root / name, make_pictures(5)) / "3.png"
    shards = ShardsDir(tmp_path / "shards")
    read = []

    def counted(*args: Any, **options: Any) -> Source:
        read.append(1)
        return index_source(*args, **options)

    monkeypatch.setattr(jobs, "index_source", counted)
    source = find_source(str(root), Entry(name, kind), shards, Fraction(24), PLACE)
    assert (source.path, source.kind, source.num_frames) == (name, kind, 5)
    assert find_source(str(root), Entry(name, kind), shards, Fraction(24), PLACE) == source
    assert len(read) == 1
    os.utime(file, ns=(0, 0))
    assert find_source(str(root), Entry(name, kind), shards, Fraction(24), PLACE) == source
    assert len(read) == 2


def test_a_video_that_changes_while_it_is_read_is_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = make_video(tmp_path / "v/a.mp4", num_frames=5)
    shards = ShardsDir(tmp_path / "shards")

    def replaced(*args: Any, **options: Any) -> Source:
        source = index_source(*args, **options)
        os.utime(file, ns=(0, 0))
        return source

    monkeypatch.setattr(jobs, "index_source", replaced)
    with pytest.raises(StorageError, match=r"a\.mp4: was replaced while the job ran"):
        find_source(str(tmp_path / "v"), Entry("a.mp4", "video"), shards, Fraction(24), PLACE)
    assert shards.read_source("a.mp4") is None


def test_a_shard_of_a_video_that_changes_meanwhile_does_not_appear(tmp_path: Path):
    make_images(tmp_path / "v/walk", make_pictures(20))
    shards, entry = ShardsDir(tmp_path / "shards"), Entry("walk", "frames")
    source = find_source(str(tmp_path / "v"), entry, shards, Fraction(24), PLACE)
    corpus = Corpus([entry], [], Counter())
    (row,) = shards_to_do(
        str(tmp_path / "v"),
        [[Range(source.sha256, 0, 20)]],
        {source.sha256: {"path": "walk", "pixels": 96 * 64}},
        corpus,
        0,
    )
    os.utime(tmp_path / "v/walk/7.png", ns=(0, 0))  # after it was found, before it is written
    with pytest.raises(StorageError, match="walk: was replaced while the job ran"):
        write_shard(str(tmp_path / "v"), shards, row, SETTINGS, 0, PLACE)
    assert not (tmp_path / "shards" / row["file"]).exists()
    find_source(str(tmp_path / "v"), entry, shards, Fraction(24), PLACE)
    assert write_shard(str(tmp_path / "v"), shards, row, SETTINGS, 0, PLACE)["rows"]


def test_what_takes_its_process_with_it_is_not_tried_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Ray starts a task anew whose process died, however often that happens."""
    make_images(tmp_path / "v/walk", make_pictures(20))
    shards, entry = ShardsDir(tmp_path / "shards"), Entry("walk", "frames")
    row = {"file": "masks/drawn.parquet", "content": "1", "ranges": [], "path": "", "count": 1}

    def dies(*_: Any, **__: Any) -> Any:
        os._exit(9)

    tasks: list[tuple[str, Callable[[Place], object]]] = [
        ("index_source", lambda place: find_source(str(tmp_path / "v"), entry, shards, Fraction(24), place)),
        ("write_drawn_masks", lambda place: write_shard(str(tmp_path / "v"), shards, row, SETTINGS, 0, place)),
    ]
    for name, task in tasks:
        with monkeypatch.context() as patch:
            patch.setattr(jobs, name, dies)
            for _ in range(MAX_DEATHS):
                process = multiprocessing.get_context("fork").Process(target=task, args=(PLACE,))
                process.start()
                process.join()
                assert process.exitcode == 9
            with pytest.raises(PoisonError, match=r"died 3 times .*; the same command tries it again"):
                task(PLACE)
        assert task(PLACE._replace(job="another"))
    assert not shards.attempts.exists()


def test_a_video_that_another_job_found_replaced_is_not_taken_for_the_one_before(tmp_path: Path):
    folder = make_images(tmp_path / "v/walk", make_pictures(20))
    shards, entry, root = ShardsDir(tmp_path / "shards"), Entry("walk", "frames"), str(tmp_path / "v")
    source = find_source(root, entry, shards, Fraction(24), PLACE)
    videos = {source.sha256: {"path": "walk", "pixels": 96 * 64}}
    (row,) = shards_to_do(root, [[Range(source.sha256, 0, 20)]], videos, Corpus([entry], [], Counter()), 0)
    (folder / "7.png").write_bytes((folder / "8.png").read_bytes())
    find_source(root, entry, shards, Fraction(24), PLACE)  # the other job
    with pytest.raises(StorageError, match="walk: was replaced while the job ran; give the same command again"):
        write_shard(root, shards, row, SETTINGS, 0, PLACE)
    assert not (tmp_path / "shards" / row["file"]).exists()


def test_a_range_that_could_not_be_read_is_tried_again(tmp_path: Path):
    shards, file = ShardsDir(tmp_path / "shards"), "clips/shard-00000.parquet"
    shards.write_done(file, "one", [], [Fault("0" * 64, 3, 9, VideoError("damaged"))])
    assert shards.read_done(file, "one") is not None
    shards.write_done(file, "one", [], [Fault("0" * 64, 3, 9, StorageError("no answer"), "read")])
    assert shards.read_done(file, "one") is None


def test_what_takes_longest_is_begun_first():
    plan = [[Range("a", 0, 10)], [Range("b", 0, 10)], [Range("a", 10, 40)], [Range("gone", 0, 90)]]
    videos = {"a": {"path": "a.mp4", "pixels": 100}, "b": {"path": "b.mp4", "pixels": 250}}
    rows = shards_to_do("videos", plan, videos, Corpus([], [], Counter()), 0)
    assert [row["file"].removesuffix(".parquet")[-1] for row in rows] == ["2", "1", "0", "3"]
    assert [row["number"] for row in rows] == [0, 1, 2, 3]
    assert [part["path"] for row in rows for part in row["ranges"]] == ["a.mp4", "b.mp4", "a.mp4", ""]


def test_shards_do_not_lie_in_their_corpus_by_whatever_name(tmp_path: Path):
    (tmp_path / "v").mkdir()
    (tmp_path / "link").symlink_to("v")
    root = tmp_path / "v"
    for folder in (root / "s", tmp_path / "x/../v/s", tmp_path / "link/s"):
        with pytest.raises(ConfigError, match=r"lies inside corpus\.root="):
            build_shards_run._check(load_experiment([f"corpus.root={root}", f"shards.dir={folder}"]))
    build_shards_run._check(load_experiment([f"corpus.root={root}", f"shards.dir={root}/../s"]))
