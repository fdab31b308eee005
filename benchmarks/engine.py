"""How much faster the engine completes frames than the published algorithm written plainly in float32.

Both do windows from the middle of an 80-frame video at 432x240 with the full-size network and random weights: encode
the five new frames of a window, run the transformer on its 11 neighbors and the references, decode, composite. A
window completes five new frames, so seconds per frame are a fifth of a window's. The plain algorithm is
benchmarks/plain.py. Every neighbor has a hole; the engine gets no gain from frames without one.

Results: exact_fp32_over_plain and exact_bf16_over_plain (null where the device has no bf16 instructions: emulated
bf16 is many times slower than float32), with the least and most over pairs, and the fidelity between both.
"""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import plain
from benchmarks.record import interleaved, parse_arguments, ratio, write_result
from sttn_ray.choices import Precision
from sttn_ray.completion import schedule as windows
from sttn_ray.completion.engine import Engine, Memory, SourceFrame
from sttn_ray.completion.pictures import to_planes
from sttn_ray.completion.regions import find_regions
from sttn_ray.completion.schedule import Schedule, Shot
from sttn_ray.masks.hole import make_hole
from sttn_ray.model.generator import PRESETS, Generator
from sttn_ray.model.precision import fastest_precision
from sttn_ray.video.color import Planes, color_format
from sttn_ray.video.write import read_pictures

WIDTH, HEIGHT, NUM_FRAMES, CENTER = 432, 240, 80, 40
COLOR = color_format("yuv444p", 2, 1)  # full range without subsampling: both see the same RGB


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and write the result."""
    arguments = parse_arguments(__doc__ or "", argv)
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(1)
    preset = PRESETS["sttn"]
    torch.manual_seed(0)
    generator = Generator(preset).eval()
    for layer in generator.modules():
        if isinstance(layer, torch.nn.Conv2d):  # keeps activations in range through all blocks
            torch.nn.init.kaiming_normal_(layer.weight, a=0.2, nonlinearity="leaky_relu")
            layer.weight.data.mul_(0.55)
    pictures = _pictures(arguments.media)
    masks = _masks()
    # A quick run looks at fewer references; the pairs are still the same work for both.
    schedule = Schedule(num_references=2 if arguments.quick else 7)
    runs: dict[str, Callable[[], NDArray[np.float32]]] = {
        "plain": _plain_window(generator, pictures, masks, schedule),
        "exact_fp32": _engine_window(copy.deepcopy(generator), "fp32", pictures, masks, schedule),
    }
    if fastest_precision("cpu") == "bf16":
        runs["exact_bf16"] = _engine_window(copy.deepcopy(generator), "bf16", pictures, masks, schedule)
    outputs = {name: run() for name, run in runs.items()}  # and warmed up
    pairs = 2 if arguments.quick else 5
    seconds = interleaved(runs, pairs)
    results: dict[str, object] = {"exact_bf16_over_plain": None}
    for name in runs:
        results[f"{name}_seconds_per_frame"] = round(float(np.median(seconds[name])) / schedule.window_stride, 3)
        if name != "plain":
            spread = ratio(seconds["plain"], seconds[name])
            results[f"{name}_over_plain"] = spread["median"]
            results[f"{name}_over_plain_spread"] = [spread["min"], spread["max"]]
            results[f"{name}_max_difference"] = float(np.abs(outputs[name] - outputs["plain"]).max())
    write_result(
        "engine",
        {
            "preset": "sttn",
            "size": [WIDTH, HEIGHT],
            "frames": NUM_FRAMES,
            "quick": arguments.quick,
            "pairs": pairs,
            "media": None if arguments.media is None else arguments.media.name,
            "references": schedule.num_references,
        },
        results,
        arguments.json,
    )


def _pictures(media: Path | None) -> NDArray[np.uint8]:
    """80 frames at 432x240, of the first video in a folder that has as many, else made ones."""
    for path in sorted(media.rglob("*.mp4")) if media else []:
        if path.stat().st_size > 3_000_000:
            continue
        frames = read_pictures(path)
        if len(frames) >= NUM_FRAMES:
            return np.stack([cv2.resize(f, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA) for f in frames[:NUM_FRAMES]])
    rng = np.random.default_rng(0)
    texture = cv2.resize(rng.integers(0, 255, (60, 100, 3), np.uint8), (WIDTH + 160, HEIGHT))
    return np.stack([texture[:, 2 * n : 2 * n + WIDTH] for n in range(NUM_FRAMES)])


def _masks() -> NDArray[np.bool_]:
    """An object of 12 % of the picture that moves two pixels a frame."""
    masks = np.zeros((NUM_FRAMES, HEIGHT, WIDTH), bool)
    for n in range(NUM_FRAMES):
        masks[n, 60:160, 100 + 2 * n : 225 + 2 * n] = True
    return masks


def _window(schedule: Schedule) -> tuple[list[int], list[int]]:
    shot = Shot(start=0, stop=NUM_FRAMES)
    return (
        list(windows.neighbors(CENTER, shot, schedule)),
        windows.references(CENTER, shot, schedule),
    )


def _plain_window(
    generator: Generator, pictures: NDArray[np.uint8], masks: NDArray[np.bool_], schedule: Schedule
) -> Callable[[], NDArray[np.float32]]:
    neighbors, references = _window(schedule)
    numbers = [*neighbors, *references]
    frames = torch.from_numpy(pictures[numbers]).permute(0, 3, 1, 2).float() / 127.5 - 1
    holes = torch.from_numpy(masks[numbers])[:, None].float()
    features = plain.encode(generator, frames, holes)

    def run() -> NDArray[np.float32]:
        new = plain.encode(generator, frames[: schedule.window_stride], holes[: schedule.window_stride])
        features[: schedule.window_stride] = new
        completed: list[NDArray[np.uint8] | None] = [None] * NUM_FRAMES
        plain.complete_window(generator, features, holes, pictures[neighbors], len(neighbors), completed, neighbors)
        done = np.stack([image for image in completed if image is not None])
        return done[masks[neighbors]].astype(np.float32) / np.float32(255)

    return run


def _engine_window(
    generator: Generator,
    precision: Precision,
    pictures: NDArray[np.uint8],
    masks: NDArray[np.bool_],
    schedule: Schedule,
) -> Callable[[], NDArray[np.float32]]:
    neighbors, references = _window(schedule)
    engine = Engine(generator, device="cpu", precision=precision, schedule=schedule)
    source = {}
    for n in [*neighbors, *references]:
        planes: Planes = [
            plane.round().clamp(0, 255).byte().numpy()
            for plane in to_planes(torch.from_numpy(pictures[n]).permute(2, 0, 1) / 255, COLOR)
        ]
        hole = make_hole(masks[n], dilation_px=0, feather_px=0, chroma_step=(1, 1))
        source[n] = SourceFrame(n, planes, hole)
    union = np.asarray(masks[neighbors].any(0))
    (region,) = find_regions(union, engine.model_size)
    memory: Memory = {}
    frames = [source[n] for n in [*neighbors, *references]]
    engine.predict(region, frames, len(neighbors), COLOR, memory)

    def run() -> NDArray[np.float32]:
        for n in neighbors[: schedule.window_stride]:
            del memory[region.box, n]
        predicted = engine.predict(region, frames, len(neighbors), COLOR, memory).permute(0, 2, 3, 1).cpu().numpy()
        return np.clip(predicted[masks[neighbors]], 0, 1)

    return run


if __name__ == "__main__":
    main()
