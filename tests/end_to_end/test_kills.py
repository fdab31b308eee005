"""A bulk run that is killed again and again at random times, and ends with the same bytes.

pytest -m slow tests/end_to_end/test_kills.py
"""

import random
import subprocess
import time
from pathlib import Path

import pytest

from sttn_ray.model.generator import Generator, GeneratorConfig
from sttn_ray.model.weights import save_generator
from tests.media import make_video
from tests.processes import descendants, kill_ray_process, start, wait_until

NUM_KILLS = 10


@pytest.mark.slow
def test_ten_kills_at_random_times_give_the_same_bytes(tmp_path: Path) -> None:
    seed = time.time_ns()
    chance = random.Random(seed)
    make_video(tmp_path / "film.mp4", num_frames=1200, width=128, height=96, audio=True)
    save_generator(
        tmp_path / "tiny.pt",
        Generator(GeneratorConfig(channels=16, num_blocks=1, width=96, height=48, mask_keys=True)),
    )

    def begin(output: str) -> subprocess.Popen[bytes]:
        return start(
            "pipelines.inpaint",
            f"inpaint.video={tmp_path / 'film.mp4'}",
            "inpaint.boxes=16,12,30,20; 70,50,30,30",
            f"inpaint.output={tmp_path / output}",
            f"inpaint.checkpoint={tmp_path / 'tiny.pt'}",
            "inpaint.segment_frames=20",
        )

    assert begin("undisturbed").wait(600) == 0

    recorded: dict[Path, int] = {}
    kills: list[str] = []
    while len(kills) < NUM_KILLS:
        run = begin("disturbed")
        victim = chance.choice(["driver", "worker"])
        # From the moment at which it works on segments; before that there is nothing to lose.
        wait_until(lambda: run.poll() is not None or is_at_work(run.pid), "a process of the network")  # noqa: B023
        deadline = time.monotonic() + chance.uniform(0, 10)
        while time.monotonic() < deadline and run.poll() is None:
            time.sleep(0.05)
        if run.poll() is not None:
            break  # it was done before it could be killed
        if victim == "worker":
            kill_ray_process(run.pid, "Completer")
            kills.append(f"worker with {len(records(tmp_path / 'disturbed'))} segments recorded")
            time.sleep(chance.uniform(0, 5))
        run.kill()
        run.wait(60)
        kills.append(f"driver with {len(records(tmp_path / 'disturbed'))} segments recorded")
        # Nothing that was recorded before is done again.
        now = records(tmp_path / "disturbed")
        assert {path: now.get(path) for path in recorded} == recorded, (seed, kills)
        recorded = now
    print(f"seed {seed}:", *kills, sep="\n  ")  # noqa: T201 -- shown with pytest -s
    assert len(kills) >= NUM_KILLS, "the run ended before it was killed ten times; make the film longer"
    assert recorded, "no segment was recorded before the last kill"
    assert begin("disturbed").wait(600) == 0
    assert (tmp_path / "disturbed/film.mp4").read_bytes() == (tmp_path / "undisturbed/film.mp4").read_bytes(), seed


def is_at_work(driver_pid: int) -> bool:
    return any("Completer" in command for _, command in descendants(driver_pid))


def records(output: Path) -> dict[Path, int]:
    """The recorded segments, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in output.glob("_sttn/items/*/segment-*.json")}
