"""How well a generator completes clips that it is not trained on: the same ones, with the same holes, each time."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sttn_ray.choices import FAMILIES, Precision
from sttn_ray.masks.draw import draw_masks
from sttn_ray.metrics import psnr, ssim
from sttn_ray.paths import StoragePath
from sttn_ray.shards.cache import RowCache
from sttn_ray.shards.read import ShardIndex, read_clip, read_masks

NUM_FRAMES = 10  # of a clip, from its beginning
STRIP_ROWS = 4
METRICS = ("hole_psnr", "psnr", "ssim")
Pictures = NDArray[np.uint8]


class Example(NamedTuple):
    """A clip and its hole: frames (T, H, W, 3) RGB, masks (T, H, W)."""

    clip_id: str
    frames: Pictures
    masks: NDArray[np.bool_]


def read_examples(
    folder: str | StoragePath, index: ShardIndex, *, num_clips: int, seed: int, cache: RowCache | None = None
) -> list[Example]:
    """Clips of the index, spread over it, each with the next of the masks that were drawn for validation.

    Where the shards hold no drawn masks they are drawn here, in all families.

    Args:
        folder: of the shards.
        index: of the split.
        num_clips: how many, at most.
        seed: of masks that are drawn.
        cache: for `read_clip`.

    Raises:
        ShardError: a clip or mask cannot be read.
    """
    places = np.unique(np.linspace(0, len(index.clips) - 1, num_clips).round().astype(int))
    examples = []
    for number, place in enumerate(places.tolist()):
        clip = index.clips[place]
        frames = read_clip(folder, clip, range(min(NUM_FRAMES, clip.num_frames)), cache)
        if index.drawn_masks:
            # Stepping by a prime takes each family in turn, and not the first masks of each alone.
            row = index.drawn_masks[number * 7919 % len(index.drawn_masks)]
            masks = read_masks(folder, row, [n % row.num_frames for n in range(len(frames))], cache)
        else:
            rng = np.random.default_rng([seed, number])
            family = FAMILIES[number % len(FAMILIES)]
            masks = draw_masks(family, height=index.height, width=index.width, frames=range(len(frames)), rng=rng)
        examples.append(Example(clip.id, frames, masks))
    return examples


@torch.inference_mode()
def complete(generator: nn.Module, example: Example, *, device: torch.device, precision: Precision) -> Pictures:
    """An example's frames with the hole filled: (T, H, W, 3)."""
    frames = torch.from_numpy(example.frames).to(device).permute(0, 3, 1, 2).float()[None] / 127.5 - 1
    masks = torch.from_numpy(example.masks).to(device).float()[None, :, None]
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        predicted = generator(frames * (1 - masks), masks)
    levels = ((predicted[0].float() + 1) * 127.5).round().clamp(0, 255).byte()
    filled = levels.permute(0, 2, 3, 1).cpu().numpy()
    return np.where(example.masks[..., None], filled, example.frames)


def measure(example: Example, completed: Pictures) -> dict[str, float]:
    """PSNR in the hole and of whole frames, in dB, and SSIM of whole frames; a clip without a hole counts as perfect.

    PSNR is cut at 100 dB, so that a mean can be taken.
    """
    hole = psnr(completed, example.frames, example.masks) if example.masks.any() else float("inf")
    return {
        "hole_psnr": min(hole, 100.0),
        "psnr": min(psnr(completed, example.frames), 100.0),
        "ssim": float(np.mean([ssim(a, b) for a, b in zip(completed, example.frames, strict=True)])),
    }


def make_strip(examples: Sequence[Example], completed: Sequence[Pictures]) -> Pictures:
    """A picture (height, width, 3) with a row for each of some examples, of a frame in the middle.

    From left to right: the hole, what was filled in, the truth.
    """
    rows = []
    for example, filled in list(zip(examples, completed, strict=True))[:STRIP_ROWS]:
        middle = len(example.frames) // 2
        truth = example.frames[middle]
        holed = np.where(example.masks[middle][..., None], np.uint8(255), truth)
        rows.append(np.concatenate([holed, filled[middle], truth], axis=1))
    return np.concatenate(rows)
