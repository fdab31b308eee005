"""Options of the test run, and what its tests share."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.store import make_bucket, moto_server
from tests.training import make_shards

ON_RAY = ("ray", "end_to_end", "gpu")
OF_TRAINING = ("test_build_shards.py", "test_object_store.py", "test_train.py", "test_tune.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--media", type=Path, help="folder of real videos for the slow tests that want some")
    parser.addoption("--fuzz-first", type=int, help="number of the first case of the slow fuzz tests; default: any")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Say what stays together in one process, where several run the tests.

    Tests on Ray share one in each process, and of three groups each stays in one: shards and trainings, inpainting, and
    all others. They begin first, since they take longest, however few tests they are. Elsewhere each file stays whole.
    """
    from xdist.scheduler import LoadScopeScheduling

    config.option.loadscopereorder = False

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = Path(nodeid.partition("::")[0])
            if path.parent.name not in ON_RAY:
                return str(path)
            is_inpainting = path.name.startswith("test_inpaint")
            return "training" if path.name in OF_TRAINING else "inpainting" if is_inpainting else "ray"

    return Scheduling(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked `gpu` on a machine without one; with STTN_REQUIRE_GPU=1 it fails there."""
    if item.get_closest_marker("gpu") is None or torch.cuda.is_available():
        return
    if os.environ.get("STTN_REQUIRE_GPU") == "1":
        pytest.fail(
            "needs a CUDA GPU, which torch does not find, and STTN_REQUIRE_GPU=1 forbids to skip", pytrace=False
        )
    pytest.skip("needs a CUDA GPU")


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
