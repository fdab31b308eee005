"""The network of `pipelines.inpaint`, read by a process of its own.

torch takes a process 1.1 s to load. The driver needs that time to start Ray, and of torch it needs nothing.
"""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sttn_ray.choices import Precision
from sttn_ray.errors import CheckpointError, SttnError

if TYPE_CHECKING:
    from sttn_ray.model.generator import Generator

# The other process finds modules where this one does.
_READ = "import sys; sys.path[:] = {path!r}; from {module} import answer; answer(sys.argv[1])"


class Network(NamedTuple):
    """What the driver knows of a checkpoint's network."""

    pickled: bytes  # a `Generator`
    description: str
    precisions: dict[str, Precision]  # the fastest one whose numbers are right, by device


def read_network(checkpoint: Path) -> Network:
    """Read a checkpoint in a process of its own, which ends then.

    Raises:
        CheckpointError: as `load_generator`, or the process ended without an answer.
    """
    command = [sys.executable, "-c", _READ.format(path=sys.path, module=__name__), str(checkpoint)]
    # Not in this one's group: an interrupt of the terminal is for the driver to tell.
    done = subprocess.run(command, stdout=subprocess.PIPE, start_new_session=True, check=False)
    if done.returncode:
        raise CheckpointError(
            f"{checkpoint}: the process that read it ended with exit status {done.returncode}; a negative one is a "
            "signal, and -9 mostly means that memory was short"
        )
    found = pickle.loads(done.stdout)
    if isinstance(found, SttnError):
        raise found
    return Network(*found)


def load_network(pickled: bytes) -> "Generator":
    """The generator of a `Network`'s bytes."""
    found: Generator = pickle.loads(pickled)
    return found


def answer(checkpoint: str) -> None:
    """Write to standard output, pickled, what `read_network` returns or the error that it raises."""
    os.nice(10)  # the start of Ray goes first
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    try:
        found: object = tuple(_read(Path(checkpoint)))
    except SttnError as error:
        found = error
    with output:
        pickle.dump(found, output)


def _read(checkpoint: Path) -> Network:
    from sttn_ray.model.precision import fastest_precision
    from sttn_ray.model.weights import load_generator

    generator = load_generator(checkpoint)
    config = generator.config
    return Network(
        pickle.dumps(generator),
        f"{config.channels} channels x {config.num_blocks} blocks at {config.width}x{config.height}",
        {device: fastest_precision(device) for device in ("cuda", "mps", "cpu")},
    )
