"""An iterator that runs ahead in a thread, so that decoding and the network work at the same time."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_POLL_S = 0.1


def prefetched(items: Iterable[T], size: int) -> Iterator[T]:
    """The items in order, up to `size` of them made ahead.

    An exception while making an item comes out where the item would. The thread ends when the iterator is closed.
    """
    ready: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(size)
    is_closed = threading.Event()

    def put(is_item: bool, value: T | BaseException | None) -> bool:
        while not is_closed.is_set():
            try:
                ready.put((is_item, value), timeout=_POLL_S)
            except queue.Full:
                continue
            return True
        return False

    def run() -> None:
        try:
            for item in items:
                if not put(True, item):
                    return
            put(False, None)
        except BaseException as error:  # noqa: BLE001 -- it is raised again in the reader's thread
            put(False, error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while True:
            is_item, value = ready.get()
            if is_item:
                yield value  # type: ignore[misc]
            elif isinstance(value, BaseException):
                raise value
            else:
                return
    finally:
        is_closed.set()
        thread.join()
