"""Clips read from an object store: how many bytes that takes, and the cache that saves them."""

import os
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs

from sttn_ray.corpus import Entry, index_source
from sttn_ray.shards.cache import RowCache
from sttn_ray.shards.plan import Range
from sttn_ray.shards.read import IndexedRow, ShardIndex, read_clip, read_index
from sttn_ray.shards.tables import INDEX_SCHEMA
from sttn_ray.shards.write import ShardSettings, write_clips
from sttn_ray.training.data import ClipDataset
from tests.media import make_images, make_pictures
from tests.store import FaultyProxy, upload

NUM_CLIPS, CLIP_FRAMES = 8, 20
SETTINGS = ShardSettings(
    width=240,
    height=144,
    fit="crop",
    codec="jpeg",
    quality=95,
    clip_frames=CLIP_FRAMES,
    min_clip_frames=5,
    clips_per_shard=NUM_CLIPS,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One shard of eight clips, with an index."""
    root, folder = (tmp_path_factory.mktemp(name) for name in ("corpus", "shards"))
    make_images(root / "walk", make_pictures(NUM_CLIPS * CLIP_FRAMES, width=240, height=144))
    source = index_source(str(root), Entry("walk", "frames"), frames_fps=Fraction(24))
    ranges = [Range(source.sha256, n * CLIP_FRAMES, (n + 1) * CLIP_FRAMES) for n in range(NUM_CLIPS)]
    rows, faults = write_clips(str(root), folder / "clips/0.parquet", ranges, {source.sha256: source}, SETTINGS)
    assert (len(rows), faults) == (NUM_CLIPS, [])
    pq.write_table(pa.Table.from_pylist(rows, INDEX_SCHEMA), folder / "index.parquet")
    return folder


@pytest.fixture
def counted(folder: Path, store: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A proxy that counts what is read of the shards in the bucket."""
    upload(store, folder, bucket)
    with FaultyProxy(store, {}, seed=0) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        s3fs.S3FileSystem.clear_instance_cache()
        yield proxy
    s3fs.S3FileSystem.clear_instance_cache()


def sizes(folder: Path) -> dict[str, int]:
    return {row["id"]: row["num_bytes"] for row in pq.read_table(folder / "index.parquet").to_pylist()}


def cost(proxy: FaultyProxy, bucket: str, clip: IndexedRow, cache: RowCache | None = None) -> tuple[int, int]:
    """Bytes and requests that one clip takes."""
    before = (proxy.num_bytes, proxy.counts["passed"])
    frames = read_clip(bucket, clip, [0, 7, 19], cache)
    assert frames.shape == (3, 144, 240, 3)
    return proxy.num_bytes - before[0], proxy.counts["passed"] - before[1]


def test_a_clip_takes_its_own_bytes_and_one_request(folder: Path, counted: FaultyProxy, bucket: str):
    index = read_index(bucket, "train")  # it reads the first clip's header, with the file's footer
    for clip in index.clips[1:]:
        num_bytes, requests = cost(counted, bucket, clip)
        assert requests == 1
        assert sizes(folder)[clip.id] < num_bytes < sizes(folder)[clip.id] + 4096


def test_opening_a_shard_takes_a_footer(folder: Path, counted: FaultyProxy, bucket: str):
    clip = read_index(str(folder), "train").clips[3]
    num_bytes, requests = cost(counted, bucket, clip)
    assert requests <= 4  # its size, the footer, the clip
    assert num_bytes < sizes(folder)[clip.id] + 2**17


def test_what_is_cached_is_not_asked_for_again(folder: Path, counted: FaultyProxy, bucket: str, tmp_path: Path):
    index = read_index(bucket, "train")
    cache = RowCache(tmp_path / "cache", 10**9)
    samples = {"sample_frames": 3, "weights": {"box": 1.0}, "seed": 0}
    plain, cached = (ClipDataset(folder, index, **samples), ClipDataset(bucket, index, cache=cache, **samples))
    for _ in range(2):
        for position in range(NUM_CLIPS):
            expected, found = plain[position], cached[position]
            assert found[0] == expected[0]
            assert all((a == b).all() for a, b in zip(found[1:], expected[1:], strict=True))
    before = counted.counts["passed"]
    again = ClipDataset(bucket, index, cache=RowCache(tmp_path / "cache", 10**9), **samples)  # another process's
    for position in range(NUM_CLIPS):
        assert (again[position][1] == plain[position][1]).all()
    assert counted.counts["passed"] == before


def test_shards_on_a_disk_are_not_cached(folder: Path, tmp_path: Path):
    index: ShardIndex = read_index(str(folder), "train")
    read_clip(str(folder), index.clips[0], [0], RowCache(tmp_path / "cache", 10**9))
    assert not (tmp_path / "cache").exists()


def fill(cache: RowCache, number: int, *, size: int = 1000) -> bytes:
    data = np.random.default_rng(number).bytes(size)
    assert cache.get(f"{number:064x}", lambda: data) == data
    return data


def held(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_cache_grows_to_its_size_and_stays(tmp_path: Path):
    cache = RowCache(tmp_path, 10_500)
    for number in range(30):
        fill(cache, number)
    assert len(held(tmp_path)) == 10
    kept = {path.name: path.read_bytes() for path in held(tmp_path)}
    for number in range(30):
        fill(cache, number)
    assert {path.name: path.read_bytes() for path in held(tmp_path)} == kept


def test_two_processes_share_a_cache(tmp_path: Path):
    caches = [RowCache(tmp_path, 10_500) for _ in range(2)]
    for number in range(30):
        fill(caches[number % 2], number)
    assert 10 <= len(held(tmp_path)) <= 11


def test_what_nobody_read_for_a_day_makes_room(tmp_path: Path):
    old = RowCache(tmp_path, 10_500)
    for number in range(10):
        fill(old, number)
    two_days_ago = time.time() - 2 * 24 * 3600
    for path in held(tmp_path)[:4]:
        os.utime(path, (two_days_ago, two_days_ago))
    new = RowCache(tmp_path, 10_500)
    for number in range(100, 130):
        fill(new, number)
    names = {int(path.name, 16) for path in held(tmp_path)}
    assert len(names) == 10
    assert len([name for name in names if name >= 100]) == 4


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    cache = RowCache(tmp_path / "file", 10_000)
    assert fill(cache, 1) == fill(cache, 1)


def test_a_damaged_cache_is_no_error(counted: FaultyProxy, bucket: str, tmp_path: Path):
    clip = read_index(bucket, "train").clips[0]
    cache = RowCache(tmp_path / "cache", 10**9)
    cost(counted, bucket, clip, cache)
    (kept,) = held(tmp_path / "cache")
    kept.write_bytes(kept.read_bytes()[:100])
    assert cost(counted, bucket, clip, cache)[1] == 1
    assert cost(counted, bucket, clip, cache)[1] == 1  # it was dropped, and is kept again
    assert cost(counted, bucket, clip, cache)[1] == 0


def test_clips_of_the_same_pictures_are_told_apart_in_the_cache(
    folder: Path, counted: FaultyProxy, bucket: str, tmp_path: Path
):
    first, second = read_index(bucket, "train").clips[:2]
    cache = RowCache(tmp_path / "cache", 10**9)
    for clip in (first, second._replace(sha256=first.sha256)):
        read_clip(bucket, clip, [0], cache)  # which compares ids
    assert len(held(tmp_path / "cache")) == 2
