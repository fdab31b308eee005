"""What every measurement shares: its command line, its pairs, and the JSON it writes."""

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import torch

import sttn_ray


def parse_arguments(
    doc: str,
    argv: Sequence[str] | None = None,
    *,
    paths: Mapping[str, str] | None = None,
    numbers: Mapping[str, tuple[float | None, str]] | None = None,
) -> argparse.Namespace:
    """The flags of a benchmark.

    `paths` names those of its own that take a path, each with its help; `numbers` those that take a number, above 0,
    each with its default and help.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--media", type=Path, help="folder of videos to measure on (default: made frames)")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller runs: whether it works, not how fast")
    parser.add_argument("--json", type=Path, help="file for the result (default: standard output)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="math threads")
    for name, text in (paths or {}).items():
        parser.add_argument(f"--{name}", type=Path, help=text)
    for name, (default, text) in (numbers or {}).items():
        parser.add_argument(f"--{name}", type=_above_zero, default=default, help=text)
    return parser.parse_args(argv)


def _above_zero(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: expected a number above 0")
    return number


def interleaved(runs: dict[str, Callable[[], Any]], pairs: int) -> dict[str, list[float]]:
    """Seconds of each run, one after another in turn, so that noise disturbs all alike. Warm them up first."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(pairs):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
            sys.stderr.write(f"pair {number + 1}/{pairs}: {name} {seconds[name][-1]:.2f} s\n")
    return seconds


def ratio(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """How many times faster: median, least and most over pairs."""
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return {
        "median": round(statistics.median(ratios), 3),
        "min": round(min(ratios), 3),
        "max": round(max(ratios), 3),
    }


def write_result(name: str, settings: dict[str, Any], results: dict[str, Any], path: Path | None) -> dict[str, Any]:
    """One JSON object: name, versions, machine, settings, results."""
    record = {
        "name": name,
        "versions": {
            "sttn_ray": sttn_ray.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "av": av.__version__,
        },
        "machine": {
            "system": platform.system(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "bf16_instructions": bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()),
        },
        "settings": settings,
        "results": results,
    }
    text = json.dumps(record, indent=2)
    if path is None:
        sys.stdout.write(f"{text}\n")
    else:
        path.write_text(f"{text}\n")
        sys.stderr.write(f"wrote {path}\n")
    return record


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
