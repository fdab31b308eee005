"""Which clips a step sees, and which frames, mask and flip of each; pure functions of the seed.

The steps of a training draw on one endless list of positions. Position p belongs to epoch p // N of a corpus of N
clips; every epoch has its own order. A step of B clips takes B positions, and W workers take parts of them, equal but
for one clip, so that a run that stops at any step goes on exactly there, also with another number of workers.
"""

import hashlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sttn_ray.choices import Family
from sttn_ray.masks.draw import choose_family


class Sample(NamedTuple):
    """What is taken of a clip.

    Attributes:
        frames: numbers within the clip, ascending; they repeat where the clip is shorter than the sample.
        is_flipped: whether frames are mirrored left to right.
        family: of the mask.
        rng: draws the mask, and nothing else.
        colors: what each value of each channel becomes, (256, 3) uint8; None: what it is.
        place: of the part that is taken, from 0 (left, top) to 1 (right, bottom); it counts where a part is taken.
    """

    frames: tuple[int, ...]
    is_flipped: bool
    family: Family
    rng: np.random.Generator
    colors: NDArray[np.uint8] | None
    place: tuple[float, float]


def step_positions(step: int, *, batch_size: int, rank: int = 0, num_workers: int = 1) -> range:
    """The positions that a worker takes in a step (counted from 0); `batch_size` is over all workers.

    Raises:
        ValueError: there are more workers than clips.
    """
    if batch_size < num_workers:
        raise ValueError(f"a batch of {batch_size} clips does not suffice for {num_workers} workers")
    share, rest = divmod(batch_size, num_workers)
    first = step * batch_size + rank * share + min(rank, rest)
    return range(first, first + share + (rank < rest))


def worker_batches(
    start_step: int, stop_step: int, *, batch_size: int, rank: int, num_workers: int
) -> Iterator[list[int]]:
    """The positions of a worker for each step from `start_step` on."""
    for step in range(start_step, stop_step):
        yield list(step_positions(step, batch_size=batch_size, rank=rank, num_workers=num_workers))


def clip_at(position: int, *, num_clips: int, seed: int) -> tuple[int, int]:
    """The epoch that a position belongs to, and the number of its clip among `num_clips`."""
    epoch, place = divmod(position, num_clips)
    return epoch, int(_epoch_order(num_clips, seed, epoch)[place])


# Two epochs: a batch may lie across their border.
@lru_cache(maxsize=2)
def _epoch_order(num_clips: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return _rng(seed, epoch, "order").permutation(num_clips)


def draw_sample(
    clip_id: str,
    num_frames: int,
    *,
    sample_frames: int,
    weights: Mapping[Family, float],
    seed: int,
    epoch: int,
    color_jitter: float = 0.0,
) -> Sample:
    """What is taken of a clip in an epoch.

    Half the time a run of frames, half the time random ones in order (paper, section 4.1). Drawn from the seed, the
    epoch and the clip's id alone.

    Args:
        clip_id: from the index.
        num_frames: of the clip.
        sample_frames: how many are taken. A shorter clip is run through forth and back (D-31).
        weights: of the families of masks.
        seed, epoch: as for `clip_at`.
        color_jitter: how far the colors of the whole sample go, as for `draw_colors`.
    """
    rng = _rng(seed, epoch, clip_id)
    is_run = rng.random() < 0.5
    if num_frames <= sample_frames:
        frames = _forth_and_back(num_frames, sample_frames)
    elif is_run:
        first = int(rng.integers(0, num_frames - sample_frames + 1))
        frames = tuple(range(first, first + sample_frames))
    else:
        frames = tuple(sorted(rng.choice(num_frames, sample_frames, replace=False).tolist()))
    is_flipped = bool(rng.random() < 0.5)
    # Of generators of their own: other colors or another part leave the frames and the mask's family what they were.
    colors = draw_colors(color_jitter, _rng(seed, epoch, f"{clip_id}/colors")) if color_jitter else None
    x, y = _rng(seed, epoch, f"{clip_id}/place").random(2).tolist()
    return Sample(frames, is_flipped, choose_family(weights, rng), rng, colors, (x, y))


def draw_colors(jitter: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A table of new values, (256, 3): each channel's contrast and brightness on their own, which tints too.

    Frames in [-1, 1] are multiplied by e to the power of up to +-`jitter`, and moved by up to +-`jitter`. The channels
    of natural pictures rise and fall together, so that a network is long content with gray; where each moves on its
    own, color is learned as soon as light. Not in the published code.
    """
    gain, offset = np.exp(rng.uniform(-jitter, jitter, 3)), rng.uniform(-jitter, jitter, 3)
    values = np.arange(256)[:, None] / 127.5 - 1
    return np.rint((np.clip(values * gain + offset, -1, 1) + 1) * 127.5).astype(np.uint8)


def _forth_and_back(num_frames: int, length: int) -> tuple[int, ...]:
    """0, 1, 2, 1, 0, 1, ... for three frames, in ascending order."""
    period = max(1, 2 * num_frames - 2)
    return tuple(sorted(min(n % period, period - n % period) for n in range(length)))


def _rng(seed: int, epoch: int, name: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}/{epoch}/{name}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))
