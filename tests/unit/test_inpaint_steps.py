"""What a run decides of a video from its records: what is left to do, and what stands in the manifest."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines import inpaint_steps
from pipelines.inpaint_outcomes import missing_outcomes
from pipelines.inpaint_steps import Job, current_plan
from sttn_ray.catalog.items import Item
from sttn_ray.catalog.manifest import manifest_row, write_manifest
from sttn_ray.catalog.plan import input_stats
from sttn_ray.catalog.publish import publish_if_complete
from sttn_ray.catalog.records import ItemDir
from sttn_ray.errors import MaskError, failed_outcome
from tests.media import make_video
from tests.plans import SETTINGS, do_segment


class Silent:
    """In place of the actor that counts."""

    def __getattr__(self, name: str) -> Any:
        return self

    def remote(self, *words: object) -> None:
        pass


@pytest.fixture
def item(tmp_path: Path) -> Item:
    make_video(tmp_path / "film.mp4", num_frames=24)
    return Item(video=str(tmp_path / "film.mp4"), mask=None, boxes="16,12,30,20", output="film")


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(SETTINGS, str(tmp_path / "out"), Silent(), None)


def finish(item: Item, job: Job) -> dict[str, Any]:
    """Do a video as the tasks do it; returns its outcome."""
    item_dir = ItemDir(job.output_dir, item.output)
    todo, outcome = inpaint_steps._plan_item(item, item_dir, input_stats(item.video, None, item.boxes), SETTINGS)
    plan = item_dir.read_plan()
    for number in todo.frames:
        assert plan is not None
        assert outcome is None
        do_segment(item_dir, plan, number)
        outcome = publish_if_complete(item_dir, plan)
    assert outcome is not None
    return outcome


def left(item: Item, job: Job) -> dict[int, int]:
    todo, _ = inpaint_steps._plan(item, 0, job)
    return todo.frames


@pytest.mark.parametrize("change", ["delete", "damage"])
def test_an_output_that_is_lost_or_damaged_is_made_again(item: Item, job: Job, tmp_path: Path, change: str) -> None:
    first = finish(item, job)
    output = tmp_path / "out/film.mp4"
    whole = output.read_bytes()
    output.unlink() if change == "delete" else output.write_bytes(whole[:-9] + b"different")
    item_dir = ItemDir(job.output_dir, item.output)
    assert list(left(item, job)) == [0, 1, 2]
    plan = item_dir.read_plan()
    assert plan is not None
    do_segment(item_dir, plan, 0)
    # The outcome of then says nothing any more: the other segments are still to be done.
    assert publish_if_complete(item_dir, plan) is None
    assert current_plan({"plan_hash": plan.plan_hash}, item_dir) == plan
    assert finish(item, job)["sha256"] == first["sha256"]
    assert output.read_bytes() == whole


def test_a_source_that_is_away_costs_no_work_when_it_is_back(item: Item, job: Job, tmp_path: Path) -> None:
    finish(item, job)
    film, away = tmp_path / "film.mp4", tmp_path / "away.mp4"
    film.rename(away)
    _, outcome = inpaint_steps._plan(item, 0, job)
    assert outcome is not None
    assert (outcome["status"], "no such file" in outcome["reason"]) == ("failed", True)
    away.rename(film)
    todo, outcome = inpaint_steps._plan(item, 0, job)
    assert outcome is not None
    assert (todo.frames, outcome["status"]) == ({}, "done")


def test_another_drivers_result_is_taken(item: Item, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """It published after this one had looked."""
    first = finish(item, job)
    monkeypatch.setattr(inpaint_steps, "outcome_if_current", lambda *_: None)
    monkeypatch.setattr(inpaint_steps, "outcome_for_touched_inputs", lambda *_: None)
    item_dir = ItemDir(job.output_dir, item.output)
    todo, outcome = inpaint_steps._plan_item(item, item_dir, input_stats(item.video, None, item.boxes), SETTINGS)
    assert (todo.frames, outcome) == ({}, first)


def test_what_was_done_before_is_done_also_where_a_run_is_cut_short(item: Item, job: Job, tmp_path: Path) -> None:
    first = finish(item, job)
    _, outcome = inpaint_steps._plan(item, 0, job._replace(deadline_s=1.0))
    assert outcome == first
    other = Item(video=str(tmp_path / "other.mp4"), mask=None, boxes="1,1,9,9", output="other")
    make_video(tmp_path / "other.mp4", num_frames=8)
    stopped = missing_outcomes([item, other], [], job, is_stopped=True)
    assert [stopped[0]["status"], stopped[0]["sha256"]] == ["done", first["sha256"]]
    assert stopped[1]["status"] == "pending"
    assert missing_outcomes([item, other], [0, 1], job, is_stopped=True) == {}
    ended = missing_outcomes([item, other], [], job, is_stopped=False)
    assert [ended[n]["status"] for n in (0, 1)] == ["done", "failed"]


def test_a_manifest_takes_names_that_are_no_utf8(item: Item, tmp_path: Path) -> None:
    outcome = failed_outcome("plan", MaskError("masqu\udce9.png: cannot be read")) | {"notes": ["a\udce9"]}
    write_manifest(tmp_path, [manifest_row(item, outcome)])
    (row,) = pq.read_table(tmp_path / "manifest.parquet").to_pylist()
    assert row["reason"] == "masqu\\udce9.png: cannot be read"
    assert row["notes"] == ["a\\udce9"]


def test_bytes_of_what_another_task_has_published_are_not_counted(
    item: Item, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[tuple[str, int]] = []
    monkeypatch.setattr(inpaint_steps, "count_bytes", lambda *told: counted.append(told))
    item_dir = ItemDir(job.output_dir, item.output)
    inpaint_steps._plan_item(item, item_dir, input_stats(item.video, None, item.boxes), SETTINGS)
    plan = item_dir.read_plan()
    assert plan is not None
    for number in range(len(plan.segments)):
        assert inpaint_steps._publish(item_dir, plan) is None
        do_segment(item_dir, plan, number)
    first = inpaint_steps._publish(item_dir, plan)
    assert first is not None
    assert counted == [("read", first["source_bytes"]), ("written", first["num_bytes"])]
    do_segment(item_dir, plan, 1)  # by a task that began before
    assert inpaint_steps._publish(item_dir, plan) == first
    assert len(counted) == 2
    assert not item_dir.segment_path(1).exists()
