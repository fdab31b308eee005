"""The sections of an experiment: every setting with its type, default, unit and meaning.

A YAML file and words `section.key=value` make an experiment; all faults are reported at once. Only the programs see
these sections: below them, functions take plain arguments.
"""

import difflib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from sttn_ray.addresses import SECRET_ADVICE, endpoint_fault, holds_secret
from sttn_ray.bounded_yaml import MAX_CHARACTERS, read_yaml
from sttn_ray.choices import (
    BOX_SYNTAX,
    FAMILIES,
    AdversarialLoss,
    Alpha,
    Codec,
    Family,
    Fit,
    FrameCodec,
    Initialization,
    Interlaced,
    OnDamage,
    Preset,
    Sound,
)
from sttn_ray.errors import ConfigError
from sttn_ray.shown import without_secrets

MAX_SHOWN = 200  # characters of a value that is wrong
Device = Literal["auto", "cuda", "mps", "cpu"]


def _split_words(value: Any) -> Any:
    """ "100,200" of a command line as the list that YAML writes [100, 200]."""
    return [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _read_mapping(value: Any) -> Any:
    """ "{train.hole_weight: uniform(1, 6)}" of a command line as the mapping that YAML makes of it."""
    if not isinstance(value, str):
        return value
    try:
        return read_yaml(value)
    except ValueError as error:
        raise ValueError("expected a mapping, as in {train.hole_weight: 'uniform(1, 6)'}") from error


Steps = Annotated[tuple[int, ...], BeforeValidator(_split_words)]
Words = Annotated[tuple[str, ...], BeforeValidator(_split_words)]
Space = Annotated[dict[str, Any], BeforeValidator(_read_mapping)]


class Section(BaseModel):
    """Settings of one step: frozen, and no others than these."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _holds_no_secret(cls, value: Any) -> Any:
        if isinstance(value, str) and holds_secret(value):
            raise ValueError(SECRET_ADVICE)
        return value

    @field_validator("*")
    @classmethod
    def _fits_64_bits(cls, value: Any) -> Any:
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(number, int) and abs(number) >= 2**63 for number in numbers):
            raise ValueError("input should be less than 2**63")
        return value


class RunSection(Section):
    """What holds for every program."""

    dir: str | None = Field(None, description="folder of a training run: settings, metrics, checkpoints, generator.pt")
    seed: int = Field(0, ge=0, description="of everything random: weights, order of clips, frames, masks")
    device: Device = Field(
        "auto", description="where the network runs; auto takes the cluster's GPUs, else Metal on a Mac, else the CPU"
    )
    num_actors: int | None = Field(
        None, ge=1, description="processes that run the network; default: one a GPU, or as many as the CPUs carry"
    )
    gpus_per_actor: float = Field(
        1.0, gt=0, le=1, description="share of a GPU that each of them takes; several share one where there is memory"
    )
    actor_cpus: int = Field(2, ge=1, description="CPUs, and math threads, of each process that runs the network")
    autoscaling: bool = Field(
        False,
        description="the cluster starts nodes when they are needed: what it cannot carry yet is waited for, not "
        "refused; say run.device then, and run.num_actors for inpainting",
    )
    log_interval_s: float = Field(
        10.0, gt=0, description="seconds between progress lines where the output is not a terminal"
    )


class StorageSection(Section):
    """Where `s3://` paths lie; credentials come from the environment, never from here."""

    endpoint_url: str | None = Field(
        None, description="address of an S3 store other than AWS's, as in https://minio.example.org"
    )
    cache_dir: str | None = Field(
        None, description="folder on each node that keeps clips once they were read from a store; default: none is kept"
    )
    cache_gb: float = Field(100.0, gt=0, description="size to which it grows, in 1e9 bytes")

    @field_validator("endpoint_url")
    @classmethod
    def _is_plain_address(cls, url: str | None) -> str | None:
        if url and (fault := endpoint_fault(url)):
            raise ValueError(fault)
        return url


class CorpusSection(Section):
    """What there is to train on."""

    root: str | None = Field(
        None,
        description="folder, or s3:// path, of training videos: video files, folders and zips of frames, at any depth",
    )
    include: Words = Field(
        (),
        description="patterns of paths below the root, such as 2019/*.mp4, any of which a video matches; default: all",
    )
    manifest: str | None = Field(
        None,
        description="path of a .csv, .jsonl or .parquet file with columns path, and if need be start_s, end_s, split",
    )
    frames_fps: float = Field(24.0, gt=0, le=1000, description="frames per second of folders and zips of frames")
    validation_share: float = Field(
        0.05,
        ge=0,
        le=1,
        description="share of the videos kept out of training, by content, at least one of two; for those without a "
        "split",
    )
    max_error_fraction: float = Field(
        1.0, ge=0, le=1, description="share of the videos that may fail before the job stops with a table of reasons"
    )


class ShardsSection(Section):
    """Training clips, decoded and scaled once."""

    dir: str | None = Field(None, description="folder or s3:// path of the shards, for training to read")
    width: int | None = Field(
        None, ge=16, le=4096, description="width of the frames in pixels; default: that of model.preset"
    )
    height: int | None = Field(
        None, ge=16, le=4096, description="height of the frames in pixels; default: that of model.preset"
    )
    fit: Fit = Field(
        "crop", description="how a frame comes to that size: crop keeps its shape and cuts the sides; stretch does not"
    )
    codec: FrameCodec = Field("jpeg", description="jpeg (4:2:0), or lossless png, three times as large")
    quality: int = Field(95, ge=1, le=100, description="of jpeg")
    clip_frames: int = Field(60, ge=1, le=1000, description="frames of a clip, within which a sample's frames lie")
    min_clip_frames: int = Field(10, ge=1, description="frames of the shortest clip that is kept")
    clips_per_shard: int = Field(32, ge=1, le=4096, description="clips in one shard file")
    masks_per_family: int = Field(8, ge=0, le=10000, description="masks of every family drawn once, for validation")


class MasksSection(Section):
    """The families of random masks in training, each with its weight; published: moving and static shapes alone."""

    moving_shape: float = Field(0.25, ge=0, description="weight of blobs that move")
    static_shape: float = Field(0.25, ge=0, description="weight of blobs that stand")
    strip: float = Field(0.1, ge=0, description="weight of bars across the picture")
    box: float = Field(0.15, ge=0, description="weight of one to three rectangles")
    text: float = Field(0.1, ge=0, description="weight of letters, as in subtitles and logos")
    object: float = Field(
        0.15,
        ge=0,
        description="weight of moving figures; the corpus's own object masks (Annotations) where it has some",
    )

    def weights(self) -> dict[Family, float]:
        return {family: getattr(self, family) for family in FAMILIES}


class ModelSection(Section):
    """The network that is trained."""

    preset: Preset = Field("sttn", description="sttn: as published, 432x240; small: 240x144, for two cores")
    mask_keys: bool = Field(True, description="attention without keys in the hole, as in the paper")
    initialization: Initialization = Field(
        "published", description="of the weights: published, N(0, 0.02); or fast, for short trainings"
    )


class TrainSection(Section):
    """The training: a GAN step is one of the discriminator, then one of the generator."""

    num_steps: int = Field(500_000, ge=1, description="steps of the whole training")
    batch_size: int = Field(8, ge=1, le=4096, description="clips in a step, over all workers together")
    sample_frames: int = Field(5, ge=1, le=100, description="frames taken of each clip")
    crop_width: int | None = Field(
        None, ge=16, description="width of the random part of a clip that is trained on, in pixels; default: all of it"
    )
    crop_height: int | None = Field(None, ge=16, description="height of that part")
    color_jitter: float = Field(
        0.0,
        ge=0,
        le=1,
        description="how far each channel's contrast and brightness change by sample, for few clips",
    )
    learning_rate: float = Field(1e-4, gt=0, description="of both networks' Adam")
    decay_at: Steps = Field((150_000, 300_000), description="steps at each of which the learning rate falls to a tenth")
    start_from: str | None = Field(
        None, description="path of a checkpoint whose weights a new run begins with: ours, or the published layout"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="of convolutions and products; weights and losses are fp32; auto: bf16 where the device has it",
    )
    compile: bool = Field(False, description="let torch compile the generator: minutes at the start, then faster steps")
    clips_at_once: int | None = Field(
        None,
        ge=1,
        description="the most clips a worker takes through the networks together, for memory; slower; default: all",
    )
    max_gradient_norm: float | None = Field(
        None, gt=0, description="to which each network's gradient is cut; published: it is not"
    )
    beta1: float = Field(0.0, ge=0, lt=1, description="of Adam")
    beta2: float = Field(0.99, ge=0, lt=1, description="of Adam")
    ema_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="of the mean of the generator's weights over steps, which is the result; 0: the last",
    )
    hole_weight: float = Field(1.0, ge=0, description="of the error inside the hole")
    valid_weight: float = Field(1.0, ge=0, description="of the error outside the hole")
    adversarial_weight: float = Field(0.01, ge=0, description="of the discriminator's judgment")
    adversarial_loss: AdversarialLoss = Field("hinge", description="hinge, nsgan or lsgan")
    num_workers: int = Field(1, ge=1, description="processes that train together, each on its part of the batch")
    min_workers: int | None = Field(
        None,
        ge=1,
        description="how few go on where nodes are lost; with new nodes they grow to num_workers; default: all",
    )
    worker_cpus: int = Field(2, ge=1, description="CPUs, and math threads, of each of them")
    loader_processes: int | None = Field(
        None,
        ge=0,
        description="processes that read ahead for each of them; 0: it reads itself; default: 4 on GPUs, else 0",
    )
    log_interval: int = Field(20, ge=1, description="steps between lines of metrics")
    checkpoint_interval: int = Field(1000, ge=1, description="steps between checkpoints")
    num_checkpoints: int = Field(2, ge=1, description="how many of the last checkpoints are kept")
    validation_interval: int = Field(1000, ge=1, description="steps between validations, on clips kept out of training")
    validation_clips: int = Field(16, ge=0, description="how many clips, ten frames each; 0: no validation")


class TuneSection(Section):
    """A search for settings of a training."""

    space: Space = Field(
        {},
        description="what each key may be, by its dotted path: uniform(low, high), loguniform(low, high), "
        "choice(a, b, ...) or grid(a, b, ...)",
    )
    metric: str = Field(
        "hole_psnr",
        description="what is to become large: hole_psnr, psnr or ssim of the validation, or a sum as in "
        "hole_psnr + 20*ssim",
    )
    num_trials: int | None = Field(
        None,
        ge=1,
        description="random samples; each point of a grid is tried with so many; default: 16, with a grid 1",
    )
    search: Literal["random", "optuna"] = Field(
        "random", description="where the values come from; optuna learns from the trials so far (an extra to install)"
    )
    scheduler: Literal["fifo", "asha", "pbt"] = Field(
        "asha",
        description="asha stops trials that fall behind; pbt lets them take over the training of a better one, with "
        "its settings changed a little; fifo trains each to its end",
    )
    interval: int | None = Field(
        None,
        ge=1,
        description="steps before asha's first decision, or between those of pbt; default: a ninth, or a tenth, of all",
    )
    reduction_factor: int = Field(
        3, ge=2, description="asha keeps the best of so many, and decides again after so many times the steps"
    )
    max_concurrent: int | None = Field(
        None, ge=1, description="trials at a time; default: as many as the cluster's GPUs, or cores, carry"
    )


class InpaintSection(Section):
    """What is inpainted, and how."""

    video: str | None = Field(None, description="path of one video; or give a catalog")
    mask: str | None = Field(
        None, description="path of the video's mask: an image, a folder or .zip of images, or a video"
    )
    boxes: str | None = Field(None, description=f"instead of a mask: {BOX_SYNTAX}; or auto-logo")
    catalog: str | None = Field(
        None,
        description="path of a .csv, .jsonl or .parquet file with columns video, mask or boxes, and if need be output",
    )
    output: str | None = Field(None, description="folder for the outputs, the manifest and the record of done work")
    checkpoint: str | None = Field(None, description="path of a generator's checkpoint: ours, or the published layout")
    dilation_px: int = Field(6, ge=0, le=256, description="radius by which a mask is enlarged, in pixels of the source")
    feather_px: int = Field(
        4, ge=0, le=256, description="width of the soft rim inside the enlarged mask, in pixels of the source"
    )
    references: Literal["nearest", "all"] = Field(
        "nearest",
        description="far frames a window looks at: the nearest of its shot, or all as published (slow, much memory)",
    )
    num_references: int = Field(7, ge=0, description="how many, where references=nearest")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="number format of the network; auto takes bf16 where the device is faster with it"
    )
    segment_frames: int = Field(
        250, ge=10, description="frames a task completes, and that a restart may have to do again"
    )
    require_hole: bool = Field(False, description="take an empty mask for an error instead of copying the video")
    on_damage: OnDamage = Field(
        "fail", description="what a damaged frame of a video means: fail; or conceal, which shows the frame before it"
    )
    interlaced: Interlaced = Field(
        "refuse", description="what an interlaced video means: refuse, or deinterlace, at the same number of frames"
    )
    preview: int | None = Field(
        None, ge=1, description="only draw so many videos, before and after, with a grid of pixels, and end"
    )
    max_error_fraction: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of the videos that may fail before the job stops with a table of reasons; it counts once "
        "more than ten failed, but 0 stops at the first",
    )
    max_hours: float | None = Field(
        None, gt=0, description="after which no further segment is begun; the same command goes on; default: no limit"
    )


class EncodeSection(Section):
    """How outputs are encoded."""

    codec: Codec = Field("libx264", description="libx264, or lossless: x264-lossless (8 bits), ffv1 (any bit depth)")
    crf: int = Field(16, ge=0, le=51, description="quality of libx264; less is better and larger")
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"] = (
        Field("fast", description="effort of x264")
    )
    threads: int = Field(1, ge=1, le=64, description="threads of one encoder; another number makes other bytes")
    sound: Sound = Field("copy", description="of a kind that no container takes: copy refuses, flac converts it")
    alpha: Alpha = Field("refuse", description="of a transparent video: refuse, or keep as it is, with ffv1")


class DemoSection(Section):
    """The demonstration."""

    output: str = Field("demo", description="folder the demonstration is written to")
    media: str | None = Field(
        None, description="folder of real videos to show it on; default: clips are made; every fourth is not trained on"
    )


class Experiment(Section):
    """All sections, in the order of the journey."""

    run: RunSection = RunSection()
    storage: StorageSection = StorageSection()
    corpus: CorpusSection = CorpusSection()
    shards: ShardsSection = ShardsSection()
    masks: MasksSection = MasksSection()
    model: ModelSection = ModelSection()
    train: TrainSection = TrainSection()
    tune: TuneSection = TuneSection()
    inpaint: InpaintSection = InpaintSection()
    encode: EncodeSection = EncodeSection()
    demo: DemoSection = DemoSection()


def load_experiment(words: Sequence[str]) -> Experiment:
    """Read `[EXPERIMENT.yaml] [section.key=value ...]`, later words over earlier ones.

    Raises:
        ConfigError: all faults of all words, one a line.
    """
    return _validated({}, words)


def apply_override(experiment: Experiment, word: str) -> Experiment:
    """An experiment with one more `section.key=value`.

    Raises:
        ConfigError: the word is not valid.
    """
    return _validated(experiment.model_dump(), [word])


def _validated(data: dict[str, Any], words: Sequence[str]) -> Experiment:
    faults: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        if equals:
            _set(data, name, None if value in ("null", "none") else value, faults)
        else:
            _merge_file(data, word, faults)
    try:
        experiment = Experiment.model_validate(data)
    except ValidationError as error:
        faults += [_fault(detail) for detail in error.errors()]
    if faults:
        raise ConfigError(*faults)
    return experiment


def to_yaml(experiment: Experiment) -> str:
    """An experiment with every setting, as YAML that `load_experiment` reads back."""
    return yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False)


def known_keys() -> list[str]:
    """All keys by their dotted path."""
    return [
        f"{name}.{key}"
        for name, field in Experiment.model_fields.items()
        for key in field.annotation.model_fields  # type: ignore[union-attr]
    ]


def _set(data: dict[str, Any], name: str, value: Any, faults: list[str]) -> None:
    section, dot, key = name.partition(".")
    if not dot or not section or not key:
        faults.append(f"{name}={value}: expected section.key=value, as in inpaint.video=film.mp4")
    else:
        data.setdefault(section, {})[key] = value


def _merge_file(data: dict[str, Any], path: str, faults: list[str]) -> None:
    if path.startswith("-"):
        faults.append(f"{path}: no such option; options are --help and --print-config")
        return
    if not path.endswith((".yaml", ".yml")):
        faults.append(f"{path}: expected a .yaml file or section.key=value")
        return
    try:
        with open(path, encoding="utf-8") as file:
            loaded = read_yaml(file.read(MAX_CHARACTERS + 1))
    except FileNotFoundError:
        faults.append(f"{path}: no such file")
        return
    except (ValueError, OSError) as error:
        faults.append(f"{path}: cannot be read as YAML: {error}")
        return
    if loaded is None:
        return
    if not isinstance(loaded, dict) or not all(isinstance(v, dict | None) for v in loaded.values()):
        faults.append(f"{path}: expected sections with keys below them")
        return
    for section, values in loaded.items():
        data.setdefault(section, {}).update(values or {})


def _fault(detail: Any) -> str:
    where = ".".join(str(part) for part in detail["loc"][:2])
    if detail["type"] == "extra_forbidden":
        known = known_keys() if "." in where else list(Experiment.model_fields)
        near = difflib.get_close_matches(where, known, n=1, cutoff=0)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{where}: no such setting{hint}"
    value, reason = without_secrets(str(detail["input"])), detail["msg"].removeprefix("Value error, ")
    if len(value) > MAX_SHOWN:
        value = f"{value[:MAX_SHOWN]}..."
    return f"{where}={value}: {reason[0].lower()}{reason[1:]}"
