"""Build shards: training clips and masks, decoded and scaled once, from a corpus of videos.

Reads a folder of video files, folders of frames and zips of frames, at any depth; folders named Annotations hold
object masks. Writes Parquet shards of clips and of masks, index.parquet, and videos.parquet with a row for every video.
Both may lie on a disk or in an object store.

    python -m pipelines.build_shards corpus.root=videos shards.dir=shards
    python -m pipelines.build_shards configs/davis.yaml corpus.root=DAVIS shards.dir=shards/davis
    python -m pipelines.build_shards corpus.root=s3://archive/videos shards.dir=s3://archive/shards
    python -m pipelines.build_shards --verify shards

The same command again does what is missing: after an interruption, and for videos that have come since. --verify reads
every shard, checks its hashes and schema, and decodes a frame of every clip.

Exit status: 0 all videos are in the shards, 1 some are not (videos.parquet says why) or --verify found a fault, 2 the
request is wrong.
"""

from sttn_ray import interrupts

if __name__ == "__main__":
    interrupts.end_at_once()  # before all that takes a while to load

import sys
from collections.abc import Sequence

from sttn_ray.config import Experiment
from sttn_ray.errors import SttnError
from sttn_ray.program import exit_with_faults, parse_folder, run_program, start_log

SECTIONS = ("run", "storage", "corpus", "shards", "model")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if "--verify" in words:
        start_log()
        try:
            from sttn_ray.paths import use_endpoint

            from .build_shards_run import verify

            folder, experiment = parse_folder(words, "--verify")
            use_endpoint(experiment.storage.endpoint_url)
            return verify(folder)
        except SttnError as error:
            exit_with_faults(error)
    return run_program(__doc__ or "", SECTIONS, run, words)


def run(experiment: Experiment) -> int:
    """Do what an experiment says; returns the exit status.

    Raises:
        SttnError: the request itself is wrong; nothing was done.
    """
    from .build_shards_run import run  # with it come Ray and torch, for which --help need not wait

    return run(experiment)


if __name__ == "__main__":
    raise SystemExit(main())
