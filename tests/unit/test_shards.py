import hashlib
import io
import shutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from sttn_ray.corpus import Entry, Kind, Source, index_source, read_pictures
from sttn_ray.errors import CorpusError, MaskError, ShardError, VideoError
from sttn_ray.masks.draw import FAMILIES
from sttn_ray.shards import read
from sttn_ray.shards.plan import Range, Video, clip_ranges, contiguous_runs, frame_spans, grow_plan, split_of
from sttn_ray.shards.read import read_clip, read_index, read_masks
from sttn_ray.shards.records import ShardsDir
from sttn_ray.shards.tables import (
    CLIP_SCHEMA,
    INDEX_SCHEMA,
    MASK_SCHEMA,
    pack_frame,
    pack_mask,
    rows_sha256,
    unpack_frame,
    unpack_mask,
)
from sttn_ray.shards.verify import verify_shards
from sttn_ray.shards.write import (
    Fault,
    IndexRow,
    ShardSettings,
    write_clips,
    write_drawn_masks,
    write_object_masks,
)
from sttn_ray.storage import file_sha256
from tests.media import (
    flip_byte,
    make_damaged_copy,
    make_images,
    make_pictures,
    make_texture,
    make_video,
    png_that_claims,
    zip_folder,
)

WIDTH, HEIGHT = 96, 64
SETTINGS = ShardSettings(
    width=WIDTH,
    height=HEIGHT,
    fit="crop",
    codec="png",
    quality=95,
    clip_frames=20,
    min_clip_frames=5,
    clips_per_shard=4,
)
SPLIT = "validation"
Picture = NDArray[np.uint8]


# The plan


@pytest.mark.parametrize(
    ("num_frames", "expected"),
    [
        (0, []),
        (4, []),
        (5, [(0, 5)]),
        (20, [(0, 20)]),
        (24, [(0, 20)]),
        (25, [(0, 20), (20, 25)]),
        (60, [(0, 20), (20, 40), (40, 60)]),
    ],
)
def test_clip_ranges(num_frames: int, expected: list[tuple[int, int]]):
    assert clip_ranges(0, num_frames, clip_frames=20, min_clip_frames=5) == expected
    moved = [(start + 7, stop + 7) for start, stop in expected]
    assert clip_ranges(7, num_frames + 7, clip_frames=20, min_clip_frames=5) == moved


@pytest.mark.parametrize(
    ("spans_s", "expected"),
    [
        ([], [(0, 10)]),
        ([(0.0, inf)], [(0, 10)]),
        ([(0.5, inf)], [(5, 10)]),
        ([(0.15, 0.5)], [(2, 5)]),  # the end is excluded
        ([(0.0, 0.2), (0.3, 0.45)], [(0, 2), (3, 5)]),
        ([(0.11, 0.19), (0.9, 99.0), (99.0, inf)], [(9, 10)]),
    ],
)
def test_frame_spans(spans_s: list[tuple[float, float]], expected: list[tuple[int, int]]):
    times_s = [number / 10 for number in range(10)]
    assert frame_spans(spans_s, times_s) == expected


def grow(plan: Sequence[Sequence[Range]], *videos: tuple[str, int]) -> list[list[Range]]:
    return grow_plan(
        plan,
        [Video(sha256, [(0, num_frames)]) for sha256, num_frames in videos],
        clip_frames=20,
        min_clip_frames=5,
        clips_per_shard=3,
    )


def bare(plan: Sequence[Sequence[Range]]) -> list[list[tuple[str, int, int]]]:
    return [[(part.sha256, part.start, part.stop) for part in shard] for shard in plan]


def test_a_plan_holds_videos_in_order():
    assert bare(grow([], ("a", 40), ("b", 50), ("c", 4), ("d", 7))) == [
        [("a", 0, 20), ("a", 20, 40), ("b", 0, 20)],
        [("b", 20, 40), ("b", 40, 50), ("d", 0, 7)],
    ]


def test_nothing_to_plan():
    assert grow([]) == []
    assert grow([], ("a", 4)) == []


def test_a_plan_grows_by_new_shards_alone():
    before = grow([], ("b", 40), ("d", 30))
    after = grow(before, ("a", 20), ("b", 40), ("c", 20), ("d", 30))
    assert after[: len(before)] == before
    assert bare(after[len(before) :]) == [[("a", 0, 20), ("c", 0, 20)]]
    assert before == grow([], ("b", 40), ("d", 30))  # its argument is left as it was


def test_a_plan_that_knows_all_videos_stays():
    plan = grow([], ("a", 40), ("b", 50))
    assert grow(plan, ("b", 50), ("a", 40)) == plan
    assert grow(plan) == plan  # videos that are gone keep their place


def test_parts_of_a_video_and_their_split_are_planned():
    settings = {"clip_frames": 20, "min_clip_frames": 5, "clips_per_shard": 9}
    video = Video("a", [(3, 30), (50, 58)], "validation")
    plan = grow_plan([], [video], **settings)
    assert plan == [[Range("a", *r, "validation") for r in ((3, 23), (23, 30), (50, 58))]]
    assert grow_plan(plan, [video], **settings) == plan
    for other in (video._replace(spans=[(3, 30)]), video._replace(split="train")):
        with pytest.raises(CorpusError, match=r"choose another shards\.dir"):
            grow_plan(plan, [other], **settings)


def test_splits_have_the_share_that_was_asked_for():
    hashes = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(20000)]
    for share in (0.05, 0.3):
        in_validation = [split_of(sha256, share) == "validation" for sha256 in hashes]
        assert np.mean(in_validation) == pytest.approx(share, abs=0.01)
        # A video's neighbors say nothing about it.
        pairs = np.mean([a and b for a, b in pairwise(in_validation)])
        assert pairs == pytest.approx(share**2, abs=0.01)


@pytest.mark.parametrize("sha256", ["0" * 64, "f" * 64])
def test_extreme_shares(sha256: str):
    assert split_of(sha256, 0.0) == "train"
    assert split_of(sha256, 1.0) == "validation"


def test_a_larger_share_keeps_what_was_in_validation():
    hashes = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(1000)]
    few = {sha256 for sha256 in hashes if split_of(sha256, 0.1) == "validation"}
    assert few < {sha256 for sha256 in hashes if split_of(sha256, 0.2) == "validation"}


def test_contiguous_runs():
    a, b, c, d = Range("a", 0, 20), Range("a", 20, 40), Range("b", 40, 60), Range("b", 80, 90)
    assert contiguous_runs([a, b, c, d]) == [[a, b], [c], [d]]
    assert contiguous_runs([b, a]) == [[b], [a]]
    assert contiguous_runs([]) == []


# Packing


def test_png_frames_are_exact():
    picture = make_pictures(1)[0]
    assert np.array_equal(unpack_frame(pack_frame(picture, "png", 95), HEIGHT, WIDTH), picture)


def test_jpeg_frames_are_close_and_smaller():
    rows, columns = np.mgrid[:240, :432]
    waves = [np.sin(rows / 9), np.cos(columns / 13), np.sin((rows + columns) / 17)]
    picture = np.round(127.5 + 100 * np.stack(waves, 2)).astype(np.uint8)
    fine, coarse = pack_frame(picture, "jpeg", 95), pack_frame(picture, "jpeg", 50)
    assert len(coarse) < len(fine) < len(pack_frame(picture, "png", 95))
    fine_error, coarse_error = (
        np.abs(unpack_frame(data, 240, 432).astype(int) - picture).mean() for data in (fine, coarse)
    )
    assert 0 < fine_error < 1 < coarse_error < 4


@pytest.mark.parametrize("codec", ["png", "jpeg"])
@pytest.mark.parametrize(("height", "width"), [(WIDTH, HEIGHT), (HEIGHT - 1, WIDTH)])
def test_a_frame_of_another_size(codec: Any, height: int, width: int):
    data = pack_frame(make_pictures(1)[0], codec, 95)
    with pytest.raises(ShardError, match=rf"a frame is RGB 96x64, expected RGB {width}x{height}"):
        unpack_frame(data, height, width)


def test_a_frame_that_is_gray():
    file = io.BytesIO()
    Image.fromarray(make_pictures(1)[0][..., 0]).save(file, "PNG")
    with pytest.raises(ShardError, match="a frame is L 96x64, expected RGB 96x64"):
        unpack_frame(file.getvalue(), HEIGHT, WIDTH)


@pytest.mark.parametrize("codec", ["png", "jpeg"])
def test_a_frame_that_is_cut_short(codec: Any):
    data = pack_frame(make_pictures(1)[0], codec, 95)
    for length in (0, 1, 20, len(data) // 2, len(data) - 100):
        with pytest.raises(ShardError, match="a frame is damaged"):
            unpack_frame(data[:length], HEIGHT, WIDTH)


@pytest.mark.parametrize("codec", ["png", "jpeg"])
def test_a_damaged_frame_is_a_picture_or_an_error_of_ours(codec: Any):
    data = pack_frame(make_pictures(1, width=16, height=16)[0], codec, 95)
    for position in range(len(data)):
        try:
            picture = unpack_frame(data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :], 16, 16)
        except ShardError:
            continue
        assert picture.shape == (16, 16, 3)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [11_000, 60_000])
def test_a_frame_that_claims_to_be_huge(side: int):
    with pytest.raises(ShardError, match="a frame is "):
        unpack_frame(png_that_claims(side, side), HEIGHT, WIDTH)


@pytest.mark.parametrize(("height", "width"), [(HEIGHT, WIDTH), (5, 7), (1, 1), (240, 432)])
def test_masks_are_exact(height: int, width: int):
    mask = np.random.default_rng(0).random((height, width)) > 0.5
    unpacked = unpack_mask(pack_mask(mask), height, width)
    assert unpacked.dtype == bool
    assert np.array_equal(unpacked, mask)


def test_a_damaged_mask():
    data = pack_mask(np.random.default_rng(0).random((HEIGHT, WIDTH)) > 0.5)
    for position in range(len(data)):
        with pytest.raises(ShardError, match=r"a mask (is damaged|holds)"):
            unpack_mask(data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :], HEIGHT, WIDTH)


def test_a_mask_that_is_cut_short():
    data = pack_mask(np.random.default_rng(0).random((HEIGHT, WIDTH)) > 0.5)
    for length in (0, 1, len(data) // 2):
        with pytest.raises(ShardError, match=r"a mask holds \d+ bytes, expected 768 for 96x64"):
            unpack_mask(data[:length], HEIGHT, WIDTH)


@pytest.mark.parametrize(("height", "width"), [(HEIGHT, WIDTH + 1), (HEIGHT // 2, WIDTH)])
def test_a_mask_of_another_size(height: int, width: int):
    with pytest.raises(ShardError, match=rf"a mask holds \d+ bytes, expected {-(-height * width // 8)} for"):
        unpack_mask(pack_mask(np.ones((HEIGHT, WIDTH), bool)), height, width)


def test_a_mask_that_would_fill_the_memory():
    bomb = zlib.compress(bytes(2**26), 9)
    with pytest.raises(ShardError, match="a mask holds 769 bytes, expected 768"):  # and no more were unpacked
        unpack_mask(bomb, HEIGHT, WIDTH)


# Clips


class Written(NamedTuple):
    """What `write_clips` returned, and what lies in the file."""

    rows: list[IndexRow]
    faults: list[Fault]
    clips: list[dict[str, Any]]


def index(root: Path, name: str, kind: Kind = "video") -> Source:
    return index_source(str(root), Entry(name, kind), frames_fps=Fraction(24))


def whole(source: Source, settings: ShardSettings = SETTINGS) -> list[Range]:
    ranges = clip_ranges(
        0, source.num_frames, clip_frames=settings.clip_frames, min_clip_frames=settings.min_clip_frames
    )
    return [Range(source.sha256, start, stop, SPLIT) for start, stop in ranges]


def write(root: Path, path: Path, sources: Sequence[Source], ranges: Sequence[Range], **changes: Any) -> Written:
    by_sha256 = {source.sha256: source for source in sources}
    rows, faults = write_clips(str(root), path, ranges, by_sha256, replace(SETTINGS, **changes))
    if not path.exists():
        return Written(rows, faults, [])
    with pq.ParquetFile(path) as file:
        assert file.schema_arrow.equals(CLIP_SCHEMA)
        clips = [file.read_row_group(number).to_pylist() for number in range(file.num_row_groups)]
    assert all(len(group) == 1 for group in clips)
    return Written(rows, faults, [clip for group in clips for clip in group])


def spans(written: Written) -> list[tuple[int, int]]:
    return [(clip["start"], clip["start"] + len(clip["frames"])) for clip in written.clips]


def frames_of(clip: dict[str, Any]) -> list[Picture]:
    return [unpack_frame(data, HEIGHT, WIDTH) for data in clip["frames"]]


def pictures_of(root: Path, source: Source, start: int, stop: int) -> list[Picture]:
    return list(read_pictures(str(root), source, start, stop, width=WIDTH, height=HEIGHT, fit="crop"))


def cut_at(*cuts: int) -> Callable[[int], NDArray[np.floating]]:
    """Still pictures, another one from each of the frames on."""
    pictures = [make_texture(WIDTH, HEIGHT, seed=number)(0) for number in range(len(cuts) + 1)]
    for number, picture in enumerate(pictures):
        picture[:] = picture * 0.3 + 0.7 * (number % 2)
    return lambda frame: pictures[sum(frame >= cut for cut in cuts)]


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


def object_ids(number: int, height: int = HEIGHT, width: int = WIDTH) -> Picture:
    """Two objects, numbered 1 and 2, in a gray picture."""
    ids = np.zeros((height, width), np.uint8)
    ids[height // 4 : height // 2, number : number + width // 4] = 1
    ids[height // 2 :, width // 2 :] = 2
    return ids


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


def test_a_plan_is_kept(tmp_path: Path):
    shards = ShardsDir(tmp_path)
    assert shards.read_plan() == []
    plan = grow([], ("a", 40), ("b", 50))
    shards.write_plan(plan)
    assert shards.read_plan() == plan
    assert grow(shards.read_plan(), ("b", 50)) == plan


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


# Reading and verifying


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
