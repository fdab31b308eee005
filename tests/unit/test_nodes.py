"""How a job is told that its cluster carries another number of processes."""

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pyarrow as pa
import pytest

from pipelines import inpaint_nodes
from pipelines.inpaint_nodes import NodesChangedError, NodeWatch


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(inpaint_nodes, "CHECK_INTERVAL_S", 0.01)
    monkeypatch.setattr(inpaint_nodes, "FEWER_AFTER_S", 0.1)
    monkeypatch.setattr(inpaint_nodes, "MORE_AFTER_S", 0.4)
    before = signal.getsignal(signal.SIGUSR1)
    yield
    assert signal.getsignal(signal.SIGUSR1) is before


class Bundles:
    """In place of a dataset that gives rows for some time, and then waits."""

    def __init__(self, num_rows: int, seconds: float) -> None:
        self._num_rows, self._seconds = num_rows, seconds
        self.was_ended_early = False

    def iter_internal_ref_bundles(self) -> Iterator[SimpleNamespace]:
        try:
            for number in range(self._num_rows):
                entry = SimpleNamespace(ref=pa.table({"number": [number]}))
                yield SimpleNamespace(blocks=[entry])
            end = time.monotonic() + self._seconds
            while time.monotonic() < end:
                time.sleep(0.01)
        except NodesChangedError:
            self.was_ended_early = True
            raise


@pytest.fixture(autouse=True)
def no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inpaint_nodes.ray, "wait", lambda refs, timeout: (refs, []))
    monkeypatch.setattr(inpaint_nodes.ray, "get", lambda ref: ref)


def numbers(watch: NodeWatch, dataset: Bundles) -> list[int]:
    return [row["number"] for row in watch.rows(dataset)]


@pytest.mark.parametrize(("found", "least_s"), [(2, 0.1), (5, 0.4)])
def test_another_number_ends_the_waiting_after_a_while(found: int, least_s: float) -> None:
    start = time.monotonic()
    dataset = Bundles(3, 600)
    seen: list[int] = []
    with pytest.raises(NodesChangedError), NodeWatch(3, lambda: found) as watch:
        seen.extend(row["number"] for row in watch.rows(dataset))
    assert seen == [0, 1, 2]
    assert dataset.was_ended_early
    assert time.monotonic() - start >= least_s


def test_what_is_done_with_a_row_is_not_interrupted() -> None:
    with NodeWatch(3, lambda: 2) as watch:
        rows = watch.rows(Bundles(2, 600))
        next(rows)
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            time.sleep(0.01)
        with pytest.raises(NodesChangedError):
            next(rows)


def test_the_same_number_and_none_at_all_are_waited_for() -> None:
    for found in (3, 0):
        with NodeWatch(3, lambda: found) as watch:  # noqa: B023
            assert numbers(watch, Bundles(2, 0.8)) == [0, 1]


def test_nodes_that_come_back_in_time_change_nothing() -> None:
    # Each for half of the looks after which it counts.
    found = itertools.cycle([2] * 5 + [4] * 5)
    with NodeWatch(3, lambda: next(found)) as watch:
        assert numbers(watch, Bundles(2, 1)) == [0, 1]


def test_a_cluster_that_does_not_answer_is_asked_again() -> None:
    answers = iter([RuntimeError("gone")] * 3)

    def count() -> int:
        for error in answers:
            raise error
        return 2

    with pytest.raises(NodesChangedError), NodeWatch(3, count) as watch:
        numbers(watch, Bundles(2, 600))


def test_a_signal_from_elsewhere_is_no_change() -> None:
    with NodeWatch(3, lambda: 3) as watch:
        rows = watch.rows(Bundles(1, 0.3))
        next(rows)
        timer = threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGUSR1])
        timer.start()
        assert list(rows) == []
        timer.join()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_is_raised_where_python_drops_it_is_raised_again() -> None:
    class Dropping:
        def __del__(self) -> None:
            end = time.monotonic() + 0.5
            while time.monotonic() < end:
                time.sleep(0.01)

    class Cleaning(Bundles):
        def iter_internal_ref_bundles(self) -> Iterator[SimpleNamespace]:
            Dropping()
            return super().iter_internal_ref_bundles()

    with pytest.raises(NodesChangedError), NodeWatch(3, lambda: 2) as watch:
        numbers(watch, Cleaning(1, 600))


def test_what_ends_meanwhile_is_told_as_it_ended() -> None:
    with pytest.raises(KeyboardInterrupt), NodeWatch(3, lambda: 2):
        raise KeyboardInterrupt
    with NodeWatch(3, lambda: 2):
        time.sleep(0.3)


def test_a_node_that_falls_sick_ends_the_waiting_at_once() -> None:
    answers = iter([False, False, True])
    with pytest.raises(NodesChangedError), NodeWatch(3, lambda: 3, lambda: next(answers)) as watch:
        numbers(watch, Bundles(1, 30))
    assert next(answers, None) is None  # what is known is not asked again
