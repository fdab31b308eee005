import random
from typing import Any

import pytest
import ray

from pipelines import progress
from pipelines.progress import Progress, ProgressLine
from sttn_ray.catalog.faults import KILLED, NO_ITEM, Fault, Health


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    now = {"s": 100.0}
    monkeypatch.setattr(progress.time, "monotonic", lambda: now["s"])
    return now


def line(num_items: int, **how: Any) -> ProgressLine:
    handle: Any = None  # it is only asked while the block runs
    return ProgressLine(handle, num_items=num_items, interval_s=1, **how)


def test_the_time_that_is_left_is_that_of_all_videos_not_of_those_planned(clock: dict[str, float]) -> None:
    shown = line(1000)
    assert shown._line({"seen": 1}) == "videos 0/1000 done, 0 failed"
    planned = {"planned": 500, "seen": 20, "squares": 20 * 25**2}
    assert shown._line(planned | {"completed": 50}).startswith(
        "[                        ] 50 of about 25000 frames | videos 0/1000 done, 0 failed"
    )
    clock["s"] += 10
    told = shown._line(planned | {"completed": 450, "encoded": 400, "done": 1})
    assert told == (
        "[                        ] 450 of about 25000 frames | videos 1/1000 done, 0 failed"
        " | 40.00 frames/s, about 10:13 left | encoded 400"
    )


def counts_of(frames: list[int], **more: int) -> dict[str, int]:
    """The counts after some videos were planned; one without frames ended without a plan."""
    squares = sum(n * n for n in frames)
    return {"planned": sum(frames), "completed": 0, "seen": len(frames), "squares": squares, **more}


@pytest.mark.parametrize("seed", range(20))
def test_a_total_is_told_only_where_it_is_near_the_true_one(seed: int) -> None:
    """2000 small files, most of which are copied or fail, and some are long."""
    rng = random.Random(seed)
    frames = [rng.choice((0, 0, 0, 5, 12, 12, 40, 300)) for _ in range(2000)]
    told = [line(2000)._line(counts_of(frames[:seen])) for seen in range(1, 2000, 7)]
    totals = [int(text.partition(" of about ")[2].split()[0]) for text in told if " of about " in text]
    assert totals
    assert all(0.5 < total / sum(frames) < 2 for total in totals), totals
    assert told[0].startswith(("0 of ", "videos 0/2000"))


def test_before_it_is_told_the_line_says_what_is_known() -> None:
    told = line(2000)._line(counts_of([5, 12, 300]))
    assert told == "0 of 317 frames of the 3 first videos | videos 0/2000 done, 0 failed"
    assert " of about 24000 frames" in line(2000)._line(counts_of([12] * 20))


@pytest.mark.usefixtures("clock")
def test_videos_that_were_done_before_say_nothing_of_the_frames_of_others() -> None:
    told = line(190)._line(counts_of([25] * 20, completed=50, done=90) | {"seen": 110, "known": 90})
    assert "50 of about 2500 frames | videos 90/190 done" in told


def test_once_all_are_planned_the_numbers_are_exact(clock: dict[str, float]) -> None:
    shown = line(3)
    counts = {"planned": 400, "completed": 100, "seen": 3, "failed": 1, "quarantined": 1}
    assert shown._line(counts) == "[######                  ] 100/400 frames | videos 0/3 done, 2 failed"
    clock["s"] += 20
    assert shown._line(counts | {"completed": 200}).endswith("5.00 frames/s, 0:40 left")


@pytest.mark.usefixtures("clock")
def test_frames_that_were_done_twice_fill_no_bar_beyond_its_end() -> None:
    shown = line(2, items="shards", plans_all=True)
    assert "200/200 frames | shards" in shown._line({"planned": 200, "completed": 260, "seen": 0})


def test_counts_hold_what_was_said_once() -> None:
    counts = Progress.__ray_metadata__.modified_class()
    for _ in range(2):
        counts.plan(0, 100)
        counts.finish(1, "failed")
    counts.add("completed", 30)
    counts.finish(0, "done")
    assert counts.counts() == {
        "planned": 100,
        "completed": 30,
        "failed": 1,
        "done": 1,
        "seen": 2,
        "known": 0,
        "squares": 10000,
    }


def test_a_chain_that_was_given_up_counts_no_more() -> None:
    counts = Progress.__ray_metadata__.modified_class()
    counts.plan(0, 100)
    assert counts.complete(40, 0, "a")
    counts.add("encoded", 30)
    counts.begin_again(1)
    assert counts.counts()["completed"] == 30
    assert not counts.goes_on(0)
    assert not counts.complete(20, 0, "b")
    assert counts.complete(5, 1, "c")
    assert counts.health() == ([], {"a", "c"})
    told = {"planned": 100, "completed": 35, "encoded": 30, "seen": 1, "known": 0}
    assert {name: counts.counts()[name] for name in told} == told


def test_all_operators_of_a_chain_avoid_some_nodes_and_those_of_the_next_one_none() -> None:
    options = ray.data.DataContext.get_current().execution_options
    progress.prepare_data({"b", "a"})
    assert options.label_selector == {"ray.io/node-id": "!in(a,b)"}
    progress.prepare_data()
    assert options.label_selector is None


def test_a_process_that_is_killed_as_it_starts_is_a_fault_of_its_node() -> None:
    """Ray starts it again and again, under the same id, and says nothing."""
    counts = Progress.__ray_metadata__.modified_class()
    killed = Fault("node", "192.0.2.7", "", NO_ITEM, "its start", KILLED, 0)
    for _ in range(3):
        counts.begin_start("one", killed)
    counts.begin_start("other", killed._replace(node="fine"))
    assert counts.health() == Health([killed] * 2, set())
    counts.start("other", "fine")
    counts.begin_start("other", killed._replace(node="fine"))  # it ended well since
    counts.fail("one", killed._replace(reason="CUDA error"))
    counts.begin_start("one", killed)
    assert [fault.reason for fault in counts.health().faults] == [KILLED, KILLED, "CUDA error"]
    assert counts.health().working == {"fine"}
