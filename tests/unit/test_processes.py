"""Waits of the tests fail where a program has ended or nothing moves, and nowhere else."""

import itertools
import sys
from pathlib import Path

import pytest

from tests import processes
from tests.processes import files_in, start_command, wait_until


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "STALLED_S", 0.2)
    monkeypatch.setattr(processes, "MOVES_S", 0.0)


@pytest.mark.usefixtures("impatient")
def test_a_wait_fails_where_nothing_moves() -> None:
    with pytest.raises(AssertionError, match=r"nothing has moved for 0\.2 s, waiting for rain"):
        wait_until(lambda: False, "rain")


@pytest.mark.usefixtures("impatient")
def test_a_wait_goes_on_while_something_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    now, steps = itertools.count(0, 0.15), itertools.count()
    monkeypatch.setattr(processes.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(processes.time, "sleep", lambda seconds: None)
    looks = iter([False] * 50)
    wait_until(lambda: next(looks, True), "rain", moves=lambda: next(steps))
    with pytest.raises(AssertionError, match="not within 3600 s"):
        wait_until(lambda: False, "rain", moves=lambda: next(steps))


def test_a_wait_for_what_a_program_does_ends_with_it() -> None:
    program = start_command([sys.executable, "-c", "import sys; sys.exit('no rain today')"])
    with pytest.raises(AssertionError, match=r"ended with 1 before rain; it said: no rain today"):
        wait_until(lambda: False, "rain", program=program)
    assert program.finish() == 1


def test_a_program_that_hangs_is_killed_and_what_it_said_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    program = start_command([sys.executable, "-c", "import time; print('thinking', flush=True); time.sleep(3600)"])
    wait_until(lambda: "thinking" in program.said(), "a word")
    monkeypatch.setattr(processes, "STALLED_S", 0.2)
    with pytest.raises(AssertionError, match="waiting for the program's end; it said: thinking"):
        program.finish()
    assert program.has_ended


def test_files_that_appear_grow_and_vanish_are_moves(tmp_path: Path) -> None:
    moves = files_in(tmp_path, tmp_path / "absent")
    told = [moves()]
    for change in (lambda f: f.write_bytes(b"a"), lambda f: f.write_bytes(b"ab"), lambda f: f.unlink()):
        change(tmp_path / "file")
        told.append(moves())
    assert all(before != after for before, after in itertools.pairwise(told))
    assert moves() == told[-1]
