"""Completion of made sequences by a tiny network: the engine against the network by hand, and its promises."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import count

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sttn_ray.completion import engine as engine_module
from sttn_ray.completion.compositing import paste_samples
from sttn_ray.completion.engine import Engine, SourceFrame, pack_samples
from sttn_ray.completion.schedule import Schedule
from sttn_ray.errors import DeviceError
from sttn_ray.masks.hole import Hole, make_hole
from sttn_ray.model.generator import Generator, GeneratorConfig
from sttn_ray.model.precision import fastest_precision
from sttn_ray.video.color import ColorFormat, color_format, planes_to_rgb
from tests.holes import opacity_of
from tests.pictures import rgb_to_planes

COLOR = color_format("yuv420p", 1, 1)
MODEL = (96, 96)
TINY = GeneratorConfig(channels=16, num_blocks=2, width=96, height=96, grids=(1, 3), mask_keys=True)

Pixels = NDArray[np.bool_]
Draw = Callable[[int, Pixels], None]  # sets a frame's mask, given its number


@lru_cache
def make_engine(*, num_references: int | None = 7) -> Engine:
    """Weights of the size of trained ones: at N(0, 0.02) every prediction would be gray."""
    generator = Generator(TINY)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in generator.parameters():
            scale = 1.4 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.02
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * scale)
    schedule = Schedule(num_references=num_references)
    return Engine(generator, device="cpu", precision="fp32", schedule=schedule)


def make_planes(seed: int, shift: int, width: int, height: int) -> list[NDArray[np.uint8]]:
    """A smooth random picture, moved by some pixels."""
    rng = np.random.default_rng(seed)
    planes = []
    for step in (1, 2, 2):
        rows, columns = -(-height // step), -(-width // step)
        coarse = rng.uniform(16, 235, (4, 12)).astype(np.float32)
        picture = cv2.resize(coarse, (3 * columns, rows), interpolation=cv2.INTER_CUBIC)
        start = shift // step
        planes.append(np.clip(picture[:, start : start + columns], 0, 255).astype(np.uint8))
    return planes


def make_frames(
    num_frames: int, draw: Draw, *, size: tuple[int, int] = (160, 120), shots: Sequence[tuple[int, int]] = ((0, 0),)
) -> list[SourceFrame]:
    """Frames of a pan with a mask each; `shots` are first frames and seeds."""
    width, height = size
    frames = []
    for number in range(num_frames):
        seed = [seed for start, seed in shots if start <= number][-1]
        mask = np.zeros((height, width), bool)
        draw(number, mask)
        hole = make_hole(mask, dilation_px=3, feather_px=2, chroma_step=COLOR.chroma_step)
        frames.append(SourceFrame(number, make_planes(seed, number, width, height), hole))
    return frames


def draw_static(number: int, mask: Pixels) -> None:
    mask[40:60, 50:80] = True


def draw_moving(number: int, mask: Pixels) -> None:
    """A box that moves, and is absent now and then."""
    if number % 13 != 5:
        left, top = (3 * number) % (mask.shape[1] - 20), (2 * number) % (mask.shape[0] - 14)
        mask[top : top + 10, left : left + 14] = True


def complete(
    frames: Sequence[SourceFrame], *, segment: int | None = None, engine: Engine | None = None
) -> list[NDArray[np.uint16]]:
    """The samples of all frames, completed in segments of a length."""
    engine = engine or make_engine()
    num_frames, completed = len(frames), []
    segment = segment or num_frames
    for start in range(0, num_frames, segment):
        stop = min(num_frames, start + segment)
        first, last = engine.read_range(start, stop, num_frames)
        completed += engine.complete(frames[first:last], start=start, stop=stop, num_frames=num_frames, color=COLOR)
    assert [frame.number for frame in completed] == list(range(num_frames))
    return [np.frombuffer(frame.samples, "<u2") for frame in completed]


def predict_by_hand(frames: Sequence[SourceFrame], engine: Engine) -> NDArray[np.float32]:
    """(T, height, width, 3) in [0, 1]: the network on whole frames of its own size."""
    images = np.stack([planes_to_rgb(frame.planes, COLOR) for frame in frames])
    masks = np.stack([frame.hole.pixels for frame in frames]).astype(np.float32)[..., None]
    inputs, mask_inputs = (
        torch.from_numpy(x).permute(0, 3, 1, 2)[None] for x in ((images * 2 - 1) * (1 - masks), masks)
    )
    with torch.inference_mode():
        predicted = engine.generator(inputs, mask_inputs)[0]
    return (predicted.permute(0, 2, 3, 1).numpy() + 1) / 2


def samples_of(rgb: NDArray[np.float32], hole: Hole) -> NDArray[np.float32]:
    """Code values inside the hole, not rounded, in the order of packed samples."""
    luma, *chroma = rgb_to_planes(rgb, COLOR)
    inside = hole.pixels
    return np.concatenate([luma[inside], *(plane[inside[::2, ::2]] for plane in chroma)])


@pytest.mark.parametrize("num_frames", [1, 3, 5])
def test_one_window_equals_the_network_by_hand(num_frames: int) -> None:
    """Up to five frames are one window without references, seen whole: nothing is averaged or scaled."""
    frames = make_frames(num_frames, draw_static, size=MODEL)
    predicted = predict_by_hand(frames, make_engine())
    assert predicted.std() > 0.02
    for frame, samples, rgb in zip(frames, complete(frames), predicted, strict=True):
        difference = samples / 256 - samples_of(rgb, frame.hole)
        # 1e-4 of the range [0, 1], and half a step of the samples' fixed point.
        assert np.abs(difference).max() < 1e-4 * 219 + 1 / 512


def test_frames_of_several_windows_are_the_mean_of_their_predictions() -> None:
    """Twelve frames: windows at 0, 5 and 10, each with those of frames 0 and 10 it does not hold as references."""
    frames = make_frames(12, draw_static, size=MODEL)
    engine = make_engine()
    predictions: list[list[NDArray[np.float32]]] = [[] for _ in frames]
    for window, references in ((range(6), [10]), (range(11), []), (range(5, 12), [0])):
        seen = [frames[n] for n in [*window, *references]]
        for number, rgb in zip(window, predict_by_hand(seen, engine), strict=False):
            predictions[number].append(rgb)
    assert [len(p) for p in predictions] == [2] * 5 + [3] + [2] * 5 + [1]
    for frame, samples, several in zip(frames, complete(frames), predictions, strict=True):
        difference = samples / 256 - samples_of(np.mean(several, axis=0), frame.hole)
        assert np.abs(difference).max() < 1e-4 * 219 + 1 / 512


@pytest.mark.parametrize("num_references", [7, None])
@pytest.mark.parametrize("segment", [17, 10])
def test_any_segmentation_gives_the_same_frames(num_references: int | None, segment: int) -> None:
    """Bit for bit: whatever segments a film is cut into."""
    frames = make_frames(60, draw_moving, shots=((0, 0), (23, 1), (26, 2), (41, 3)))
    engine = make_engine(num_references=num_references)
    whole = complete(frames, engine=engine)
    for a, b in zip(whole, complete(frames, engine=engine, segment=segment), strict=True):
        assert np.array_equal(a, b)


def test_frames_without_hole_give_no_samples() -> None:
    frames = make_frames(30, draw_moving)
    for frame, samples in zip(frames, complete(frames), strict=True):
        pixels = frame.hole.pixels
        assert len(samples) == pixels.sum() + 2 * pixels[::2, ::2].sum()
        assert bool(len(samples)) == (frame.number % 13 != 5)


def test_a_video_without_hole_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network ran")

    frames = make_frames(20, lambda number, mask: None)
    monkeypatch.setattr(Generator, "encode", refuse)
    assert all(len(samples) == 0 for samples in complete(frames))


def test_a_static_hole_encodes_every_frame_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its region stays where it is, so that features serve every window that sees the frame."""
    frames = make_frames(60, draw_static)
    num_encoded = 0
    encode = Generator.encode

    def counted(self: Generator, images: torch.Tensor) -> torch.Tensor:
        nonlocal num_encoded
        num_encoded += len(images)
        return encode(self, images)

    monkeypatch.setattr(Generator, "encode", counted)
    complete(frames)
    assert num_encoded == 60


def test_frames_held_at_once_do_not_grow_with_the_video() -> None:
    alive: list[weakref.ref[NDArray[np.uint8]]] = []
    most = {}
    for num_frames in (300, 600):
        alive.clear()
        most[num_frames] = 0

        def read(num_frames: int) -> Iterator[SourceFrame]:
            hole = make_hole(np.zeros((32, 32), bool), dilation_px=0, feather_px=0, chroma_step=(2, 2))
            for number in range(num_frames):
                planes = make_planes(0, 0, 32, 32)
                alive.append(weakref.ref(planes[0]))
                most[num_frames] = max(most[num_frames], sum(ref() is not None for ref in alive))
                yield SourceFrame(number, planes, hole)

        for _ in make_engine().complete(read(num_frames), start=0, stop=num_frames, num_frames=num_frames, color=COLOR):
            pass
    reach = make_engine().schedule.reach(600)
    assert most[300] == most[600] < 1.5 * reach


def test_the_other_shot_does_not_matter() -> None:
    """Neither as neighbors nor as references, on either side of the cut."""
    before = complete(make_frames(40, draw_static, shots=((0, 0), (22, 1))))
    other_second = complete(make_frames(40, draw_static, shots=((0, 0), (22, 2))))
    other_first = complete(make_frames(40, draw_static, shots=((0, 3), (22, 1))))
    for number in range(40):
        is_first = number < 22
        assert np.array_equal(before[number], other_second[number]) == is_first
        assert np.array_equal(before[number], other_first[number]) == (not is_first)


def short_of_memory(engine: Engine, most: int) -> None:
    """Let each convolution fail on more than `most` frames as CUDA does where its memory is short."""

    def refuse(layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if len(inputs[0]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    for layer in engine.generator.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_pre_hook(refuse)


def test_where_memory_is_short_fewer_frames_go_through_together(caplog: pytest.LogCaptureFixture) -> None:
    frames = make_frames(40, draw_moving)
    engine = make_engine.__wrapped__()
    short_of_memory(engine, 4)
    found = complete(frames, engine=engine, segment=20)
    assert engine.frames_at_once in (3, 4)
    assert caplog.text.count("the memory of cpu is short") == 1
    for a, b in zip(found, complete(frames), strict=True):
        assert np.abs(a.astype(float) - b.astype(float)).max(initial=0) <= 1  # of 65535


def test_where_memory_is_short_for_predictions_it_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = make_frames(12, draw_static)
    expected = complete(frames)
    plain, failures = engine_module._Average.add, [1, 4]
    calls = count(1)

    def add(average: object, *arguments: object) -> None:
        if next(calls) in failures:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        plain(average, *arguments)

    monkeypatch.setattr(engine_module._Average, "add", add)
    assert all(np.array_equal(a, b) for a, b in zip(complete(frames), expected, strict=True))
    calls, failures = count(1), [1, 2]
    with pytest.raises(DeviceError, match="too short for predictions: CUDA out of memory"):
        complete(frames)


def test_memory_too_short_for_one_frame_is_an_error() -> None:
    engine = make_engine.__wrapped__()
    short_of_memory(engine, 0)
    with pytest.raises(
        DeviceError, match=r"too short for a window of \d+ frames of 96x96, one at a time \(CUDA out of"
    ):
        complete(make_frames(12, draw_static), engine=engine)


def test_references_matter() -> None:
    """So that the test above cannot pass because only the window is looked at."""
    frames = make_frames(30, draw_static)
    changed = list(frames)
    changed[20] = changed[20]._replace(planes=[plane // 2 for plane in frames[20].planes])
    a, b = complete(frames)[0], complete(changed)[0]
    assert not np.array_equal(a, b)


@pytest.mark.parametrize("size", [(320, 280), (70, 60), (80, 400)])
def test_what_lies_under_a_hole_does_not_matter(size: tuple[int, int]) -> None:
    """What is to be removed never reaches the network, also where a region is reduced, enlarged, or both."""

    def draw(number: int, mask: Pixels) -> None:
        height, width = mask.shape
        mask[height // 9 : -height // 7, width // 5 : width // 2] = True

    frames = make_frames(8, draw, size=size)
    changed = []
    for frame in frames:
        planes = [plane.copy() for plane in frame.planes]
        planes[0][frame.hole.pixels] = 255
        for plane in planes[1:]:
            # Bilinear chroma reaches one luma pixel beyond its own two; those samples stay.
            inner = cv2.erode(frame.hole.pixels[::2, ::2].astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
            plane[inner] = 0
        changed.append(frame._replace(planes=planes))
    for a, b in zip(complete(frames), complete(changed), strict=True):
        assert np.array_equal(a, b)


def test_two_far_holes_and_an_odd_frame() -> None:
    """Regions in opposite corners; every sample of both holes is a prediction."""

    def draw(number: int, mask: Pixels) -> None:
        mask[2:20, 3:20] = True
        mask[-15:, -20:] = True

    frames = make_frames(6, draw, size=(321, 241))
    for frame, samples in zip(frames, complete(frames), strict=True):
        pixels = frame.hole.pixels
        assert len(samples) == pixels.sum() + 2 * pixels[::2, ::2].sum()
        luma = samples[: pixels.sum()] / 256
        # Where no prediction fell, the mean would be 0, which is luma 16.
        assert luma.min() > 30


def test_frames_smaller_than_the_network() -> None:
    frames = make_frames(6, lambda number, mask: mask.__setitem__(np.s_[10:20, 8:30], True), size=(50, 34))
    assert all(len(samples) for samples in complete(frames))


def test_fastest_precision_is_one_the_engine_knows() -> None:
    assert fastest_precision("mps") == "fp32"
    assert fastest_precision("cpu") in ("fp32", "bf16")


def packed(rgb: NDArray[np.float32], hole: Hole, color: ColorFormat) -> bytes:
    values = pack_samples(torch.from_numpy(rgb).permute(2, 0, 1), hole, color)
    return values.numpy().astype("<u2").tobytes()


@pytest.mark.parametrize(
    "pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv411p", "yuv410p", "yuv420p10le", "gray", "yuvj420p", "gbrp"]
)
@pytest.mark.parametrize("size", [(64, 48), (63, 47)])
def test_pasting_leaves_the_rest_bit_for_bit_and_rounds_the_prediction_once(
    pix_fmt: str, size: tuple[int, int]
) -> None:
    width, height = size
    color = color_format(pix_fmt, 1, 1)
    rng = np.random.default_rng(0)
    mask = np.zeros((height, width), bool)
    mask[21:height, 30:51] = True  # to the lower edge
    hole = make_hole(mask, dilation_px=4, feather_px=3, chroma_step=color.chroma_step)
    planes = make_noise_planes(rng, color, width, height)
    source = [plane.copy() for plane in planes]
    assert hole.box is not None
    left, top, right, bottom = hole.box
    rgb = rng.uniform(0, 1, (bottom - top, right - left, 3)).astype(np.float32)
    paste_samples(planes, packed(rgb, hole, color), hole, color)

    step_x, step_y = color.chroma_step
    padded = np.pad(rgb, ((0, -rgb.shape[0] % step_y), (0, -rgb.shape[1] % step_x), (0, 0)), mode="edge")
    for n, (plane, before, predicted) in enumerate(zip(planes, source, rgb_to_planes(padded, color), strict=True)):
        x, y = (1, 1) if n == 0 else (step_x, step_y)
        pixels = hole.pixels[::y, ::x]
        assert np.array_equal(plane[~pixels], before[~pixels])
        assert not np.array_equal(plane[pixels], before[pixels])
        whole = np.zeros(plane.shape, np.float32)
        part = whole[top // y : -(-bottom // y), left // x : -(-right // x)]
        part[:] = predicted[: part.shape[0], : part.shape[1]]
        is_opaque = block_minimum(opacity_of(hole), x, y) == 1
        assert is_opaque.any()
        error = plane[is_opaque].astype(np.float32) - np.clip(whole, 0, color.maximum)[is_opaque]
        assert np.abs(error).max() <= 0.5 + 2.0 ** (color.bits - 17) + 1e-3


def make_noise_planes(
    rng: np.random.Generator, color: ColorFormat, width: int, height: int
) -> list[NDArray[np.generic]]:
    step_x, step_y = color.chroma_step
    shapes = [(height, width)] + [(-(-height // step_y), -(-width // step_x))] * 2 * color.has_chroma
    return [rng.integers(0, color.maximum + 1, shape).astype(color.dtype) for shape in shapes]


def block_minimum(values: NDArray[np.float32], step_x: int, step_y: int) -> NDArray[np.float32]:
    height, width = values.shape
    padded = np.pad(values, ((0, -height % step_y), (0, -width % step_x)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // step_y, step_y, padded.shape[1] // step_x, step_x)
    return blocks.min((1, 3))


def test_the_rim_blends_by_opacity() -> None:
    mask = np.zeros((48, 64), bool)
    mask[20:28, 20:44] = True
    hole = make_hole(mask, dilation_px=6, feather_px=4, chroma_step=COLOR.chroma_step)
    planes = [np.full((48, 64), 40, np.uint8), *(np.full((24, 32), 128, np.uint8) for _ in range(2))]
    assert hole.opacity is not None
    white = np.ones((*hole.opacity.shape, 3), np.float32)
    paste_samples(planes, packed(white, hole, COLOR), hole, COLOR)
    wanted = np.rint(40 + opacity_of(hole) * (235 - 40))
    assert np.array_equal(planes[0], wanted.astype(np.uint8))
    assert {40, 235} < set(planes[0].ravel().tolist())


def test_another_number_of_samples_is_refused() -> None:
    hole = make_hole(np.eye(16, dtype=bool), dilation_px=0, feather_px=0, chroma_step=COLOR.chroma_step)
    planes = [np.zeros((16, 16), np.uint8), *(np.zeros((8, 8), np.uint8) for _ in range(2))]
    with pytest.raises(ValueError, match="3 samples for a hole of 48"):
        paste_samples(planes, b"\0" * 6, hole, COLOR)
