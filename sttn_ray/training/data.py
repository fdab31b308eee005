"""From positions to batches: clips read from shards, with their masks."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sttn_ray.choices import Family
from sttn_ray.masks.draw import draw_masks
from sttn_ray.paths import StoragePath
from sttn_ray.samples import Sample, clip_at, draw_sample
from sttn_ray.shards.cache import RowCache
from sttn_ray.shards.read import ShardIndex, read_clip, read_masks


class Batch(NamedTuple):
    """Clips and masks of a step.

    Shapes: frames (B, T, 3, H, W) and masks (B, T, 1, H, W), uint8: 0 to 255, and 1 = hole.
    """

    clip_ids: list[str]
    frames: Tensor
    masks: Tensor


class ClipDataset(Dataset[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]]):
    """The endless list of samples, by position: clip id, frames (T, H, W, 3), masks (T, H, W).

    With `crop`, a width and a height, a random part of that size is taken of each clip, and the mask drawn in it.
    `cache` keeps what is read from an object store.
    """

    def __init__(
        self,
        folder: str | StoragePath,
        index: ShardIndex,
        *,
        sample_frames: int,
        weights: Mapping[Family, float],
        seed: int,
        color_jitter: float = 0.0,
        crop: tuple[int, int] | None = None,
        cache: RowCache | None = None,
    ) -> None:
        self._folder, self._index, self._seed, self._cache = folder, index, seed, cache
        self._sample_frames, self._weights, self._color_jitter = sample_frames, dict(weights), color_jitter
        self._width, self._height = crop or (index.width, index.height)

    def __getitem__(self, position: int) -> tuple[str, NDArray[np.uint8], NDArray[np.uint8]]:
        epoch, number = clip_at(position, num_clips=len(self._index.clips), seed=self._seed)
        clip = self._index.clips[number]
        sample = draw_sample(
            clip.id,
            clip.num_frames,
            sample_frames=self._sample_frames,
            weights=self._weights,
            seed=self._seed,
            epoch=epoch,
            color_jitter=self._color_jitter,
        )
        frames = read_clip(self._folder, clip, sample.frames, self._cache)
        room = (self._index.width - self._width, self._index.height - self._height)
        left, top = (min(int(share * (pixels + 1)), pixels) for share, pixels in zip(sample.place, room, strict=True))
        frames = frames[:, top : top + self._height, left : left + self._width]
        if sample.colors is not None:
            frames = cv2.LUT(frames.reshape(-1, self._width, 3), sample.colors[None]).reshape(frames.shape)
        if sample.is_flipped:
            frames = frames[:, :, ::-1]
        masks = self._masks(sample)
        return clip.id, np.ascontiguousarray(frames), masks.astype(np.uint8)

    def _masks(self, sample: Sample) -> NDArray[np.bool_]:
        objects = self._index.object_masks
        if sample.family != "object" or not objects:
            # Frames of a short clip repeat, which a mask's motion does not.
            numbers, places = np.unique(sample.frames, return_inverse=True)
            masks = draw_masks(
                sample.family,
                height=self._height,
                width=self._width,
                frames=numbers.tolist(),
                rng=sample.rng,
            )
            return masks[places]
        row = objects[int(sample.rng.integers(len(objects)))]
        masks = read_masks(self._folder, row, [n % row.num_frames for n in sample.frames], self._cache)
        if masks.shape[1:] != (self._height, self._width):
            # The whole figure, smaller: a part of the picture may not hold any of it.
            scaled = [
                cv2.resize(m.astype(np.uint8), (self._width, self._height), interpolation=cv2.INTER_AREA) for m in masks
            ]
            masks = np.stack(scaled) > 0
        # Flipped on its own, so that a figure of the corpus comes over its own clip in other places too.
        return masks[:, :, ::-1] if sample.rng.random() < 0.5 else masks


def make_loader(
    dataset: ClipDataset, batches: Iterable[Sequence[int]], *, num_processes: int, pins: bool = False
) -> DataLoader[Batch]:
    """Batches in the order of their positions.

    Args:
        dataset: that they are read from.
        batches: the positions of each.
        num_processes: that read ahead; 0: this one reads.
        pins: their memory is page-locked, so that a GPU takes it while it computes.
    """
    return DataLoader(
        dataset,  # type: ignore[arg-type]  # it holds samples, of which `_collate` makes batches
        batch_sampler=batches,  # type: ignore[arg-type]  # any iterable of lists serves
        num_workers=num_processes,
        collate_fn=_collate,
        worker_init_fn=_start_process,
        pin_memory=pins,
        # A fork would copy the locks of whatever threads Ray and Arrow run in a worker.
        multiprocessing_context="spawn" if num_processes else None,
    )


def _start_process(number: int) -> None:
    cv2.setNumThreads(1)  # as many processes as cores read already


def _collate(samples: Sequence[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]]) -> Batch:
    ids, frames, masks = zip(*samples, strict=True)
    channels_last = torch.from_numpy(np.stack(frames))
    return Batch(list(ids), channels_last.permute(0, 1, 4, 2, 3), torch.from_numpy(np.stack(masks))[:, :, None])
