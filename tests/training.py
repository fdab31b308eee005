"""What tests of whole trainings share: shards of three clips, a short request, and what a run has left behind."""

from fractions import Fraction
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from sttn_ray.corpus import Entry, index_source
from sttn_ray.shards.plan import Range
from sttn_ray.shards.tables import INDEX_SCHEMA
from sttn_ray.shards.write import ShardSettings, write_clips
from sttn_ray.training.checkpoints import find_checkpoints
from sttn_ray.training.metrics import read_metrics
from tests.media import make_video
from tests.processes import Said, files_in, run, start, wait_until

NUM_STEPS = 9


def make_shards(root: Path, folder: Path) -> Path:
    """Shards of three clips to train on and one to validate on, at the size of the small preset."""
    sources = {}
    for seed in range(4):
        make_video(root / f"{seed}.mp4", num_frames=12, width=240, height=144, seed=seed)
        source = index_source(str(root), Entry(f"{seed}.mp4", "video"), frames_fps=Fraction(24))
        sources[source.sha256] = source
    settings = ShardSettings(
        width=240,
        height=144,
        fit="crop",
        codec="jpeg",
        quality=95,
        clip_frames=12,
        min_clip_frames=5,
        clips_per_shard=8,
    )
    ranges = [Range(sha256, 0, 12, "train" if n else "validation") for n, sha256 in enumerate(sources)]
    rows, faults = write_clips(str(root), folder / "clips/shard-00000.parquet", ranges, sources, settings)
    assert not faults
    pq.write_table(pa.Table.from_pylist(rows, INDEX_SCHEMA), folder / "index.parquet")
    return folder


def words(shards: Path, run_dir: Path, num_workers: int, *more: str) -> list[str]:
    return [
        f"shards.dir={shards}",
        f"run.dir={run_dir}",
        "model.preset=small",
        "model.initialization=fast",
        f"train.num_steps={NUM_STEPS}",
        "train.batch_size=2",
        f"train.num_workers={num_workers}",
        "train.worker_cpus=1",
        "train.learning_rate=1e-3",
        "train.log_interval=1",
        "train.checkpoint_interval=2",
        *more,
    ]


def steps_done(run_dir: Path) -> int:
    return max((line["step"] for line in read_metrics(run_dir / "metrics.jsonl")), default=0)


def has_checkpoint(run_dir: Path) -> bool:
    """Whether there is one, from which a run goes on."""
    return bool(find_checkpoints(run_dir))


def final_state(run_dir: Path, step: int = NUM_STEPS) -> dict[str, torch.Tensor]:
    """All tensors of the last checkpoint, by their path."""
    state = torch.load(run_dir / f"checkpoints/step-{step:08d}/state.pt", weights_only=True)
    tensors: dict[str, torch.Tensor] = {}

    def collect(value: object, name: str) -> None:
        if isinstance(value, torch.Tensor):
            tensors[name] = value
        elif isinstance(value, dict):
            for key, part in value.items():
                collect(part, f"{name}/{key}")

    collect(state, "")
    return tensors


def seen(run_dir: Path) -> list[tuple[int, tuple[str, ...]]]:
    return [(line["step"], tuple(line["clip_ids"])) for line in read_metrics(run_dir / "metrics.jsonl")]


def losses(run_dir: Path) -> list[list[float]]:
    names = ("step", "hole", "valid", "adversarial", "discriminator")
    return [[line[name] for name in names] for line in read_metrics(run_dir / "metrics.jsonl")]


def train(*arguments: str, **environment: str) -> Said:
    """Train to the end, as a program of its own."""
    return run("sttn_ray.train", *arguments, **environment)


def kill_after(shards: Path, run_dir: Path, num_workers: int, *, steps: int) -> None:
    """Train, and SIGKILL the driver once there are a checkpoint and so many steps."""
    killed = start("sttn_ray.train", *words(shards, run_dir, num_workers))
    wait_until(
        lambda: has_checkpoint(run_dir) and steps_done(run_dir) >= steps,
        f"{steps} steps",
        program=killed,
        moves=files_in(run_dir),
    )
    killed.kill()
    assert steps_done(run_dir) < NUM_STEPS, "the run ended before it was killed"
