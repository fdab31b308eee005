"""Options of the test run."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--media", type=Path, help="folder of real videos for the slow tests that want some")


@pytest.fixture(scope="session")
def media(request: pytest.FixtureRequest) -> Path:
    """The folder given with --media; without it the test is skipped."""
    folder = request.config.getoption("--media")
    if folder is None:
        pytest.skip("needs --media DIR")
    return folder.absolute()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny networks gain nothing from threads, and lose much where another process is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
