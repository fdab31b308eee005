"""What a training tells: metrics.jsonl, one object a line, and the line that a person reads."""

import json
from pathlib import Path
from typing import Any

from sttn_ray.storage import published


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


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file, as far as they are whole; none where there is no file."""
    lines = []
    if path.is_file():
        for text in path.read_text().splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                break  # the last line of a process that was killed
    return lines


def describe(line: dict[str, Any], *, num_steps: int) -> str:
    """A line of metrics for a person: losses, speed, share of the time that data were waited for, time left."""
    left_s = (num_steps - line["step"]) / line["steps_per_s"]
    return (
        f"step {line['step']}/{num_steps} | hole {line['hole']:.4f} valid {line['valid']:.4f} "
        f"adversarial {line['adversarial']:+.3f} discriminator {line['discriminator']:.3f} | "
        f"{line['steps_per_s']:.2f} steps/s, data wait {line['data_wait_share']:.1%} | {duration(left_s)} left"
    )


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, as 1:02:03 or 2:03."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
