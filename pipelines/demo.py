"""The whole journey in small: a corpus, shards, training, inpainting of clips never seen, a page of pictures.

Reads nothing, or with demo.media=DIR real videos. Makes clips with sound, builds shards of them, trains a small network
with two workers, lays something over clips that were held out, removes it again, and writes report/index.html: loss
curves, before / mask / after, and hole PSNR beside classical fills.

    python -m pipelines.demo
    python -m pipelines.demo demo.media=videos demo.output=my-demo train.num_steps=2000

A network trained for minutes shows that all parts work together, not how good STTN is: that takes days.
"""

from sttn_ray import interrupts

if __name__ == "__main__":
    interrupts.end_at_once()  # before all that takes a while to load

import sys
from collections.abc import Sequence

from sttn_ray.config import Experiment, load_experiment
from sttn_ray.errors import ConfigError
from sttn_ray.program import run_program

SECTIONS = ("run", "masks", "train", "encode", "demo")

# The settings of the demo, below those that are given.
DEFAULTS = (
    "shards.clip_frames=30",
    "shards.clips_per_shard=4",
    "corpus.validation_share=0",
    "model.preset=small",
    "model.initialization=fast",
    # As often as they are shown.
    "masks.moving_shape=0.25",
    "masks.static_shape=0",
    "masks.strip=0",
    "masks.box=0.25",
    "masks.text=0.25",
    "masks.object=0.25",
    "train.num_steps=300",
    "train.decay_at=220",
    # Few steps: many small parts of clips in each, and a high rate, whose swings the average takes out.
    "train.batch_size=8",
    "train.crop_width=144",
    "train.crop_height=96",
    "train.sample_frames=3",
    "train.learning_rate=1e-3",
    "train.ema_decay=0.98",
    "train.beta1=0.9",  # steadier than the published 0
    "train.color_jitter=0.3",
    "train.hole_weight=3",
    "train.num_workers=2",
    "train.worker_cpus=1",
    "train.log_interval=10",
    "train.checkpoint_interval=100",
    "train.validation_clips=0",  # what is held out is inpainted instead
    # Of the pictures' small size: 6 px would be as 40 px of a wide film, and swallow the gaps between letters.
    "inpaint.dilation_px=2",
    "inpaint.feather_px=2",
    "encode.crf=14",
)
# Real videos are less alike than those that are made.
REAL_DEFAULTS = ("train.num_steps=840", "train.decay_at=660")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run_program(__doc__ or "", SECTIONS, run, [*DEFAULTS, *(REAL_DEFAULTS if _has_media(words) else ()), *words])


def _has_media(words: Sequence[str]) -> bool:
    try:
        return load_experiment([word for word in words if not word.startswith("-")]).demo.media is not None
    except ConfigError:
        return False  # told where the words are read for good


def run(experiment: Experiment) -> int:
    """Do what an experiment says; returns the exit status.

    Raises:
        SttnError: the request itself is wrong; nothing was done.
    """
    from .demo_run import run  # with it come Ray and torch, for which --help need not wait

    return run(experiment)


if __name__ == "__main__":
    raise SystemExit(main())
