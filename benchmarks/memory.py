"""How much memory a job takes: this process and Ray's workers together, not Ray's daemons and its object store."""

import os
import threading
from pathlib import Path


class PeakMemory:
    """The largest sum of PSS of this process and of Ray's workers while a `with` block runs."""

    num_bytes = 0

    def __enter__(self) -> None:
        self._is_done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._is_done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_done.wait(0.2):
            self.num_bytes = max(self.num_bytes, sum(map(_pss, [os.getpid(), *_ray_workers()])))


def _ray_workers() -> list[int]:
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                if (process / "cmdline").read_bytes().startswith(b"ray::"):
                    found.append(int(process.name))
            except OSError:
                continue  # it has ended
    return found


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
