"""How far a job is: counts that its operators send, and the line a person reads."""

import logging
import sys
import threading
import time
from collections import Counter
from typing import Any

import ray

log = logging.getLogger(__name__)

BAR_WIDTH = 24


@ray.remote(num_cpus=0)
class Progress:
    """Counts of a job, kept beside it; operators send and do not wait."""

    def __init__(self) -> None:
        self._frames: dict[str, int] = {}
        self._videos: dict[int, str] = {}

    def add(self, name: str, frames: int) -> None:
        """Frames that were planned, completed or encoded."""
        self._frames[name] = self._frames.get(name, 0) + frames

    def finish(self, item: int, status: str) -> None:
        """A video's outcome; said twice it counts once."""
        self._videos[item] = status

    def counts(self) -> dict[str, int]:
        """Frames by name and videos by status."""
        return {**self._frames, **Counter(self._videos.values())}


class ProgressLine:
    """Prints a job's progress while a `with` block runs: a bar on a terminal, else a line now and then."""

    def __init__(self, progress: ray.actor.ActorHandle, *, num_videos: int, interval_s: float) -> None:
        self._progress = progress
        self._num_videos = num_videos
        self._is_terminal = sys.stderr.isatty()
        self._interval_s = 1.0 if self._is_terminal else interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._start = time.monotonic()
        self._first_frame: tuple[float, int] | None = None

    def __enter__(self) -> "ProgressLine":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._show()
        if self._is_terminal:
            sys.stderr.write("\n")

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._show()

    def _show(self) -> None:
        try:
            counts: Any = ray.get(self._progress.counts.remote(), timeout=5)
        except (ray.exceptions.RayError, TimeoutError):
            return  # the counts are gone with their node; the job is not
        line = self._line(counts)
        if self._is_terminal:
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()
        else:
            log.info("%s", line)

    def _line(self, counts: dict[str, int]) -> str:
        total, completed = counts.get("planned", 0), counts.get("completed", 0)
        done = counts.get("done", 0) + counts.get("copied", 0)
        failed = counts.get("failed", 0)
        videos = f"videos {done}/{self._num_videos} done, {failed} failed"
        if not total:
            return f"{videos} | planning"
        now = time.monotonic()
        if completed and self._first_frame is None:
            self._first_frame = (now, completed)
        share = min(1.0, completed / total)  # what a killed process did is done, and counted, again
        bar = "#" * int(share * BAR_WIDTH)
        parts = [f"[{bar:<{BAR_WIDTH}}] {completed}/{total} frames", videos]
        if self._first_frame and completed > self._first_frame[1]:
            rate = (completed - self._first_frame[1]) / (now - self._first_frame[0])
            left = (total - completed) / rate
            parts.append(f"{rate:.2f} frames/s, {_duration(left)} left")
        parts.append(f"encoded {counts.get('encoded', 0)}")
        return " | ".join(parts)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
