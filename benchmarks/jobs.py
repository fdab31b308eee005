"""Two jobs at once on a cluster of two nodes, over the same two one after the other.

The nodes, of three logical CPUs each, are Ray's on this machine; the jobs are the real command, each with a catalog of
eight videos and an output of its own, so that both do the same work. They run in turn: one, another, then two at once.

Results: at_once_over_in_turn, seconds of the two at once over those of the two in turn (1: neither costs the other
anything); in_turn_s of each, at_once_s; are_equal, whether all four wrote the same bytes.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from ray.cluster_utils import Cluster

from benchmarks.clips import cut_clips, videos_in
from benchmarks.record import parse_arguments, write_result
from sttn_ray.model.generator import PRESETS, Generator
from sttn_ray.model.weights import save_generator

NODES, CPUS = 2, 3


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and write the result."""
    arguments = parse_arguments(__doc__ or "", argv)
    num_frames = 12 if arguments.quick else 60
    with tempfile.TemporaryDirectory(prefix="sttn-ray-") as name:
        folder = Path(name)
        torch.manual_seed(0)
        save_generator(folder / "small.pt", Generator(PRESETS["small"]))
        clips = cut_clips(videos_in(arguments.media)[:8], folder / "clips", num_frames)
        rows = "".join(f'clips/{clip.name},"10%,10%,30%,20%"\n' for clip in clips)
        (folder / "catalog.csv").write_text(f"video,boxes\n{rows}")
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": CPUS})
        for _ in range(NODES - 1):
            nodes.add_node(num_cpus=CPUS)
        try:
            _run(folder, nodes.address, "first")  # reads files that the others find in memory
            in_turn_s = [_run(folder, nodes.address, "one"), _run(folder, nodes.address, "two")]
            at_once_s = _run(folder, nodes.address, "three", "four")
        finally:
            nodes.shutdown()
        outputs = [_outputs(folder / name) for name in ("one", "two", "three", "four")]
    results = {
        "at_once_over_in_turn": round(at_once_s / sum(in_turn_s), 3),
        "in_turn_s": in_turn_s,
        "at_once_s": at_once_s,
        "are_equal": all(output == outputs[0] and len(output) == len(clips) for output in outputs),
    }
    told = {"videos": len(clips), "frames": num_frames, "nodes": NODES, "cpus": CPUS, "preset": "small"}
    write_result("jobs", {**told, "quick": arguments.quick}, results, arguments.json)


def _run(folder: Path, address: str, *outputs: str) -> float:
    """Seconds until jobs that are started together have ended."""
    start = time.perf_counter()
    programs = [_start(folder, address, output) for output in outputs]
    for program in programs:
        if program.wait():
            raise RuntimeError(f"{' '.join(map(str, program.args))}: ended with {program.returncode}")  # type: ignore[arg-type]
    seconds = round(time.perf_counter() - start, 2)
    sys.stderr.write(f"{', '.join(outputs)}: {seconds:.2f} s\n")
    return seconds


def _start(folder: Path, address: str, output: str) -> subprocess.Popen[bytes]:
    words = [f"inpaint.catalog={folder / 'catalog.csv'}", f"inpaint.output={folder / output}", "run.actor_cpus=1"]
    words += [f"inpaint.checkpoint={folder / 'small.pt'}", "inpaint.segment_frames=20"]
    command = ["env", f"RAY_ADDRESS={address}", sys.executable, "-m", "pipelines.inpaint", *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _outputs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("clips/*.mp4")}


if __name__ == "__main__":
    main()
