"""What a run decides of a video from its records: what is left to do, and what stands in the manifest."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from pipelines import inpaint_completer, inpaint_steps
from pipelines.inpaint_completer import Completer
from pipelines.inpaint_outcomes import missing_outcomes
from pipelines.inpaint_steps import Job, current_plan
from sttn_ray.attempts import Place
from sttn_ray.catalog import complete as completing
from sttn_ray.catalog.faults import NO_ITEM, Fault, Health
from sttn_ray.catalog.items import Item
from sttn_ray.catalog.manifest import manifest_row, unpack_outcomes, write_manifest
from sttn_ray.catalog.plan import Plan, Settings, input_stats, plan_video
from sttn_ray.catalog.publish import publish_if_complete, refuse_target
from sttn_ray.catalog.records import ItemDir
from sttn_ray.errors import CatalogError, DeviceError, MaskError, StorageError, failed_outcome
from sttn_ray.paths import as_path
from tests.media import make_black_mask, make_video
from tests.plans import SETTINGS, do_segment
from tests.sick import ILLEGAL_ACCESS, NO_DRIVER


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
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    for module in (inpaint_steps, inpaint_completer):  # without Ray
        monkeypatch.setattr(module, "this_place", lambda _: Place("job", "node", set))
    return Job(SETTINGS, str(tmp_path / "out"), Silent(), None)


def finish(item: Item, job: Job) -> dict[str, Any]:
    """Do a video as the tasks do it; returns its outcome."""
    item_dir = ItemDir(job.output_dir, item.output)
    todo, outcome = inpaint_steps._plan_item(item, item_dir, input_stats(item.video, item.mask, item.boxes), SETTINGS)
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
    where = (job.output_dir, job.settings.hash())
    stopped = missing_outcomes([item, other], [], *where, is_stopped=True)
    assert [stopped[0]["status"], stopped[0]["sha256"]] == ["done", first["sha256"]]
    assert stopped[1]["status"] == "pending"
    assert missing_outcomes([item, other], [0, 1], *where, is_stopped=True) == {}
    ended = missing_outcomes([item, other], [], *where, is_stopped=False)
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


def test_a_chain_that_was_given_up_leaves_its_segment(item: Item, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    item_dir = ItemDir(job.output_dir, item.output)
    assert list(left(item, job)) == [0, 1, 2]
    plan = item_dir.read_plan()
    assert plan is not None

    def complete(plan: Plan, segment: int, engine: object, settings: object, report: Any) -> list[bytes]:
        for number in range(3):
            report(5)
            told.append(number)
        return [b""] * 10

    told: list[int] = []
    monkeypatch.setattr(completing, "complete_segment", complete)
    progress = Answering(monkeypatch, health=Health([], set()), complete=True)
    completer = make_completer(job._replace(progress=progress), monkeypatch)
    row = {"outcomes": "", "output_name": item.output, "segment": 1, "plan_hash": plan.plan_hash, "item": 0}
    assert completer(dict(row))["samples"] == [b""] * 10
    assert told == [0, 1, 2]
    progress.answers["complete"] = False
    assert completer(dict(row)) == row | {"plan_hash": ""}
    assert told == [0, 1, 2]
    assert item_dir.read_outcome() is None
    assert list(item_dir.path.glob("attempts-*")) == []


class Ended(BaseException):
    """In place of the end of this process."""


def test_a_process_whose_gpu_fails_ends_and_says_nothing_against_the_video(
    item: Item, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    item_dir = ItemDir(job.output_dir, item.output)
    assert list(left(item, job)) == [0, 1, 2]
    plan = item_dir.read_plan()
    assert plan is not None
    error: Exception = torch.AcceleratorError(ILLEGAL_ACCESS)

    def complete(*_: object) -> None:
        raise error

    def exit_process(status: int) -> None:
        raise Ended(status)

    monkeypatch.setattr(completing, "complete_segment", complete)
    monkeypatch.setattr(inpaint_completer.os, "_exit", exit_process)
    progress = Answering(monkeypatch, health=Health([], set()), fail=None, goes_on=False)
    completer = make_completer(job._replace(progress=progress, chain=4), monkeypatch)
    row = {"outcomes": "", "output_name": item.output, "segment": 1, "plan_hash": plan.plan_hash, "item": 7}
    with pytest.raises(Ended, match="1"):
        completer(dict(row))
    ((_, actor, fault),) = progress.asked("fail")
    assert actor == "actor"
    reason = "CUDA error: an illegal memory access was encountered"
    assert fault == Fault("node", "192.0.2.7", "0, 1", 7, "segment 1 of film", reason, 4)
    assert list(item_dir.path.glob("attempts-*")) == []
    assert item_dir.read_outcome() is None

    # What Ray then gives its successor is left, and so is all once the node is sick.
    for faults in ([fault], [fault._replace(item=n) for n in range(3)]):
        progress.answers["health"] = Health(faults, set())
        assert completer(dict(row)) == row | {"plan_hash": ""}
    assert len(progress.asked("fail")) == 1
    assert len(progress.asked("goes_on")) == 1  # the sick node waits for the end of its chain

    # Memory that is short is no fault of the GPU, nor is a segment that fails everywhere.
    progress.answers["health"] = Health([fault._replace(node="another"), fault._replace(chain=3)], set())
    assert "not a GPU" in completer(dict(row))["outcomes"]
    progress.answers["health"] = Health([], set())
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
    item_dir.clear_outcome()
    assert "CUDA out of memory" in completer(dict(row))["outcomes"]
    assert len(progress.asked("fail")) == 1
    # Where not even one frame fits it is the device that is too small.
    item_dir.clear_outcome()
    error = DeviceError("the memory of cuda is too short")
    with pytest.raises(Ended):
        completer(dict(row))
    assert len(progress.asked("fail")) == 2


@pytest.mark.parametrize("text", [NO_DRIVER, "CUDA error: out of memory"])
def test_a_process_that_finds_no_gpu_ends_and_an_error_of_ours_is_raised(
    job: Job, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    error: Exception = RuntimeError(text)

    starts = []

    def start_engine(*_: object, **__: object) -> None:
        starts.append(error)
        raise error

    def exit_process(status: int) -> None:
        raise Ended(status)

    monkeypatch.setattr(completing, "start_engine", start_engine)
    monkeypatch.setattr(inpaint_completer, "load_network", lambda pickled: pickled)
    monkeypatch.setattr(inpaint_completer, "START_WAIT_S", 0)
    monkeypatch.setattr(inpaint_completer.os, "_exit", exit_process)
    progress = Answering(monkeypatch, health=Health([], set()), fail=None, begin_start=None, network=None)
    job = make_completer(job._replace(progress=progress), monkeypatch)._job
    with pytest.raises(Ended):
        Completer("network", job, 1)  # type: ignore[arg-type]
    ((_, actor, fault),) = progress.asked("fail")
    assert actor == "actor"
    assert (fault.item, fault.name, fault.reason) == (NO_ITEM, "its start", text)
    # Memory that a job just ended with may be free in a moment.
    assert len(starts) == (inpaint_completer.START_TRIES if "memory" in text else 1)
    progress.answers["health"] = Health([fault] * 3, set())
    Completer("network", job, 1)  # type: ignore[arg-type]  # it touches no GPU
    progress.answers["health"] = Health([], set())
    error = TypeError("a fault of ours")
    with pytest.raises(TypeError):
        Completer("network", job, 1)  # type: ignore[arg-type]


class Answering:
    """In place of the actor that counts: it answers as it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **answers: object) -> None:
        self.answers = answers
        self._asked: list[tuple[Any, ...]] = []
        monkeypatch.setattr(inpaint_completer.ray, "get", lambda name: self.answers[name])

    def asked(self, name: str) -> list[tuple[Any, ...]]:
        return [words for words in self._asked if words[0] == name]

    def __getattr__(self, name: str) -> Any:
        def remote(*words: object) -> str:
            self._asked.append((name, *words))
            return name

        return SimpleNamespace(remote=remote)


def runtime_context() -> SimpleNamespace:
    return SimpleNamespace(
        get_node_id=lambda: "node",
        get_actor_id=lambda: "actor",
        get_accelerator_ids=lambda: {"GPU": ["0", "1"]},
    )


def make_completer(job: Job, monkeypatch: pytest.MonkeyPatch) -> Completer:
    monkeypatch.setattr(inpaint_completer.ray, "get_runtime_context", runtime_context)
    monkeypatch.setattr(inpaint_completer.ray.util, "get_node_ip_address", lambda: "192.0.2.7")
    completer = Completer.__new__(Completer)
    completer._job, completer._node, completer._actor = job, "node", "actor"
    completer._engine, completer._goes_on = object(), None
    return completer


def test_a_video_that_another_task_finishes_while_it_is_planned_did_not_fail(
    item: Item, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = finish(item, job)
    item_dir = ItemDir(job.output_dir, item.output)
    seen = iter([None])  # the record is not there at first

    def outcome_if_current(*asked: Any) -> dict[str, Any] | None:
        return next(seen, first)

    def plan_video(*_: object) -> None:
        raise StorageError("a work file was deleted")

    monkeypatch.setattr(inpaint_steps, "outcome_if_current", outcome_if_current)
    monkeypatch.setattr(inpaint_steps, "plan_video", plan_video)
    todo, outcome = inpaint_steps._plan(item, 0, job)
    assert (todo.frames, outcome) == ({}, first)
    assert item_dir.read_outcome() == first


def test_a_video_whose_record_is_cleared_has_its_plan(item: Item, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another task may publish it, and delete the plan, between two looks at a record of its failure."""
    item_dir = ItemDir(job.output_dir, item.output)
    assert list(left(item, job)) == [0, 1, 2]
    item_dir.write_outcome(failed_outcome("plan", MaskError("no")) | {"inputs": [], "settings_hash": ""})
    done_outcome = inpaint_steps.done_outcome

    def published_after(item_dir: ItemDir, plan: Plan) -> dict[str, Any] | None:
        found = done_outcome(item_dir, plan)
        item_dir.clear_work()
        return found

    monkeypatch.setattr(inpaint_steps, "done_outcome", published_after)
    assert list(left(item, job)) == [0, 1, 2]
    assert item_dir.read_plan() is not None


def encoded(item: Item, job: Job, number: int) -> dict[str, Any]:
    """What comes out of the operator that encodes a segment of a video without a prediction."""
    plan = ItemDir(job.output_dir, item.output).read_plan()
    assert plan is not None
    start, stop = plan.segments[number]
    row = {"item": 0, "output_name": item.output, "segment": number, "plan_hash": plan.plan_hash, "outcomes": ""}
    row |= {"samples": [b""] * (stop - start), "completion": {"seconds": 0.0}, "frames": stop - start}
    return unpack_outcomes(inpaint_steps.make_encode_fn(job)(row)["outcomes"]).get(0, {})


@pytest.mark.parametrize("what", ["replaced", "shorter", "cut", "deleted"])
def test_a_source_that_changes_while_it_is_worked_on_is_not_called_damaged(
    item: Item, job: Job, tmp_path: Path, what: str
) -> None:
    todo, _ = inpaint_steps._plan(item, 0, job)
    film = tmp_path / "film.mp4"
    size = film.stat().st_size
    if what == "replaced":
        make_video(tmp_path / "new.mp4", num_frames=24, width=128, seed=3).rename(film)
    elif what == "shorter":
        make_video(tmp_path / "new.mp4", num_frames=6).rename(film)
    elif what == "cut":
        film.write_bytes(film.read_bytes()[: size // 2])
    else:
        film.unlink()
    outcomes = [encoded(item, job, number) for number in todo.frames]
    (outcome,) = filter(None, outcomes)
    assert (outcome["status"], outcome["error"], outcome["is_unexpected"]) == ("failed", "VideoError", False)
    if what == "deleted":
        wanted = f"{film}: was deleted while it was worked on; put it back and give the same command again"
    else:
        wanted = f"{film}: was replaced while it was worked on ({size} bytes then, {film.stat().st_size} now); "
        wanted += "the same command does it anew"
    assert outcome["reason"] == wanted


def test_the_same_command_does_a_replaced_source(item: Item, job: Job, tmp_path: Path) -> None:
    inpaint_steps._plan(item, 0, job)
    make_video(tmp_path / "new.mp4", num_frames=12, seed=3).rename(tmp_path / "film.mp4")
    assert encoded(item, job, 2)["status"] == "failed"
    assert finish(item, job)["frames"] == 12


def test_a_source_that_is_replaced_while_it_is_planned(
    item: Item, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan(item: Item, settings: Settings) -> Plan:
        (tmp_path / "film.mp4").write_bytes(b"half of")  # while it is read
        return plan_video(item, settings)

    monkeypatch.setattr(inpaint_steps, "plan_video", plan)
    _, outcome = inpaint_steps._plan(item, 0, job)
    assert outcome is not None
    assert f"{item.video}: was replaced while it was worked on" in outcome["reason"]


@pytest.mark.parametrize("what", ["all", "a segment", "a segment's file"])
def test_an_output_folder_that_is_emptied_while_the_job_works_is_told(
    item: Item, job: Job, tmp_path: Path, what: str
) -> None:
    todo, _ = inpaint_steps._plan(item, 0, job)
    first, *others = todo.frames
    encoded(item, job, first)
    folder = ItemDir(job.output_dir, item.output).path
    if what == "all":
        shutil.rmtree(tmp_path / "out")
    else:
        name = "segment-00000.json" if what == "a segment" else "segment-00000.mp4"
        (folder / name).unlink()
        for number in others:
            encoded(item, job, number)
    (outcome,) = missing_outcomes([item], [], job.output_dir, job.settings.hash(), is_stopped=False).values()
    assert (outcome["status"], outcome["error"], outcome["is_unexpected"]) == ("failed", "StorageError", False)
    again = "deleted {}while the job worked there; the same command does it again"
    if what == "all":
        assert outcome["reason"] == f"{folder}: was {again.format('')}"
    else:
        told = f"1 of 3 segments, as {folder}/segment-00000.mp4: were {again.format('or changed ')}"
        assert outcome["reason"] == told
    assert finish(item, job)["frames"] == 24


def planned(item: Item, job: Job, output: str) -> str:
    """Why a video was refused at plan."""
    todo, outcome = inpaint_steps._plan(replace(item, output=output), 0, job)
    assert (todo.frames, outcome is not None) == ({}, True)
    assert outcome is not None
    assert (outcome["status"], outcome["step"], outcome["is_unexpected"]) == ("failed", "plan", False)
    reason: str = outcome["reason"]
    return reason


def test_an_output_that_could_not_be_written_is_refused_at_plan(item: Item, job: Job, tmp_path: Path) -> None:
    most = os.pathconf(tmp_path, "PC_NAME_MAX")
    assert left(replace(item, output="a" * (most - 4)), job)  # with .mp4
    assert left(replace(item, output=f"{'b' * most}/c"), job)
    for output in ("a" * (most - 3), "\u00e9" * (most // 2), f"{'d' * (most + 1)}/a"):
        reason = planned(item, job, output)
        assert reason.startswith(f"{item.video}: the name of its output, ")
        assert reason.endswith(f"takes {most}; give another name in the catalog's column 'output'")
    assert "bytes, the system takes " in planned(item, job, "/".join(["e" * 200] * 25))
    (tmp_path / "out/film.d").touch()
    assert f"would lie in {tmp_path / 'out/film.d'}, which is a file" in planned(item, job, "film.d/a")
    (tmp_path / "out/there.mp4").mkdir()
    assert f"its output {tmp_path / 'out/there.mp4'} is a folder already" in planned(item, job, "there")


def test_a_file_of_someone_else_in_the_place_of_an_output_is_refused_at_plan(
    item: Item, job: Job, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    theirs = tmp_path / "out/film.mp4"
    theirs.write_bytes(b"another film")
    assert planned(item, job, "film") == (
        f"{item.video}: where its output would lie there is a file that was not made for it: {theirs}; move or delete "
        "that file, or give another name in the catalog's column 'output', or another inpaint.output"
    )
    assert theirs.read_bytes() == b"another film"
    # A video without a hole is copied in its own container, which is named otherwise.
    mask = make_black_mask(tmp_path / "black.png")
    copied = replace(item, mask=str(mask), boxes=None)
    assert str(theirs) in planned(copied, job, "film")
    theirs.rename(tmp_path / "moved.mp4")
    assert finish(item, job)["status"] == "done"


def test_a_file_of_someone_else_that_comes_while_a_video_is_done_stays(item: Item, job: Job, tmp_path: Path) -> None:
    item_dir = ItemDir(job.output_dir, item.output)
    assert list(left(item, job)) == [0, 1, 2]
    plan = item_dir.read_plan()
    assert plan is not None
    for number in range(3):
        do_segment(item_dir, plan, number)
    theirs = tmp_path / "out/film.mp4"
    theirs.write_bytes(b"another film")
    with pytest.raises(CatalogError, match="a file that was not made for it"):
        publish_if_complete(item_dir, plan)
    assert theirs.read_bytes() == b"another film"
    assert "a file that was not made for it" in planned(item, job, "film")
    theirs.unlink()
    assert finish(item, job)["status"] == "done"  # of the segments that are there


def test_a_run_that_was_killed_at_any_moment_of_publishing_knows_its_own_output(
    item: Item, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    item_dir = ItemDir(job.output_dir, item.output)
    with monkeypatch.context() as patched:
        patched.setattr(ItemDir, "write_outcome", killed)
        with pytest.raises(KeyboardInterrupt):
            finish(item, job)
    assert (item_dir.read_outcome(), (item_dir.output_dir / "film.mp4").exists()) == (None, True)
    os.utime(item.video, (1, 1))  # it is planned anew
    assert finish(item, job)["status"] == "done"
    make_video(Path(item.video), num_frames=24, seed=1)
    assert list(left(item, job)) == [0, 1, 2]  # its outcome is forgotten, and the output of the old source stands
    assert item_dir.read_outcome() is None
    make_video(Path(item.video), num_frames=24, seed=2)
    assert finish(item, job)["status"] == "done"


def killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_an_output_that_its_video_had_before_may_be_its_output_again(item: Item, job: Job, tmp_path: Path) -> None:
    """With a hole it lies in another container than the copy of one without."""
    video = make_video(tmp_path / "film.webm", num_frames=24, codec="libvpx-vp9")
    mask = make_black_mask(tmp_path / "black.png")
    filmed = replace(item, video=str(video))
    copied = replace(filmed, mask=str(mask), boxes=None)
    assert finish(filmed, job)["output"] == "film.mkv"
    assert finish(copied, job)["output"] == "film.webm"
    assert finish(filmed, job)["output"] == "film.mkv"


def test_a_key_of_a_store_has_another_limit() -> None:
    target = as_path("s3://bucket/" + "k" * 1020 + ".mp4")
    refuse_target(target, "film.mp4")
    with pytest.raises(CatalogError, match="has 1025 bytes, a store takes 1024; give another name"):
        refuse_target(as_path("s3://bucket/" + "k" * 1021 + ".mp4"), "film.mp4")
