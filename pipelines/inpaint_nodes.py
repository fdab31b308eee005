"""Nodes that a job loses for good, or gets: how many processes the cluster carries is looked at while it works.

Ray places the processes of a lost node anew wherever a CPU gets free, until no task of video fits any node, and what
those that fit nowhere were busy with waits for them. So the chain of operators is built anew, for what is not done.
"""

import _thread
import signal
import threading
import time
from collections.abc import Callable
from types import TracebackType

# A node that died may be replaced, which takes a cloud some minutes; the job may stand still for as long.
FEWER_AFTER_S = 300.0
# What is being worked on is begun again, a segment in each process: more processes must be worth it.
MORE_AFTER_S = 3600.0
CHECK_INTERVAL_S = 10.0


class NodesChangedError(Exception):
    """The cluster carries another number of processes than the job has, and has for some time."""


class NodeWatch:
    """Raises `NodesChangedError` in the main thread, whatever that waits for, while a `with` block runs.

    Args:
        size: processes of the job.
        count: gives how many the cluster carries now. With 0 nothing can be done but to wait for nodes.

    Attributes:
        found: what `count` gave last.
    """

    def __init__(self, size: int, count: Callable[[], int]) -> None:
        self._size, self._count = size, count
        self.found = size
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "NodeWatch":
        # Not SIGINT: it is ignored in what a shell starts in the background.
        self._handler_before = signal.signal(signal.SIGUSR1, _raise)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        try:
            self._stop.set()
            self._thread.join()
        finally:
            signal.signal(signal.SIGUSR1, self._handler_before)

    def _run(self) -> None:
        since = {"fewer": time.monotonic(), "more": time.monotonic()}
        while not self._stop.wait(CHECK_INTERVAL_S):
            self.found, now = self._count(), time.monotonic()
            if not 0 < self.found < self._size:
                since["fewer"] = now
            if not self.found > self._size:
                since["more"] = now
            if now - since["fewer"] >= FEWER_AFTER_S or now - since["more"] >= MORE_AFTER_S:
                _thread.interrupt_main(signal.SIGUSR1)
                return


def _raise(*_: object) -> None:
    raise NodesChangedError
