"""Whether seams show where parts of a completed video meet that were done apart, on real footage with trained weights.

What was completed is compared with what had been there. The difference of the two changes from frame to frame, with the
source itself; where a seam shows, it changes more than that. So each number is how much the difference changes from one
frame to the next, inside the hole, across seams of one kind, over how much the source changes there (a hole of one gray
has 1); `elsewhere` is where there is no seam. Kinds of seams:

- segments: a task's frames meet another's, every 20 frames here
- windows: every 5 frames another set of frames is completed together
- regions: the part of the picture that the network sees has moved, or changed its scale

Cases, each on every clip: one logo; two logos in two corners; a hole larger than the network's picture; a moving mask;
and one film of all clips, cut every second, where `cuts` is the hole's PSNR in frames at cuts, less that elsewhere.
Outputs are lossless; `encoded` and `encoded_elsewhere` are those at segments, and elsewhere, with the default encoder.

Results: for each case the median over clips, and with --json every row. With --pictures DIR a picture for each: the
frame before a seam and the one after, as the source, with its hole, and completed.
"""

import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.clips import cut_clips, videos_in, write_silent
from benchmarks.record import parse_arguments, write_result
from pipelines.inpaint_run import make_settings
from sttn_ray.catalog.complete import complete_segment, start_engine
from sttn_ray.catalog.items import Item
from sttn_ray.catalog.plan import Plan, Settings, plan_video
from sttn_ray.catalog.publish import publish_if_complete
from sttn_ray.catalog.records import ItemDir
from sttn_ray.catalog.segments import write_segment
from sttn_ray.completion.engine import Engine
from sttn_ray.completion.regions import Box
from sttn_ray.config import load_experiment
from sttn_ray.fills import fill_mean_color
from sttn_ray.masks.draw import draw_masks
from sttn_ray.masks.read import read_masks
from sttn_ray.metrics import psnr
from sttn_ray.model.generator import Generator
from sttn_ray.model.weights import load_generator
from sttn_ray.video.write import read_pictures

NUM_FRAMES, SEGMENT_FRAMES, SHOT_FRAMES = 60, 20, 25
FILM_SIZE = (480, 270)
BOXES = {"one logo": "78%,6%,16%,12%", "two logos": "6%,6%,14%,11%;80%,82%,14%,11%", "large": "12%,12%,76%,76%"}
Row = dict[str, Any]
Pictures = NDArray[np.uint8]
Masks = NDArray[np.bool_]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and write the result."""
    paths = {"checkpoint": "trained weights", "pictures": "folder for pictures of the seams"}
    arguments = parse_arguments(__doc__ or "", argv, paths=paths)
    if arguments.checkpoint is None:
        sys.exit("error: --checkpoint FILE: what an untrained network paints shows no seams")
    torch.set_num_threads(arguments.threads)
    generator = load_generator(arguments.checkpoint)
    if arguments.pictures is not None:
        arguments.pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="sttn-ray-") as name:
        folder = Path(name)
        clips = cut_clips(videos_in(arguments.media)[: 2 if arguments.quick else None], folder / "clips", NUM_FRAMES)
        jobs: list[tuple[str, Path, Path | None, str | None]]
        jobs = [(case, clip, None, boxes) for case, boxes in BOXES.items() for clip in clips]
        jobs += [("moving", clip, _moving_mask(clip, folder / f"{clip.stem}-masks"), None) for clip in clips]
        jobs += [("cuts", _cut_film(clips, folder / "film.mp4"), None, BOXES["one logo"])]
        rows: list[Row] = []
        for job in jobs:
            rows.append(_measure(*job, generator, folder / f"out-{len(rows)}", arguments.pictures))
            sys.stderr.write(f"{rows[-1]}\n")
    settings = {"clips": len(clips), "frames": NUM_FRAMES, "segment_frames": SEGMENT_FRAMES, "quick": arguments.quick}
    write_result("seams", settings, {"cases": _summary(rows), "rows": rows}, arguments.json)


def _summary(rows: Sequence[Row]) -> Row:
    cases: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for name, value in row.items():
            if isinstance(value, float):
                cases[row["case"]][name].append(value)
    return {case: {name: round(statistics.median(v), 3) for name, v in found.items()} for case, found in cases.items()}


def _moving_mask(clip: Path, folder: Path) -> Path:
    """A random shape that moves over a clip, as a folder of images."""
    folder.mkdir()
    height, width = read_pictures(clip)[0].shape[:2]
    rng = np.random.default_rng(len(clip.stem))
    masks = draw_masks("moving_shape", height=height, width=width, frames=range(NUM_FRAMES), rng=rng)
    for number, mask in enumerate(masks):
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{number:05d}.png")
    return folder


def _cut_film(clips: Sequence[Path], path: Path) -> Path:
    """The first second of every clip, one after the other."""
    pictures = (cv2.resize(p, FILM_SIZE) for clip in clips for p in read_pictures(clip)[:SHOT_FRAMES])
    return write_silent(path, pictures, len(clips) * SHOT_FRAMES)


def _measure(
    case: str,
    clip: Path,
    mask: Path | None,
    boxes: str | None,
    generator: Generator,
    folder: Path,
    pictures: Path | None,
) -> Row:
    item = Item(video=str(clip), mask=str(mask) if mask else None, boxes=boxes, output=clip.stem)
    words = [f"inpaint.segment_frames={SEGMENT_FRAMES}", "encode.codec=x264-lossless"]
    settings = make_settings(load_experiment(words), "cpu", "")
    plan = plan_video(item, settings)
    engine = start_engine(generator, settings, threads=torch.get_num_threads())
    seen = _record_regions(engine)
    before = read_pictures(clip)
    after = read_pictures(_inpaint(plan, engine, settings, folder / "lossless"))
    holes = np.stack(list(read_masks(plan.mask, plan.index, 0, plan.index.num_frames)))
    jumps, changes = _jumps(before, after, holes), _jumps(before, np.zeros_like(before), holes)
    numbers = range(1, len(before))
    seams = {
        "segments": {start for start, _ in plan.segments[1:]},
        "windows": {n for n in numbers if n % settings.schedule.window_stride == 0},
        "regions": {n for n in numbers if seen[n] != seen[n - 1]},
    }
    row: Row = {"case": case, "clip": clip.stem, "hole_psnr": psnr(after, before, holes)}
    row["over_mean_color"] = row["hole_psnr"] - psnr(fill_mean_color(before, holes), before, holes)
    if case == "cuts":
        starts = set(range(0, len(before), SHOT_FRAMES))
        at_cuts = [n for n in range(len(before)) if {n, n + 1} & starts]
        elsewhere = sorted(set(range(len(before))) - set(at_cuts))
        row["cuts"] = psnr(after[at_cuts], before[at_cuts], holes[at_cuts])
        row["cuts"] -= psnr(after[elsewhere], before[elsewhere], holes[elsewhere])
        jumps = {n: jump for n, jump in jumps.items() if n not in starts}
    row |= _means(jumps, changes, seams)
    encoded = _inpaint(plan_video(item, lossy := replace(settings, codec="libx264")), engine, lossy, folder / "lossy")
    jumps = {n: jump for n, jump in _jumps(before, read_pictures(encoded), holes).items() if n in jumps}
    found = _means(jumps, changes, {"segments": seams["segments"]})
    row |= {"encoded": found["segments"], "encoded_elsewhere": found["elsewhere"]}
    if pictures is not None:
        shown = min(seams.get("regions") or seams["segments"])
        _draw(before, after, holes, shown, pictures / f"{case.replace(' ', '-')}-{clip.stem}-{shown:03d}.jpg")
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()}


def _record_regions(engine: Engine) -> dict[int, set[Box]]:
    """Makes an engine note which regions each frame was completed in."""
    seen: dict[int, set[Box]] = defaultdict(set)
    predict = engine.predict

    def recorded(region: Any, frames: Any, num_outputs: int, *rest: Any) -> Any:
        for frame in frames[:num_outputs]:
            seen[frame.number].add(region.box)
        return predict(region, frames, num_outputs, *rest)

    engine.predict = recorded  # type: ignore[method-assign,assignment]
    return seen


def _inpaint(plan: Plan, engine: Engine, settings: Settings, folder: Path) -> Path:
    """All of a job's steps on one video, in this process; returns the output."""
    item_dir = ItemDir(folder, plan.output)
    for segment in range(len(plan.segments)):
        samples = list(complete_segment(plan, segment, engine, settings, lambda frames: None))
        write_segment(item_dir, plan, segment, samples, settings, completion={"seconds": 0.0})
    outcome = publish_if_complete(item_dir, plan)
    assert outcome is not None
    return folder / str(outcome["output"])


def _jumps(before: Pictures, after: Pictures, holes: Masks) -> dict[int, float]:
    """How much the error of each frame, inside its hole, differs from that of the frame before."""
    jumps = {}
    last = None
    for number, (old, new, hole) in enumerate(zip(before, after, holes, strict=True)):
        error = (new.astype(np.float32) - old).mean(-1)
        if last is not None and (both := hole & holes[number - 1]).any():
            jumps[number] = float(np.abs(error - last)[both].mean())
        last = error
    return jumps


def _means(jumps: dict[int, float], changes: dict[int, float], seams: dict[str, set[int]]) -> dict[str, float | None]:
    """Jumps over the source's changes, at each kind of seam, and where there is none."""
    kinds = {**seams, "elsewhere": set(jumps).difference(*seams.values())}
    found = {kind: [n for n in jumps if n in at] for kind, at in kinds.items()}
    return {
        kind: sum(jumps[n] for n in there) / max(1e-9, sum(changes[n] for n in there)) if there else None
        for kind, there in found.items()
    }


def _draw(before: Pictures, after: Pictures, holes: Masks, number: int, path: Path) -> None:
    lines = []
    for n in (number - 1, number):
        marked = before[n].copy()
        marked[holes[n]] = marked[holes[n]] // 2 + np.array([127, 0, 0], np.uint8)
        lines.append(np.concatenate([before[n], marked, after[n]], axis=1))
    Image.fromarray(np.concatenate(lines)).save(path, quality=92)


if __name__ == "__main__":
    main()
