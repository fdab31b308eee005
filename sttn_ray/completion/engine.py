"""Frames and holes in, predictions for the holes out; no Ray, no files.

For every window of the schedule and every region of its holes, the generator sees the window's frames and the
references. A frame's predictions, from all windows that hold it, are averaged with equal weights in float: the
published code halves again and again, so that frames flicker with the window's stride (defect D-37).
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sttn_ray.completion import schedule as windows
from sttn_ray.completion.compositing import hole_box, pack_samples
from sttn_ray.completion.regions import Box, Region, find_regions
from sttn_ray.completion.schedule import Schedule, Shot
from sttn_ray.completion.shots import LOOKAHEAD, ShotFinder
from sttn_ray.masks.hole import Hole
from sttn_ray.model.generator import Generator
from sttn_ray.model.precision import DTYPES, Precision
from sttn_ray.video.color import ColorFormat, Planes, crop_planes, planes_to_rgb

SHOT_MARGIN = 1 + LOOKAHEAD  # frames beyond a shot's end that tell whether it ends there


class SourceFrame(NamedTuple):
    """A frame by its number in the video, as planes of code values, and its hole."""

    number: int
    planes: Planes
    hole: Hole


class CompletedFrame(NamedTuple):
    """A frame's number and its prediction, packed by `compositing.pack_samples`; empty where it has no hole."""

    number: int
    samples: bytes


class Engine:
    """A generator ready to complete videos on one device."""

    def __init__(self, generator: Generator, *, device: str, precision: Precision, schedule: Schedule) -> None:
        self.schedule = schedule
        self.device = torch.device(device)
        self.dtype = DTYPES[precision]
        self.model_size = (generator.config.width, generator.config.height)
        # A copy: the caller's generator keeps its own number format.
        self.generator = copy.deepcopy(generator).to(self.device, self.dtype).eval()
        self.generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in its types

    def read_range(self, start: int, stop: int, num_frames: int) -> tuple[int, int]:
        """The frames that `complete` must be given to complete frames `start` to `stop` of a video."""
        margin = self.schedule.margin(num_frames) + SHOT_MARGIN
        return max(0, start - margin), min(num_frames, stop + margin)

    def complete(
        self, frames: Iterable[SourceFrame], *, start: int, stop: int, num_frames: int, color: ColorFormat
    ) -> Iterator[CompletedFrame]:
        """Complete frames `start` to `stop` of a video, in order.

        Args:
            frames: in order, over `read_range(start, stop, num_frames)`.
            start, stop: the segment; its frames come out the same whatever the other segments are.
            num_frames: of the whole video.
            color: of all frames.
        """
        first, last = self.read_range(start, stop, num_frames)
        reach = self.schedule.reach(num_frames)
        radius = self.schedule.window_radius
        source = _Lookahead(frames, first, last, color.maximum)
        features: dict[tuple[Box, int], Tensor] = {}
        sums: dict[int, _Average] = {}
        finished = start
        for center in range(max(first, start - radius), min(last, stop + radius)):
            source.read_until(min(last, center + reach + SHOT_MARGIN + 1))
            shot = source.shot_at(center, reach)
            if windows.is_center(center, shot, self.schedule):
                self._complete_window(center, shot, range(start, stop), source, color, features, sums)
                source.forget(center, reach, self.schedule)
            # Windows centered later than `radius` after a frame do not hold it.
            for number in range(finished, min(stop, center - radius + 1)):
                yield self._finish(number, source, color, sums)
            finished = max(finished, min(stop, center - radius + 1))
        for number in range(finished, stop):
            yield self._finish(number, source, color, sums)

    def _complete_window(
        self,
        center: int,
        shot: Shot,
        wanted: range,
        source: "_Lookahead",
        color: ColorFormat,
        features: dict[tuple[Box, int], Tensor],
        sums: dict[int, "_Average"],
    ) -> None:
        neighbors = list(windows.neighbors(center, shot, self.schedule))
        with_hole = [n for n in neighbors if source[n].hole.pixels.any()]
        if not any(n in wanted for n in with_hole):
            return
        references = windows.references(center, shot, self.schedule)
        union = _union_of_holes(source[n].hole.pixels for n in neighbors)
        regions = find_regions(union, self.model_size)
        # Features serve again while a region stays where it is; those of other places would pile up.
        boxes = {region.box for region in regions}
        for key in [k for k in features if k[0] not in boxes or k[1] not in source]:
            del features[key]
        for region in regions:
            outputs = [n for n in with_hole if _inside(source[n].hole.pixels, region.target).any()]
            if not any(n in wanted for n in outputs):
                continue
            # Frames with a hole come first: after its last block the transformer keeps only those. Frames beyond the
            # segment's end are among them: another order, or number, of frames would round otherwise.
            rest = [n for n in [*neighbors, *references] if n not in outputs]
            frames = [source[n] for n in [*outputs, *rest]]
            predicted = self.predict(region, frames, len(outputs), color, features)
            for number, rgb in zip(outputs, predicted, strict=True):
                if number not in wanted:
                    continue
                if number not in sums:
                    sums[number] = _Average(hole_box(source[number].hole))
                sums[number].add(rgb, region)

    @torch.inference_mode()
    def predict(
        self,
        region: Region,
        frames: Sequence[SourceFrame],
        num_outputs: int,
        color: ColorFormat,
        features: dict[tuple[Box, int], Tensor],
    ) -> NDArray[np.float32]:
        """What the generator paints in a region.

        Args:
            region: the part of the picture.
            frames: of one window, those whose result is wanted first.
            num_outputs: how many are wanted.
            color: of the frames.
            features: by region's box and frame number, what was encoded before; what is missing is added.

        Returns:
            (num_outputs, height, width, 3) in [0, 1], at the network's size.
        """
        masks = {frame.number: self._region_mask(frame, region.box) for frame in frames}
        for frame in frames:
            key = (region.box, frame.number)
            if key not in features:
                # One at a time, so that a frame's features do not depend on what was encoded beside it.
                image = self._region_image(frame, region.box, masks[frame.number], color)
                features[key] = self.generator.encode(self._to_device(image))
        stacked = torch.cat([features[region.box, frame.number] for frame in frames])
        mask_tensor = torch.from_numpy(np.stack(list(masks.values())))[None, :, None]
        kept = self.generator.transform(
            stacked.contiguous(memory_format=torch.channels_last),
            mask_tensor.to(self.device, self.dtype),
            num_queries=num_outputs,
        )
        decoded = self.generator.decode(kept).float()
        predicted: NDArray[np.float32] = ((decoded + 1) / 2).permute(0, 2, 3, 1).cpu().numpy()
        return predicted

    def _to_device(self, image: NDArray[np.float32]) -> Tensor:
        tensor = torch.from_numpy(image)[None].permute(0, 3, 1, 2)  # channels last as it lies in memory
        return tensor.to(self.device, self.dtype)

    def _region_mask(self, frame: SourceFrame, box: Box) -> NDArray[np.float32]:
        """The hole at the network's size, 1 wherever a pixel has any part in it."""
        hole = _inside(frame.hole.pixels, box).astype(np.float32)
        resized = _resized(hole, self.model_size)
        return (resized > 0).astype(np.float32)

    def _region_image(
        self, frame: SourceFrame, box: Box, mask: NDArray[np.float32], color: ColorFormat
    ) -> NDArray[np.float32]:
        rgb = planes_to_rgb(crop_planes(frame.planes, color, box), color)
        rgb = _resized(rgb, self.model_size)
        return (rgb * 2 - 1) * (1 - mask[..., None])

    def _finish(
        self, number: int, source: "_Lookahead", color: ColorFormat, sums: dict[int, "_Average"]
    ) -> CompletedFrame:
        average = sums.pop(number, None)
        if average is None:
            return CompletedFrame(number, b"")
        samples = pack_samples(average.mean(), average.box, source[number].hole, color)
        return CompletedFrame(number, samples)


class _Average:
    """The mean of a frame's predictions inside the box around its hole."""

    def __init__(self, box: Box) -> None:
        self.box = box
        shape = (box[3] - box[1], box[2] - box[0], 1)
        self._sum = np.zeros((*shape[:2], 3), np.float32)
        self._count = np.zeros(shape, np.float32)

    def add(self, rgb: NDArray[np.float32], region: Region) -> None:
        """Add a prediction for a region, given at the network's size, where it covers the region's target."""
        left, top, right, bottom = region.box
        if rgb.shape[:2] != (bottom - top, right - left):
            rgb = cv2.resize(rgb, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
        cut = _intersection(self.box, region.target)
        here = np.s_[cut[1] - self.box[1] : cut[3] - self.box[1], cut[0] - self.box[0] : cut[2] - self.box[0]]
        self._sum[here] += rgb[cut[1] - top : cut[3] - top, cut[0] - left : cut[2] - left]
        self._count[here] += 1

    def mean(self) -> NDArray[np.float32]:
        return np.divide(self._sum, self._count, out=np.zeros_like(self._sum), where=self._count > 0)


class _Lookahead:
    """Frames read so far and still needed, and the shots they belong to."""

    def __init__(self, frames: Iterable[SourceFrame], first: int, last: int, maximum: int) -> None:
        self._frames = iter(frames)
        self._kept: dict[int, SourceFrame] = {}
        self._shots = ShotFinder(first)
        self._first, self._read, self._last = first, first, last
        self._maximum = maximum

    def __getitem__(self, number: int) -> SourceFrame:
        return self._kept[number]

    def __contains__(self, number: int) -> bool:
        return number in self._kept

    def read_until(self, stop: int) -> None:
        while self._read < stop:
            frame = next(self._frames)
            assert frame.number == self._read
            self._kept[frame.number] = frame
            self._shots.add(frame.planes[0], self._maximum)
            self._read += 1
            if self._read == self._last:
                self._shots.finish()

    def shot_at(self, center: int, reach: int) -> Shot:
        return self._shots.shot_at(
            center, start=max(self._first, center - reach), stop=min(self._last, center + reach + 1)
        )

    def forget(self, center: int, reach: int, schedule: Schedule) -> None:
        """Drop the frames that no window from `center` on needs."""
        for number in [n for n in self._kept if n < center - schedule.window_radius]:
            if number % schedule.reference_stride or number < center - reach:
                del self._kept[number]


def _union_of_holes(holes: Iterable[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    union: NDArray[np.bool_] | None = None
    last = None
    for hole in holes:
        if hole is last:
            continue
        union = hole if union is None else union | hole
        last = hole
    assert union is not None
    return union


def _inside(pixels: NDArray[np.bool_], box: Box) -> NDArray[np.bool_]:
    return pixels[box[1] : box[3], box[0] : box[2]]


def _resized(image: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """An image at another width and height: mean of the pixels where it shrinks, bilinear where it grows."""
    # Axis by axis: OpenCV's area mean skips pixels where the other axis grows.
    shrunk = (min(size[0], image.shape[1]), min(size[1], image.shape[0]))
    if shrunk != image.shape[1::-1]:
        image = cv2.resize(image, shrunk, interpolation=cv2.INTER_AREA)
    if shrunk != size:
        image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    return image


def _intersection(a: Box, b: Box) -> Box:
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
