"""What `pipelines.demo` does: a corpus, the three programs on it, and a page of pictures."""

import csv
import logging
import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sttn_ray import cluster, train, train_run
from sttn_ray.choices import FAMILIES, Family
from sttn_ray.config import Experiment, apply_override
from sttn_ray.corpus import Entry, file_of, find_entries, index_source, read_pictures
from sttn_ray.errors import ConfigError, CorpusError, SttnError
from sttn_ray.fills import fill_mean_color, fill_telea, fill_temporal_median
from sttn_ray.images import image_names
from sttn_ray.masks.boxes import draw_boxes, parse_boxes
from sttn_ray.masks.draw import draw_masks
from sttn_ray.masks.hole import make_hole
from sttn_ray.metrics import psnr
from sttn_ray.report.chart import line_chart
from sttn_ray.report.page import Example, Section, Sheet, tiled, write_page
from sttn_ray.report.samples import sample_sheet
from sttn_ray.report.scenes import FPS, lay_over, make_scene, make_sound
from sttn_ray.shards.read import read_index
from sttn_ray.storage import claim, published
from sttn_ray.training.data import ClipDataset
from sttn_ray.training.metrics import read_metrics
from sttn_ray.video import write

from . import build_shards, inpaint

log = logging.getLogger(__name__)

NUM_FRAMES = 60
NUM_TRAINING_CLIPS = 12
HELD_OUT_EVERY = 4  # of real videos
MAX_WIDTH = 240  # of real videos that are held out, as wide as what the network learned; larger ones are scaled
EXAMPLE_FRAMES = (5, 30, 55)
SHEET_COLUMNS = 5
MaskKind = Literal["image", "folder", "video", "boxes"]
MASK_KINDS = get_args(MaskKind)
# What is laid over a clip, by the way in which its mask is given.
MASK_FAMILIES: dict[MaskKind, Family] = {"image": "text", "folder": "object", "video": "moving_shape"}
BOXES = "8%,10%,24%,18%; 60%,62%,28%,22%"

Pictures = NDArray[np.uint8]


class HeldOut(NamedTuple):
    """A clip that training never sees: its truth (frames, height, width, 3), its masks, and how they are given."""

    name: str
    truth: Pictures
    masks: NDArray[np.bool_]
    mask_kind: MaskKind


def run(experiment: Experiment) -> int:
    """Do every step that is not done yet, and write the page; returns the exit status."""
    options = experiment.demo
    folder = Path(options.output)
    ours = {"seed": experiment.run.seed, "media": options.media and os.path.abspath(options.media)}
    claim(folder / "demo.json", ours, folder, "delete it, or set demo.output")
    log.info("1/5 the corpus, in %s", folder / "corpus")
    corpus = _real_corpus if options.media else _made_corpus
    held_out = _with_masks(corpus(folder, experiment), experiment.run.seed)
    catalog = _write_catalog(folder, held_out, experiment.run.seed)
    for word in (
        f"corpus.root={folder / 'corpus'}",
        f"shards.dir={folder / 'shards'}",
        f"run.dir={folder / 'run'}",
        f"inpaint.catalog={catalog}",
        # Of its own for each number of steps: a training that goes on gives another network.
        f"inpaint.output={folder / f'completed-{experiment.train.num_steps}'}",
        f"inpaint.checkpoint={folder / 'run' / train_run.GENERATOR_FILE}",
    ):
        experiment = apply_override(experiment, word)
    cluster.connect()  # for all steps, and with a dashboard, which the training needs
    steps: list[tuple[str, Callable[[Experiment], int]]] = [
        ("2/5 shards of it", build_shards.run),
        ("3/5 training", train.run),
        ("4/5 inpainting clips that were held out", inpaint.run),
    ]
    for title, step in steps:
        log.info("%s", title)
        status = step(experiment)
        # Real videos that cannot be read are rows of shards/videos.parquet; the others are shown.
        if status and step is not build_shards.run:
            return status
    log.info("5/5 the page")
    page = _write_report(folder, held_out, experiment)
    log.info("look at %s", page.resolve())
    return 0


def _made_corpus(folder: Path, experiment: Experiment) -> dict[str, Pictures]:
    """Write training clips; returns others, by name, that are held out."""
    first = experiment.run.seed * 1000
    for number in range(NUM_TRAINING_CLIPS):
        clip = folder / "corpus" / f"scene-{number:02d}.mp4"
        if not clip.exists():
            sound = make_sound(NUM_FRAMES, 220 + 20 * number)
            with published(clip) as temporary:
                write.write_clip(temporary, make_scene(first + number, NUM_FRAMES), fps=FPS, sound=sound)
    numbers = range(NUM_TRAINING_CLIPS, NUM_TRAINING_CLIPS + len(MASK_KINDS))
    return {f"scene-{n:02d}": make_scene(first + n, NUM_FRAMES) for n in numbers}


def _real_corpus(folder: Path, experiment: Experiment) -> dict[str, Pictures]:
    """Link to all but every fourth of the real videos; returns the beginnings of these, by name.

    Raises:
        ConfigError: there are too few videos to hold any out.
    """
    media = os.path.abspath(experiment.demo.media or "")
    entries = find_entries(media).entries
    # Not a part of a zip, which is linked as a whole.
    kept_back = [entry for entry in entries if file_of(entry) == entry.path][1::HELD_OUT_EVERY]
    if not kept_back:
        raise ConfigError(
            f"demo.media={media}: holds one video beside those in common zips; give two or more, to train on some and "
            "show others"
        )
    for entry in entries:
        if entry not in kept_back:
            _link(Path(media), entry, folder / "corpus")
    truths = {}
    for entry in kept_back:
        try:
            name = Path(entry.path).with_suffix("").as_posix().replace("/", "-")
            truths[name] = _beginning(media, entry, Fraction(str(experiment.corpus.frames_fps)))
        except SttnError as error:
            log.warning("not shown: %s", error)
    if not truths:
        raise ConfigError(f"demo.media={media}: none of the {len(kept_back)} videos that were held out can be read")
    return truths


def _link(media: Path, entry: Entry, corpus: Path) -> None:
    """Link a video's files, never a whole folder, in which others may lie that are held out."""
    where = media / file_of(entry)
    names = image_names(str(where), CorpusError) if entry.kind == "frames" else [""]
    for name in names:
        link = corpus / file_of(entry) / name
        if not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(where / name)


def _beginning(media: str, entry: Entry, frames_fps: Fraction) -> Pictures:
    source = index_source(media, entry, frames_fps=frames_fps)
    scale = min(1.0, MAX_WIDTH / source.width)
    width, height = (round(side * scale / 2) * 2 for side in (source.width, source.height))
    stop = min(NUM_FRAMES, source.num_frames)
    return np.stack(list(read_pictures(media, source, 0, stop, width=width, height=height, fit="stretch")))


def _with_masks(truths: dict[str, Pictures], seed: int) -> list[HeldOut]:
    clips = []
    for number, (name, truth) in enumerate(truths.items()):
        kind = MASK_KINDS[number % len(MASK_KINDS)]
        count, height, width = truth.shape[:3]
        if kind == "boxes":
            masks = np.repeat(draw_boxes(parse_boxes(BOXES), width, height, 0.0)[None], count, 0)
        else:
            rng = np.random.default_rng([seed, number])
            drawn = draw_masks(MASK_FAMILIES[kind], height=height, width=width, frames=range(count), rng=rng)
            masks = np.repeat(drawn[:1], count, 0) if kind == "image" else drawn
        clips.append(HeldOut(name, truth, masks, kind))
    return clips


def _write_catalog(folder: Path, held_out: Sequence[HeldOut], seed: int) -> Path:
    """Write the clips with something laid over them, their masks, and a catalog of both."""
    rows = []
    for number, clip in enumerate(held_out):
        video = folder / "held-out" / f"{clip.name}.mp4"
        if not video.exists():
            before = lay_over(clip.truth, clip.masks, seed + number)
            with published(video) as temporary:
                write.write_clip(temporary, before, fps=FPS, sound=make_sound(len(before), 330))
        row = {"video": f"held-out/{video.name}", "mask": "", "boxes": "", "output": video.name}
        if clip.mask_kind == "boxes":
            row["boxes"] = BOXES
        else:
            row["mask"] = _write_masks(folder, clip).relative_to(folder).as_posix()
        rows.append(row)
    catalog = folder / "catalog.csv"
    with open(catalog, "w", newline="") as table:
        writer = csv.DictWriter(table, ["video", "mask", "boxes", "output"])
        writer.writeheader()
        writer.writerows(rows)
    return catalog


def _write_masks(folder: Path, clip: HeldOut) -> Path:
    """Write a clip's masks as an image, a folder of images, or a video; returns the path."""
    images = [mask.astype(np.uint8) * 255 for mask in clip.masks]
    if clip.mask_kind == "video":
        file = folder / "masks" / f"{clip.name}.mp4"
        if not file.exists():
            gray = [np.repeat(image[..., None], 3, axis=2) for image in images]
            with published(file) as temporary:
                write.write_clip(temporary, gray, fps=FPS, sound=make_sound(len(gray), 0))
        return file
    where = folder / "masks" / (f"{clip.name}.png" if clip.mask_kind == "image" else clip.name)
    files = [where] if clip.mask_kind == "image" else [where / f"{n:05d}.png" for n in range(len(images))]
    for file, image in zip(files, images, strict=False):
        if not file.exists():
            with published(file) as temporary:
                Image.fromarray(image).save(temporary, format="png")
    return where


def _write_report(folder: Path, held_out: Sequence[HeldOut], experiment: Experiment) -> Path:
    fills = {"mean color": fill_mean_color, "Telea": fill_telea, "temporal median": fill_temporal_median}
    rows: list[tuple[str, list[float]]] = []
    sections = []
    for clip in held_out:
        after = write.read_pictures(Path(experiment.inpaint.output or "") / f"{clip.name}.mp4")
        before = write.read_pictures(folder / "held-out" / f"{clip.name}.mp4")
        # The fills get the same hole: the encoder smears what is laid over beyond its mask.
        px = experiment.inpaint.dilation_px
        holes = np.stack([make_hole(m, dilation_px=px, feather_px=0, chroma_step=(2, 2)).pixels for m in clip.masks])
        completed = [after, *(fill(before, holes) for fill in fills.values())]
        rows.append((clip.name, [psnr(pictures, clip.truth, clip.masks) for pictures in completed]))
        numbers = [n for n in EXAMPLE_FRAMES if n < len(after)]
        examples = [Example(n, before[n], clip.masks[n], after[n]) for n in numbers]
        sections.append(Section(clip.name, f"{len(after)} frames, mask given as {clip.mask_kind}", examples))
    rows.append(("mean", np.mean([values for _, values in rows], axis=0).tolist()))
    table = [["hole PSNR, dB", "sttn-ray", *fills], *([name, *(f"{v:.1f}" for v in values)] for name, values in rows)]
    for row in table:
        log.info("    %s", "".join(f"{cell:>20}" for cell in row))
    metrics = read_metrics(folder / "run" / "metrics.jsonl")
    charts = [
        line_chart(
            {name: [(line["step"], line[name]) for line in metrics] for name in names},
            title=title,
            x_label="step",
            y_label="loss",
        )
        for title, names in (
            ("Reconstruction (mean absolute error, frames in [-1, 1])", ("hole", "valid")),
            ("Adversarial", ("adversarial", "discriminator")),
        )
    ]
    return write_page(
        folder / "report",
        title="sttn-ray demo",
        text=f"A small network after {experiment.train.num_steps} steps, on clips that it never saw. The truth is "
        "known because what is removed was laid over them; classical fills of the same holes stand beside it.",
        charts=charts,
        table=table,
        sections=sections,
        sheets=_sheets(experiment),
    )


def _sheets(experiment: Experiment) -> list[Sheet]:
    """What training saw: samples with their masks, and masks of every family."""
    shards_dir, options = experiment.shards.dir or "", experiment.train
    index = read_index(shards_dir, "train")
    dataset = ClipDataset(
        shards_dir,
        index,
        sample_frames=options.sample_frames,
        weights=experiment.masks.weights(),
        seed=experiment.run.seed,
        color_jitter=options.color_jitter,
        crop=train_run.crop_size(experiment, index),
    )
    drawn = [
        draw_masks(
            family,
            height=index.height,
            width=index.width,
            frames=range(0, 10 * SHEET_COLUMNS, 10),
            rng=np.random.default_rng([experiment.run.seed, number]),
        )
        for number, family in enumerate(FAMILIES)
    ]
    masks = [[np.repeat(m[..., None] * np.uint8(255), 3, axis=2) for m in row] for row in drawn]
    return [
        sample_sheet(dataset),
        Sheet("Masks", f"A row a family: {', '.join(FAMILIES)}; ten frames from one to the next.", tiled(masks)),
    ]
