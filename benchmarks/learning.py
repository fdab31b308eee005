"""Whether a training learns: the small network, trained on four real clips, against mean color inside the holes.

Needs --media with the clips named below. Builds shards of those four and of others that it never sees, trains with two
workers as `pipelines.demo` does, for --steps steps, and completes frames of both with masks of all families.

Results: trained_gain_db and unseen_gain_db, hole PSNR over that of mean color, the mean over clips; the curve of
validation, on the unseen clips; the seconds that the training took.
"""

import csv
import json
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import parse_arguments, write_result
from pipelines import build_shards
from pipelines.demo import DEFAULTS
from sttn_ray import train
from sttn_ray.config import load_experiment
from sttn_ray.fills import fill_mean_color
from sttn_ray.model.weights import load_generator
from sttn_ray.shards.read import read_index
from sttn_ray.training.metrics import read_metrics
from sttn_ray.training.validation import Example, complete, measure, read_examples

TRAINED = ("schoolgirls.mp4", "one-by-one-person-detection.mp4", "sam2_04_coffee.mp4", "bikes.mp4")
UNSEEN = ("carphone_pristine.mp4", "bottle-detection.mp4", "sam2_bedroom.mp4", "dogs_jump.mp4", "car-detection.mp4")
NUM_EXAMPLES = 20


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and write the result."""
    words = list(sys.argv[1:] if argv is None else argv)
    num_steps = int(words.pop(words.index("--steps") + 1)) if "--steps" in words else 3000
    arguments = parse_arguments(__doc__ or "", [word for word in words if word != "--steps"])
    if arguments.media is None:
        sys.exit("error: --media DIR: the real clips are needed")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory(prefix="sttn-ray-") as folder:
        results = _measure(Path(folder), arguments.media, 20 if arguments.quick else num_steps)
    settings = {"trained": list(TRAINED), "unseen": list(UNSEEN), "steps": num_steps, "quick": arguments.quick}
    write_result("learning", settings, results, arguments.json)


def _measure(folder: Path, media: Path, num_steps: int) -> dict[str, Any]:
    with open(folder / "clips.csv", "w", newline="") as file:
        rows = [*((name, "train") for name in TRAINED), *((name, "validation") for name in UNSEEN)]
        csv.writer(file).writerows([("path", "split"), *rows])
    common = [*DEFAULTS, f"shards.dir={folder}/shards", "shards.clip_frames=60"]
    corpus = [f"corpus.root={media}", f"corpus.manifest={folder}/clips.csv"]
    build_shards.run(load_experiment([*common, *corpus]))
    words = [*common, f"run.dir={folder}/run", f"train.num_steps={num_steps}", f"train.decay_at={num_steps * 3 // 4}"]
    words += [
        "train.ema_decay=0.99",
        "train.validation_clips=20",
        f"train.validation_interval={max(num_steps // 10, 1)}",
    ]
    start = time.perf_counter()
    if train.run(load_experiment(words)):
        sys.exit("error: the training failed")
    seconds = time.perf_counter() - start
    generator = load_generator(folder / "run/generator.pt")
    results: dict[str, Any] = {}
    for name, split in (("trained", "train"), ("unseen", "validation")):
        index = read_index(folder / "shards", split)
        found = [
            _gain(generator, example)
            for example in read_examples(folder / "shards", index, num_clips=NUM_EXAMPLES, seed=0)
        ]
        results[f"{name}_gain_db"] = round(float(np.mean([ours - mean for ours, mean in found])), 2)
        results[f"{name}_hole_psnr_db"] = round(float(np.mean([ours for ours, _ in found])), 2)
    lines = read_metrics(folder / "run/metrics.jsonl")
    curve = [(line["step"], round(line["validation_hole_psnr"], 2)) for line in lines if "validation_hole_psnr" in line]
    losses = [(line["step"], round(line["hole"], 4)) for line in lines][:: max(1, len(lines) // 20)]
    record = json.loads((folder / "run/best.json").read_text())
    return results | {"validation_curve": curve, "hole_loss": losses, "seconds": round(seconds), "best": record}


def _gain(generator: torch.nn.Module, example: Example) -> tuple[float, float]:
    completed = complete(generator, example, device=torch.device("cpu"), precision="fp32")
    filled = fill_mean_color(example.frames, example.masks)
    return measure(example, completed)["hole_psnr"], measure(example, filled)["hole_psnr"]


if __name__ == "__main__":
    main()
