"""A network whose GPU fails on some nodes, or at some pictures, without any GPU."""

import os
import signal
from pathlib import Path
from typing import NamedTuple

import ray
import torch
from torch import Tensor, nn

from sttn_ray.model.generator import Generator
from tests.processes import wait_until

# As torch 2.13 says it.
ILLEGAL_ACCESS = (
    "CUDA error: an illegal memory access was encountered\n"
    "Search for `cudaErrorIllegalAddress' in https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html "
    "for more information.\n"
    "CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be "
    "incorrect.\n"
    "For debugging consider passing CUDA_LAUNCH_BLOCKING=1\n"
    "Device-side assertion tracking was not enabled by user.\n"
)
NO_DRIVER = (
    "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver from "
    "http://www.nvidia.com/Download/index.aspx"
)
BRIGHT = 0.4  # mean of a picture in [-1, 1] at which a bad picture's begins


class Sickness(NamedTuple):
    """What fails, in files that the processes of all nodes read; and what they tell."""

    folder: Path

    def set(
        self,
        *nodes: str,
        at_start: bool = False,
        is_killed: bool = False,
        bright_pictures: bool = False,
        first: int = 0,
    ) -> None:
        """Say which nodes are sick from now on.

        Args:
            nodes: their ids.
            at_start: they fail where the network is moved to its device, and not only where it runs.
            is_killed: the process that starts is killed, as by a system that lacks memory.
            bright_pictures: make every node fail.
            first: so often they fail before the others work, which else might do all before that.
        """
        (self.folder / "nodes").write_text(" ".join(nodes))
        (self.folder / "starts").write_text(" ".join(nodes if at_start else ()))
        (self.folder / "killed").write_text(" ".join(nodes if is_killed else ()))
        (self.folder / "bright").write_text("yes" * bright_pictures)
        (self.folder / "first").write_text(str(first))
        (self.folder / "calls").write_text("")

    def fails(self, name: str) -> bool:
        return here() in (self.folder / name).read_text().split()

    def tell(self, what: str) -> None:
        with open(self.folder / "calls", "a") as file:
            file.write(f"{here()} {what}\n")

    def calls(self) -> list[tuple[str, str]]:
        """The node and "works", "fails" or "starts", of every picture that was encoded and every start that failed."""
        return [tuple(line.split()) for line in (self.folder / "calls").read_text().splitlines()]  # type: ignore[misc]


def here() -> str:
    return ray.get_runtime_context().get_node_id()


class SickEncoder(nn.Module):
    """An encoder that may fail as CUDA does."""

    def __init__(self, encoder: nn.Module, sickness: Sickness) -> None:
        super().__init__()
        self.encoder, self.sickness = encoder, sickness

    def forward(self, frames: Tensor) -> Tensor:
        is_bright = (self.sickness.folder / "bright").read_text() and float(frames.float().mean()) > BRIGHT
        if is_bright or self.sickness.fails("nodes"):
            self.sickness.tell("fails")
            raise torch.AcceleratorError(ILLEGAL_ACCESS)
        first = int((self.sickness.folder / "first").read_text())
        wait_until(lambda: sum(what != "works" for _, what in self.sickness.calls()) >= first, f"{first} failures")
        self.sickness.tell("works")
        return self.encoder(frames)

    def _apply(self, *words: object, **more: object) -> nn.Module:
        if ray.is_initialized() and self.sickness.fails("killed"):
            self.sickness.tell("starts")
            os.kill(os.getpid(), signal.SIGKILL)
        if ray.is_initialized() and self.sickness.fails("starts"):  # as when it is moved to a GPU
            self.sickness.tell("starts")
            raise RuntimeError(NO_DRIVER)
        return super()._apply(*words, **more)  # type: ignore[arg-type]


def make_sick(generator: Generator, sickness: Sickness) -> Generator:
    generator.encoder = SickEncoder(generator.encoder, sickness)  # type: ignore[assignment]
    return generator
