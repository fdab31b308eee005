"""What tests of `pipelines.inpaint` share."""

from pathlib import Path

import pytest

from sttn_ray.model.generator import Generator, GeneratorConfig
from sttn_ray.model.weights import save_generator


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that completes a frame in a moment, with random weights."""
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    save_generator(path, Generator(GeneratorConfig(channels=16, num_blocks=1, width=96, height=48, mask_keys=True)))
    return path
