import json
import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sttn_ray.catalog.items import Item, _named, read_catalog, refuse_overwriting, single_item
from sttn_ray.catalog.plan import Plan, input_stats, plan_video
from sttn_ray.catalog.publish import (
    outcome_for_touched_inputs,
    outcome_if_current,
    publish_copy,
    publish_if_complete,
)
from sttn_ray.catalog.records import ItemDir, claim_output
from sttn_ray.completion.schedule import Schedule
from sttn_ray.errors import CatalogError, ConfigError, MaskError, StorageError, VideoError
from sttn_ray.paths import absolute
from sttn_ray.storage import file_sha256
from sttn_ray.video.decode import decode_range
from sttn_ray.video.encode import encode_segment
from tests.media import audio_packet_hash, frame_hashes, frame_times, make_video, mux_together
from tests.plans import SETTINGS


def write_catalog(path: Path, rows: list[dict[str, Any]]) -> str:
    """The same rows in the form that the suffix says."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix == ".csv":
        lines = [",".join(f'"{row.get(name) or ""}"' for name in columns) for row in rows]
        path.write_text("\n".join([",".join(columns), *lines, ""]), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist([{n: row.get(n) for n in columns} for row in rows]), path)
    return str(path)


def catalog_fault(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(CatalogError) as raised:
        read_catalog(str(path))
    assert str(raised.value).startswith(f"{path}: ")
    return str(raised.value)


# Reading catalogs


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_catalogs_of_all_kinds_say_the_same(tmp_path: Path, suffix: str):
    rows = [
        {"video": "films/day 1.mp4", "mask": "masks/1.png"},
        {"video": "films/sub/ni\u00f1o.mov", "boxes": "1,2,3,4@0-5;5,6,7,8"},
        {"video": "films/c.mkv", "mask": "/elsewhere/m.zip", "output": "renamed/c.mp4"},
    ]
    items = read_catalog(write_catalog(tmp_path / f"list{suffix}", rows))
    assert items == [
        Item(
            video=str(tmp_path / "films/day 1.mp4"),
            mask=str(tmp_path / "masks/1.png"),
            boxes=None,
            output="films/day 1",
        ),
        Item(
            video=str(tmp_path / "films/sub/ni\u00f1o.mov"),
            mask=None,
            boxes="1,2,3,4@0-5;5,6,7,8",
            output="films/sub/ni\u00f1o",
        ),
        Item(video=str(tmp_path / "films/c.mkv"), mask="/elsewhere/m.zip", boxes=None, output="renamed/c"),
    ]


def test_paths_are_the_catalogs_not_the_callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "lists").mkdir()
    write_catalog(tmp_path / "lists" / "a.csv", [{"video": "../films/a.mp4", "mask": "m.png"}])
    monkeypatch.chdir(tmp_path)
    (item,) = read_catalog("lists/a.csv")
    assert item.video == str(tmp_path / "films/a.mp4")
    assert item.mask == str(tmp_path / "lists/m.png")


def test_single_item_is_the_callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (item,) = single_item("films/a.b.mp4", None, "1,2,3,4")
    assert item == Item(video=str(tmp_path / "films/a.b.mp4"), mask=None, boxes="1,2,3,4", output="a.b")


def test_outputs_mirror_the_videos_whatever_the_other_rows_are(tmp_path: Path):
    names = ("a/1.mp4", "b/c/1.mov", str(tmp_path / "d.mkv"), "/elsewhere/films/1.mp4")
    rows = [{"video": name, "mask": "m.png"} for name in names]
    items = read_catalog(write_catalog(tmp_path / "a.csv", rows))
    assert [item.output for item in items] == ["a/1", "b/c/1", "d", "elsewhere/films/1"]


def test_an_output_never_takes_the_place_of_its_source(tmp_path: Path):
    (item,) = single_item(str(tmp_path / "film.mp4"), str(tmp_path / "masks/film.mkv"), None)
    refuse_overwriting([item], str(tmp_path / "out"))
    for folder in (tmp_path, tmp_path / "masks"):
        with pytest.raises(ConfigError, match="would be overwritten by an output"):
            refuse_overwriting([item], str(folder))


def test_an_output_never_takes_the_place_of_what_a_link_leads_to(tmp_path: Path):
    for name in ("real", "links"):
        (tmp_path / name).mkdir()
    (tmp_path / "real/film.mp4").touch()
    (tmp_path / "links/film.mp4").symlink_to(tmp_path / "real/film.mp4")
    (tmp_path / "also").symlink_to(tmp_path / "real")
    (item,) = single_item(str(tmp_path / "links/film.mp4"), None, "1,2,3,4")
    refuse_overwriting([item], str(tmp_path / "out"))
    for folder in ("real", "links", "also"):
        with pytest.raises(ConfigError, match="would be overwritten by an output"):
            refuse_overwriting([item], str(tmp_path / folder))


def test_the_manifest_never_takes_the_place_of_the_catalog(tmp_path: Path):
    catalog = write_catalog(tmp_path / "manifest.parquet", [{"video": "a.mp4", "boxes": "1,2,3,4"}])
    refuse_overwriting([], str(tmp_path / "out"), catalog)
    with pytest.raises(ConfigError, match="would be overwritten by the manifest"):
        refuse_overwriting([], str(tmp_path), catalog)
    with pytest.raises(ConfigError, match="would be overwritten by the manifest"):
        refuse_overwriting([], "s3://archive/out", "s3://archive/out/manifest.parquet")


def test_a_catalog_in_a_store_may_name_videos_on_a_disk():
    row = {"video": "/mnt/films/a.mp4", "mask": "masks/a.png"}
    (item,) = _named([row], "s3://archive/lists")
    assert (item.video, item.mask) == ("/mnt/films/a.mp4", "s3://archive/lists/masks/a.png")
    assert item.output == "mnt/films/a"


@pytest.mark.parametrize("output", ["s3://archive", "s3://archive/"])
def test_an_output_never_takes_the_place_of_its_source_in_a_bucket(output: str):
    (item,) = single_item("s3://archive/film.mp4", None, "1,2,3,4")
    refuse_overwriting([item], f"{output.rstrip('/')}/out")
    with pytest.raises(ConfigError, match="would be overwritten by an output"):
        refuse_overwriting([item], str(absolute(output)))


def test_names_that_no_manifest_can_hold_are_faults(tmp_path: Path):
    lines = ['{"video": "a\\u0000.mp4", "boxes": "1,2,3,4"}', '{"video": "b\\ud800.mp4", "boxes": "1,2,3,4"}']
    (tmp_path / "c.jsonl").write_text("\n".join([*lines, '{"video": "c.mp4", "boxes": "1,2,3,4"}']) + "\n")
    items = read_catalog(str(tmp_path / "c.jsonl"))
    assert [item.fault is None for item in items] == [False, False, True]
    refuse_overwriting(items, str(tmp_path / "out"))
    for item in items:
        item.video.encode()


def test_only_video_suffixes_are_cut_from_output_names(tmp_path: Path):
    names = {"Mr. Smith": "Mr. Smith", "S01.E01": "S01.E01", "clip.MP4": "clip"}
    rows = [{"video": f"{n}.mp4", "mask": "m.png", "output": name} for n, name in enumerate(names)]
    assert [i.output for i in read_catalog(write_catalog(tmp_path / "a.csv", rows))] == list(names.values())


def test_byte_order_mark_and_spaces(tmp_path: Path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfvideo,mask\r\n a.mp4 , m.png \r\n")
    (item,) = read_catalog(str(tmp_path / "a.csv"))
    assert item.video == str(tmp_path / "a.mp4")
    assert item.fault is None


@pytest.mark.parametrize("output", ["../x.mp4", "/etc/x.mp4", "a/../../x.mp4", "..", "manifest.parquet/x", "_sttn/x"])
def test_outputs_that_leave_the_folder_are_faults(tmp_path: Path, output: str):
    rows = [{"video": "a.mp4", "mask": "m.png", "output": output}, {"video": "b.mp4", "mask": "m.png"}]
    bad, good = read_catalog(write_catalog(tmp_path / "a.jsonl", rows))
    assert (
        bad.fault
        == f"{tmp_path}/a.mp4: its output {output!r} is not a path below the output folder, or one of our own there"
    )
    assert good.fault is None


def test_outputs_that_collide_are_faults_of_all_of_them(tmp_path: Path):
    names = ("a.mp4", "a.mov", "b.mp4")
    rows = [{"video": name, "mask": "m.png"} for name in names] + [{"video": "c.mp4", "mask": "m", "output": "b"}]
    items = read_catalog(write_catalog(tmp_path / "a.csv", rows))
    assert [item.fault for item in items] == [
        f"{tmp_path}/{name}: 2 items would write {output}; set their 'output'"
        for name, output in (("a.mp4", "a"), ("a.mov", "a"), ("b.mp4", "b"), ("c.mp4", "b"))
    ]


def test_a_faulty_row_does_not_take_a_name(tmp_path: Path):
    rows = [{"video": "a.mp4", "mask": ""}, {"video": "a.mov", "mask": "m.png"}]
    bad, good = read_catalog(write_catalog(tmp_path / "a.csv", rows))
    assert bad.fault == f"{tmp_path}/a.mp4: give a mask or boxes"
    assert (good.output, good.fault) == ("a", None)


def test_paths_of_a_catalog_in_a_store_may_climb():
    rows = [{"video": "../films/a.mp4", "mask": "./m//a.png"}, {"video": "../../../b.mp4", "boxes": "1,2,3,4"}]
    first, second = _named(rows, "s3://archive/lists/new")
    assert (first.video, first.mask) == ("s3://archive/lists/films/a.mp4", "s3://archive/lists/new/m/a.png")
    assert (first.output, first.fault) == ("archive/lists/films/a", None)
    assert second.video == "s3://archive/b.mp4"  # not out of its bucket


def test_rows_without_what_is_needed_are_faults(tmp_path: Path):
    rows = [
        {"video": "a.mp4", "mask": "m.png", "boxes": "1,2,3,4"},
        {"video": "b.mp4", "mask": "", "boxes": ""},
        {"video": "", "mask": "m.png", "boxes": ""},
        {"video": "d.mp4", "mask": "m.png", "boxes": ""},
    ]
    items = read_catalog(write_catalog(tmp_path / "a.csv", rows))
    assert [item.fault for item in items] == [
        f"{tmp_path}/a.mp4: give a mask or boxes, not both",
        f"{tmp_path}/b.mp4: give a mask or boxes",
        "the row names no video",
        None,
    ]


def test_unknown_columns_are_named(tmp_path: Path):
    fault = catalog_fault(tmp_path / "a.csv", "video,msk,fps\na.mp4,m.png,25\n")
    assert "unknown columns fps, msk; expected boxes, mask, output, video" in fault


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("a.csv", "", "holds no rows"),
        ("a.csv", "video,mask\n", "holds no rows"),
        ("a.csv", "mask\nm.png\n", "has no column 'video'"),
        ("a.csv", "video,mask\na.mp4\n", "line 2 has another number of fields"),
        ("a.csv", "video,mask\na.mp4,m.png\nb.mp4,m.png,x\n", "line 3 has another number of fields"),
        ("a.jsonl", '{"video": "a.mp4"}\n\n[1]\n', "line 3 is not an object"),
        ("a.jsonl", '{"video": "a.mp4"\n', "cannot be read as a catalog"),
        ("a.parquet", "no parquet", "cannot be read as a catalog"),
        ("a.txt", "video\n", "a catalog is a file ending in .csv, .jsonl, .parquet"),
    ],
)
def test_catalogs_that_are_none(tmp_path: Path, name: str, text: str, fault: str):
    assert fault in catalog_fault(tmp_path / name, text)


def test_missing_catalog_and_other_encoding(tmp_path: Path):
    with pytest.raises(CatalogError, match=r"none\.csv: no such catalog"):
        read_catalog(str(tmp_path / "none.csv"))
    (tmp_path / "a.csv").write_bytes("video,mask\nd\u00e9j\u00e0.mp4,m.png\n".encode("latin-1"))
    with pytest.raises(CatalogError, match=r"a\.csv: cannot be read as a catalog"):
        read_catalog(str(tmp_path / "a.csv"))


# Plans


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("films") / "film.mp4", num_frames=24, audio=True)


@pytest.fixture
def item(film: Path, tmp_path: Path) -> Item:
    """A video and a mask that a test may replace."""
    video = tmp_path / "films" / "film.mp4"
    video.parent.mkdir()
    video.write_bytes(film.read_bytes())
    mask = np.zeros((64, 96), np.uint8)
    mask[20:30, 30:50] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return Item(video=str(video), mask=str(tmp_path / "mask.png"), boxes=None, output="day/film")


def test_plan_holds_what_the_segments_need(item: Item):
    plan = plan_video(item, SETTINGS)
    assert plan.output == "day/film.mp4"
    assert plan.segments == ((0, 10), (10, 20), (20, 24))
    assert plan.hole_frames == (10, 10, 4)
    assert plan.has_hole
    # 10 x 20 pixels, 6 more to each side, without the disk's corners.
    assert 0.9 * 22 * 32 < plan.hole_share * 64 * 96 < 22 * 32
    assert plan.notes == ()
    assert plan.container.suffix == ".mp4"
    assert plan.encoder.codec == "x264-lossless"
    assert plan.inputs == input_stats(item.video, item.mask, item.boxes)


@pytest.mark.parametrize("boxes", [None, "30,20,20,10@0-0.5;50%,50%,5%,5%"])
def test_plan_survives_json(item: Item, boxes: str | None):
    if boxes:
        item = replace(item, mask=None, boxes=boxes)
    plan = plan_video(item, SETTINGS)
    assert Plan.from_dict(json.loads(json.dumps(plan.as_dict()))) == plan


def test_plan_counts_the_frames_with_a_hole(item: Item):
    plan = plan_video(replace(item, mask=None, boxes="30,20,20,10@0.48-0.88"), SETTINGS)
    assert plan.hole_frames == (0, 8, 2)  # frames 12 to 21
    empty = plan_video(replace(item, mask=None, boxes="30,20,20,10@99-"), SETTINGS)
    assert empty.hole_frames == (0, 0, 0)
    assert not empty.has_hole


def test_empty_mask_is_an_error_where_a_hole_is_required(item: Item):
    empty = replace(item, mask=None, boxes="30,20,20,10@99-")
    with pytest.raises(MaskError, match=r"the mask of .*film\.mp4 is empty \(inpaint\.require_hole is set\)"):
        plan_video(empty, replace(SETTINGS, require_hole=True))


def test_mask_over_most_of_the_picture_is_asked_about(item: Item):
    with pytest.raises(MaskError, match=r"the mask covers 100% of .*film\.mp4: is it inverted\?"):
        plan_video(replace(item, mask=None, boxes="0,0,100%,100%"), SETTINGS)


def test_scaled_mask_is_noted(item: Item):
    Image.fromarray(np.eye(32, 48, dtype=np.uint8) * 255).save(item.mask)
    assert plan_video(item, SETTINGS).notes == ("mask scaled from 48x32 to 96x64",)


def test_what_the_encoder_cannot_hold_is_encoded_as_ffv1_and_noted(item: Item):
    make_video(Path(item.video), num_frames=4, codec="ffv1", pix_fmt="yuv420p", width=95, height=64)
    plan = plan_video(replace(item, mask=None, boxes="1,2,3,4"), SETTINGS)
    assert plan.encoder.codec == "ffv1"
    assert plan.notes == (f"encoded as ffv1: {SETTINGS.codec} cannot hold 95x64 yuv420p",)


def test_concealed_frames_make_a_degraded_outcome(work: tuple[ItemDir, Plan]):
    item_dir, plan = work
    record = item_dir.read_segment(1, plan.plan_hash)
    assert record is not None
    item_dir.write_segment(1, record | {"num_concealed": 3})
    outcome = publish_if_complete(item_dir, plan)
    assert outcome is not None
    assert outcome["status"] == "degraded"
    assert outcome["notes"][-1] == "3 damaged frames of the source show the picture before them"


def test_what_there_is_of_an_interrupted_copy_is_degraded(item: Item, tmp_path: Path):
    path = make_video(Path(item.video).with_suffix(".mkv"), num_frames=40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    cut = replace(item, video=str(path))
    with pytest.raises(VideoError, match=r"film\.mkv: ends early"):
        plan_video(cut, SETTINGS)
    plan = plan_video(cut, replace(SETTINGS, on_damage="conceal"))
    assert 10 < plan.index.num_frames < 40
    assert plan.notes == (f"the source ends early: at least {plan.index.missing_bytes} bytes are missing",)
    item_dir = ItemDir(tmp_path / "out", plan.output)
    for number in range(len(plan.segments)):
        do_segment(item_dir, plan, number)
    outcome = publish_if_complete(item_dir, plan)
    assert outcome is not None
    assert outcome["status"] == "degraded"


def test_boxes_on_anamorphic_video_are_noted(item: Item):
    make_video(Path(item.video), num_frames=4, sample_aspect=Fraction(64, 45))
    noted = "boxes are in pixels of 96x64, as it is stored; players show it stretched"
    assert plan_video(replace(item, mask=None, boxes="1,2,30%,40%"), SETTINGS).notes == (noted,)
    assert plan_video(replace(item, mask=None, boxes="1%,2%,30%,40%"), SETTINGS).notes == ()


def test_another_film_in_the_file_is_noted(item: Item, film: Path, tmp_path: Path):
    other = make_video(tmp_path / "other.mp4", num_frames=5)
    path = mux_together(Path(item.video).with_name("both.mp4"), film, other)
    assert plan_video(replace(item, video=str(path)), SETTINGS).notes == (
        "inpainted is stream 0; copied as they are, with what they show: video 2 (h264)",
    )


def test_missing_inputs_are_named(item: Item):
    with pytest.raises(VideoError, match=r"none\.mp4: no such file"):
        plan_video(replace(item, video=item.video.replace("film.mp4", "none.mp4")), SETTINGS)
    with pytest.raises(MaskError, match=r"none\.png: no such file"):
        plan_video(replace(item, mask=str(item.mask).replace("mask.png", "none.png")), SETTINGS)


def test_plan_hash_is_of_content_not_of_times_or_places(item: Item, tmp_path: Path):
    before = plan_video(item, SETTINGS)
    os.utime(item.video, (1, 1))
    os.utime(str(item.mask), (1, 1))
    touched = plan_video(item, SETTINGS)
    assert touched.plan_hash == before.plan_hash
    assert touched.inputs != before.inputs
    moved = Path(item.video).rename(tmp_path / "moved.mp4")
    assert plan_video(replace(item, video=str(moved)), SETTINGS).plan_hash == before.plan_hash


def test_plan_hash_changes_with_all_that_changes_the_result(item: Item):
    hashes = [plan_video(item, SETTINGS).plan_hash]
    settings = [
        {"checkpoint_sha256": "1" * 64},
        {"device": "cuda"},
        {"precision": "bf16"},
        {"schedule": Schedule(num_references=3)},
        {"segment_frames": 12},
        {"dilation_px": 7},
        {"feather_px": 5},
        {"codec": "libx264"},
        {"crf": 17},
        {"preset": "fast"},
        {"encoder_threads": 2},
    ]
    hashes += [plan_video(item, replace(SETTINGS, **change)).plan_hash for change in settings]
    hashes.append(plan_video(replace(item, output="night/film"), SETTINGS).plan_hash)
    hashes += [plan_video(replace(item, mask=None, boxes=b), SETTINGS).plan_hash for b in ("1,2,3,4", "1,2,3,5")]
    Image.fromarray(np.eye(64, 96, dtype=np.uint8) * 255).save(item.mask)
    hashes.append(plan_video(item, SETTINGS).plan_hash)
    make_video(Path(item.video), num_frames=24, seed=1)
    hashes.append(plan_video(item, SETTINGS).plan_hash)
    assert len(set(hashes)) == len(hashes)


def stats(item: Item) -> list[Any]:
    return input_stats(item.video, item.mask, item.boxes)


def test_input_stats_see_every_file_of_a_mask_folder(item: Item, tmp_path: Path):
    folder = tmp_path / "masks"
    folder.mkdir()
    (folder / "1.png").write_bytes(b"one")
    masked = replace(item, mask=str(folder))
    before = stats(masked)
    (folder / "1.png").write_bytes(b"another")
    assert stats(masked) != before
    assert stats(replace(item, mask=None, boxes="1,2,3,4")) != stats(replace(item, mask=None, boxes="1,2,3,5"))


# Outputs and their records


def do_segment(item_dir: ItemDir, plan: Plan, number: int) -> None:
    """What an encoding task leaves behind, its pictures unchanged."""
    start, stop = plan.segments[number]
    path = item_dir.segment_path(number)
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = decode_range(plan.index, start, stop)
    encoded = encode_segment(path, frames, plan.index.pts[start:stop], plan.index, plan.encoder)
    record = {
        "plan_hash": plan.plan_hash,
        "num_frames": encoded.num_frames,
        "num_concealed": 0,
        "min_psnr": encoded.min_psnr,
        "num_bytes": encoded.num_bytes,
        "sha256": encoded.sha256,
        "extradata_sha256": encoded.extradata_sha256,
        "seconds": 2.0,
    }
    item_dir.write_segment(number, record)


@pytest.fixture
def work(item: Item, tmp_path: Path) -> tuple[ItemDir, Plan]:
    """A planned video with all its segments encoded."""
    item_dir, plan = ItemDir(tmp_path / "out", item.output), plan_video(item, SETTINGS)
    item_dir.write_plan(plan)
    for number in range(len(plan.segments)):
        do_segment(item_dir, plan, number)
    return item_dir, plan


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_all_segments_become_the_output(work: tuple[ItemDir, Plan]):
    item_dir, plan = work
    outcome = publish_if_complete(item_dir, plan)
    assert outcome is not None
    output = item_dir.output_dir / "day" / "film.mp4"
    assert (outcome["status"], outcome["output"], outcome["frames"]) == ("done", "day/film.mp4", 24)
    assert outcome["seconds"] == 6.0
    assert outcome["sha256"] == file_sha256(output)
    assert frame_hashes(output) == frame_hashes(Path(plan.index.path))
    assert frame_times(output) == frame_times(Path(plan.index.path))
    assert audio_packet_hash(output) == audio_packet_hash(Path(plan.index.path))
    record = item_dir.path / "outcome.json"
    assert files(item_dir.output_dir) == [str(record.relative_to(item_dir.output_dir)), "day/film.mp4"]
    assert item_dir.read_outcome() == outcome


def test_a_missing_segment_publishes_nothing(work: tuple[ItemDir, Plan]):
    item_dir, plan = work
    item_dir.segment_path(1).unlink()
    assert publish_if_complete(item_dir, plan) is None
    assert not (item_dir.output_dir / "day").exists()
    assert item_dir.segment_path(0).exists()
    do_segment(item_dir, plan, 1)
    assert publish_if_complete(item_dir, plan) is not None


@pytest.mark.parametrize("change", [b"", b"x", None])
def test_a_changed_segment_file_is_to_be_redone(work: tuple[ItemDir, Plan], change: bytes | None):
    item_dir, plan = work
    path = item_dir.segment_path(2)
    data = path.read_bytes()
    path.write_bytes(data + change if change else data[:-1] if change is None else bytes(len(data)))
    assert item_dir.read_segment(2, plan.plan_hash) is None
    assert item_dir.read_segment(1, plan.plan_hash) is not None
    assert publish_if_complete(item_dir, plan) is None
    do_segment(item_dir, plan, 2)
    outcome = publish_if_complete(item_dir, plan)
    assert outcome is not None
    assert outcome["status"] == "done"


def test_segments_of_another_plan_do_not_count(work: tuple[ItemDir, Plan], item: Item):
    item_dir, plan = work
    other = plan_video(item, replace(SETTINGS, dilation_px=9))
    assert [item_dir.read_segment(n, plan.plan_hash) is None for n in range(3)] == [False] * 3
    assert [item_dir.read_segment(n, other.plan_hash) is None for n in range(3)] == [True] * 3
    assert publish_if_complete(item_dir, other) is None


def test_segments_with_other_parameter_sets_are_not_joined(work: tuple[ItemDir, Plan]):
    item_dir, plan = work
    record = item_dir.read_segment(1, plan.plan_hash)
    assert record is not None
    item_dir.write_segment(1, record | {"extradata_sha256": "other"})
    with pytest.raises(StorageError, match=r"film\.mp4: 1 of its 3 segments were encoded with other parameter sets"):
        publish_if_complete(item_dir, plan)
    assert not (item_dir.output_dir / "day").exists()
    assert [found is None for found in item_dir.read_segments(plan)] == [False, True, False]
    do_segment(item_dir, plan, 1)
    assert publish_if_complete(item_dir, plan) is not None


def test_a_short_output_is_not_published(work: tuple[ItemDir, Plan]):
    item_dir, plan = work
    item_dir.segment_path(1).write_bytes(item_dir.segment_path(2).read_bytes())  # 4 frames in the place of 10
    record = item_dir.read_segment(2, plan.plan_hash)
    assert record is not None
    item_dir.write_segment(1, record)
    with pytest.raises(VideoError, match=r"film\.mp4: the output holds 18 frames, the source 24"):
        publish_if_complete(item_dir, plan)
    assert files(item_dir.output_dir / "day") == []
    assert item_dir.read_outcome() is None


def test_published_twice_is_the_same_bytes(work: tuple[ItemDir, Plan]):
    item_dir, plan = work
    first = publish_if_complete(item_dir, plan)
    for number in range(len(plan.segments)):
        do_segment(item_dir, plan, number)
    second = publish_if_complete(item_dir, plan)
    assert {**first, "stamp": None} == {**second, "stamp": None}  # the time of change


def test_a_video_without_a_hole_is_copied(item: Item, tmp_path: Path):
    plan = plan_video(replace(item, mask=None, boxes="1,2,3,4@99-"), SETTINGS)
    item_dir = ItemDir(tmp_path / "out", item.output)
    outcome = publish_copy(item_dir, plan)
    assert (outcome["status"], outcome["output"]) == ("copied", "day/film.mp4")
    assert (tmp_path / "out" / "day" / "film.mp4").read_bytes() == Path(item.video).read_bytes()


def test_a_copy_that_is_not_what_was_read_is_not_published(item: Item, tmp_path: Path):
    plan = plan_video(replace(item, mask=None, boxes="1,2,3,4@99-"), SETTINGS)
    item_dir = ItemDir(tmp_path / "out", item.output)
    with pytest.raises(VideoError, match=r"film\.mp4: its copy is not what was read before; run again"):
        publish_copy(item_dir, replace(plan, index=replace(plan.index, sha256="0" * 64)))
    assert files(tmp_path / "out") == []


def test_a_copy_keeps_its_own_container(item: Item, tmp_path: Path):
    video = make_video(tmp_path / "films" / "film.1.webm", num_frames=4, codec="libvpx-vp9")
    plan = plan_video(replace(item, video=str(video), mask=None, boxes="1,2,3,4@99-", output="film.1"), SETTINGS)
    assert plan.output == "film.1.mkv"
    outcome = publish_copy(ItemDir(tmp_path / "out", "film.1"), plan)
    assert outcome["output"] == "film.1.webm"
    assert (tmp_path / "out" / "film.1.webm").read_bytes() == video.read_bytes()


def test_a_copy_without_a_suffix_is_recorded_by_its_name(item: Item, tmp_path: Path):
    video = tmp_path / "films" / "film"
    video.write_bytes(Path(item.video).read_bytes())
    plan = plan_video(replace(item, video=str(video), mask=None, boxes="1,2,3,4@99-", output="S01.E01"), SETTINGS)
    outcome = publish_copy(ItemDir(tmp_path / "out", "S01.E01"), plan)
    assert (tmp_path / "out" / outcome["output"]).read_bytes() == video.read_bytes()
    assert outcome_if_current(ItemDir(tmp_path / "out", "S01.E01"), plan.inputs, plan.settings_hash) == outcome


def test_a_finished_video_is_known_by_inputs_settings_and_output(work: tuple[ItemDir, Plan]):
    item_dir, plan = work
    outcome = publish_if_complete(item_dir, plan)
    assert outcome_if_current(item_dir, plan.inputs, plan.settings_hash) == outcome
    assert outcome_if_current(item_dir, [*plan.inputs, "more"], plan.settings_hash) is None
    assert outcome_if_current(item_dir, plan.inputs, "other") is None
    output = item_dir.output_dir / plan.output
    output.write_bytes(bytes(output.stat().st_size))
    assert outcome_if_current(item_dir, plan.inputs, plan.settings_hash) is None
    output.unlink()
    assert outcome_if_current(item_dir, plan.inputs, plan.settings_hash) is None


def test_a_failed_video_is_not_finished(work: tuple[ItemDir, Plan]):
    item_dir, plan = work
    known = {"reason": "no", "inputs": plan.inputs, "settings_hash": plan.settings_hash}
    item_dir.write_outcome({"status": "failed", **known})
    assert outcome_if_current(item_dir, plan.inputs, plan.settings_hash) is None
    assert outcome_for_touched_inputs(item_dir, plan) is None
    # What killed its process is not tried again, until something changes.
    item_dir.write_outcome({"status": "quarantined", **known})
    assert outcome_if_current(item_dir, plan.inputs, plan.settings_hash) is not None
    assert outcome_if_current(item_dir, plan.inputs, "other") is None


def test_touched_inputs_cost_no_work(work: tuple[ItemDir, Plan], item: Item):
    item_dir, plan = work
    outcome = publish_if_complete(item_dir, plan)
    assert outcome is not None
    os.utime(item.video, (1, 1))
    again = plan_video(item, SETTINGS)
    assert outcome_if_current(item_dir, again.inputs, again.settings_hash) is None
    assert outcome_for_touched_inputs(item_dir, again) == outcome | {"inputs": again.inputs}
    assert outcome_if_current(item_dir, again.inputs, again.settings_hash) is not None
    make_video(Path(item.video), num_frames=24, seed=1)
    assert outcome_for_touched_inputs(item_dir, plan_video(item, SETTINGS)) is None


def test_plan_record_comes_back(work: tuple[ItemDir, Plan], tmp_path: Path):
    item_dir, plan = work
    assert ItemDir(tmp_path / "out", "day/film").read_plan() == plan
    assert ItemDir(tmp_path / "out", "night/film").read_plan() is None
    item_dir.clear_work()
    assert item_dir.read_plan() is None


# Whose folder it is


def test_the_same_settings_share_an_output(tmp_path: Path):
    claim_output(tmp_path / "out", SETTINGS, only_checks=True)
    assert not (tmp_path / "out").exists()
    claim_output(tmp_path / "out", SETTINGS)
    record = (tmp_path / "out" / "_sttn" / "run.json").read_bytes()
    claim_output(tmp_path / "out", replace(SETTINGS))
    assert (tmp_path / "out" / "_sttn" / "run.json").read_bytes() == record


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"crf": 20}, ["crf was 16, now 20"]),
        ({"precision": "bf16", "dilation_px": 9}, ["precision was 'fp32', now 'bf16'", "dilation_px was 6, now 9"]),
        ({"schedule": Schedule(num_references=None)}, ["schedule was", "'num_references': None"]),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path: Path, change: dict[str, Any], words: list[str]):
    claim_output(tmp_path / "out", SETTINGS)
    with pytest.raises(ConfigError) as raised:
        claim_output(tmp_path / "out", replace(SETTINGS, **change))
    with pytest.raises(ConfigError, match="was made with other settings"):
        claim_output(tmp_path / "out", replace(SETTINGS, **change), only_checks=True)
    message = str(raised.value)
    for word in [str(tmp_path / "out"), *words, "choose another inpaint.output"]:
        assert word in message
    assert "preset was" not in message


def test_another_library_version_is_another_setting(tmp_path: Path):
    claim_output(tmp_path / "out", SETTINGS)
    path = tmp_path / "out" / "_sttn" / "run.json"
    record = json.loads(path.read_text())
    record["versions"]["av"] = "1.2.3"
    path.write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=r"versions was .*1\.2\.3"):
        claim_output(tmp_path / "out", SETTINGS)
