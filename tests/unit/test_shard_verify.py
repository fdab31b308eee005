"""Shards read and verified, whole and damaged in every way."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sttn_ray.corpus import Entry, read_pictures
from sttn_ray.errors import ShardError
from sttn_ray.shards import read
from sttn_ray.shards.read import read_clip, read_index, read_masks
from sttn_ray.shards.tables import CLIP_SCHEMA, INDEX_SCHEMA, rows_sha256
from sttn_ray.shards.verify import verify_shards
from sttn_ray.shards.write import IndexRow, write_clips, write_drawn_masks, write_object_masks
from sttn_ray.storage import file_sha256
from tests.media import flip_byte, make_images, make_pictures
from tests.shards import SETTINGS, Picture, index, object_ids, whole


class Built(NamedTuple):
    folder: Path
    rows: list[IndexRow]
    pictures: dict[str, Picture]  # by clip id


def save_index(folder: Path, rows: Sequence[IndexRow]) -> None:
    pq.write_table(pa.Table.from_pylist(list(rows), INDEX_SCHEMA), folder / "index.parquet")


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Two files of clips and two of masks, with their index; a video of each split."""
    root = tmp_path_factory.mktemp("corpus")
    folder = tmp_path_factory.mktemp("shards")
    sources = []
    for seed in range(2):
        make_images(root / f"v{seed}", make_pictures(12, width=32, height=16, seed=seed))
        sources.append(index(root, f"v{seed}", "frames"))
    settings = replace(SETTINGS, width=32, height=16, clip_frames=6)
    rows: list[IndexRow] = []
    pictures = {}
    for number, (source, split) in enumerate(zip(sources, ("train", "validation"), strict=True)):
        ranges = [part._replace(split=split) for part in whole(source, settings)]
        path = folder / f"clips/shard-0000{number}.parquet"
        added, _ = write_clips(str(root), path, ranges, {source.sha256: source}, settings)
        rows += added
        everything = np.stack(list(read_pictures(str(root), source, 0, 12, width=32, height=16, fit="crop")))
        pictures |= {row["id"]: part for row, part in zip(added, (everything[:6], everything[6:]), strict=True)}
    make_images(root / "Annotations", [object_ids(number, 16, 32) for number in range(9)])
    objects = Entry("Annotations", "frames")
    rows += write_object_masks(str(root), folder / "masks/objects-0.parquet", objects, settings)
    rows += write_drawn_masks(
        folder / "masks/drawn.parquet", ("box", "object"), masks_per_family=2, seed=0, settings=settings
    )
    save_index(folder, rows)
    return Built(folder, rows, pictures)


@pytest.fixture
def shards(originals: Built, tmp_path: Path) -> Built:
    """A copy that a test may damage."""
    shutil.copytree(originals.folder, tmp_path / "shards")
    return originals._replace(folder=tmp_path / "shards")


@pytest.mark.parametrize("split", ["train", "validation"])
def test_an_index_gives_the_clips_of_a_split(originals: Built, split: str):
    found = read_index(originals.folder, split)
    expected = sorted(row["id"] for row in originals.rows if row["split"] == split)
    assert [row.id for row in found.clips] == expected
    assert len(expected) == 2
    assert [row.num_frames for row in found.clips] == [6, 6]
    assert (found.width, found.height) == (32, 16)


def test_an_index_gives_object_masks_that_were_read_not_drawn(originals: Built):
    found = read_index(originals.folder, "train").object_masks
    assert [(row.id, row.num_frames) for row in found] == [("object-Annotations-0000", 6)]


def test_clips_are_read_by_their_frames(originals: Built):
    for split in ("train", "validation"):
        for row in read_index(originals.folder, split).clips:
            for numbers in ([0], [5, 1, 1], range(6)):
                frames = read_clip(originals.folder, row, numbers)
                assert np.array_equal(frames, originals.pictures[row.id][numbers])


def test_masks_are_read_by_their_numbers(originals: Built):
    (row,) = read_index(originals.folder, "train").object_masks
    expected = np.stack([object_ids(number, 16, 32) > 0 for number in (1, 4)])
    assert np.array_equal(read_masks(originals.folder, row, [1, 4]), expected)


def test_shards_that_are_missing_or_not_finished(tmp_path: Path):
    with pytest.raises(ShardError, match=r"none.index\.parquet: no such file.*build them with python -m"):
        read_index(tmp_path / "none", "train")
    with pytest.raises(ShardError, match=r"index\.parquet: no such file"):
        verify_shards(tmp_path)


def test_an_index_without_the_split(originals: Built, tmp_path: Path):
    save_index(tmp_path, [row for row in originals.rows if row["split"] != "validation"])
    with pytest.raises(ShardError, match=r"holds no clip of the split 'validation'; it has 2 of others"):
        read_index(tmp_path, "validation")


def test_an_index_that_is_none(tmp_path: Path):
    (tmp_path / "index.parquet").write_text("hello")
    with pytest.raises(ShardError, match=r"index\.parquet: cannot be read .*build the shards again"):
        read_index(tmp_path, "train")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "index.parquet")
    with pytest.raises(ShardError, match=r"index\.parquet: is not an index of this version; its columns: \['a'\]"):
        read_index(tmp_path, "train")


def test_a_missing_or_damaged_shard_is_an_error_of_ours(shards: Built):
    (shards.folder / "clips/shard-00000.parquet").unlink()
    with pytest.raises(ShardError, match=r"shard-00000\.parquet: row group \d cannot be read .*verify the shards"):
        read_index(shards.folder, "train")
    row = read_index(shards.folder, "validation").clips[0]
    with pytest.raises(ShardError, match=r"absent\.parquet: row group 0 cannot be read"):
        read_clip(shards.folder, row._replace(file="clips/absent.parquet"), [0])
    with pytest.raises(ShardError, match=r"row group 9 cannot be read"):
        read_clip(shards.folder, row._replace(row_group=9), [0])
    (shards.folder / "clips/shard-00000.parquet").write_bytes(b"no" * 100)
    with pytest.raises(ShardError, match=r"shard-00000\.parquet: row group 0 cannot be read"):
        read_clip(shards.folder, row._replace(file="clips/shard-00000.parquet"), [0])


def test_a_row_group_that_holds_another_clip(originals: Built):
    first, second = read_index(originals.folder, "train").clips
    with pytest.raises(ShardError, match=rf"row group \d is {second.id}, not {first.id}"):
        read_clip(originals.folder, first._replace(row_group=second.row_group), [0])


def test_reading_a_damaged_shard_raises_nothing_else(shards: Built):
    path = shards.folder / "clips/shard-00000.parquet"
    data = path.read_bytes()
    row = read_index(shards.folder, "train").clips[0]
    num_refused = 0
    for position in range(0, len(data), 101):
        path.unlink()  # a reader keeps the file that it has open
        path.write_bytes(data)
        flip_byte(path, position)
        read._open.cache_clear()
        try:
            assert read_clip(shards.folder, row, [0, 5]).shape == (2, 16, 32, 3)
        except ShardError:
            num_refused += 1
    read._open.cache_clear()
    assert num_refused > 5


def test_good_shards_have_no_faults(originals: Built):
    said: list[tuple[int, int]] = []
    found = verify_shards(originals.folder, lambda done, total: said.append((done, total)))
    assert found.faults == []
    assert said == [(1, 4), (2, 4), (3, 4), (4, 4)]
    num_bytes = {
        split: sum(row["num_bytes"] for row in originals.rows if row["split"] == split)
        for split in ("train", "validation")
    }
    assert {name: (count["rows"], count["frames"]) for name, count in found.counts.items()} == {
        "clips train": (2, 12),
        "clips validation": (2, 12),
        "masks object": (3, 18),
        "masks box": (2, 12),
    }
    assert found.counts["clips train"]["bytes"] == num_bytes["train"]


@pytest.mark.parametrize("file", ["clips/shard-00001.parquet", "masks/objects-0.parquet"])
def test_a_flipped_byte_anywhere_in_a_shard_is_found(shards: Built, file: str):
    path = shards.folder / file
    data = path.read_bytes()
    # Header, first and last byte of the footer, and all between them that time allows for.
    positions = {0, 3, 4, *range(5, len(data), 197), *range(len(data) - 12, len(data))}
    missed = []
    for position in sorted(positions):
        path.write_bytes(data)
        faults = verify_shards(flip_byte(path, position).parents[1]).faults
        if not any(file in fault and "not those that were written" in fault for fault in faults):
            missed.append(position)
    assert missed == []


def test_a_flipped_byte_in_a_frame_names_its_clip(shards: Built):
    path = shards.folder / "clips/shard-00000.parquet"
    data = path.read_bytes()
    with pq.ParquetFile(path) as file:
        clip = file.read_row_group(1).to_pylist()[0]
    flip_byte(path, data.index(clip["frames"][3]) + 50)
    faults = verify_shards(shards.folder).faults
    assert len(faults) == 2
    assert "its bytes are not those that were written; delete it and build the shards again" in faults[0]
    assert f"row group 1 ({clip['clip_id']}): its frames are not those that were written" in faults[1]


def test_a_flipped_byte_in_the_index_is_found_where_it_changes_anything(shards: Built):
    path = shards.folder / "index.parquet"
    data, rows = path.read_bytes(), pq.read_table(path).to_pylist()
    num_found = 0
    for position in range(0, len(data), 61):
        path.write_bytes(data)
        flip_byte(path, position)
        try:
            is_found = bool(verify_shards(shards.folder).faults)
        except ShardError:
            is_found = True
        assert is_found or pq.read_table(path).to_pylist() == rows, position
        num_found += is_found
    assert num_found > 15


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", "0" * 16 + "-0000000-0000006"),
        ("split", "validation"),
        ("family", "box"),
        ("source", "another"),
        ("num_frames", 5),
        ("num_bytes", 1),
        ("row_group", 1),
        ("sha256", "0" * 64),
        ("file_sha256", "0" * 64),
        ("file", "clips/shard-00001.parquet"),
        ("table", "masks"),
    ],
)
def test_an_index_that_says_something_else_is_found(shards: Built, name: str, value: Any):
    rows = [dict(row) for row in shards.rows]
    assert rows[0][name] != value
    rows[0][name] = value
    save_index(shards.folder, rows)
    assert verify_shards(shards.folder).faults


def test_an_index_that_lacks_a_row_is_found(shards: Built):
    save_index(shards.folder, shards.rows[1:])
    assert any("has 2 row groups, the index names 1" in fault for fault in verify_shards(shards.folder).faults)


def test_a_missing_shard_is_found(shards: Built):
    (shards.folder / "clips/shard-00001.parquet").unlink()
    (fault,) = verify_shards(shards.folder).faults
    assert fault.endswith("shard-00001.parquet: is missing; build the shards again to have it back")


def test_swapped_shards_are_found(shards: Built):
    first, second = (shards.folder / f"clips/shard-0000{number}.parquet" for number in range(2))
    first.rename(first.with_suffix(".tmp"))
    second.rename(first)
    first.with_suffix(".tmp").rename(second)
    faults = verify_shards(shards.folder).faults
    for path in (first, second):
        assert any(str(path) in fault and "its bytes are not those" in fault for fault in faults)
        assert sum(str(path) in fault and "row group" in fault for fault in faults) == 2


@pytest.mark.parametrize("length", [0, 3, 500])
def test_a_shard_that_is_cut_short_is_found(shards: Built, length: int):
    path = shards.folder / "masks/drawn.parquet"
    path.write_bytes(path.read_bytes()[:length])
    faults = verify_shards(shards.folder).faults
    assert any("drawn.parquet: its bytes are not those that were written" in fault for fault in faults)
    assert any("drawn.parquet: cannot be read" in fault for fault in faults)


def test_a_shard_of_another_schema_is_found(shards: Built):
    path = shards.folder / "masks/drawn.parquet"
    shutil.copy(shards.folder / "clips/shard-00000.parquet", path)
    assert any("drawn.parquet: its columns are ['clip_id'," in fault for fault in verify_shards(shards.folder).faults)


def test_rows_whose_frames_do_not_decode_are_found(shards: Built):
    """Hashes alone would let through what was wrong from the beginning."""
    path = shards.folder / "clips/shard-00000.parquet"
    table = pq.read_table(path)
    rows = [row | {"frames": [b"no picture"] * 6} for row in table.to_pylist()]
    with pq.ParquetWriter(path, CLIP_SCHEMA, use_dictionary=False) as writer:
        for row in rows:
            writer.write_table(pa.Table.from_pylist([row], CLIP_SCHEMA))
    changed = {"sha256": rows_sha256([b"no picture"] * 6), "num_bytes": 60, "file_sha256": file_sha256(path)}
    save_index(shards.folder, [row | changed if row["file"].endswith("00000.parquet") else row for row in shards.rows])
    faults = verify_shards(shards.folder).faults
    assert len(faults) == 2
    assert all("a frame is damaged" in fault for fault in faults)
