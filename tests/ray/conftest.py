"""What tests on Ray share: one cluster for all that need no other, and a small network."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray

from pipelines import progress
from sttn_ray.model.generator import Generator, GeneratorConfig
from sttn_ray.model.weights import save_generator
from tests.processes import STALLED_S

NUM_CPUS = 4


def start_ray(num_cpus: int = NUM_CPUS, num_gpus: int = 0) -> None:
    """Start a Ray that this process is connected to."""
    ray.init(address="local", num_cpus=num_cpus, num_gpus=num_gpus, include_dashboard=False, log_to_driver=False)


def ray_address() -> dict[str, str]:
    """The environment by which a program that is started as a process joins this one's Ray."""
    return {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}


@contextmanager
def without_shared_ray() -> Iterator[None]:
    """For the time of a `with` block this process is connected to no Ray, and may start one of another kind."""
    was_there = ray.is_initialized()
    ray.shutdown()
    try:
        yield
    finally:
        ray.shutdown()
        if was_there:
            start_ray()


@pytest.fixture(scope="package")
def cluster(store: str) -> Iterator[None]:
    """One Ray for all tests of this folder that need none of their own; its processes know the store.

    Programs that are called in this process find it, those started as processes join it by `ray_address`.
    """
    start_ray()
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def ends_what_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program called in this process fails where no task of its ends for long."""
    monkeypatch.setattr(progress, "NO_PROGRESS_TIMEOUT_S", STALLED_S)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that completes a frame in a moment, with random weights."""
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    save_generator(path, Generator(GeneratorConfig(channels=16, num_blocks=1, width=96, height=48, mask_keys=True)))
    return path
