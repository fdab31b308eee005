"""Who is blamed for the death of a process; those that die here are real ones."""

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines import inpaint_steps
from pipelines.inpaint_steps import Job, make_plan_fn
from sttn_ray.attempts import MAX_DEATHS, Place, attempt
from sttn_ray.catalog.items import Item
from sttn_ray.catalog.manifest import unpack_outcomes
from sttn_ray.catalog.records import ItemDir
from sttn_ray.errors import PoisonError, VideoError
from tests.media import make_video
from tests.plans import SETTINGS
from tests.unit.test_inpaint_steps import Silent

# Their server imports this once; each process is a copy of it.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])


def both_live() -> set[str]:
    return {"node 1", "node 2"}


def one_lives() -> set[str]:
    return {"node 2"}


PLACE = Place("job", "node 1", both_live)


def in_a_process_that_dies(do: Callable[..., None], *arguments: object) -> None:
    process = PROCESSES.Process(target=do, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def try_and_die(item_dir: ItemDir, task: str, place: Place) -> None:
    with attempt(item_dir.path, task, place):
        die()


@pytest.fixture
def item_dir(tmp_path: Path) -> ItemDir:
    return ItemDir(tmp_path / "out", "film")


def let_die(item_dir: ItemDir, count: int, task: str = "plan", place: Place = PLACE) -> None:
    for _ in range(count):
        in_a_process_that_dies(try_and_die, item_dir, task, place)


def is_tried(item_dir: ItemDir, task: str = "plan", place: Place = PLACE) -> bool:
    try:
        with attempt(item_dir.path, task, place):
            return True
    except PoisonError:
        return False


def test_three_deaths_on_nodes_that_live_are_the_last(item_dir: ItemDir) -> None:
    let_die(item_dir, MAX_DEATHS - 1)
    let_die(item_dir, 1, place=PLACE._replace(node="node 2"))
    with (
        pytest.raises(PoisonError, match=r"\(plan\) died 3 times on nodes that live") as raised,
        attempt(item_dir.path, "plan", PLACE, item_dir.again),
    ):
        pytest.fail("it is tried again")
    assert str(item_dir.path) in str(raised.value)


def test_two_deaths_and_an_end_are_forgotten(item_dir: ItemDir) -> None:
    let_die(item_dir, MAX_DEATHS - 1)
    assert is_tried(item_dir)
    let_die(item_dir, MAX_DEATHS - 1)
    assert is_tried(item_dir)
    assert not item_dir.path.exists()


def test_a_death_with_its_node_does_not_count(item_dir: ItemDir) -> None:
    let_die(item_dir, 1)
    on_second = PLACE._replace(node="node 2", living_nodes=one_lives)
    let_die(item_dir, MAX_DEATHS - 1, place=on_second)
    let_die(item_dir, 1, place=on_second)  # of the three before it one is node 1's
    assert not is_tried(item_dir, place=on_second)


def test_an_error_is_no_death(item_dir: ItemDir) -> None:
    for _ in range(MAX_DEATHS + 1):
        with pytest.raises(VideoError, match="damaged"), attempt(item_dir.path, "plan", PLACE, item_dir.again):
            raise VideoError("damaged")
    assert is_tried(item_dir)


def test_deaths_of_another_driver_do_not_count(item_dir: ItemDir) -> None:
    let_die(item_dir, MAX_DEATHS)
    assert is_tried(item_dir, place=PLACE._replace(job="another"))


def test_tasks_are_counted_apart(item_dir: ItemDir) -> None:
    let_die(item_dir, MAX_DEATHS, "encode-00000")
    assert is_tried(item_dir, "encode-00001")
    assert is_tried(ItemDir(item_dir.output_dir, "another film"), "encode-00000")
    assert not is_tried(item_dir, "encode-00000")


def plan_in_one_task(items: list[Item], output_dir: Path, fatal: str | None) -> dict[int, str]:
    """Plan videos of which one may be the death of its process; returns statuses by number, "planned" for a plan."""

    def plan_video(item: Item, settings: object) -> object:
        if item.output == fatal:
            die()
        return plan(item, settings)

    plan = inpaint_steps.plan_video
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inpaint_steps, "plan_video", plan_video)
        patch.setattr(inpaint_steps, "this_place", lambda _: PLACE)
        work = make_plan_fn(Job(SETTINGS, str(output_dir), Silent(), None))
        rows = work({"items": json.dumps([(n, item.as_dict()) for n, item in enumerate(items)])})
    found = {row["item"]: "planned" for row in rows if not row["outcomes"]}
    for row in rows:
        found |= {n: outcome["status"] for n, outcome in unpack_outcomes(row["outcomes"]).items()}
    return found


def test_of_videos_planned_in_one_task_the_one_that_killed_it_is_blamed(tmp_path: Path) -> None:
    names = ("before", "fatal", "after")
    items = [
        Item(video=str(make_video(tmp_path / f"{name}.mp4", num_frames=8)), mask=None, boxes="16,12,30,20", output=name)
        for name in names
    ]
    for _ in range(MAX_DEATHS):
        in_a_process_that_dies(plan_in_one_task, items, tmp_path / "out", "fatal")
    # Were it tried again it would be planned now.
    assert plan_in_one_task(items, tmp_path / "out", fatal=None) == {0: "planned", 1: "quarantined", 2: "planned"}
