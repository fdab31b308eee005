"""Nodes that a job loses for good, or gets: how many processes the cluster carries is looked at while it works.

Ray places the processes of a lost node anew wherever a CPU gets free, until no task of video fits any node, and what
those that fit nowhere were busy with waits for them. So the chain of operators is built anew, for what is not done. So
it is where the GPU of a node fails again and again (`sttn_ray.catalog.faults`).
"""

import _thread
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TypeVar

import ray

log = logging.getLogger(__name__)

T = TypeVar("T")

# A node that died may be replaced, which takes a cloud some minutes; the job may stand still for as long.
FEWER_AFTER_S = 300.0
# What is being worked on is begun again, a segment in each process: more processes must be worth it. Twice as many are
# it sooner, as where another job has ended.
TWICE_AFTER_S, MORE_AFTER_S = 300.0, 3600.0
CHECK_INTERVAL_S = 10.0


class NodesChangedError(BaseException):
    """The cluster carries another number of processes than the job has, and has for some time; or a node fell sick.

    No `Exception`: Ray would take it for a fault of its own, and print it.
    """


class NodeWatch:
    """While a `with` block runs, ends the main thread's waiting for rows where the number of processes is not right.

    Args:
        size: processes of the job.
        count: gives how many the cluster carries now. With 0 nothing can be done but to wait for nodes.
        falls_sick: tells whether a node is to get no more work from now on.
    """

    def __init__(self, size: int, count: Callable[[], int], falls_sick: Callable[[], bool] = lambda: False) -> None:
        self._size, self._count, self._falls_sick = size, count, falls_sick
        self._found = size
        self._fewer_s = self._more_s = self._twice_s = 0.0
        self._is_wrong = self._is_waiting = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "NodeWatch":
        # Ray's iterator sleeps until there is a row, and takes no time limit: a signal ends that. Not SIGINT, which is
        # ignored in what a shell starts in the background.
        self._handler_before = signal.signal(signal.SIGUSR1, self._end_waiting)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_waiting = False  # a second signal may have ended what sets it
        self._stop.set()
        self._thread.join()
        signal.signal(signal.SIGUSR1, self._handler_before)

    def rows(self, dataset: ray.data.Dataset) -> Iterator[dict]:
        """The rows of a dataset, as they come.

        Raises:
            NodesChangedError: the number of processes is not right.
        """
        # Not `iter_rows`, which waits in a thread of its own, that no signal reaches.
        bundles = self._wait(dataset.iter_internal_ref_bundles)
        while (bundle := self._wait(lambda: next(bundles, None))) is not None:
            for entry in bundle.blocks:
                # It may have been lost with its node, and then it is made again.
                while not ray.wait([entry.ref], timeout=CHECK_INTERVAL_S)[0]:
                    self._check()
                yield from ray.data.block.BlockAccessor.for_block(ray.get(entry.ref)).iter_rows(public_row_format=True)

    def _wait(self, wait: Callable[[], T]) -> T:
        # Only here: elsewhere outcomes are taken down, and the manifest is written.
        self._is_waiting = True
        try:
            self._check()
            return wait()
        finally:
            self._is_waiting = False

    def _check(self) -> None:
        if self._is_wrong:
            raise NodesChangedError

    def _end_waiting(self, number: int, frame: FrameType | None) -> None:
        if self._is_waiting:
            self._check()

    def _run(self) -> None:
        while not self._stop.wait(CHECK_INTERVAL_S):
            if not self._is_wrong:
                self._look()
            if self._is_wrong:  # each time: Python drops what is raised while it cleans up
                _thread.interrupt_main(signal.SIGUSR1)

    def _look(self) -> None:
        before, self._found = self._found, self._asked(self._count, self._found)
        if self._found == 0 and before > 0:
            log.warning("no node has room for a process beside video now: the job waits for nodes")
        self._fewer_s = self._fewer_s + CHECK_INTERVAL_S if 0 < self._found < self._size else 0.0
        self._more_s = self._more_s + CHECK_INTERVAL_S if self._found > self._size else 0.0
        self._twice_s = self._twice_s + CHECK_INTERVAL_S if self._found >= 2 * self._size else 0.0
        self._is_wrong = (
            self._fewer_s >= FEWER_AFTER_S or self._more_s >= MORE_AFTER_S or self._twice_s >= TWICE_AFTER_S
        )
        self._is_wrong = self._is_wrong or self._asked(self._falls_sick, False)

    def _asked(self, ask: Callable[[], T], before: T) -> T:
        try:
            return ask()
        except Exception as error:  # noqa: BLE001 -- Ray, asked while a cluster changes; it is asked again
            log.debug("the cluster could not be asked: %s", error)
            return before
