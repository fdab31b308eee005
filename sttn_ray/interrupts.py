"""SIGINT and SIGTERM: a program that gets one ends with one line and with 130 or 143, whenever it comes.

What stops a container or a job on a cluster sends SIGTERM, a person's Ctrl-C SIGINT; a program does the same for both.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

# Not `enum` or `logging`: this is loaded before all else.
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "ended by SIGTERM"}
GOES_ON = "the same command goes on from here"

T = TypeVar("T")
_received: int | None = None
_handler: Any = None
_is_program = False


class Interrupt(KeyboardInterrupt):
    """A signal asked the program to end."""


def end_at_once() -> None:
    """From now on a signal ends the process at once: while modules are loaded nothing was begun that could be lost.

    Python itself, and modules written in C, would print a traceback, or go on.
    """
    global _is_program
    _is_program = True
    _install(_end)


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, f"{describe(number)}\n".encode())
    os._exit(128 + number)


@contextmanager
def raised() -> Iterator[None]:
    """While a `with` block runs a signal raises `Interrupt` in the main thread."""
    global _received
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    outer, _received = _handler, None
    before = {number: signal.getsignal(number) for number in WORDS}
    _install(_raise)
    try:
        yield
    finally:
        # What is left then is to end, which one signal has asked for already.
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if _received is not None and handler is _end else handler)
        _set(outer)


@contextmanager
def ended_at_once() -> Iterator[None]:
    """While a `with` block runs a signal ends a program at once, also where its main thread waits inside C++.

    Python runs handlers in the main thread alone, and Ray looks for a cluster that is gone for a minute and more.
    """
    if not _is_program or threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer)
    threading.Thread(target=_end_by, args=(reader,), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)


def _end_by(reader: int) -> None:
    """End the process by the first signal that is told; what else Python handles is told too."""
    while number := os.read(reader, 1):
        if number[0] in WORDS:
            _end(number[0], None)
    os.close(reader)


def _raise(number: int, frame: FrameType | None) -> None:
    global _received
    _received = number
    raise Interrupt


def again() -> None:
    """Take signals as before, after something else has taken them; and raise what came while modules were loaded."""
    if _handler is not None and threading.current_thread() is threading.main_thread():
        _install(_handler)
    if _handler is _raise and _received is not None:
        raise Interrupt


def apart(call: Callable[[], T]) -> T:
    """What a function gives that takes SIGINT for itself where it is called in the main thread, as Ray Train does."""
    if threading.current_thread() is not threading.main_thread():
        return call()
    from concurrent.futures import Future

    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(call())
        except BaseException as error:  # noqa: BLE001 -- raised where it is waited for
            result.set_exception(error)

    # Not of a pool, whose threads are waited for at the program's end.
    threading.Thread(target=run, daemon=True).start()
    return result.result()


def received(error: BaseException | None = None) -> int | None:
    """The signal that came while a `raised` block ran, or that an error tells of; None: there was none."""
    if _received is None and isinstance(error, SystemExit) and error.code == signal.SIGTERM:
        return signal.SIGTERM  # so Ray's own handler ends a program, while `ray.init` runs
    if _received is None and isinstance(error, KeyboardInterrupt):
        return signal.SIGINT
    return _received


def describe(number: int) -> str:
    """The line that tells of a signal."""
    return f"{WORDS[signal.Signals(number)]}; {GOES_ON}"


def _install(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in WORDS:
        # A shell ignores SIGINT for what it starts in the background.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)
    _set(handler)


def _set(handler: Any) -> None:
    global _handler
    _handler = handler
