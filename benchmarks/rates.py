"""What the steps of our jobs take: CPU seconds of a core for a frame, and arithmetic of the networks.

CPU seconds are those that the operating system counts for this process, all its threads together, so that they are
nearly the same on a machine that has other work. Waiting, for a disk or a store, is not in them.
"""

import itertools
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.clips import FPS, videos_in, write_silent
from pipelines.inpaint_run import make_settings
from sttn_ray.catalog.complete import complete_segment
from sttn_ray.catalog.items import single_item
from sttn_ray.catalog.plan import Plan, Settings, plan_video
from sttn_ray.catalog.publish import publish_if_complete
from sttn_ray.catalog.records import ItemDir
from sttn_ray.catalog.segments import write_segment
from sttn_ray.choices import Precision
from sttn_ray.completion import schedule as windows
from sttn_ray.completion.engine import Engine
from sttn_ray.completion.schedule import Schedule, Shot
from sttn_ray.config import Experiment, load_experiment
from sttn_ray.corpus import Entry, index_source
from sttn_ray.model.generator import PRESETS, Generator
from sttn_ray.shards.plan import Range
from sttn_ray.shards.read import read_index
from sttn_ray.shards.tables import INDEX_SCHEMA
from sttn_ray.shards.write import IndexRow, ShardSettings, write_clips
from sttn_ray.training.data import ClipDataset
from sttn_ray.training.state import TrainState, create_networks, create_state, for_precision
from sttn_ray.training.step import StepSettings, train_step
from sttn_ray.video.decode import decode_range
from sttn_ray.video.index import VideoIndex, index_video

# Displayed heights that count as a size, and the width and height of a clip that is made where there is no video.
SIZES = {"480p": (450, 560, 854, 480), "720p": (700, 800, 1280, 720), "1080p": (1000, 1200, 1920, 1080)}
FOLDER_SIZE = (1280, 720)  # of YouTube-VOS's frames
BOX = "85%,4%,12%,9%"  # a station's mark: one region of the network's size up to 1080p
NUM_FRAMES, MAX_VIDEOS, NUM_SAMPLES = 60, 2, 40
CONFIG, WINDOW = PRESETS["sttn"], Schedule()
GPU_RUNS = 10
Row = dict[str, Any]


class Spent:
    """CPU seconds of a `with` block: of the thread that runs it, and of all threads of the process."""

    thread_s = all_s = 0.0

    def __enter__(self) -> "Spent":
        self._start = time.process_time(), time.thread_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.all_s, self.thread_s = time.process_time() - self._start[0], time.thread_time() - self._start[1]


class FreeNetwork(nn.Module):
    """A generator of the full size that costs next to nothing, so that the work around it is left."""

    config = CONFIG

    def encode(self, frames: Tensor) -> Tensor:
        return frames[:, :1, ::4, ::4]

    def transform(
        self, features: Tensor, masks: Tensor, *, num_queries: int, frames_at_once: int | None = None
    ) -> Tensor:
        return features[:num_queries]

    def decode(self, features: Tensor) -> Tensor:
        return features.new_zeros(len(features), 3, CONFIG.height, CONFIG.width)


def measure_rates(media: Path | None, folder: Path, *, is_quick: bool) -> Row:
    """Rates by size of the video, and those that do not depend on one.

    Returns:
        `sizes`, by name: videos, and the seconds and frames of `simulation.Rates` but the network's, with `shard_s`
        of building shards; means over up to two videos of each size, with the least and most encode_s.
        `folder_shard_s`: of a frame from a folder of JPEGs. `sample_s`: of a training clip, read and given a mask.
    """
    num_frames = 16 if is_quick else NUM_FRAMES
    videos = videos_in(media)
    by_size: dict[str, list[Path]] = {name: [] for name in SIZES}
    for path in videos:
        name = _size_of(index_video(str(path)))
        if name and len(by_size[name]) < MAX_VIDEOS:
            by_size[name].append(path)
    if media is None:
        by_size = {name: [_make(folder / f"{name}.mp4", name, num_frames)] for name in ("480p", "1080p")}
    # What is made at the first use of a library is no part of a rate.
    _measure_video(_make(folder / "first.mp4", "480p", 16), folder / "first", 8)
    sizes: dict[str, Row] = {}
    index: list[IndexRow] = []
    for name, paths in by_size.items():
        rows = [_measure_video(path, folder / f"{name}-{n}", num_frames) for n, path in enumerate(paths)]
        for number, (row, path) in enumerate(zip(rows, paths, strict=True)):
            row["shard_s"], found = _measure_shard(
                path.parent, Entry(path.name, "video"), folder / f"shards/clips/{name}-{number}.parquet", num_frames
            )
            index += found
        if rows:
            sizes[name] = {"videos": len(rows)} | {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
            sizes[name]["encode_s_spread"] = [
                min(row["encode_s"] for row in rows),
                max(row["encode_s"] for row in rows),
            ]
    if not sizes:
        raise SystemExit(f"error: {media}: holds no video of {', '.join(SIZES)}; give another folder, or none")
    source = next(path for name in ("720p", "1080p", "480p") for path in by_size.get(name, []))
    _write_folder(source, folder / "frames/JPEGImages/a", num_frames)
    folder_shard_s, _ = _measure_shard(
        folder / "frames", Entry("JPEGImages/a", "frames"), folder / "other/clips/a.parquet", num_frames
    )
    pq.write_table(pa.Table.from_pylist(index, INDEX_SCHEMA), folder / "shards/index.parquet")
    return {"sizes": sizes, "folder_shard_s": folder_shard_s, "sample_s": _measure_samples(folder / "shards")}


def _size_of(index: VideoIndex) -> str | None:
    height = min(index.displayed_size)
    return next((name for name, (low, high, _, _) in SIZES.items() if low <= height <= high), None)


def _make(path: Path, size: str, num_frames: int) -> Path:
    width, height = SIZES[size][2:]
    rng = np.random.default_rng(0)
    texture = cv2.resize(rng.integers(0, 255, (36, 64, 3), np.uint8), (width + 2 * num_frames, height))
    pictures = (np.ascontiguousarray(texture[:, 2 * n : 2 * n + width]) for n in range(num_frames))
    return write_silent(path, pictures, num_frames)


def _job_settings(**changes: Any) -> Settings:
    return replace(make_settings(load_experiment(["inpaint.precision=fp32"]), "cpu", ""), **changes)


def _measure_video(path: Path, folder: Path, num_frames: int) -> Row:
    """Planning of a whole video, and completion and encoding of a segment in its middle."""
    settings = _job_settings(segment_frames=num_frames)
    (item,) = single_item(str(path), None, BOX)
    with Spent() as planning:
        plan = plan_video(item, settings)
    index = plan.index
    segment = (len(plan.segments) - 1) // 2
    start, stop = plan.segments[segment]
    engine = Engine(
        FreeNetwork(),  # type: ignore[arg-type]  # it does what the engine asks of a generator
        device="cpu",
        precision="fp32",
        schedule=settings.schedule,
    )
    first, last = engine.read_range(start, stop, index.num_frames)
    with Spent() as completing:
        samples = list(complete_segment(plan, segment, engine, settings, lambda frames: None))
    inner_ends = (start > 0) + (stop < index.num_frames)
    # Frames are decoded in a thread of their own; all else is this thread's.
    read_s = (completing.all_s - completing.thread_s) / (last - first + _frames_before(index, first))
    with Spent() as encoding:
        write_segment(ItemDir(folder, "a"), plan, segment, samples, settings, completion={"seconds": 0.0})
    sought_s = _frames_before(index, start) * read_s
    return {
        "plan_s": planning.all_s / index.num_frames,
        "read_s": read_s,
        "own_s": completing.thread_s / (stop - start + settings.schedule.window_radius * inner_ends),
        "encode_s": (encoding.all_s - sought_s) / (stop - start),
        "publish_s": _measure_publishing(index, folder, engine),
        "seek_frames": index.num_frames / len(index.keyframe_pts) / 2,
    }


def _frames_before(index: VideoIndex, number: int) -> int:
    """Frames from the keyframe at which decoding begins to a frame."""
    keyframe = index.keyframe_pts[max(0, bisect_right(index.keyframe_pts, index.pts[number]) - 1)]
    return number - min(number, bisect_left(index.pts, keyframe))


def _measure_publishing(index: VideoIndex, folder: Path, engine: Engine) -> float:
    """Of the first two seconds, as a file of their own, in two segments."""
    num_frames = min(2 * FPS, index.num_frames)
    pictures = (frame.to_ndarray(format="rgb24") for frame in decode_range(index, 0, num_frames))
    path = write_silent(folder / "short.mp4", pictures, num_frames)
    settings = _job_settings(segment_frames=-(-num_frames // 2))
    (item,) = single_item(str(path), None, BOX)
    plan = plan_video(item, settings)
    item_dir = ItemDir(folder / "published", item.output)
    item_dir.write_plan(plan)
    _encode_all(plan, item_dir, engine, settings)
    with Spent() as publishing:
        assert publish_if_complete(item_dir, plan) is not None
    return publishing.all_s / num_frames


def _encode_all(plan: Plan, item_dir: ItemDir, engine: Engine, settings: Settings) -> None:
    for segment in range(len(plan.segments)):
        samples = list(complete_segment(plan, segment, engine, settings, lambda frames: None))
        write_segment(item_dir, plan, segment, samples, settings, completion={"seconds": 0.0})


def _measure_shard(root: Path, entry: Entry, path: Path, num_frames: int) -> tuple[float, list[IndexRow]]:
    """Of indexing a video of a corpus, and of writing its first frames as clips; and their rows of the index."""
    options = load_experiment([]).shards
    names = ("fit", "codec", "quality", "clip_frames", "min_clip_frames", "clips_per_shard")
    settings = ShardSettings(
        width=CONFIG.width, height=CONFIG.height, **{name: getattr(options, name) for name in names}
    )
    with Spent() as indexing:
        source = index_source(str(root), entry, frames_fps=Fraction(24))
    stop = min(num_frames, source.num_frames)
    edges = itertools.pairwise([*range(0, stop, settings.clip_frames), stop])
    ranges = [Range(source.sha256, start, end) for start, end in edges]
    with Spent() as writing:
        rows, faults = write_clips(str(root), path, ranges, {source.sha256: source}, settings)
    assert not faults, faults
    return indexing.all_s / source.num_frames + writing.all_s / stop, rows


def _write_folder(video: Path, folder: Path, num_frames: int) -> None:
    folder.mkdir(parents=True)
    index = index_video(str(video))
    for number, picture in enumerate(_pictures(index, min(num_frames, index.num_frames))):
        Image.fromarray(picture).save(folder / f"{number:05d}.jpg", quality=90)


def _pictures(index: VideoIndex, num_frames: int) -> Iterator[NDArray[np.uint8]]:
    for frame in decode_range(index, 0, num_frames):
        yield cv2.resize(frame.to_ndarray(format="rgb24"), FOLDER_SIZE, interpolation=cv2.INTER_AREA)


def _measure_samples(shards: Path) -> float:
    experiment = youtube_vos()
    dataset = ClipDataset(
        shards,
        read_index(shards, "train"),
        sample_frames=experiment.train.sample_frames,
        weights=experiment.masks.weights(),
        seed=0,
    )
    dataset[0]
    with Spent() as reading:
        for position in range(1, NUM_SAMPLES + 1):
            dataset[position]
    return reading.all_s / NUM_SAMPLES


def youtube_vos() -> Experiment:
    """The published training."""
    return load_experiment([str(Path(__file__).parents[1] / "configs/youtube_vos.yaml")])


class Cost(NamedTuple):
    """Arithmetic of the networks, a multiplication with an addition counted as two.

    Attributes:
        frame_tflop: of a completed frame, in 1e12.
        clip_tflop: of a training step with one clip.
        exchanged_bytes: the gradients of both networks, which workers average in each step.
    """

    frame_tflop: float
    clip_tflop: float
    exchanged_bytes: int


def count_cost() -> Cost:
    """Counted, without computing anything, for a mark that stands in every frame of a long shot."""
    with FakeTensorMode():
        generator, state = Generator(CONFIG).eval(), _training_state("fp32")
        frames, masks = _training_clip("cpu")
        with FlopCounterMode(display=False) as completing:
            _complete_window(generator, "cpu", torch.float32)
        with FlopCounterMode(display=False) as training:
            train_step(state, frames, masks, _step_settings("fp32"))
    parameters = [*state.generator.parameters(), *state.discriminator.parameters()]
    return Cost(
        frame_tflop=completing.get_total_flops() / WINDOW.window_stride / 1e12,
        clip_tflop=training.get_total_flops() / 1e12,
        exchanged_bytes=4 * sum(p.numel() for p in parameters),
    )


def measure_gpu(cost: Cost) -> dict[str, float]:
    """TFLOP/s that this machine's GPU reaches in bf16: `network`, completing, and `training`, one clip a step."""
    generator = Generator(CONFIG).eval().to("cuda", torch.bfloat16)
    generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in its types
    state = _training_state("bf16", "cuda")
    frames, masks = _training_clip("cuda")
    settings = _step_settings("bf16")
    window_s = _gpu_seconds(lambda: _complete_window(generator, "cuda", torch.bfloat16))
    step_s = _gpu_seconds(lambda: train_step(state, frames, masks, settings))
    return {"network": cost.frame_tflop * WINDOW.window_stride / window_s, "training": cost.clip_tflop / step_s}


def _gpu_seconds(run: Callable[[], object]) -> float:
    times = []
    for _ in range(GPU_RUNS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return float(np.median(times[2:]))


@torch.inference_mode()
def _complete_window(generator: Generator, device: str, dtype: torch.dtype) -> None:
    """A window in the middle of a long shot, all of whose frames but its new ones were encoded before."""
    shot = Shot(start=0, stop=1000)
    num_outputs = len(windows.neighbors(500, shot, WINDOW))
    num_frames = num_outputs + len(windows.references(500, shot, WINDOW))
    size = (CONFIG.height, CONFIG.width)
    image = torch.zeros(1, 3, *size, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    encoded = [generator.encode(image) for _ in range(WINDOW.window_stride)]
    features = torch.cat([encoded[0]] * num_frames).contiguous(memory_format=torch.channels_last)
    masks = torch.zeros(1, num_frames, 1, *size, device=device, dtype=dtype)
    generator.decode(generator.transform(features, masks, num_queries=num_outputs))


def _training_clip(device: str) -> tuple[Tensor, Tensor]:
    num_frames = youtube_vos().train.sample_frames
    frames = torch.zeros(1, num_frames, 3, CONFIG.height, CONFIG.width, device=device)
    masks = torch.zeros(1, num_frames, 1, CONFIG.height, CONFIG.width, device=device)
    masks[..., CONFIG.height // 4 : CONFIG.height // 2, CONFIG.width // 4 : CONFIG.width // 2] = 1
    return frames, masks


def _training_state(precision: Precision, device: str = "cpu") -> TrainState:
    with torch.device(device):
        generator, discriminator = create_networks(CONFIG, seed=0, initialization="published")
    for_precision(precision, generator, discriminator)
    return create_state(generator, discriminator, beta1=0.0, beta2=0.99)


def _step_settings(precision: Precision) -> StepSettings:
    options = youtube_vos().train
    names = ("learning_rate", "decay_at", "hole_weight", "valid_weight", "adversarial_weight", "adversarial_loss")
    return StepSettings(**{name: getattr(options, name) for name in names}, precision=precision)
