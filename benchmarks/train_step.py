"""How much faster a training step is in bf16 than written plainly in float32, and what else a step costs.

Plain is the published step: float32, separate optimizer operations, the discriminator's gradient computed once more in
the generator's pass, where nothing reads it. Ours is `training.step.train_step`. Both train the full-size network at
432x240 on a batch of 2 clips of 5 frames (--quick: the small one), one after the other in turn.

Results: bf16_over_plain (null where the device has no bf16 instructions), fp32_over_plain and compiled_over_plain (the
faster of both with train.compile), with the least and most over pairs; data_wait_share, of a step of the small network
that reads real shards, made of --media; loss_difference, between bf16 and float32 over 50 steps of the small network,
and loss_noise, between two seeds of float32 (not with --quick). On a GPU also peak memory, and TFLOP/s over those of
the largest matrix product measured there.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.record import interleaved, parse_arguments, ratio, write_result
from sttn_ray.choices import FAMILIES, Precision, Preset
from sttn_ray.corpus import VIDEO_SUFFIXES, Entry, index_source
from sttn_ray.model.generator import PRESETS
from sttn_ray.model.losses import discriminator_loss, generator_adversarial_loss, hole_loss, valid_loss
from sttn_ray.model.precision import fastest_precision
from sttn_ray.samples import worker_batches
from sttn_ray.shards.plan import Range
from sttn_ray.shards.read import read_index
from sttn_ray.shards.tables import INDEX_SCHEMA
from sttn_ray.shards.write import ShardSettings, write_clips
from sttn_ray.training.data import ClipDataset, make_loader
from sttn_ray.training.state import TrainState, create_networks, create_state, for_precision
from sttn_ray.training.step import StepSettings, to_device, train_step
from sttn_ray.video.write import write_clip

NUM_CLIPS, NUM_FRAMES = 2, 5
SMALL_STEPS = 50


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and write the result."""
    arguments = parse_arguments(__doc__ or "", argv)
    torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    preset: Preset = "small" if arguments.quick else "sttn"
    pairs = 2 if arguments.quick else 5
    has_bf16 = fastest_precision(device.type, trains=True) == "bf16"
    frames, masks = _batch(preset, device)
    runs = {"plain": _plain(preset, frames, masks), "fp32": _ours(preset, "fp32", frames, masks)}
    if has_bf16:
        runs["bf16"] = _ours(preset, "bf16", frames, masks)
    fastest: Precision = "bf16" if has_bf16 else "fp32"
    runs["compiled"] = _ours(preset, fastest, frames, masks, is_compiled=True)
    for run in runs.values():
        run()
    seconds = interleaved(runs, pairs)
    results: dict[str, Any] = {"bf16_over_plain": None}
    for name in runs:
        results[f"{name}_seconds_per_step"] = round(float(np.median(seconds[name])), 3)
        if name != "plain":
            spread = ratio(seconds["plain"], seconds[name])
            results[f"{name}_over_plain"] = spread["median"]
            results[f"{name}_over_plain_spread"] = [spread["min"], spread["max"]]
    if device.type == "cuda":
        results |= _on_gpu({fastest: runs[fastest], "compiled": runs["compiled"]}, results, device)
    with tempfile.TemporaryDirectory(prefix="sttn-ray-") as folder:
        shards = _make_shards(Path(folder), arguments.media)
        results["data_wait_share"] = _data_wait_share(shards, fastest, device)
        if has_bf16 and not arguments.quick:
            results |= _loss_differences(shards, device)
    settings = {
        "preset": preset,
        "batch": [NUM_CLIPS, NUM_FRAMES],
        "quick": arguments.quick,
        "pairs": pairs,
        "media": None if arguments.media is None else arguments.media.name,
    }
    write_result("train_step", settings, results, arguments.json)


def _batch(preset: Preset, device: torch.device) -> tuple[Tensor, Tensor]:
    config = PRESETS[preset]
    frames = torch.rand(NUM_CLIPS, NUM_FRAMES, 3, config.height, config.width, device=device) * 2 - 1
    masks = torch.zeros(NUM_CLIPS, NUM_FRAMES, 1, config.height, config.width, device=device)
    masks[..., config.height // 4 : config.height // 2, config.width // 4 : config.width // 2] = 1
    return frames, masks


def _settings(precision: Precision) -> StepSettings:
    return StepSettings(
        learning_rate=1e-4,
        decay_at=(),
        hole_weight=1.0,
        valid_weight=1.0,
        adversarial_weight=0.01,
        adversarial_loss="hinge",
        precision=precision,
    )


def _plain(preset: Preset, frames: Tensor, masks: Tensor) -> Callable[[], None]:
    networks = create_networks(PRESETS[preset], seed=0, initialization="published")
    generator, discriminator = (network.to(frames.device) for network in networks)
    generator_optimizer, discriminator_optimizer = (
        torch.optim.Adam(network.parameters(), lr=1e-4, betas=(0.0, 0.99), foreach=False)
        for network in (generator, discriminator)
    )

    def run() -> None:
        predicted = generator(frames * (1 - masks), masks)
        completed = frames * (1 - masks) + predicted * masks
        judged = discriminator_loss(discriminator(frames), discriminator(completed.detach()), "hinge")
        discriminator_optimizer.zero_grad()
        judged.backward()
        discriminator_optimizer.step()
        loss = hole_loss(predicted, frames, masks) + valid_loss(predicted, frames, masks)
        loss = loss + 0.01 * generator_adversarial_loss(discriminator(completed), "hinge")
        generator_optimizer.zero_grad()
        loss.backward()
        generator_optimizer.step()
        loss.item()

    return run


def _ours(
    preset: Preset, precision: Precision, frames: Tensor, masks: Tensor, *, is_compiled: bool = False
) -> Callable[[], None]:
    state = _state(preset, precision, frames.device)
    if is_compiled:
        state.generator.compile()

    def run() -> None:
        train_step(state, frames, masks, _settings(precision))["hole"].item()

    return run


def _state(preset: Preset, precision: Precision, device: torch.device, *, seed: int = 0) -> TrainState:
    networks: list[nn.Module] = list(create_networks(PRESETS[preset], seed=seed, initialization="fast"))
    for_precision(precision, *networks)
    return create_state(*(network.to(device) for network in networks), beta1=0.0, beta2=0.99)


def _on_gpu(runs: dict[str, Callable[[], None]], results: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Peak memory, and arithmetic over that of the largest product, of each run; the first is not compiled."""
    with FlopCounterMode(display=False) as counter:
        next(iter(runs.values()))()
    size = 8192
    a, b = (torch.rand(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(10):
        torch.cuda.synchronize()
        start = time.perf_counter()
        a @ b
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    best = 2 * size**3 / min(times) / 1e12
    found: dict[str, Any] = {"matmul_tflops": round(best, 1)}
    for name, run in runs.items():
        torch.cuda.reset_peak_memory_stats()
        run()
        reached = counter.get_total_flops() / results[f"{name}_seconds_per_step"] / 1e12
        found[f"{name}_peak_memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
        found[f"{name}_tflops"] = round(reached, 1)
        found[f"{name}_share_of_peak"] = round(reached / best, 3)
    return found


def _make_shards(folder: Path, media: Path | None) -> Path:
    """Shards at the small network's size: of some real videos, or of one that is made."""
    root = media
    if root is None:
        root = folder / "made"
        root.mkdir()
        rng = np.random.default_rng(0)
        texture = rng.integers(0, 255, (144, 480, 3), np.uint8)
        pictures = (np.ascontiguousarray(texture[:, n : n + 240]) for n in range(240))
        write_clip(root / "a.mp4", pictures, fps=24, sound=np.zeros(10 * 48000, np.float32))
    config = PRESETS["small"]
    settings = ShardSettings(
        width=config.width,
        height=config.height,
        fit="crop",
        codec="jpeg",
        quality=95,
        clip_frames=60,
        min_clip_frames=10,
        clips_per_shard=64,
    )
    names = sorted(p.name for p in root.iterdir() if p.suffix in VIDEO_SUFFIXES and p.stat().st_size < 1_500_000)[:8]
    sources = {}
    for name in names:
        source = index_source(str(root), Entry(name, "video"), frames_fps=Fraction(24))
        sources[source.sha256] = source
    ranges = [
        Range(s.sha256, start, start + 60) for s in sources.values() for start in range(0, s.num_frames - 59, 60)
    ][:24]
    rows, _ = write_clips(str(root), folder / "shards/clips/0.parquet", ranges, sources, settings)
    pq.write_table(pa.Table.from_pylist(rows, INDEX_SCHEMA), folder / "shards/index.parquet")
    return folder / "shards"


def _loader(shards: Path, num_steps: int, *, seed: int, processes: int) -> Any:
    weights = dict.fromkeys(FAMILIES, 1.0)
    dataset = ClipDataset(shards, read_index(shards, "train"), sample_frames=NUM_FRAMES, weights=weights, seed=seed)
    batches = worker_batches(0, num_steps, batch_size=NUM_CLIPS, rank=0, num_workers=1)
    return iter(make_loader(dataset, batches, num_processes=processes))


def _data_wait_share(shards: Path, precision: Precision, device: torch.device) -> float:
    state = _state("small", precision, device)
    waited = total = 0.0
    num_steps, warmup = 40, 5
    loader = _loader(shards, num_steps, seed=0, processes=1)
    for number in range(num_steps):
        start = time.perf_counter()
        batch = next(loader)
        got = time.perf_counter()
        train_step(state, *to_device(batch.frames, batch.masks, device), _settings(precision))["hole"].item()
        if number >= warmup:
            waited, total = waited + got - start, total + time.perf_counter() - start
    return round(waited / total, 4)


def _loss_differences(shards: Path, device: torch.device) -> dict[str, Any]:
    def losses(precision: Precision, seed: int) -> list[float]:
        state = _state("small", precision, device, seed=seed)
        found = []
        for batch in _loader(shards, SMALL_STEPS, seed=0, processes=0):
            batch_losses = train_step(state, *to_device(batch.frames, batch.masks, device), _settings(precision))
            found.append(batch_losses["hole"].item() + batch_losses["valid"].item())
        return found

    fp32, bf16, other = np.array(losses("fp32", 0)), np.array(losses("bf16", 0)), np.array(losses("fp32", 1))
    return {
        "loss_difference": round(float(np.abs(fp32 - bf16).mean() / fp32.mean()), 5),
        "loss_noise": round(float(np.abs(fp32 - other).mean() / fp32.mean()), 5),
        "last_losses": {name: round(float(v[-10:].mean()), 4) for name, v in (("fp32", fp32), ("bf16", bf16))},
    }


if __name__ == "__main__":
    main()
