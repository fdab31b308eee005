"""How much memory a job takes: this process and Ray's workers together, not Ray's daemons and its object store."""

import os
import threading
from pathlib import Path

DAEMONS = (b"ray::DashboardAgent", b"ray::RuntimeEnvAgent")


class PeakMemory:
    """The largest sum of PSS of this process and of Ray's workers while a `with` block runs."""

    num_bytes = 0
    parts: dict[str, int]  # by process, at that moment

    def __enter__(self) -> None:
        self._is_done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._is_done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_done.wait(0.2):
            found = {"driver": _pss(os.getpid())}
            for pid, name in _ray_workers():
                found[f"{name} {pid}"] = _pss(pid)
            if sum(found.values()) > self.num_bytes:
                self.num_bytes, self.parts = sum(found.values()), found


def _ray_workers() -> list[tuple[int, str]]:
    """Ray's workers below this process, which has started the cluster, and what they do."""
    parents, names = {}, {}
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                names[int(process.name)] = (process / "cmdline").read_bytes()
                # After the name, which may hold anything, in parentheses: the state, and the parent.
                parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has ended
    return [
        (pid, name.decode(errors="replace").strip("\0"))
        for pid, name in names.items()
        if name.startswith(b"ray::") and not name.startswith(DAEMONS) and os.getpid() in _ancestors(pid, parents)
    ]


def _ancestors(pid: int, parents: dict[int, int]) -> list[int]:
    found = []
    while pid in parents:
        pid = parents[pid]
        found.append(pid)
    return found


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
