"""Search the settings with which a training does best: many short trainings, each with values of its own.

Reads shards that pipelines.build_shards wrote. Writes into run.dir: trials.parquet, best.yaml (an experiment for
sttn_ray.train), best.pt (its generator), report/index.html, and a folder for each trial.

    python -m sttn_ray.tune configs/sweep.yaml shards.dir=shards/davis run.dir=runs/sweep
    python -m sttn_ray.train runs/sweep/best.yaml

The same command again goes on with the trials that are not finished, and tries those again that failed; with a larger
tune.num_trials a finished sweep goes on, with a smaller one the trials that have not begun are left out.

Exit status: 0 all trials trained, 1 some failed (trials.parquet says why), 2 the request is wrong.
"""

from sttn_ray import interrupts

if __name__ == "__main__":
    interrupts.end_at_once()  # before all that takes a while to load

from collections.abc import Sequence

from sttn_ray.config import Experiment
from sttn_ray.program import run_program

SECTIONS = ("run", "storage", "shards", "masks", "model", "train", "tune")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    return run_program(__doc__ or "", SECTIONS, run, argv)


def run(experiment: Experiment) -> int:
    """Do what an experiment says; returns the exit status.

    Raises:
        SttnError: the request itself is wrong; nothing was done.
    """
    from sttn_ray.tune_run import run  # with it come Ray and torch, for which --help need not wait

    return run(experiment)


if __name__ == "__main__":
    raise SystemExit(main())
