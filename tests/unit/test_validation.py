"""Validation on fixed clips, its metrics, and the summary of a run."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from sttn_ray.choices import FAMILIES
from sttn_ray.corpus import Entry, index_source
from sttn_ray.errors import StorageError
from sttn_ray.metrics import psnr, ssim
from sttn_ray.model.generator import Generator, GeneratorConfig
from sttn_ray.shards.plan import Range
from sttn_ray.shards.read import read_index
from sttn_ray.shards.tables import INDEX_SCHEMA
from sttn_ray.shards.write import ShardSettings, write_clips, write_drawn_masks
from sttn_ray.storage import write_record
from sttn_ray.training.best import is_better
from sttn_ray.training.summary import summarize
from sttn_ray.training.validation import complete, make_strip, measure, read_examples
from sttn_ray.training.workers import mean_metrics
from tests.media import make_images, make_pictures

TINY = GeneratorConfig(channels=16, num_blocks=1, width=96, height=48, mask_keys=True)
SETTINGS = ShardSettings(
    width=96, height=48, fit="crop", codec="png", quality=95, clip_frames=12, min_clip_frames=5, clips_per_shard=8
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five clips for validation, and masks that were drawn for it."""
    root, folder = (tmp_path_factory.mktemp(name) for name in ("corpus", "shards"))
    make_images(root / "walk", make_pictures(60, width=96, height=48))
    source = index_source(str(root), Entry("walk", "frames"), frames_fps=Fraction(24))
    ranges = [Range(source.sha256, n * 12, (n + 1) * 12, "validation") for n in range(5)]
    rows, _ = write_clips(str(root), folder / "clips/0.parquet", ranges, {source.sha256: source}, SETTINGS)
    rows += write_drawn_masks(folder / "masks/drawn.parquet", FAMILIES, masks_per_family=2, seed=0, settings=SETTINGS)
    pq.write_table(pa.Table.from_pylist(rows, INDEX_SCHEMA), folder / "index.parquet")
    return folder


def test_examples_are_the_same_each_time(folder: Path) -> None:
    index = read_index(folder, "validation")
    first, second = (read_examples(folder, index, num_clips=3, seed=0) for _ in range(2))
    assert [e.clip_id for e in first] == [index.clips[n].id for n in (0, 2, 4)]
    for a, b in zip(first, second, strict=True):
        assert (a.frames == b.frames).all()
        assert (a.masks == b.masks).all()
        assert a.frames.shape == (10, 48, 96, 3)
        assert a.masks.shape == (10, 48, 96)
    assert len({e.masks.tobytes() for e in first}) == 3
    assert len(read_examples(folder, index, num_clips=99, seed=0)) == 5
    drawn_here = read_examples(folder, index._replace(drawn_masks=[]), num_clips=5, seed=0)
    assert all(e.masks.any() for e in drawn_here)


def test_only_the_hole_is_filled_and_measured(folder: Path) -> None:
    index = read_index(folder, "validation")
    examples = read_examples(folder, index, num_clips=3, seed=0)
    torch.manual_seed(0)
    generator = Generator(TINY)
    completed = [complete(generator, example, device=CPU, precision="fp32") for example in examples]
    for example, filled in zip(examples, completed, strict=True):
        assert (filled == example.frames)[~example.masks].all()
        found = measure(example, filled)
        assert found["hole_psnr"] == pytest.approx(psnr(filled, example.frames, example.masks))
        assert found["hole_psnr"] < found["psnr"]
        assert 0 < found["ssim"] < 1
        assert measure(example, example.frames) == {"hole_psnr": 100.0, "psnr": 100.0, "ssim": pytest.approx(1.0)}
    strip = make_strip(examples, completed)
    assert strip.shape == (3 * 48, 3 * 96, 3)
    for row, (example, filled) in enumerate(zip(examples, completed, strict=True)):
        holed, shown, truth = np.split(strip[row * 48 : (row + 1) * 48], 3, axis=1)
        assert (holed[example.masks[5]] == 255).all()
        assert (shown == filled[5]).all()
        assert (truth == example.frames[5]).all()


def test_the_mean_is_over_all_examples() -> None:
    found = [{"hole_psnr": 20.0, "psnr": 30.0, "ssim": 0.5}, {"hole_psnr": 22.0, "psnr": 36.0, "ssim": 0.7}]
    assert mean_metrics(found, 1, CPU) == pytest.approx({"hole_psnr": 21.0, "psnr": 33.0, "ssim": 0.6})
    assert is_better({"hole_psnr": 1.0}, None)
    assert is_better({"hole_psnr": 2.0}, {"hole_psnr": 1.0})
    assert not is_better({"hole_psnr": 1.0}, {"hole_psnr": 1.0})


def slow_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """One window after the other, as the paper has it."""
    offsets = np.arange(11) - 5
    line = np.exp(-(offsets**2) / (2 * 1.5**2))
    weights = np.outer(line, line) / line.sum() ** 2
    values = []
    for channel in range(3):
        a, b = (picture[..., channel].astype(float) for picture in (x, y))
        for top in range(a.shape[0] - 10):
            for left in range(a.shape[1] - 10):
                p, q = a[top : top + 11, left : left + 11], b[top : top + 11, left : left + 11]
                mean_p, mean_q = (weights * p).sum(), (weights * q).sum()
                var_p, var_q = (weights * (p - mean_p) ** 2).sum(), (weights * (q - mean_q) ** 2).sum()
                both = (weights * (p - mean_p) * (q - mean_q)).sum()
                c1, c2 = 6.5025, 58.5225
                values.append(
                    (2 * mean_p * mean_q + c1) * (2 * both + c2) / ((mean_p**2 + mean_q**2 + c1) * (var_p + var_q + c2))
                )
    return float(np.mean(values))


def test_ssim_is_the_papers() -> None:
    picture = make_pictures(1, width=32, height=24)[0]
    noise = np.random.default_rng(0).normal(0, 25, picture.shape)
    noisy = np.clip(picture + noise, 0, 255).astype(np.uint8)
    assert ssim(picture, noisy) == pytest.approx(slow_ssim(picture, noisy), rel=1e-6)
    assert ssim(picture, picture) == pytest.approx(1.0)


def line(step: int, **more: float) -> str:
    values = {"hole": 0.5, "valid": 0.25, "adversarial": 0.01, "discriminator": 1.0, "steps_per_s": 2.0}
    values |= {"step": step, "data_wait_share": 0.01, **more}
    return json.dumps(values) + "\n"


def test_the_summary_of_a_run(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"holds no training: no run\.json"):
        summarize(tmp_path)
    write_record(tmp_path / "run.json", {"model.preset": "small"})
    assert "no step was logged yet" in summarize(tmp_path)
    found = {"validation_hole_psnr": 21.5, "validation_psnr": 30.0, "validation_ssim": 0.9}
    (tmp_path / "metrics.jsonl").write_text("".join(line(n) for n in range(1, 40)) + line(40, **found))
    write_record(tmp_path / "best.json", {"step": 30, "hole_psnr": 22.0})
    (tmp_path / "checkpoints/step-00000040").mkdir(parents=True)
    (tmp_path / "checkpoints/step-00000040/state.pt").write_bytes(b"weights")
    text = summarize(tmp_path)
    assert "not finished; the same command goes on" in text
    assert "last validation, step 40: hole 21.50 dB, all 30.00 dB, SSIM 0.9000" in text
    assert "best validation, step 30: hole 22.00 dB" in text
    assert "checkpoints: step-00000040" in text
    write_record(tmp_path / "done.json", {"step": 40})
    assert "done at step 40" in summarize(tmp_path)
