"""How many CPU cores feed one GPU, and what a large archive and a YouTube-VOS training take on 1, 8 and 64 GPUs.

Measured: the CPU seconds that each step takes for a frame on this machine, at 480p, 720p and 1080p. Counted: the
arithmetic of the networks. Measured where there is a GPU, else assumed: the TFLOP/s that one reaches (--tflops). From
these a division and a simulation (benchmarks/simulation.py) tell how long a run takes; what else they assume stands in
the result's settings. --rates FILE takes the rates of an earlier result, or ones that were changed in it, and measures
nothing.

Results: rates, as benchmarks/rates.py has them; cost of the networks; cores, for each size and number of processes on a
GPU: frames a second of a GPU, the share of the time it works, cores that its processes use, and cores beside them;
archive and training, a row for each number of GPUs. The tables are written to standard error too.
"""

import itertools
import json
import math
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import torch

from benchmarks.rates import Cost, count_cost, measure_gpu, measure_rates, youtube_vos
from benchmarks.record import parse_arguments, write_result
from benchmarks.simulation import (
    Archive,
    Cluster,
    Rates,
    divided_s,
    draw_kills,
    draw_lengths,
    simulate_archive,
    simulate_training,
)
from pipelines.inpaint_chain import MAX_ITEMS_A_TASK, MAX_SINGLE_ITEMS
from sttn_ray.completion.engine import SHOT_MARGIN
from sttn_ray.completion.schedule import Schedule
from sttn_ray.config import load_experiment

GPUS = (1, 8, 64)
PROCESSES = (1, 2)  # on each GPU: run.gpus_per_actor=1 and 0.5
# A third of the 121 TFLOP/s that an L4's data sheet gives for dense bf16.
TFLOPS = 40.0
# Beside what was measured: for tasks that start, checks, and a machine's own work.
HEADROOM = 1.25
# Of Ray Data's driver, for a task: docs/inpainting.md.
DISPATCH_S = 0.008
NUM_FILES, MEAN_FRAMES, SIGMA = 100_000, 1400, 1.0  # log-normal: half of them are shorter than 850 frames
YOUTUBE_VOS_VIDEOS, YOUTUBE_VOS_FRAMES = 3471, 135  # 4.5 s at 30 frames a second
# A checkpoint after fewer steps than published: what kills cost depends on it.
SHORT_INTERVAL = 1000
SEED = 0
ARCHIVE_HEAD = (
    "GPUs | processes on each | cores beside | network alone | division | simulated | with kills | kills | "
    "processes at work | cores at work | driver at work | done twice"
)
TRAINING_HEAD = (
    "GPUs | workers | s a step | exchange | division | with kills | kills | lost steps | "
    f"checkpoint every {SHORT_INTERVAL} | lost steps"
)
Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, simulate, and write the result."""
    arguments = parse_arguments(
        __doc__ or "",
        argv,
        paths={"rates": "result of an earlier run, whose rates are taken instead of measuring"},
        numbers={
            "tflops": (None, f"1e12 operations a second that a GPU reaches (default: measured, or {TFLOPS:g})"),
            "cores": (None, "cores for each GPU, beside those that its processes take (default: what is computed)"),
            "gbits": (10.0, "of the network between nodes, 1e9 bits a second"),
            "hours-between-kills": (24.0, "of one node, in the mean"),
            "minutes-away": (5.0, "until a killed node is replaced, and works"),
        },
    )
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    cost = count_cost()
    rates = _rates(arguments)
    tflops = _tflops(arguments, cost)
    size = max(rates["sizes"], key=lambda name: int(name.removesuffix("p")))
    cores = [
        _cores(name, processes, rates["sizes"][name], cost, tflops["network"])
        for name in rates["sizes"]
        for processes in PROCESSES
    ]
    num_files = NUM_FILES // 50 if arguments.quick else NUM_FILES
    results = {
        "rates": _rounded(rates),
        "cost": cost._asdict(),
        "tflops": tflops,
        "cores": _rounded(cores),
        "cores_for_training": _rounded(_training_cores(rates, cost, tflops["training"])),
        "archive": _rounded(_archive(rates["sizes"][size], cost, tflops["network"], num_files, arguments)),
        "training": _rounded(_training(cost, tflops["training"], arguments)),
        "shards": _rounded(_shards(rates)),
    }
    settings = {
        "quick": arguments.quick,
        "media": None if arguments.media is None else arguments.media.name,
        "rates": None if arguments.rates is None else arguments.rates.name,
        "is_gpu_assumed": tflops["is_assumed"],
        "headroom": HEADROOM,
        "dispatch_s": DISPATCH_S,
        "archive": {"files": num_files, "mean_frames": MEAN_FRAMES, "sigma": SIGMA, "size": size},
        "youtube_vos": {"videos": YOUTUBE_VOS_VIDEOS, "frames": YOUTUBE_VOS_FRAMES},
        "gbits": arguments.gbits,
        "hours_between_kills": arguments.hours_between_kills,
        "minutes_away": arguments.minutes_away,
    }
    sys.stderr.write(_tables(results))
    write_result("sizing", settings, results, arguments.json)


def _rates(arguments: Namespace) -> Row:
    if arguments.rates is not None:
        found: Row = json.loads(arguments.rates.read_text())["results"]["rates"]
        return found
    with tempfile.TemporaryDirectory(prefix="sttn-ray-") as folder:
        return measure_rates(arguments.media, Path(folder), is_quick=arguments.quick)


def _tflops(arguments: Namespace, cost: Cost) -> Row:
    if arguments.tflops is None and torch.cuda.is_available():
        return {"is_assumed": False, **_rounded(measure_gpu(cost))}
    given = TFLOPS if arguments.tflops is None else arguments.tflops
    return {"is_assumed": True, "network": given, "training": given}


def _run_rates(size: Row, cost: Cost, tflops: float, processes: int = 1) -> Rates:
    """What was measured at a size, and the network, as the simulation takes them."""
    schedule = Schedule()
    reach = schedule.reach(MEAN_FRAMES)
    names = ("plan_s", "read_s", "own_s", "encode_s", "publish_s", "seek_frames")
    return Rates(
        **{name: size[name] for name in names},
        network_s=cost.frame_tflop / tflops,
        margin_frames=schedule.margin(MEAN_FRAMES) + SHOT_MARGIN,
        ahead_frames=reach + SHOT_MARGIN + 1,
        radius_frames=schedule.window_radius,
        processes_per_gpu=processes,
    )


def _cores(name: str, processes: int, size: Row, cost: Cost, tflops: float) -> Row:
    """Of one GPU, in the middle of a long film."""
    rates = _run_rates(size, cost, tflops, processes)
    frames = load_experiment([]).inpaint.segment_frames
    segment_s = rates.completion_s(frames, is_first=False, is_last=False)
    frame_s = segment_s / frames / processes
    read = frames + 2 * rates.margin_frames + rates.seek_frames
    worked = frames + 2 * rates.radius_frames
    beside_s = rates.plan_s + rates.publish_s + rates.encoding_s(frames, is_first=False) / frames
    return {
        "size": name,
        "processes": processes,
        "frames_per_s": 1 / frame_s,
        "gpu_share": worked * rates.network_s / frames / frame_s,
        "cores_of_processes": (read * rates.read_s + worked * rates.own_s) / frames / frame_s,
        "cores_beside": beside_s / frame_s,
        "cores_with_headroom": math.ceil(HEADROOM * beside_s / frame_s),
    }


def _training_cores(rates: Row, cost: Cost, tflops: float) -> Row:
    """Of one GPU: those that read its clips, and those that would build shards as fast as it takes frames in."""
    clip_s = cost.clip_tflop / tflops
    frames = youtube_vos().train.sample_frames
    sizes = {name: size["shard_s"] for name, size in rates["sizes"].items()} | {"folder": rates["folder_shard_s"]}
    return {
        "clips_per_s": 1 / clip_s,
        "reading": rates["sample_s"] / clip_s,
        "sharding": {name: seconds * frames / clip_s for name, seconds in sizes.items()},
    }


def _archive(size: Row, cost: Cost, tflops: float, num_files: int, arguments: Namespace) -> list[Row]:
    archive = Archive(
        frames=draw_lengths(num_files, mean_frames=MEAN_FRAMES, sigma=SIGMA, seed=SEED),
        segment_frames=load_experiment([]).inpaint.segment_frames,
        files_per_task=min(MAX_ITEMS_A_TASK, 1 + num_files // MAX_SINGLE_ITEMS),
    )
    rows = []
    for gpus, processes in itertools.product(GPUS, PROCESSES):
        rates = _run_rates(size, cost, tflops, processes)
        cores = math.ceil(arguments.cores or _cores("", processes, size, cost, tflops)["cores_with_headroom"])
        cluster = Cluster(num_nodes=gpus, processes=processes, cores=cores, dispatch_s=DISPATCH_S)
        kills = draw_kills(gpus, mean_s=arguments.hours_between_kills * 3600, seed=SEED)
        sys.stderr.write(
            f"{num_files} files, {archive.num_segments} segments, {gpus} GPUs, {processes} processes on each\n"
        )
        calm = simulate_archive(archive, rates, cluster)
        killed = simulate_archive(archive, rates, cluster, kills=kills, away_s=arguments.minutes_away * 60)
        rows.append(
            {
                "gpus": gpus,
                "processes": processes,
                "cores": cores,
                "frames": archive.num_frames,
                "segments": archive.num_segments,
                "network_alone_s": archive.num_frames * rates.network_s / gpus,
                "divided_s": divided_s(archive, rates, cluster),
                "simulated": calm._asdict(),
                "with_kills": killed._asdict(),
            }
        )
    return rows


def _training(cost: Cost, tflops: float, arguments: Namespace) -> list[Row]:
    options = youtube_vos().train
    rows = []
    for gpus in GPUS:
        workers = min(gpus, options.batch_size)  # with no clip there is nothing to do
        exchange_s = 2 * (workers - 1) / workers * cost.exchanged_bytes * 8 / (arguments.gbits * 1e9)
        step_s = options.batch_size / workers * cost.clip_tflop / tflops + exchange_s
        row = {
            "gpus": gpus,
            "workers": workers,
            "step_s": step_s,
            "exchange_share": exchange_s / step_s,
            "divided_s": options.num_steps * step_s,
        }
        for name, interval in (("as_published", options.checkpoint_interval), ("short_interval", SHORT_INTERVAL)):
            outcome = simulate_training(
                num_steps=options.num_steps,
                step_s=step_s,
                checkpoint_interval=interval,
                kills=draw_kills(workers, mean_s=arguments.hours_between_kills * 3600, seed=SEED),
                stopped_s=arguments.minutes_away * 60,
            )
            row[name] = {"checkpoint_interval": interval, **outcome._asdict()}
        rows.append(row)
    return rows


def _shards(rates: Row) -> Row:
    """Core-hours of the shards of YouTube-VOS, whose videos are folders of JPEGs."""
    frames = YOUTUBE_VOS_VIDEOS * YOUTUBE_VOS_FRAMES
    return {"youtube_vos_frames": frames, "youtube_vos_core_hours": frames * rates["folder_shard_s"] / 3600}


def _rounded(value: Any) -> Any:
    """Numbers to five digits, within lists and dictionaries too."""
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _tables(results: Row) -> str:
    """The results as a person reads them, in Markdown."""
    steps = ("plan_s", "read_s", "own_s", "encode_s", "publish_s", "shard_s")
    rates = results["rates"]
    parts = [
        _table(
            ["CPU ms a frame", "videos", *(name.removesuffix("_s") for name in steps)],
            [
                [name, size["videos"], *(f"{1000 * size[step]:.2f}" for step in steps)]
                for name, size in rates["sizes"].items()
            ],
        ),
        f"A frame of a folder of JPEGs takes {1000 * rates['folder_shard_s']:.1f} ms to shard, a training clip "
        f"{1000 * rates['sample_s']:.1f} ms to read.\n"
        f"{results['cost']['frame_tflop']:.3f} TFLOP a completed frame, {results['cost']['clip_tflop']:.2f} a clip of "
        f"a training step; a GPU reaches {results['tflops']['network']:g} and {results['tflops']['training']:g} TFLOP/s"
        f"{' (assumed)' if results['tflops']['is_assumed'] else ''}.\n",
        _table(
            ["size", "processes", "frames/s", "GPU at work", "cores in them", "cores beside", "with headroom"],
            [
                [
                    row["size"],
                    row["processes"],
                    f"{row['frames_per_s']:.1f}",
                    f"{row['gpu_share']:.0%}",
                    f"{row['cores_of_processes']:.2f}",
                    f"{row['cores_beside']:.2f}",
                    row["cores_with_headroom"],
                ]
                for row in results["cores"]
            ],
        ),
        _training_text(results),
        _table(
            ARCHIVE_HEAD.split(" | "),
            [_archive_cells(row) for row in results["archive"]],
        ),
        _table(
            TRAINING_HEAD.split(" | "),
            [_training_cells(row) for row in results["training"]],
        ),
    ]
    return "\n".join(parts) + "\n"


def _training_text(results: Row) -> str:
    found = results["cores_for_training"]
    sharding = ", ".join(f"{cores:.2f} ({name})" for name, cores in found["sharding"].items())
    return (
        f"Training takes {found['clips_per_s']:.2f} clips/s a GPU: {found['reading']:.3f} cores to read them; cores to "
        f"shard as many frames: {sharding}. YouTube-VOS's {results['shards']['youtube_vos_frames']:,} frames take "
        f"{results['shards']['youtube_vos_core_hours']:.1f} core-hours to shard.\n"
    )


def _archive_cells(row: Row) -> list[object]:
    calm, killed = row["simulated"], row["with_kills"]
    return [
        row["gpus"],
        row["processes"],
        row["gpus"] * row["cores"],
        *(_time(s) for s in (row["network_alone_s"], row["divided_s"], calm["seconds"], killed["seconds"])),
        killed["kills"],
        *(f"{calm[name]:.0%}" for name in ("process_share", "core_share", "driver_share")),
        f"{killed['lost_share']:.2%}",
    ]


def _training_cells(row: Row) -> list[object]:
    published, short = row["as_published"], row["short_interval"]
    return [
        row["gpus"],
        row["workers"],
        f"{row['step_s']:.3f}",
        f"{row['exchange_share']:.0%}",
        _time(row["divided_s"]),
        _time(published["seconds"]),
        published["kills"],
        f"{published['lost_steps']:,}",
        _time(short["seconds"]),
        f"{short['lost_steps']:,}",
    ]


def _time(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 72 else f"{hours / 24:.1f} days"


def _table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


if __name__ == "__main__":
    main()
