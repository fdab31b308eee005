"""How much of the engine's speed a bulk job keeps, where its time goes, and how much memory a long film takes.

The engine completes all frames of some clips in one process on all cores, segment by segment, as `completion` does in a
job. The job is `pipelines.inpaint` on the same clips: planning, completion, encoding and publishing, on one machine.
The time of both counts from the first completed frames to the end, so without Ray's start and the loading of the
network. Both use the full-size network (--quick: the small one) with random weights, and run in turn.

Results: job_over_engine, completed frames a second over completed frames a second, with the least and most over pairs;
shares, of the seconds that planning, completing and encoding took in a job's processes; film_peak_pss_gb, the most
memory of the driver and Ray's workers while the longest video of --media (film_frames) alone is done with the small
network and a hole in its first film_hole_frames, and film_parts_gb, of each process at that moment; the same as
half_film with a hole in half as many (neither with --quick).
"""

import csv
import math
import os
import pickle
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import ray
import torch

from benchmarks.clips import cut_clips, videos_in
from benchmarks.memory import PeakMemory
from benchmarks.record import interleaved, parse_arguments, ratio, write_result
from pipelines.inpaint_chain import build
from pipelines.inpaint_faults import Nodes
from pipelines.inpaint_run import make_settings
from pipelines.inpaint_steps import Job, Pool
from pipelines.progress import start_progress
from sttn_ray import cluster
from sttn_ray.catalog.complete import complete_segment
from sttn_ray.catalog.items import Item, read_catalog
from sttn_ray.catalog.manifest import unpack_outcomes
from sttn_ray.catalog.plan import Settings, plan_video
from sttn_ray.catalog.records import ItemDir
from sttn_ray.completion.engine import Engine
from sttn_ray.config import load_experiment
from sttn_ray.model.generator import PRESETS, Generator
from sttn_ray.storage import read_record
from sttn_ray.video.index import index_video

CLIP_FRAMES, SECONDS = 40, 130
HOLE_FRAMES = 1200
BOX = "10%,10%,30%,20%"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and write the result."""
    arguments = parse_arguments(__doc__ or "", argv)
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(1)
    cluster.connect()
    with tempfile.TemporaryDirectory(prefix="sttn-ray-") as folder:
        results, settings = _measure(Path(folder), arguments.media, arguments.threads, arguments.quick)
    write_result("inpaint", settings, results, arguments.json)


def _measure(folder: Path, media: Path | None, threads: int, is_quick: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    videos = videos_in(media)
    results: dict[str, Any] = {}
    if videos and not is_quick:  # first, while this process is as large as that of a job
        results |= _film_memory(max(videos, key=lambda path: index_video(str(path)).num_frames), folder, threads)
    preset = "small" if is_quick else "sttn"
    generator = _generator(preset)
    clips = cut_clips(videos, folder / "clips", CLIP_FRAMES)
    settings = make_settings(load_experiment([]), "cpu", "")
    engine = Engine(generator, device="cpu", precision=settings.precision, schedule=settings.schedule)
    seconds = _complete(clips[:1], engine, settings, folder)["seconds"]
    clips = clips[: 2 if is_quick else max(2, math.ceil(SECONDS / seconds))]
    frames = len(clips) * CLIP_FRAMES
    sys.stderr.write(f"{len(clips)} clips, {frames} frames, {threads} threads\n")
    alone: list[dict[str, Any]] = []
    jobs: list[dict[str, Any]] = []
    runs = {
        "engine": lambda: alone.append(_complete(clips, engine, settings, folder)),
        "job": lambda: jobs.append(_run_job(clips, generator, settings, folder / f"job-{len(jobs)}", threads)),
    }
    pairs = 1 if is_quick else 3
    interleaved(runs, pairs)
    engine_s, job_s = ([run["seconds"] / run["frames"] for run in found] for found in (alone, jobs))
    spread = ratio(engine_s, job_s)
    results |= {
        "job_over_engine": spread["median"],
        "job_over_engine_spread": [spread["min"], spread["max"]],
        "engine_seconds_per_frame": [round(s, 3) for s in engine_s],
        "job_seconds_per_frame": [round(s, 3) for s in job_s],
        "shares": jobs[-1]["shares"],
    }
    told = {"preset": preset, "precision": settings.precision, "clips": len(clips), "frames": frames, "pairs": pairs}
    return results, {**told, "quick": is_quick, "media": None if media is None else media.name}


def _pool(settings: Settings, threads: int) -> Pool:
    """One process of the network, on all cores."""
    video_cpus = cluster.choose_video_cpus(settings.encoder_threads, threads)
    return Pool(size=1, min_size=1, cpus=threads, gpus=None, video_cpus=video_cpus)


def _generator(preset: str) -> Generator:
    torch.manual_seed(0)
    return Generator(PRESETS[preset]).eval()  # type: ignore[index]


def _items(clips: Sequence[Path], folder: Path) -> list[Item]:
    catalog = folder / "catalog.csv"
    with open(catalog, "w", newline="") as file:
        csv.writer(file).writerows([["video", "boxes"], *([str(clip), BOX] for clip in clips)])
    return read_catalog(str(catalog))


def _complete(clips: Sequence[Path], engine: Engine, settings: Settings, folder: Path) -> dict[str, Any]:
    """Seconds from the first completed frames to the end, and the frames completed in them."""
    told: list[tuple[float, int]] = []
    for item in _items(clips, folder):
        plan = plan_video(item, settings)
        for segment in range(len(plan.segments)):
            for _ in complete_segment(
                plan, segment, engine, settings, lambda frames: told.append((time.perf_counter(), frames))
            ):
                pass
    return {"seconds": time.perf_counter() - told[0][0], "frames": sum(frames for _, frames in told[1:])}


def _run_job(
    clips: Sequence[Path], generator: Generator, settings: Settings, output: Path, threads: int
) -> dict[str, Any]:
    """Seconds from the first completed frames to the end, the frames completed in them, and shares of the steps."""
    output.mkdir()
    items = _items(clips, output)
    job = Job(settings, str(output), start_progress(), None)
    first, records = _Start(job.progress), _Records(output, items)
    with _polling(first.look, records.look):
        rows = build(list(enumerate(items)), job, ray.put(pickle.dumps(generator)), Nodes(_pool(settings, threads)))
        ended = [item for row in rows.iter_rows() for item in unpack_outcomes(row["outcomes"])]
        end = time.perf_counter()
    assert len(ended) == len(clips)
    start = time.perf_counter()
    for item in items:
        plan_video(item, settings)
    planning_s = time.perf_counter() - start
    completion_s = sum(record["completion"]["seconds"] for record in records.found.values())
    encoding_s = sum(record["seconds"] for record in records.found.values()) - completion_s
    whole = planning_s + completion_s + encoding_s
    shares = {"planning": planning_s / whole, "completion": completion_s / whole, "encoding": encoding_s / whole}
    return {
        "seconds": end - first.time_s,
        "frames": len(clips) * CLIP_FRAMES - first.frames,
        "shares": {name: round(share, 3) for name, share in shares.items()},
    }


@contextmanager
def _polling(*looks: Callable[[], None]) -> Iterator[None]:
    """Look often while a block runs."""
    is_done = threading.Event()

    def run() -> None:
        while not is_done.wait(0.05):
            for look in looks:
                look()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_done.set()
        thread.join()


class _Start:
    """When the first frames were completed, and how many at once."""

    def __init__(self, progress: ray.actor.ActorHandle) -> None:
        self._progress = progress
        self.time_s, self.frames = 0.0, 0

    def look(self) -> None:
        if not self.frames:
            counts: Any = ray.get(self._progress.counts.remote())
            self.frames, self.time_s = counts.get("completed", 0), time.perf_counter()


class _Records:
    """The records of segments, which are deleted when a video is published."""

    def __init__(self, output: Path, items: Sequence[Item]) -> None:
        self._folders = [ItemDir(output, item.output).path for item in items]
        self.found: dict[str, dict[str, Any]] = {}

    def look(self) -> None:
        for folder in self._folders:
            path = folder / "segment-00000.json"
            if str(path) not in self.found and (record := read_record(path)) is not None:
                self.found[str(path)] = record


def _film_memory(film: Path, folder: Path, threads: int) -> dict[str, Any]:
    """Peak memory of a job on a film, with a hole in its first frames, and in twice as many of them."""
    times_s = index_video(str(film)).times_s()
    found: dict[str, Any] = {"film_frames": len(times_s), "film_hole_frames": HOLE_FRAMES}
    for name, count in (("half_film", HOLE_FRAMES // 2), ("film", HOLE_FRAMES)):
        box = f"{BOX}@0-{times_s[min(count, len(times_s) - 1)]:.3f}"
        peak = _job_memory(
            Item(video=str(film.absolute()), mask=None, boxes=box, output="film"), folder / name, threads
        )
        found[f"{name}_peak_pss_gb"] = round(peak.num_bytes / 1e9, 2)
        found[f"{name}_parts_gb"] = {part: round(num_bytes / 1e9, 2) for part, num_bytes in peak.parts.items()}
        sys.stderr.write(f"{name}: {found[f'{name}_peak_pss_gb']} GB, {os.cpu_count()} cores\n")
    return found


def _job_memory(item: Item, output: Path, threads: int) -> PeakMemory:
    output.mkdir()
    settings = make_settings(load_experiment([]), "cpu", "")
    job = Job(settings, str(output), start_progress(), None)
    peak = PeakMemory()
    with peak:
        rows = build([(0, item)], job, ray.put(pickle.dumps(_generator("small"))), Nodes(_pool(settings, threads)))
        assert any('"done"' in row["outcomes"] for row in rows.iter_rows())
    return peak


if __name__ == "__main__":
    main()
