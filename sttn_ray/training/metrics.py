"""What a training tells: metrics.jsonl, one object a line, and the line that a person reads."""

import json
import logging
import shutil
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import tensorboardX
from numpy.typing import NDArray

from sttn_ray.duration import duration
from sttn_ray.paths import StoragePath, reading
from sttn_ray.scratch import scratch_folder
from sttn_ray.storage import published

log = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"


class MetricsFile:
    """Appends lines to a file; those after the step that a run goes on from are dropped first."""

    def __init__(self, path: Path, *, after_step: int) -> None:
        kept = [line for line in read_metrics(path) if line["step"] <= after_step]
        with published(path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._file = open(path, "a")  # noqa: SIM115 -- open for as long as the training runs

    def write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class Writer:
    """What a training writes beside checkpoints: metrics.jsonl, TensorBoard events, and a line to read.

    For a run in an object store the files grow on this machine, and `upload` brings them there.

    Raises:
        StorageError: what was written before cannot be read.
    """

    def __init__(self, run_dir: StoragePath, *, after_step: int) -> None:
        self._target = None if isinstance(run_dir, Path) else run_dir
        with ExitStack() as opened:
            folder = run_dir if isinstance(run_dir, Path) else opened.enter_context(scratch_folder())
            self._folder = folder
            if self._target is not None:
                with suppress(FileNotFoundError), reading(run_dir / METRICS_FILE):
                    (folder / METRICS_FILE).write_bytes((run_dir / METRICS_FILE).read_bytes())
            self._metrics = MetricsFile(folder / METRICS_FILE, after_step=after_step)
            opened.callback(self._metrics.close)
            self._events = tensorboardX.SummaryWriter(str(folder / "tensorboard"), purge_step=after_step + 1)
            opened.callback(self._events.close)
            self._opened = opened.pop_all()

    def upload(self) -> None:
        """Bring the files to the object store, if the run lives in one; with each checkpoint, and at the end.

        Raises:
            StorageError: it does not take them.
        """
        if self._target is None:
            return
        for file in sorted(path for path in self._folder.rglob("*") if path.is_file()):
            with published(self._target / file.relative_to(self._folder).as_posix()) as temporary:
                shutil.copyfile(file, temporary)

    def write(self, line: dict[str, Any], *, num_steps: int) -> None:
        self._metrics.write(line)
        for name, value in line.items():
            if isinstance(value, float):
                self._events.add_scalar(name, value, line["step"])
        self._events.flush()
        log.info("%s", describe(line, num_steps=num_steps))

    def show(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """Put a picture (height, width, 3) among the events."""
        self._events.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        """Close the files; those of a run in an object store are then gone from this machine."""
        self._opened.close()


def read_metrics(path: StoragePath) -> list[dict[str, Any]]:
    """The lines of a metrics file, as far as they are whole; none where there is no file."""
    lines: list[dict[str, Any]] = []
    with suppress(FileNotFoundError), reading(path):
        for text in path.read_text().splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                break  # the last line of a process that was killed
    return lines


def describe(line: dict[str, Any], *, num_steps: int) -> str:
    """A line of metrics for a person: losses, speed, share of the time that data were waited for, time left."""
    left_s = (num_steps - line["step"]) / line["steps_per_s"]
    found = f"validation: hole {line['validation_hole_psnr']:.2f} dB | " if "validation_hole_psnr" in line else ""
    return (
        f"step {line['step']}/{num_steps} | hole {line['hole']:.4f} valid {line['valid']:.4f} "
        f"adversarial {line['adversarial']:+.3f} discriminator {line['discriminator']:.3f} | "
        f"{line['steps_per_s']:.2f} steps/s, data wait {line['data_wait_share']:.1%} | {found}{duration(left_s)} left"
    )
