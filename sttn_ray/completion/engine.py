"""Frames and holes in, predictions for the holes out; no Ray, no files.

For every window of the schedule and every region of its holes, the generator sees the window's frames and the
references. A frame's predictions, from all windows that hold it, are averaged with equal weights in float: the
published code halves again and again, so that frames flicker with the window's stride (defect D-37).

All but the choice of frames and regions happens on the network's device, and a window's work is launched there before
the results of the one before are read: the device works while the host decodes, and packs what is done.
"""

import copy
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sttn_ray.choices import Precision
from sttn_ray.completion import schedule as windows
from sttn_ray.completion.compositing import SAMPLE_TYPE, holes_by_plane, sample_scale
from sttn_ray.completion.device import first_line, is_out_of_memory
from sttn_ray.completion.pictures import Scaler, to_planes, to_rgb, upload
from sttn_ray.completion.regions import Region, find_regions
from sttn_ray.completion.schedule import Schedule, Shot
from sttn_ray.completion.shots import LOOKAHEAD, ShotFinder
from sttn_ray.errors import DeviceError
from sttn_ray.masks.hole import Box, Hole
from sttn_ray.model.generator import Generator
from sttn_ray.model.precision import DTYPES
from sttn_ray.video.color import ColorFormat, Planes, crop_planes

log = logging.getLogger(__name__)

T = TypeVar("T")

SHOT_MARGIN = 1 + LOOKAHEAD  # frames beyond a shot's end that tell whether it ends there


class SourceFrame(NamedTuple):
    """A frame by its number in the video, as planes of code values, and its hole."""

    number: int
    planes: Planes
    hole: Hole


class CompletedFrame(NamedTuple):
    """A frame's number and the samples of its prediction, as `compositing.paste_samples` takes them.

    They are empty where the frame has no hole.
    """

    number: int
    samples: bytes


class _Seen(NamedTuple):
    """A frame in a region, encoded: features (1, channels, H / 4, W / 4), and mask (H, W), 1 = hole."""

    features: Tensor
    mask: Tensor


# By region's box and frame number, what was encoded before.
Memory = dict[tuple[Box, int], _Seen]


class _Packed(NamedTuple):
    """A frame whose samples are on their way to the host; the event tells when they are there."""

    number: int
    samples: Tensor | None
    event: torch.cuda.Event | None


class Engine:
    """A generator ready to complete videos on one device.

    Attributes:
        frames_at_once: the most frames that go through a layer together; fewer once the device's memory was short.
    """

    def __init__(self, generator: Generator, *, device: str, precision: Precision, schedule: Schedule) -> None:
        self.schedule = schedule
        self.device = torch.device(device)
        self.dtype = DTYPES[precision]
        self.model_size = (generator.config.width, generator.config.height)
        self.frames_at_once: int | None = None
        self._scale = Scaler(self.device)
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

        Raises:
            DeviceError: not even one frame at a time fits into the device's memory.
        """
        self._scale.forget()
        first, last = self.read_range(start, stop, num_frames)
        reach = self.schedule.reach(num_frames)
        radius = self.schedule.window_radius
        source = _Lookahead(frames, first, last, color.maximum)
        memory: Memory = {}
        sums: dict[int, _Average] = {}
        packed: deque[_Packed] = deque()
        finished = start
        for center in range(max(first, start - radius), min(last, stop + radius)):
            source.read_until(min(last, center + reach + SHOT_MARGIN + 1))
            shot = source.shot_at(center, reach)
            if windows.is_center(center, shot, self.schedule):
                self._launch_window(center, shot, range(start, stop), source, color, memory, sums)
                while packed:  # results of the windows before
                    yield _read(packed.popleft())
                source.forget(center, reach, self.schedule)
            # Windows centered later than `radius` after a frame do not hold it.
            for number in range(finished, min(stop, center - radius + 1)):
                packed.append(self._pack(number, source[number].hole, color, sums.pop(number, None)))
            finished = max(finished, min(stop, center - radius + 1))
            while packed and self.device.type == "cpu":  # there is no work that would go on beside this
                yield _read(packed.popleft())
        packed += (
            self._pack(number, source[number].hole, color, sums.pop(number, None)) for number in range(finished, stop)
        )
        yield from map(_read, packed)

    def _launch_window(
        self,
        center: int,
        shot: Shot,
        wanted: range,
        source: "_Lookahead",
        color: ColorFormat,
        memory: Memory,
        sums: dict[int, "_Average"],
    ) -> None:
        neighbors = list(windows.neighbors(center, shot, self.schedule))
        with_hole = [n for n in neighbors if source[n].hole.box]
        if not any(n in wanted for n in with_hole):
            return
        references = windows.references(center, shot, self.schedule)
        union = _union_of_holes(source[n].hole.pixels for n in neighbors)
        regions = find_regions(union, self.model_size, step=max(2, *color.chroma_step))
        # Features serve again while a region stays where it is; those of other places would pile up.
        boxes = {region.box for region in regions}
        for key in [k for k in memory if k[0] not in boxes or k[1] not in source]:
            del memory[key]
        for region in regions:
            outputs = [n for n in with_hole if _inside(source[n].hole.pixels, region.target).any()]
            if not any(n in wanted for n in outputs):
                continue
            # Frames with a hole come first: after its last block the transformer keeps only those. Frames beyond the
            # segment's end are among them: another order, or number, of frames would round otherwise.
            rest = [n for n in [*neighbors, *references] if n not in outputs]
            frames = [source[n] for n in [*outputs, *rest]]
            predicted = self.predict(region, frames, len(outputs), color, memory)
            for number, rgb_CHW in zip(outputs, predicted, strict=True):
                if number not in wanted:
                    continue
                if number not in sums:
                    sums[number] = self._with_room(partial(_Average, source[number].hole.box, self.device))
                self._with_room(partial(sums[number].add, rgb_CHW, region, self._scale))

    def predict(
        self, region: Region, frames: Sequence[SourceFrame], num_outputs: int, color: ColorFormat, memory: Memory
    ) -> Tensor:
        """What the generator paints in a region; launched, and not waited for.

        Where the device's memory is short, fewer frames go through a layer together from then on, and it is said.

        Args:
            region: the part of the picture.
            frames: of one window, those whose result is wanted first.
            num_outputs: how many are wanted.
            color: of the frames.
            memory: what was encoded before; what is missing is added.

        Returns:
            (num_outputs, 3, height, width) in [0, 1], float32, at the network's size, on the device.

        Raises:
            DeviceError: not even one frame at a time fits.
        """
        while True:
            try:
                return self._predict(region, frames, num_outputs, color, memory)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                at_once = min(self.frames_at_once or len(frames), len(frames))
                if at_once == 1:
                    width, height = self.model_size
                    raise DeviceError(
                        f"the memory of {self.device} is too short for a window of {len(frames)} frames of "
                        f"{width}x{height}, one at a time ({first_line(error)}); free it of other processes, raise "
                        "run.gpus_per_actor, or take a smaller inpaint.num_references"
                    ) from error
            # Not in the handler, where the exception keeps what was computed so far.
            if self.frames_at_once is None:
                log.warning(
                    "the memory of %s is short: fewer than %d frames of a window go through the network together from "
                    "now on, which is slower; a larger run.gpus_per_actor, or inpaint.references=nearest, avoids it",
                    self.device,
                    at_once,
                )
            self.frames_at_once = at_once // 2
            self._give_back_memory()

    @torch.inference_mode()
    def _predict(
        self, region: Region, frames: Sequence[SourceFrame], num_outputs: int, color: ColorFormat, memory: Memory
    ) -> Tensor:
        for frame in frames:
            if (region.box, frame.number) not in memory:
                # One at a time, so that a frame's features do not depend on what was encoded beside it.
                memory[region.box, frame.number] = self._encode(frame, region.box, color)
        seen = [memory[region.box, frame.number] for frame in frames]
        features_NCHW = torch.cat([s.features for s in seen]).contiguous(memory_format=torch.channels_last)
        masks = torch.stack([s.mask for s in seen])[None, :, None].to(self.dtype)
        kept = self.generator.transform(
            features_NCHW, masks, num_queries=num_outputs, frames_at_once=self.frames_at_once
        )
        decoded = [self.generator.decode(part).float() for part in kept.split(self.frames_at_once or len(kept))]
        return (torch.cat(decoded) + 1) / 2

    def _encode(self, frame: SourceFrame, box: Box, color: ColorFormat) -> _Seen:
        """A frame in a region, as the network sees it: its hole is empty, wherever a pixel has any part in it."""
        planes = [upload(plane, self.device) for plane in crop_planes(frame.planes, color, box)]
        hole = upload(_inside(frame.hole.pixels, box).view(np.uint8), self.device)
        mask_HW = (self._scale(hole.float()[None], *self.model_size)[0] > 0).float()
        image_CHW = self._scale(to_rgb(planes, color), *self.model_size)
        image_NCHW = ((image_CHW * 2 - 1) * (1 - mask_HW))[None].to(self.dtype)
        return _Seen(self.generator.encode(image_NCHW.contiguous(memory_format=torch.channels_last)), mask_HW)

    def _with_room(self, work: Callable[[], T]) -> T:
        """Do some work that takes most memory first; where that is short, give back what is not used and try again."""
        try:
            return work()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        self._give_back_memory()
        try:
            return work()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise DeviceError(
                f"the memory of {self.device} is too short for predictions: {first_line(error)}"
            ) from error

    def _give_back_memory(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _pack(self, number: int, hole: Hole, color: ColorFormat, average: "_Average | None") -> _Packed:
        """Launch what makes samples of a frame's average."""
        if average is None:
            return _Packed(number, None, None)
        samples = self._with_room(lambda: pack_samples(average.mean(), hole, color))
        if self.device.type != "cuda":
            return _Packed(number, samples.cpu(), None)
        on_host, event = samples.to("cpu", non_blocking=True), torch.cuda.Event()
        event.record()
        return _Packed(number, on_host, event)


def pack_samples(rgb_CHW: Tensor, hole: Hole, color: ColorFormat) -> Tensor:
    """The samples of a prediction that lie in the hole; launched, and not waited for.

    Args:
        rgb_CHW: (3, height, width) in [0, 1], the prediction inside the hole's box.
        hole: of the frame, not empty.
        color: of the frame.

    Returns:
        (samples,), int32, on the prediction's device: code values times `sample_scale`, in the order of
        `holes_by_plane`, from 0 to 65535.
    """
    values = []
    for plane, inside in zip(to_planes(rgb_CHW, color), holes_by_plane(hole, color), strict=True):
        values.append(plane.flatten().index_select(0, upload(np.flatnonzero(inside), rgb_CHW.device)))
    return (torch.cat(values) * sample_scale(color)).round().clamp(0, 65535).to(torch.int32)


def _read(packed: _Packed) -> CompletedFrame:
    """A frame's samples, once they are there."""
    if packed.samples is None:
        return CompletedFrame(packed.number, b"")
    if packed.event is not None:
        packed.event.synchronize()
    return CompletedFrame(packed.number, packed.samples.numpy().astype(SAMPLE_TYPE).tobytes())


class _Average:
    """The mean of a frame's predictions inside the box around its hole, on the device."""

    def __init__(self, box: Box | None, device: torch.device) -> None:
        assert box is not None
        self._box = box
        height, width = box[3] - box[1], box[2] - box[0]
        self._sum_CHW = torch.zeros(3, height, width, device=device)
        self._count_HW = torch.zeros(height, width, device=device)

    @torch.inference_mode()
    def add(self, rgb_CHW: Tensor, region: Region, scale: Scaler) -> None:
        """Add a prediction for a region, given at the network's size, where it covers the region's target."""
        left, top, right, bottom = region.box
        cut = _intersection(self._box, region.target)
        part = slice(cut[1] - top, cut[3] - top), slice(cut[0] - left, cut[2] - left)
        rows, columns = (slice(cut[axis] - self._box[axis], cut[axis + 2] - self._box[axis]) for axis in (1, 0))
        self._sum_CHW[:, rows, columns] += scale(rgb_CHW, right - left, bottom - top, part)
        self._count_HW[rows, columns] += 1

    def mean(self) -> Tensor:
        """(3, height, width); 0 where there is no prediction."""
        return self._sum_CHW / self._count_HW.clamp_min(1)


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


def _intersection(a: Box, b: Box) -> Box:
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
