"""Train STTN as a GAN on shards, with one worker or many.

Reads shards that pipelines.build_shards wrote. Writes into run.dir: config.yaml, metrics.jsonl, TensorBoard events,
checkpoints, the best validation's best.pt, and at the end generator.pt; inpaint.checkpoint reads both.

    python -m sttn_ray.train configs/davis.yaml shards.dir=shards/davis run.dir=runs/davis
    python -m sttn_ray.train runs/davis/config.yaml
    python -m sttn_ray.train --summary runs/davis

The same command again goes on from the last checkpoint, also with another train.num_workers; with a larger
train.num_steps a finished training goes on.

Exit status: 0 trained, 1 the training failed, 2 the request is wrong.
"""

from sttn_ray import interrupts

if __name__ == "__main__":
    interrupts.end_at_once()  # before all that takes a while to load

import sys
from collections.abc import Sequence

from sttn_ray.config import Experiment
from sttn_ray.errors import SttnError
from sttn_ray.program import exit_with_faults, parse_folder, run_program
from sttn_ray.shown import shown_lines

SECTIONS = ("run", "storage", "shards", "masks", "model", "train")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if "--summary" in words:
        from sttn_ray.paths import as_path, use_endpoint
        from sttn_ray.training.summary import summarize

        try:
            folder, experiment = parse_folder(words, "--summary")
            use_endpoint(experiment.storage.endpoint_url)
            sys.stdout.write(shown_lines(summarize(as_path(folder))))
        except SttnError as error:
            exit_with_faults(error)
        return 0
    return run_program(__doc__ or "", SECTIONS, run, words)


def run(experiment: Experiment) -> int:
    """Do what an experiment says; returns the exit status.

    Raises:
        SttnError: the request itself is wrong; nothing was done.
    """
    from sttn_ray.train_run import run  # with it come Ray and torch, for which --help need not wait

    return run(experiment)


if __name__ == "__main__":
    raise SystemExit(main())
