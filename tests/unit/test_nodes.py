"""How a job is told that its cluster carries another number of processes."""

import signal
import time
from collections.abc import Iterator

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


def work(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)


@pytest.mark.parametrize(("found", "least_s"), [(2, 0.1), (5, 0.4)])
def test_another_number_is_told_after_a_while(found: int, least_s: float) -> None:
    start = time.monotonic()
    watch = NodeWatch(3, lambda: found)
    with pytest.raises(NodesChangedError), watch:
        work(30)
    assert watch.found == found
    assert least_s <= time.monotonic() - start < 10


def test_the_same_number_and_none_at_all_are_waited_for() -> None:
    for found in (3, 0):
        with NodeWatch(3, lambda: found):  # noqa: B023
            work(0.8)


def test_nodes_that_come_back_in_time_change_nothing() -> None:
    start = time.monotonic()
    # Fewer and more in turns, each for half of the time after which it counts.
    with NodeWatch(3, lambda: 2 if (time.monotonic() - start) % 0.1 < 0.05 else 4):
        work(1)


def test_what_ends_meanwhile_is_told_as_it_ended() -> None:
    with pytest.raises(KeyboardInterrupt), NodeWatch(3, lambda: 2):
        raise KeyboardInterrupt
    with NodeWatch(3, lambda: 2):
        pass
