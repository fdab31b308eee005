"""Small changes of real files of all kinds are read, or refused in our words, within limits of memory and time.

The slow tests begin at another number each time: it is printed, and --fuzz-first repeats it.
"""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import KINDS
from tests.processes import ROOT

NUM_FAST, NUM_SLOW = 10, 3000
STUCK_S = 3600  # of a whole child; one case is limited by the seconds of a CPU that it takes


def assert_holds(kinds: list[str], first: int, count: int, keep: Path) -> None:
    words = [*kinds, "--first", str(first), "--count", str(count), "--keep", str(keep)]
    tried = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONFAULTHANDLER": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=STUCK_S,
        check=False,
    )
    failed = [line for line in tried.stdout.splitlines() if not line.startswith("case ")]
    last = tried.stdout.rpartition("case ")[2].splitlines()[:1]  # of a process that was ended
    assert tried.returncode == 0, "\n".join(
        [f"repeat: python -m tests.fuzz KIND --first NUMBER; files: {keep}; the last case: {last}", *failed[:200]]
    )


def test_some_changes_of_each_kind(tmp_path: Path) -> None:
    assert_holds(list(KINDS), 0, NUM_FAST, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_changes(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    first = request.config.getoption("--fuzz-first")
    if first is None:
        first = random.SystemRandom().randrange(10**9)
    sys.stdout.write(f"--fuzz-first {first}\n")
    assert_holds([kind], first, NUM_SLOW, tmp_path)
