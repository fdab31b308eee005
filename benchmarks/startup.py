"""How long programs take before they do anything: --help, a job's first completed frame, a rerun with nothing to do.

The real commands run one after another, on one short made video with the small network (the first run of each reads
files that the others find in memory, and does not count).

Results, in seconds, medians over runs, with all of them in runs: help, of `pipelines.inpaint --help`; ray_started and
first_frame, from the start of `pipelines.inpaint` to its line about Ray and to the first count above 0 of completed
frames, which it shows twenty times a second; done, to its end; rerun, the same command again.
"""

import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.clips import cut_clips
from benchmarks.record import parse_arguments, write_result
from sttn_ray.model.generator import PRESETS, Generator
from sttn_ray.model.weights import save_generator

NUM_FRAMES = 24
PATTERNS = {"ray_started": r"started Ray", "first_frame": r"\] [1-9]\d*/"}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and write the result."""
    arguments = parse_arguments(__doc__ or "", argv)
    num_runs = 1 if arguments.quick else 5
    with tempfile.TemporaryDirectory(prefix="sttn-ray-") as folder:
        runs = [_run(Path(folder) / str(n)) for n in range(num_runs + (not arguments.quick))][-num_runs:]
    results = {name: round(statistics.median(run[name] for run in runs), 2) for name in runs[0]}
    told = {"preset": "small", "frames": NUM_FRAMES, "runs": num_runs, "quick": arguments.quick}
    write_result("startup", told, {**results, "runs": runs}, arguments.json)


def _run(folder: Path) -> dict[str, float]:
    folder.mkdir()
    checkpoint = folder / "small.pt"
    torch.manual_seed(0)
    save_generator(checkpoint, Generator(PRESETS["small"]))
    (video,) = cut_clips([], folder / "clips", NUM_FRAMES)[:1]
    words = [f"inpaint.video={video}", "inpaint.boxes=10%,10%,30%,20%", f"inpaint.output={folder / 'out'}"]
    words += [f"inpaint.checkpoint={checkpoint}", "run.log_interval_s=0.05"]
    found = {"help": _seconds("--help")["done"], **_seconds(*words), "rerun": _seconds(*words)["done"]}
    sys.stderr.write(", ".join(f"{name} {seconds:.2f} s" for name, seconds in found.items()) + "\n")
    return found


def _seconds(*words: str) -> dict[str, float]:
    """Seconds from the start of the program to the lines that tell of what it does, and to its end."""
    start, found = time.perf_counter(), {}
    command = [sys.executable, "-m", "pipelines.inpaint", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as program:
        assert program.stderr is not None
        for line in program.stderr:
            for name, pattern in PATTERNS.items():
                if name not in found and re.search(pattern, line):
                    found[name] = round(time.perf_counter() - start, 2)
    if program.returncode:
        raise RuntimeError(f"{' '.join(command)}: ended with {program.returncode}")
    return {**found, "done": round(time.perf_counter() - start, 2)}


if __name__ == "__main__":
    main()
