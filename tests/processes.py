"""Programs as real processes, that tests start, watch and kill."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]


def start(module: str, *words: str) -> subprocess.Popen[bytes]:
    """Start a program in a process group of its own; what it says is thrown away."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *words],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def wait_until(condition: Callable[[], bool], what: str, *, seconds: float = 120) -> None:
    """Wait for a condition; fails after some time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def kill_ray_process(driver_pid: int, name: str, *, seconds: float = 60) -> None:
    """SIGKILL a process of the cluster that a driver started, whose title holds a name."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for pid, command in descendants(driver_pid):
            if command.startswith("ray::") and name in command:
                os.kill(pid, signal.SIGKILL)
                return
        time.sleep(0.02)
    raise AssertionError(f"no process of {name} to kill")


def descendants(pid: int) -> list[tuple[int, str]]:
    """Process ids and command lines of all processes below one."""
    listing = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
    children: dict[int, list[tuple[int, str]]] = {}
    for line in listing.stdout.splitlines():
        child, parent, command = line.split(maxsplit=2)
        children.setdefault(int(parent), []).append((int(child), command))
    found, todo = [], [pid]
    while todo:
        for child in children.get(todo.pop(), []):
            found.append(child)
            todo.append(child[0])
    return found
