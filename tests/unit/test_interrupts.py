"""A program that is asked to end does so with one line, whenever that comes."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sttn_ray import interrupts
from sttn_ray.config import Experiment
from sttn_ray.errors import ConfigError
from sttn_ray.program import run_program
from tests.media import make_video
from tests.processes import start_command, wait_until

PROGRAMS = ("pipelines.inpaint", "pipelines.build_shards", "pipelines.demo", "sttn_ray.train", "sttn_ray.tune")
SIGNALS = [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "ended by SIGTERM")]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """A shell ignores SIGINT in what it starts in the background, and then these tests would."""
    before = {number: signal.getsignal(number) for number in interrupts.WORDS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def waits_at_import_of(folder: Path, module: str) -> dict[str, str]:
    """The environment in which a process says where it is once it loads a module, and waits there."""
    (folder / f"{module}.py").write_text("import time\nprint('loading', flush=True)\ntime.sleep(600)\n")
    return {"PYTHONPATH": f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}


@pytest.mark.parametrize(("number", "status", "word"), SIGNALS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_while_modules_are_loaded(program: str, number: int, status: int, word: str, tmp_path: Path) -> None:
    """Of pydantic, the first of the large ones."""
    run = start_command([sys.executable, "-m", program, "--help"], **waits_at_import_of(tmp_path, "pydantic"))
    wait_until(lambda: "loading" in run.said(), "the import", program=run)
    os.kill(run.pid, number)
    assert run.finish() == status
    assert run.said() == f"loading\n{word}; the same command goes on from here\n"


@pytest.mark.parametrize(("number", "status", "word"), SIGNALS)
def test_while_ray_and_torch_are_loaded(number: int, status: int, word: str, tmp_path: Path) -> None:
    words = [f"shards.dir={tmp_path}", f"run.dir={tmp_path / 'run'}"]
    run = start_command([sys.executable, "-m", "sttn_ray.train", *words], **waits_at_import_of(tmp_path, "torch"))
    wait_until(lambda: "loading" in run.said(), "the import", program=run)
    os.kill(run.pid, number)
    assert run.finish() == status
    assert run.said() == f"loading\n{word}; the same command goes on from here\n"


@pytest.mark.parametrize(("number", "status", "word"), SIGNALS)
def test_while_ray_looks_for_a_cluster_that_does_not_answer(
    number: int, status: int, word: str, tmp_path: Path
) -> None:
    """It waits inside C++, where Python runs no handlers."""
    make_video(tmp_path / "in/a.mp4", num_frames=4)
    with socket.create_server(("", 0)) as server:  # Ray asks the machine by another address than loopback
        address = f"127.0.0.1:{server.getsockname()[1]}"
        told = [f"corpus.root={tmp_path / 'in'}", f"shards.dir={tmp_path / 'shards'}"]
        run = start_command([sys.executable, "-m", "pipelines.build_shards", *told], RAY_ADDRESS=address)
        with server.accept()[0]:  # it asks
            os.kill(run.pid, number)
            assert run.finish() == status
    assert run.said().endswith(f"{word}; the same command goes on from here\n")
    assert "Traceback" not in run.said()


def test_the_command_is_as_quick(tmp_path: Path) -> None:
    start = "from sttn_ray.command import main; raise SystemExit(main())"
    environment = waits_at_import_of(tmp_path, "pydantic")
    run = start_command([sys.executable, "-c", start, "train"], **environment)
    wait_until(lambda: "loading" in run.said(), "the import", program=run)
    os.kill(run.pid, signal.SIGTERM)
    assert run.finish() == 143


@pytest.mark.parametrize(("number", "status", "word"), SIGNALS)
def test_what_a_program_does_is_ended_in_its_order(
    number: int, status: int, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    done = []

    def run(experiment: Experiment) -> int:
        try:
            signal.raise_signal(number)
        finally:
            done.append("written")
        return 0

    assert run_program("", (), run, []) == status
    assert done == ["written"]
    assert caplog.messages == [f"{word}; the same command goes on from here"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_error_that_a_module_in_c_makes_of_an_interrupt_is_one() -> None:
    def run(experiment: Experiment) -> int:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt as error:
            raise SystemError("initialization of _module raised unreported exception") from error
        return 0

    assert run_program("", (), run, []) == 143


def test_an_interrupt_that_was_dropped_is_raised_later() -> None:
    def run(experiment: Experiment) -> int:
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        interrupts.again()
        return 0

    assert run_program("", (), run, []) == 130


def test_a_handler_that_something_else_has_set_is_replaced() -> None:
    def run(experiment: Experiment) -> int:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))  # as `ray.init` does
        interrupts.again()
        signal.raise_signal(signal.SIGTERM)
        return 0

    assert run_program("", (), run, []) == 143

    def end_while_ray_starts(experiment: Experiment) -> int:
        sys.exit(signal.SIGTERM)

    assert run_program("", (), end_while_ray_starts, []) == 143


def test_other_errors_are_as_they_were() -> None:
    def refuse(experiment: Experiment) -> int:
        raise ConfigError("wrong")

    def fail(experiment: Experiment) -> int:
        raise ValueError("a fault of ours")

    with pytest.raises(SystemExit) as ended:
        run_program("", (), refuse, [])
    assert ended.value.code == 2
    with pytest.raises(ValueError, match="a fault of ours"):
        run_program("", (), fail, [])


def test_what_runs_apart_can_be_interrupted() -> None:
    assert interrupts.apart(lambda: 3) == 3
    with pytest.raises(ValueError, match="apart"):
        interrupts.apart(lambda: int("apart"))

    signal.setitimer(signal.ITIMER_REAL, 0.2)
    signal.signal(signal.SIGALRM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    try:
        with pytest.raises(KeyboardInterrupt), interrupts.raised():
            interrupts.apart(threading.Event().wait)
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
