"""Plans of videos: their segments, notes, and what makes two of them the same."""

import json
import os
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sttn_ray.catalog.items import Item
from sttn_ray.catalog.plan import Plan, change_of_inputs, input_stats, plan_video
from sttn_ray.catalog.publish import (
    publish_if_complete,
)
from sttn_ray.catalog.records import ItemDir
from sttn_ray.completion.schedule import Schedule
from sttn_ray.errors import MaskError, VideoError
from tests.media import make_black_mask, make_video, mux_together
from tests.plans import SETTINGS, do_segment


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


def test_plan_counts_the_frames_with_a_hole(item: Item, tmp_path: Path):
    plan = plan_video(replace(item, mask=None, boxes="30,20,20,10@0.48-0.88"), SETTINGS)
    assert plan.hole_frames == (0, 8, 2)  # frames 12 to 21
    empty = plan_video(replace(item, mask=str(make_black_mask(tmp_path / "black.png")), boxes=None), SETTINGS)
    assert empty.hole_frames == (0, 0, 0)
    assert not empty.has_hole


def test_empty_mask_is_an_error_where_a_hole_is_required(item: Item, tmp_path: Path):
    empty = replace(item, mask=str(make_black_mask(tmp_path / "black.png")), boxes=None)
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


def test_what_else_comes_to_lie_in_a_mask_folder_is_no_change(item: Item, tmp_path: Path):
    """Work files of a run, too, where its output is that folder."""
    folder = tmp_path / "masks"
    folder.mkdir()
    film = Path(item.video).rename(folder / "film.mp4")
    for number in range(24):
        shutil.copy(item.mask or "", folder / f"{number}.png")
    masked = replace(item, video=str(film), mask=str(folder))
    plan = plan_video(masked, SETTINGS)
    assert change_of_inputs(plan) is None
    (folder / "Thumbs.db").write_bytes(b"small pictures")
    (folder / "day").mkdir()
    assert change_of_inputs(plan) is None
    assert plan.inputs == stats(masked)
    os.utime(folder / "3.png", (1, 1))
    assert change_of_inputs(plan) == f"{folder}: was replaced while it was worked on; the same command does it anew"
    assert plan.inputs != stats(masked)
    (folder / "3.png").unlink()
    assert change_of_inputs(plan) is not None
