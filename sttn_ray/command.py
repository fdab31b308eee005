"""The `sttn-ray` command: all programs under one name, with flags for everyday use.

    sttn-ray inpaint film.mp4 --mask logo.png -o out --checkpoint sttn.pth
    sttn-ray inpaint --catalog catalog.csv -o out --checkpoint sttn.pth
    sttn-ray build-shards corpus.root=videos shards.dir=shards
    sttn-ray train shards.dir=shards run.dir=runs/mine
    sttn-ray tune configs/sweep.yaml shards.dir=shards run.dir=runs/sweep
    sttn-ray demo

A flag is another way to write a setting: it becomes a word `section.key=value`, and the program reads only words.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

import sttn_ray
from sttn_ray import interrupts
from sttn_ray.shown import shown

DESCRIPTION = """Video inpainting with STTN, run on Ray.

programs:
  build-shards  make training clips of a corpus of videos
  train         train the network on them
  tune          search the settings with which it trains best
  inpaint       complete one video, or each video of a catalog
  demo          make a small corpus and show every step on it

sttn-ray PROGRAM --help lists a program's settings."""

# Where each program lies; those of pipelines are in another place once they are installed.
PROGRAMS = {
    "build-shards": "pipelines.build_shards",
    "train": "sttn_ray.train",
    "tune": "sttn_ray.tune",
    "inpaint": "pipelines.inpaint",
    "demo": "pipelines.demo",
}

INPAINT_USAGE = """sttn-ray inpaint VIDEO (--mask PATH | --boxes TEXT) -o DIR --checkpoint PATH [section.key=value ...]
       sttn-ray inpaint --catalog PATH -o DIR --checkpoint PATH [section.key=value ...]
       sttn-ray inpaint EXPERIMENT.yaml [section.key=value ...]"""


class _Parser(argparse.ArgumentParser):
    """A parser whose faults quote words as `shown` has them."""

    def error(self, message: str) -> NoReturn:
        super().error(shown(message))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program that the first word names; returns its exit status."""
    if argv is None:
        interrupts.end_at_once()
    words = list(sys.argv[1:] if argv is None else argv)
    parser = _Parser(
        "sttn-ray",
        usage=f"sttn-ray {{{','.join(PROGRAMS)}}} ...",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sttn-ray {sttn_ray.__version__}")
    parser.add_argument("program", choices=PROGRAMS, help=argparse.SUPPRESS)
    # Only the first word is ours: the programs read the others, --help among them.
    program = parser.parse_args(words[:1]).program
    return _inpaint(words[1:]) if program == "inpaint" else load_program(program).main(words[1:])


def load_program(name: str) -> ModuleType:
    """The module of a program: installed, `pipelines` lies below `sttn_ray`, in a checkout beside it."""
    module = PROGRAMS[name]
    try:
        return importlib.import_module(module if module.startswith("sttn_ray.") else f"sttn_ray.{module}")
    except ModuleNotFoundError as error:
        if error.name != "sttn_ray.pipelines":
            raise
    return importlib.import_module(module)


def _inpaint(words: list[str]) -> int:
    from sttn_ray.program import describe_sections  # which loads more than the other programs' names need

    program = load_program("inpaint")
    parser = _Parser(
        "sttn-ray inpaint",
        usage=INPAINT_USAGE,
        description="Complete one video, or each video of a catalog.",
        epilog=f"settings, each given as section.key=value:\n\n{describe_sections(program.SECTIONS)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("words", nargs="*", metavar="WORD", help="a video, an experiment's .yaml file, or settings")
    for flags, key, metavar in (
        (["--mask"], "mask", "PATH"),
        (["--boxes"], "boxes", "TEXT"),
        (["--catalog"], "catalog", "PATH"),
        (["-o", "--output"], "output", "DIR"),
        (["--checkpoint"], "checkpoint", "PATH"),
    ):
        parser.add_argument(*flags, dest=key, metavar=metavar, help=f"the same as inpaint.{key}={metavar}")
    parser.add_argument("--dry-run", action="store_true", help="say what the job would take and do nothing")
    parser.add_argument("--print-config", action="store_true", help="show all settings and do nothing")
    given = parser.parse_intermixed_args(words)

    settings = [word for word in given.words if "=" in word or word.endswith((".yaml", ".yml"))]
    videos = [word for word in given.words if word not in settings]
    if len(videos) > 1:
        parser.error(f"one video at a time, got {', '.join(videos)}; give several as a catalog, with --catalog")
    # Flags come last: of two words for one setting the later one counts.
    settings += [f"inpaint.video={video}" for video in videos]
    for key in ("mask", "boxes", "catalog", "output", "checkpoint"):
        if (value := getattr(given, key)) is not None:
            settings.append(f"inpaint.{key}={value}")
    flags = ["--print-config"] * given.print_config + ["--dry-run"] * given.dry_run
    status: int = program.main(settings + flags)
    return status
