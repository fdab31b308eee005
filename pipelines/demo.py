"""The whole journey in small: made clips with sound, weights made on the spot, inpainting, a page of pictures.

Reads nothing. Writes two clips (an object that moves, a logo that stands), their masks, a small network fitted to the
clips' surroundings for a minute, the completed videos, and report/index.html with before, mask and after.

    python -m pipelines.demo
    python -m pipelines.demo demo.output=long-demo demo.fit_seconds=300

Such a network shows that all parts work together, not how good STTN is: that takes days of training.
"""

import csv
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sttn_ray.config import DemoSection, Experiment, apply_override, run_program
from sttn_ray.errors import ConfigError
from sttn_ray.metrics import psnr
from sttn_ray.model.generator import PRESETS, Generator
from sttn_ray.model.losses import hole_loss, valid_loss
from sttn_ray.model.weights import save_generator
from sttn_ray.report.page import Example, Section, write_page
from sttn_ray.report.scenes import FPS, Scene, logo, moving_object
from sttn_ray.storage import published, read_record, write_record
from sttn_ray.video.write import read_pictures, write_clip

from . import inpaint

log = logging.getLogger(__name__)

SECTIONS = ("run", "inpaint", "encode", "demo")
NUM_FRAMES = 60
CLIP_FRAMES = 5  # as published
LEARNING_RATE = 1e-3
EXAMPLE_FRAMES = (5, 30, 55)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    return run_program(__doc__ or "", SECTIONS, run, argv)


def run(experiment: Experiment) -> int:
    """Make the clips and weights that are not there yet, inpaint, and write the page; returns the exit status."""
    options = experiment.demo
    folder = Path(options.output)
    _claim(folder, options)
    scenes = {
        "moving_object": moving_object(options.seed, NUM_FRAMES),
        "logo": logo(options.seed + 1, NUM_FRAMES),
    }
    log.info("1/4 making %d clips with sound in %s", len(scenes), folder / "clips")
    catalog = _write_corpus(folder, scenes)
    weights = folder / "weights.pt"
    if not weights.exists():
        log.info("2/4 fitting a small network to the clips' surroundings for %.0f s", options.fit_seconds)
        with published(weights) as temporary:
            save_generator(temporary, _fit(list(scenes.values()), options))
    log.info("3/4 inpainting")
    for word in (
        f"inpaint.catalog={catalog}",
        f"inpaint.output={folder / 'completed'}",
        f"inpaint.checkpoint={weights}",
    ):
        experiment = apply_override(experiment, word)
    status = inpaint.run(experiment)
    if status:
        return status
    page = _write_report(folder, scenes)
    log.info("4/4 look at %s", page.resolve())
    return 0


def _claim(folder: Path, options: DemoSection) -> None:
    """Refuse a folder whose clips and weights were made with other settings."""
    ours = {"seed": options.seed, "fit_seconds": options.fit_seconds}
    theirs = read_record(folder / "demo.json")
    if theirs is None:
        write_record(folder / "demo.json", ours)
    elif theirs != ours:
        raise ConfigError(f"{folder}: holds a demo made with {theirs}, asked for {ours}; delete it or set demo.output")


def _write_corpus(folder: Path, scenes: dict[str, Scene]) -> Path:
    """Clips and masks, and a catalog of them; the logo is given as a box, the object as a folder of masks."""
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    rows = []
    for name, scene in scenes.items():
        clip = folder / "clips" / f"{name}.mp4"
        if not clip.exists():
            with published(clip) as temporary:
                write_clip(temporary, scene.frames, fps=FPS, sound=scene.sound)
        row = {"video": f"clips/{clip.name}", "mask": "", "boxes": "", "output": clip.name}
        if (scene.masks == scene.masks[0]).all():
            rows_with, columns_with = np.nonzero(scene.masks[0])
            left, top = columns_with.min(), rows_with.min()
            row["boxes"] = f"{left},{top},{columns_with.max() + 1 - left},{rows_with.max() + 1 - top}"
        else:
            masks = folder / "masks" / name
            masks.mkdir(parents=True, exist_ok=True)
            for n, mask in enumerate(scene.masks):
                file = masks / f"{n:05d}.png"
                if not file.exists():
                    with published(file) as temporary:
                        Image.fromarray(mask.astype(np.uint8) * 255).save(temporary, format="png")
            row["mask"] = f"masks/{name}"
        rows.append(row)
    catalog = folder / "catalog.csv"
    with open(catalog, "w", newline="") as table:
        writer = csv.DictWriter(table, ["video", "mask", "boxes", "output"])
        writer.writeheader()
        writer.writerows(rows)
    return catalog


def _fit(scenes: Sequence[Scene], options: DemoSection) -> Generator:
    """A small generator fitted with L1 alone to holes made beside the real ones, for a given time.

    The frames are those with the object or logo in them: what stands behind is not known to the network.
    """
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    generator = Generator(PRESETS["small"]).train()
    for layer in generator.modules():
        # The published initialization (0.02) is meant for days; this one starts faster.
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, a=0.2)
            layer.weight.data.mul_(0.5)
    last = generator.decoder[-1]
    assert isinstance(last, torch.nn.Conv2d)
    torch.nn.init.zeros_(last.weight)  # it begins with gray
    optimizer = torch.optim.Adam(generator.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99))
    end = time.monotonic() + options.fit_seconds
    step, last_said = 0, time.monotonic()
    while time.monotonic() < end:
        frames, masks = _sample(scenes[step % len(scenes)], rng, generator.config.width, generator.config.height)
        predicted = generator(frames * (1 - masks), masks)
        loss = hole_loss(predicted, frames, masks) + valid_loss(predicted, frames, masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if time.monotonic() - last_said > 10:
            last_said = time.monotonic()
            log.info("    step %d, loss %.3f, %.0f s left", step, loss.item(), end - last_said)
    return generator


def _sample(scene: Scene, rng: np.random.Generator, width: int, height: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames and masks (1, T, 3 or 1, height, width) of a random crop with a random box as hole."""
    numbers = np.sort(rng.choice(len(scene.frames), CLIP_FRAMES, replace=False))
    top = int(rng.integers(0, scene.frames.shape[1] - height + 1))
    left = int(rng.integers(0, scene.frames.shape[2] - width + 1))
    crop = scene.frames[numbers, top : top + height, left : left + width]
    frames = torch.from_numpy(crop).permute(0, 3, 1, 2)[None].float() / 127.5 - 1
    masks = torch.zeros(1, CLIP_FRAMES, 1, height, width)
    for n in range(CLIP_FRAMES):
        down, across = (int(rng.integers(24, 72)) for _ in range(2))
        y, x = int(rng.integers(0, height - down)), int(rng.integers(0, width - across))
        masks[0, n, :, y : y + down, x : x + across] = 1
    return frames, masks


def _write_report(folder: Path, scenes: dict[str, Scene]) -> Path:
    table = [["video", "hole PSNR", "of a fill with the frame's mean color"]]
    sections = []
    for name, scene in scenes.items():
        after = read_pictures(folder / "completed" / f"{name}.mp4")
        before = read_pictures(folder / "clips" / f"{name}.mp4")
        completed_db = psnr(after, scene.truth, scene.masks)
        filled = before.copy()
        for n, mask in enumerate(scene.masks):
            filled[n][mask] = before[n][~mask].mean(0)
        table.append([name, f"{completed_db:.1f} dB", f"{psnr(filled, scene.truth, scene.masks):.1f} dB"])
        log.info("    %s: hole PSNR %s, mean-color fill %s", *table[-1])
        examples = [Example(n, before[n], scene.masks[n], after[n]) for n in EXAMPLE_FRAMES]
        sections.append(Section(name.replace("_", " "), f"{len(after)} frames", examples))
    return write_page(
        folder / "report",
        title="sttn-ray demo",
        text="A small network, fitted for about a minute; the truth is known because the clips are made.",
        table=table,
        sections=sections,
    )


if __name__ == "__main__":
    raise SystemExit(main())
