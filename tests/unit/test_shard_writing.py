"""Clips and masks of a corpus, written as shards, and the record of them."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from sttn_ray.choices import FAMILIES
from sttn_ray.corpus import Entry, Kind
from sttn_ray.errors import CorpusError, MaskError, VideoError
from sttn_ray.shards.records import ShardsDir
from sttn_ray.shards.tables import MASK_SCHEMA, unpack_mask
from sttn_ray.shards.write import Fault, write_drawn_masks, write_object_masks
from sttn_ray.storage import file_sha256
from tests.media import flip_byte, make_damaged_copy, make_images, make_pictures, make_video, zip_folder
from tests.shards import (
    HEIGHT,
    SETTINGS,
    SPLIT,
    WIDTH,
    cut_at,
    frames_of,
    index,
    object_ids,
    pictures_of,
    spans,
    whole,
    write,
)


def test_clips_cover_a_video(tmp_path: Path):
    make_video(tmp_path / "v/sub/a.mkv", num_frames=45, rate=Fraction(30000, 1001))
    source = index(tmp_path / "v", "sub/a.mkv")
    path = tmp_path / "clips/shard-00007.parquet"
    written = write(tmp_path / "v", path, [source], whole(source))
    assert written.faults == []
    assert spans(written) == [(0, 20), (20, 40), (40, 45)]
    expected = pictures_of(tmp_path / "v", source, 0, 45)
    for number, (row, clip) in enumerate(zip(written.rows, written.clips, strict=True)):
        start, stop = spans(written)[number]
        assert clip["clip_id"] == f"{source.sha256[:16]}-{start:07d}-{stop:07d}"
        assert (clip["video_sha256"], clip["source"]) == (source.sha256, "sub/a.mkv")
        assert clip["pts"] == list(source.pts[start:stop])
        assert Fraction(clip["time_base_num"], clip["time_base_den"]) == source.time_base
        assert Fraction(clip["fps_num"], clip["fps_den"]) == source.rate
        assert (clip["height"], clip["width"], clip["codec"]) == (HEIGHT, WIDTH, "png")
        assert clip["split"] == SPLIT
        assert np.array_equal(frames_of(clip), expected[start:stop])
        assert row == {
            "table": "clips",
            "id": clip["clip_id"],
            "family": None,
            "split": clip["split"],
            "source": "sub/a.mkv",
            "num_frames": stop - start,
            "file": "clips/shard-00007.parquet",
            "row_group": number,
            "num_bytes": sum(len(data) for data in clip["frames"]),
            "sha256": row["sha256"],
            "file_sha256": file_sha256(path),
        }
    assert len({row["sha256"] for row in written.rows}) == 3


def test_clips_are_not_compressed_again_and_nothing_is_left_beside_them(tmp_path: Path):
    make_video(tmp_path / "a.mkv", num_frames=20)
    source = index(tmp_path, "a.mkv")
    write(tmp_path, tmp_path / "clips/0.parquet", [source], whole(source))
    column = pq.read_metadata(tmp_path / "clips/0.parquet").row_group(0).column(13)
    assert (column.path_in_schema, column.compression) == ("frames.list.element", "UNCOMPRESSED")
    assert not column.has_dictionary_page
    assert not column.is_stats_set
    assert [file.name for file in (tmp_path / "clips").iterdir()] == ["0.parquet"]


def test_clips_of_several_videos_of_every_kind(tmp_path: Path):
    make_video(tmp_path / "a.mp4", num_frames=20)
    make_images(tmp_path / "b", make_pictures(20, seed=1))
    zip_folder(make_images(tmp_path / "out" / "c", make_pictures(20, seed=2)), tmp_path / "c.zip")
    sources = [index(tmp_path, "a.mp4"), index(tmp_path, "b", "frames"), index(tmp_path, "c.zip", "zip")]
    written = write(tmp_path, tmp_path / "clips/0.parquet", sources, [whole(source)[0] for source in sources])
    assert [clip["source"] for clip in written.clips] == ["a.mp4", "b", "c.zip"]
    for clip, source in zip(written.clips, sources, strict=True):
        assert np.array_equal(frames_of(clip), pictures_of(tmp_path, source, 0, 20))
    assert np.array_equal(frames_of(written.clips[1]), make_pictures(20, seed=1))
    assert np.array_equal(frames_of(written.clips[2]), make_pictures(20, seed=2))


def test_the_same_ranges_give_the_same_bytes(tmp_path: Path):
    make_video(tmp_path / "a.mkv", num_frames=40)
    source = index(tmp_path, "a.mkv")
    for name in ("0", "1"):
        write(tmp_path, tmp_path / f"clips/{name}.parquet", [source], whole(source), codec="jpeg")
    assert (tmp_path / "clips/0.parquet").read_bytes() == (tmp_path / "clips/1.parquet").read_bytes()


def test_a_clip_is_the_same_in_whatever_shard_it_lies(tmp_path: Path):
    make_video(tmp_path / "a.mkv", num_frames=60, open_gop=True)
    source = index(tmp_path, "a.mkv")
    together = write(tmp_path, tmp_path / "clips/0.parquet", [source], whole(source))
    alone = [write(tmp_path, tmp_path / f"clips/{p.start}.parquet", [source], [p]) for p in whole(source)]
    assert [one.clips[0] for one in alone] == together.clips
    assert [one.rows[0]["sha256"] for one in alone] == [row["sha256"] for row in together.rows]


def test_clips_do_not_cross_cuts(tmp_path: Path):
    make_video(tmp_path / "a.mkv", num_frames=60, picture=cut_at(9, 20, 37, 52))
    source = index(tmp_path, "a.mkv")
    written = write(tmp_path, tmp_path / "clips/0.parquet", [source], whole(source))
    # What is left of the third range after the cut at 37 has 3 frames, too few.
    assert spans(written) == [(0, 9), (9, 20), (20, 37), (40, 52), (52, 60)]
    assert written.faults == []
    for clip in written.clips:
        frames = np.stack(frames_of(clip)).astype(int)
        assert np.abs(frames - frames[0]).mean() < 10


def test_a_video_of_short_shots_alone_makes_no_file(tmp_path: Path):
    make_video(tmp_path / "a.mkv", num_frames=16, picture=cut_at(4, 8, 12))
    source = index(tmp_path, "a.mkv")
    path = tmp_path / "clips/0.parquet"
    assert write(tmp_path, path, [source], whole(source)) == ([], [], [])
    assert not path.exists()


# Of an MPEG-TS that lost more, not every loss is seen: whole packets are gone, and the decoder goes on.
@pytest.mark.parametrize(
    ("suffix", "share"),
    [(".mp4", 0.05), (".mp4", 0.2), (".mkv", 0.01), (".mkv", 0.03), (".mkv", 0.2), (".ts", 0.01), (".ts", 0.03)],
)
def test_a_damaged_video_gives_its_good_ranges_and_faults(tmp_path: Path, suffix: str, share: float):
    picture = make_video(tmp_path / f"whole{suffix}", num_frames=120)
    make_damaged_copy(picture, tmp_path / f"damaged{suffix}", start=0.5, stop=0.5 + share)
    source, good = index(tmp_path, f"damaged{suffix}"), index(tmp_path, picture.name)
    written = write(tmp_path, tmp_path / "clips/0.parquet", [source], whole(source))
    assert 0 < len(written.faults) <= 3
    ranges = [(fault.start, fault.stop) for fault in written.faults]
    assert sorted(ranges + spans(written)) == [(part.start, part.stop) for part in whole(source)]
    assert len(written.clips) >= 3
    for fault in written.faults:
        assert fault.sha256 == source.sha256
        assert isinstance(fault.error, VideoError)
        assert f"damaged{suffix}" in str(fault.error)
    # A container may have lost frames altogether: what is told of a frame is its time.
    expected = dict(zip(good.pts, pictures_of(tmp_path, good, 0, 120), strict=True))
    for clip in written.clips:
        assert np.array_equal(frames_of(clip), [expected[pts] for pts in clip["pts"]])
        assert len(set(np.diff(clip["pts"]))) == 1


def test_a_damaged_image_costs_its_range_alone(tmp_path: Path):
    pictures = make_pictures(60)
    folder = make_images(tmp_path / "walk", pictures)
    data = (folder / "33.png").read_bytes()
    (folder / "33.png").write_bytes(data[: len(data) // 2])
    source = index(tmp_path, "walk", "frames")
    written = write(tmp_path, tmp_path / "clips/0.parquet", [source], whole(source))
    assert spans(written) == [(0, 20), (40, 60)]
    ((_, start, stop, error, _),) = written.faults
    assert (start, stop) == (20, 40)
    assert isinstance(error, CorpusError)
    assert "33.png: the image is damaged" in str(error)
    assert np.array_equal(frames_of(written.clips[1]), pictures[40:])


def test_a_video_that_is_gone_leaves_the_others(tmp_path: Path):
    make_video(tmp_path / "a.mkv", num_frames=40, seed=1)
    make_video(tmp_path / "b.mkv", num_frames=20, seed=2)
    sources = [index(tmp_path, "a.mkv"), index(tmp_path, "b.mkv")]
    (tmp_path / "a.mkv").unlink()
    written = write(tmp_path, tmp_path / "clips/0.parquet", sources, whole(sources[0]) + whole(sources[1]))
    assert [(fault.start, fault.stop) for fault in written.faults] == [(0, 20), (20, 40)]
    assert [clip["source"] for clip in written.clips] == ["b.mkv"]


# Masks


def mask_rows(path: Path) -> list[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        assert file.schema_arrow.equals(MASK_SCHEMA)
        assert file.num_row_groups == file.metadata.num_rows
        return file.read().to_pylist()


def masks_of(row: dict[str, Any]) -> list[NDArray[np.bool_]]:
    return [unpack_mask(data, row["height"], row["width"]) for data in row["masks"]]


def test_drawn_masks_repeat_by_seed(tmp_path: Path):
    settings = replace(SETTINGS, width=240, height=144)
    paths = [tmp_path / f"masks/{name}.parquet" for name in ("a", "b", "c")]
    rows = [
        write_drawn_masks(path, FAMILIES, masks_per_family=2, seed=seed, settings=settings)
        for path, seed in zip(paths, (3, 3, 4), strict=True)
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].read_bytes() != paths[2].read_bytes()
    drawn = mask_rows(paths[0])
    assert [row["mask_id"] for row in drawn] == [f"{family}-000{n}" for family in FAMILIES for n in range(2)]
    assert {(row["seed"], row["source"]) for row in drawn} == {(3, None)}
    assert [len(row["masks"]) for row in drawn] == [20] * 12
    assert all(mask.any() and not mask.all() for row in drawn for mask in masks_of(row))
    assert len({row["sha256"] for row in rows[0]}) == 12
    assert not {row["sha256"] for row in rows[0]} & {row["sha256"] for row in rows[2]}
    assert {(row["table"], row["split"], row["file"]) for row in rows[0]} == {("masks", None, "masks/a.parquet")}
    assert [row["family"] for row in rows[0]] == [row["family"] for row in drawn]


def test_more_drawn_masks_keep_the_first_ones(tmp_path: Path):
    settings = replace(SETTINGS, width=240, height=144)
    few, more = (
        write_drawn_masks(
            tmp_path / f"masks/{count}.parquet", FAMILIES, masks_per_family=count, seed=3, settings=settings
        )
        for count in (1, 2)
    )
    assert {row["id"]: row["sha256"] for row in few}.items() < {row["id"]: row["sha256"] for row in more}.items()


@pytest.mark.parametrize("kind", ["frames", "zip"])
def test_object_masks_come_in_rows_of_a_clip(tmp_path: Path, kind: Kind):
    pictures = [object_ids(number) for number in range(47)]
    folder = make_images(tmp_path / "Annotations/cow", pictures)
    entry = Entry("Annotations/cow", "frames")
    if kind == "zip":
        zip_folder(folder, tmp_path / "Annotations/cow.zip")
        entry = Entry("Annotations/cow.zip", "zip")
    path = tmp_path / "masks/objects-0.parquet"
    index_rows = write_object_masks(str(tmp_path), path, entry, SETTINGS)
    rows = mask_rows(path)
    assert [row["mask_id"] for row in rows] == [f"object-{entry.path}-000{n}" for n in range(3)]
    assert {(row["family"], row["seed"], row["source"]) for row in rows} == {("object", None, entry.path)}
    assert [row["num_frames"] for row in index_rows] == [20, 20, 7]
    assert np.array_equal([mask for row in rows for mask in masks_of(row)], np.stack(pictures) > 0)


def test_object_masks_without_an_object_are_left_out(tmp_path: Path):
    pictures = [object_ids(number) * (number % 2 == 0) for number in range(20)]
    make_images(tmp_path / "cow", pictures)
    write_object_masks(str(tmp_path), tmp_path / "masks/0.parquet", Entry("cow", "frames"), SETTINGS)
    (row,) = mask_rows(tmp_path / "masks/0.parquet")
    assert np.array_equal(masks_of(row), np.stack(pictures[::2]) > 0)


@pytest.mark.parametrize("num_masks", [0, 4])
def test_too_few_object_masks_make_no_file(tmp_path: Path, num_masks: int):
    make_images(tmp_path / "cow", [object_ids(0)] * num_masks + [np.zeros((HEIGHT, WIDTH), np.uint8)] * 9)
    assert write_object_masks(str(tmp_path), tmp_path / "masks/0.parquet", Entry("cow", "frames"), SETTINGS) == []
    assert not (tmp_path / "masks/0.parquet").exists()


def test_object_masks_are_cut_and_scaled_as_the_frames_are(tmp_path: Path):
    # 192x256 to 96x128, of which rows 32 to 96 are kept; stretched, 192x256 to 96x64.
    ids = np.random.default_rng(0).integers(0, 3, (128, 96)).astype(np.uint8)
    make_images(tmp_path / "cow", [ids.repeat(2, 0).repeat(2, 1)] * 5)
    for fit, expected in (("crop", ids[32:96] > 0), ("stretch", ids[::2] > 0)):
        path = tmp_path / f"masks/{fit}.parquet"
        write_object_masks(str(tmp_path), path, Entry("cow", "frames"), replace(SETTINGS, fit=fit))
        assert np.array_equal(masks_of(mask_rows(path)[0])[0], expected)


def test_a_damaged_object_mask_is_an_error_and_no_file(tmp_path: Path):
    folder = make_images(tmp_path / "cow", [object_ids(number) for number in range(30)])
    (folder / "25.png").write_bytes((folder / "25.png").read_bytes()[:60])
    with pytest.raises(MaskError, match=r"25\.png: the image is damaged"):
        write_object_masks(str(tmp_path), tmp_path / "masks/0.parquet", Entry("cow", "frames"), SETTINGS)
    assert list((tmp_path / "masks").iterdir()) == []


# Records


def test_a_shard_is_done_while_its_file_is_whole_and_its_content_the_same(tmp_path: Path):
    make_images(tmp_path / "walk", make_pictures(20))
    source = index(tmp_path, "walk", "frames")
    shards, file = ShardsDir(tmp_path / "shards"), "clips/shard-00000.parquet"
    path = tmp_path / "shards" / file
    fault = Fault("0" * 64, 3, 9, CorpusError("gone"))
    rows = write(tmp_path, path, [source], whole(source)).rows
    assert shards.read_done(file, "one") is None
    shards.write_done(file, "one", rows, [fault])
    record = shards.read_done(file, "one")
    assert record is not None
    assert record["rows"] == rows
    (found,) = record["faults"]
    assert (found["sha256"], found["start"], found["stop"]) == ("0" * 64, 3, 9)
    assert (found["step"], found["reason"], found["is_unexpected"]) == ("decode", "gone", False)
    assert shards.read_done(file, "another") is None
    flip_byte(path, 500)
    assert shards.read_done(file, "one") is None
    flip_byte(path, 500)
    assert shards.read_done(file, "one") is not None
    path.unlink()
    assert shards.read_done(file, "one") is None


def test_a_shard_without_rows_is_done_without_a_file(tmp_path: Path):
    ShardsDir(tmp_path).write_done("clips/0.parquet", "one", [], [])
    record = ShardsDir(tmp_path).read_done("clips/0.parquet", "one")
    assert record is not None
    assert record["rows"] == []
