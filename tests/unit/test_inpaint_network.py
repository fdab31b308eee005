"""The process that reads a checkpoint for the driver of `pipelines.inpaint`."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipelines import inpaint_network
from pipelines.inpaint_network import load_network, read_network
from sttn_ray.errors import CheckpointError
from sttn_ray.model.generator import Generator, GeneratorConfig
from sttn_ray.model.weights import save_generator
from tests.processes import ROOT

TINY = GeneratorConfig(channels=16, num_blocks=1, width=96, height=48, mask_keys=True)


def test_a_network_comes_back_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = Generator(TINY)
    save_generator(tmp_path / "tiny.pt", generator)
    monkeypatch.chdir(tmp_path)  # the other process finds our modules from anywhere
    network = read_network(Path("tiny.pt"))
    assert network.description == "16 channels x 1 blocks at 96x48"
    assert network.precisions["mps"] == "fp32"
    loaded = load_network(network.pickled)
    assert loaded.config == TINY
    assert not loaded.training
    for name, tensor in generator.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])


def test_what_is_wrong_with_a_checkpoint_is_said_as_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "wrong.pt"
    path.write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match=r"wrong\.pt: "):
        read_network(path)


def test_a_process_that_is_killed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inpaint_network, "_READ", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(CheckpointError, match=r"a\.pt: the process that read it ended with exit status -9"):
        read_network(tmp_path / "a.pt")


def test_the_driver_goes_without_torch() -> None:
    told = (
        "import sys, pipelines.inpaint_run, pipelines.inpaint_chain; from sttn_ray import cluster; "
        "print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False"]
