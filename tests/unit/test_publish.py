"""Segments that become an output, and the records that a finished video is known by."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sttn_ray.catalog.items import Item
from sttn_ray.catalog.plan import Plan, plan_video
from sttn_ray.catalog.publish import (
    outcome_for_touched_inputs,
    outcome_if_current,
    publish_copy,
    publish_if_complete,
)
from sttn_ray.catalog.records import ItemDir, claim_output
from sttn_ray.completion.schedule import Schedule
from sttn_ray.errors import ConfigError, StorageError, VideoError
from sttn_ray.storage import file_sha256
from tests.media import audio_packet_hash, frame_hashes, frame_times, make_black_mask, make_video
from tests.plans import SETTINGS, do_segment


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
    plan = plan_video(replace(item, mask=str(make_black_mask(tmp_path / "black.png")), boxes=None), SETTINGS)
    item_dir = ItemDir(tmp_path / "out", item.output)
    outcome = publish_copy(item_dir, plan)
    assert (outcome["status"], outcome["output"]) == ("copied", "day/film.mp4")
    assert (tmp_path / "out" / "day" / "film.mp4").read_bytes() == Path(item.video).read_bytes()


def test_a_copy_that_is_not_what_was_read_is_not_published(item: Item, tmp_path: Path):
    plan = plan_video(replace(item, mask=str(make_black_mask(tmp_path / "black.png")), boxes=None), SETTINGS)
    item_dir = ItemDir(tmp_path / "out", item.output)
    with pytest.raises(VideoError, match=r"film\.mp4: its copy is not what was read before; run again"):
        publish_copy(item_dir, replace(plan, index=replace(plan.index, sha256="0" * 64)))
    assert files(tmp_path / "out") == []


def test_a_copy_keeps_its_own_container(item: Item, tmp_path: Path):
    video = make_video(tmp_path / "films" / "film.1.webm", num_frames=4, codec="libvpx-vp9")
    plan = plan_video(
        replace(item, video=str(video), mask=str(make_black_mask(tmp_path / "black.png")), boxes=None, output="film.1"),
        SETTINGS,
    )
    assert plan.output == "film.1.mkv"
    outcome = publish_copy(ItemDir(tmp_path / "out", "film.1"), plan)
    assert outcome["output"] == "film.1.webm"
    assert (tmp_path / "out" / "film.1.webm").read_bytes() == video.read_bytes()


def test_a_copy_without_a_suffix_is_recorded_by_its_name(item: Item, tmp_path: Path):
    video = tmp_path / "films" / "film"
    video.write_bytes(Path(item.video).read_bytes())
    plan = plan_video(
        replace(
            item, video=str(video), mask=str(make_black_mask(tmp_path / "black.png")), boxes=None, output="S01.E01"
        ),
        SETTINGS,
    )
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
