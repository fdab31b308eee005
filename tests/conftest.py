"""Options of the test run."""

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--media", type=Path, help="folder of real videos for the slow tests that want some")


@pytest.fixture(scope="session")
def media(request: pytest.FixtureRequest) -> Path:
    """The folder given with --media; without it the test is skipped."""
    folder = request.config.getoption("--media")
    if folder is None:
        pytest.skip("needs --media DIR")
    return folder.absolute()
