"""Inpaint one video or a catalog of videos.

Reads videos with a mask or boxes each, and a generator's checkpoint. Writes the completed videos, a manifest.parquet
with a row for every video, and records from which the same command goes on after an interruption.

    python -m pipelines.inpaint inpaint.checkpoint=sttn.pth inpaint.output=out inpaint.video=a.mp4 inpaint.mask=a.png
    python -m pipelines.inpaint inpaint.checkpoint=sttn.pth inpaint.output=out inpaint.catalog=catalog.csv
    python -m pipelines.inpaint configs/archive.yaml --dry-run
    python -m pipelines.inpaint configs/archive.yaml inpaint.preview=8

With --dry-run it only says what the job would take; with inpaint.preview=N it only draws N videos before and after.

Exit status: 0 all videos are done, 1 some failed (the manifest says why), 2 the request is wrong, 130 or 143 it was
interrupted by SIGINT or SIGTERM.
"""

from sttn_ray import interrupts

if __name__ == "__main__":
    interrupts.end_at_once()  # before all that takes a while to load

import sys
from collections.abc import Sequence
from functools import partial

from sttn_ray.config import Experiment
from sttn_ray.program import run_program

DRY_RUN = "--dry-run"
SECTIONS = ("run", "storage", "inpaint", "encode")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    is_dry = DRY_RUN in words
    return run_program(
        __doc__ or "", SECTIONS, partial(run, is_dry=is_dry), [word for word in words if word != DRY_RUN]
    )


def run(experiment: Experiment, *, is_dry: bool = False) -> int:
    """Do what an experiment's `inpaint` section asks for; returns the exit status.

    Args:
        experiment: what is asked for.
        is_dry: only say what it would take.

    Raises:
        SttnError: the request itself is wrong; nothing was done.
    """
    from .inpaint_run import run  # with it come Ray and torch, for which --help need not wait

    return run(experiment, is_dry=is_dry)


if __name__ == "__main__":
    raise SystemExit(main())
