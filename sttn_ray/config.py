"""The sections of an experiment: every setting with its type, default, unit and meaning.

A YAML file and words `section.key=value` make an experiment; all faults are reported at once. Only the programs see
these sections: below them, functions take plain arguments.
"""

import difflib
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from sttn_ray.errors import ConfigError, SttnError
from sttn_ray.masks.boxes import SYNTAX
from sttn_ray.video.encode import Codec

log = logging.getLogger(__name__)

Device = Literal["auto", "cuda", "mps", "cpu"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RunSection(_Section):
    """What holds for every program."""

    device: Device = Field(
        "auto", description="where the network runs; auto takes the cluster's GPUs, else Metal on a Mac, else the CPU"
    )
    num_actors: int | None = Field(
        None, ge=1, description="processes that run the network; default: one a GPU, or as many as the CPUs carry"
    )
    actor_cpus: int = Field(2, ge=1, description="CPUs, and math threads, of each process that runs the network")
    log_interval_s: float = Field(
        10.0, gt=0, description="seconds between progress lines where the output is not a terminal"
    )


class InpaintSection(_Section):
    """What is inpainted, and how."""

    video: str | None = Field(None, description="path of one video; or give a catalog")
    mask: str | None = Field(
        None, description="path of the video's mask: an image, a folder or .zip of images, or a video"
    )
    boxes: str | None = Field(None, description=f"instead of a mask: {SYNTAX}")
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


class EncodeSection(_Section):
    """How outputs are encoded."""

    codec: Codec = Field("libx264", description="libx264, or lossless: x264-lossless (8 bits), ffv1 (any bit depth)")
    crf: int = Field(16, ge=0, le=51, description="quality of libx264; less is better and larger")
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"] = (
        Field("fast", description="effort of x264")
    )
    threads: int = Field(1, ge=1, le=64, description="threads of one encoder; another number makes other bytes")


class DemoSection(_Section):
    """The demonstration."""

    output: str = Field("demo", description="folder the demonstration is written to")
    seed: int = Field(0, ge=0, description="of the made clips and weights")
    fit_seconds: float = Field(60.0, ge=0, description="seconds the small network is fitted to the clips' surroundings")


class Experiment(_Section):
    """All sections, in the order of the journey."""

    run: RunSection = RunSection()
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
        raise ConfigError("\n".join(faults))
    return experiment


def to_yaml(experiment: Experiment) -> str:
    """An experiment with every setting, as YAML that `load_experiment` reads back."""
    return yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False)


def describe_sections(names: Sequence[str]) -> str:
    """Every key of the named sections with its type, default, unit and meaning, for --help."""
    lines = []
    for name in names:
        section = Experiment.model_fields[name].annotation
        assert isinstance(section, type)
        assert issubclass(section, _Section)
        lines.append(f"{name}: {section.__doc__}")
        for key, field in section.model_fields.items():
            default = "none" if field.default is None else str(field.default).lower()
            lines.append(f"  {name}.{key}=  [{_type_name(field)}; default {default}]")
            lines.append(f"      {field.description}")
    return "\n".join(lines)


def known_keys() -> list[str]:
    """All keys by their dotted path."""
    return [
        f"{name}.{key}"
        for name, field in Experiment.model_fields.items()
        for key in field.annotation.model_fields  # type: ignore[union-attr]
    ]


def parse_command_line(doc: str, sections: Sequence[str], argv: Sequence[str] | None = None) -> Experiment:
    """Read a program's command line; prints and exits for --help, --print-config and faults (status 2)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(words):
        usage = "usage: [EXPERIMENT.yaml] [section.key=value ...] [--print-config] [--help]"
        sys.stdout.write(f"{doc.strip()}\n\n{usage}\n\n{describe_sections(sections)}\n")
        raise SystemExit(0)
    try:
        experiment = load_experiment([w for w in words if w != "--print-config"])
    except ConfigError as error:
        exit_with_faults(error)
    if "--print-config" in words:
        sys.stdout.write(to_yaml(experiment))
        raise SystemExit(0)
    return experiment


def run_program(
    doc: str, sections: Sequence[str], run: Callable[[Experiment], int], argv: Sequence[str] | None = None
) -> int:
    """Run a program on its command line; returns its exit status, or exits with 2 where the request is wrong."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    experiment = parse_command_line(doc, sections, argv)
    try:
        return run(experiment)
    except SttnError as error:
        exit_with_faults(error)
    except KeyboardInterrupt:
        log.error("interrupted; the same command goes on from here")
        return 130


def exit_with_faults(error: Exception) -> NoReturn:
    """Say what is wrong with the request and exit with status 2."""
    sys.stderr.write("".join(f"error: {line}\n" for line in str(error).splitlines()))
    raise SystemExit(2)


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
        loaded = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        faults.append(f"{path}: no such file")
        return
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        faults.append(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}")
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
    return f"{where}={detail['input']}: {detail['msg'][0].lower()}{detail['msg'][1:]}"


def _type_name(field: FieldInfo) -> str:
    text = str(field.annotation)
    if isinstance(field.annotation, type):
        text = field.annotation.__name__
    names = {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}
    if text in names:
        return names[text]
    for python, plain in names.items():
        text = text.replace(f"{python} | None", plain)
    text = text.replace("typing.Literal", "").replace("typing.Union", "").replace("'", "")
    return text.replace("[", "").replace("]", "").replace(", ", " | ")
