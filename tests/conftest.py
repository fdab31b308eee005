"""Options of the test run."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.store import make_bucket, moto_server
from tests.training import make_shards


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--media", type=Path, help="folder of real videos for the slow tests that want some")


@pytest.fixture(scope="session")
def media(request: pytest.FixtureRequest) -> Path:
    """The folder given with --media; without it the test is skipped."""
    folder = request.config.getoption("--media")
    if folder is None:
        pytest.skip("needs --media DIR")
    return folder.absolute()


@pytest.fixture(scope="session")
def store() -> Iterator[str]:
    """The address of an S3 store, to which `s3://` paths lead in this process."""
    with moto_server() as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_S3", url)
        yield url


@pytest.fixture
def bucket(store: str) -> str:
    """The path of an empty bucket."""
    return make_bucket(store, f"test-{uuid.uuid4().hex[:12]}")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny networks gain nothing from threads, and lose much where another process is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def training_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards that a test of a training reads."""
    return make_shards(tmp_path_factory.mktemp("corpus"), tmp_path_factory.mktemp("shards"))
