"""Random masks to train on: the paper's moving and stationary shapes, and what people really remove.

The published masks are small blobs only (section 4.1 of the STTN paper; `create_random_shape_with_random_motion` of
its code), so a network trained on them never saw a subtitle, a logo or a person. Here a mask is of a family. Each
depends on the generator's state and the frame's number alone, so only the frames that a step trains on are drawn.

`moving_shape` and `static_shape` keep the published statistics. 240x432, half of them moving; published as measured
over 300 samples, ours over 3000 that the constants were not tuned on:

| | published | ours |
|---|---|---|
| coverage of frame 0, mean (p5, median, p95), % | 7.2 (2.4, 6.6, 13.8) | 7.3 (2.6, 6.5, 14.4) |
| box around the mask of frame 0, mean height x width, px | 88 x 158 | 86 x 156 |
| moving ones, centroid from frame 0 to 20, median (p90), px | 32 (79) | 36 (82) |
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from sttn_ray.choices import FAMILIES, Family
from sttn_ray.masks import shapes

Floats = NDArray[np.float64]
Masks = NDArray[np.uint8]  # (frames, height, width), 1 = hole

# Lengths below are in shares of the picture's height or width, speeds in pixels a frame of a picture this wide.
SPEED_WIDTH = 432
SHAPE_SIDE = (0.165, 0.555)
SHAPE_SPEED = (1.0, 3.0)  # published as uniform(3), which numpy reads as from 3 to 1; meant was from 0
ACCELERATION = 1.1  # standard deviation a frame
TURN = 0.3  # standard deviation a frame, radians


def choose_family(weights: Mapping[Family, float], rng: np.random.Generator) -> Family:
    """Draw a family with a chance in proportion to its weight; one without a weight is never drawn.

    Raises:
        ValueError: a family that there is not, a weight that is negative or not finite, or none above 0.
    """
    unknown = sorted(set(weights) - set(FAMILIES))
    if unknown:
        raise ValueError(f"no mask family {', '.join(unknown)}; there are {', '.join(FAMILIES)}")
    # In the order of FAMILIES, so that the order of the weights does not matter.
    values = np.array([weights.get(family, 0) for family in FAMILIES], float)
    if not (np.isfinite(values).all() and (values >= 0).all() and values.any()):
        raise ValueError(f"weights of mask families {dict(weights)}: expected numbers from 0 up, one above 0")
    return FAMILIES[rng.choice(len(FAMILIES), p=values / values.sum())]


def draw_masks(
    family: Family, *, height: int, width: int, frames: Sequence[int], rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Draw one clip's masks at some of its frames.

    A frame's mask is the same whatever other frames are asked for, and so is the state the generator is left in.
    Every mask has a hole and none covers over 60 % of the picture.

    Args:
        family: one of `FAMILIES`.
        height, width: of the picture, in pixels; made for 144x240 and up.
        frames: ascending frame numbers. Motion starts at frame 0, so time grows a little with the last one.
        rng: where all chance comes from.

    Returns:
        (len(frames), height, width), True = hole.

    Raises:
        ValueError: no frames, or numbers that are negative or do not ascend.
    """
    numbers = np.asarray(frames, np.int64)
    if not numbers.size or numbers[0] < 0 or (np.diff(numbers) <= 0).any():
        raise ValueError(f"frames {list(frames)}: expected ascending numbers from 0 up, at least one")
    masks = np.zeros((len(numbers), height, width), np.uint8)
    _DRAW[family](masks, numbers, rng)
    return masks.view(np.bool_)


# What is drawn from `rng` below must not depend on the frames; what does comes from a generator of its own.


def _spawn(rng: np.random.Generator) -> np.random.Generator:
    # Not rng.spawn(), which counts its children apart from the generator's state.
    return np.random.default_rng(rng.integers(2**63))


def _draw_shape(masks: Masks, frames: NDArray[np.int64], rng: np.random.Generator, *, is_moving: bool) -> None:
    picture = np.array(masks.shape[1:])
    size = np.maximum(4, np.round(picture * rng.uniform(*SHAPE_SIDE, 2))).astype(int)
    shape = np.zeros(size, np.uint8)
    shapes.fill_curve(shape, shapes.make_outline(rng) * (size[::-1] - 1))
    room = picture - size
    path = _wander(rng.random(2) * room, room, frames if is_moving else 0 * frames, picture[1] / SPEED_WIDTH, rng)
    for mask, (top, left) in zip(masks, np.round(path).astype(int), strict=True):
        mask[top : top + size[0], left : left + size[1]] = shape


def _wander(
    start: Floats, room: NDArray[np.int64], frames: NDArray[np.int64], scale: float, rng: np.random.Generator
) -> Floats:
    """Places (frames, 2) on a way of random acceleration and turns that stays in [0, room].

    At a border it goes on with a new speed and direction.
    """
    speed, direction = float(rng.uniform(*SHAPE_SPEED)), float(rng.uniform(0, math.tau))
    chance = _spawn(rng).standard_normal((int(frames[-1]) + 1, 4)).tolist()
    (y, x), (room_y, room_x) = start.tolist(), room.tolist()
    path = [(y, x)]
    for faster, turn, new_speed, new_direction in chance[1:]:
        y += scale * speed * math.sin(direction)
        x += scale * speed * math.cos(direction)
        speed += ACCELERATION * faster
        direction += TURN * turn
        if not (0 <= y <= room_y and 0 <= x <= room_x):
            y, x = min(max(y, 0), room_y), min(max(x, 0), room_x)
            # Turned by so much, all directions are as likely.
            speed, direction = SHAPE_SPEED[1] * abs(new_speed), direction + math.tau * new_direction
        path.append((y, x))
    return np.array(path)[frames]


def _bounce(start: float, speed: float, room: float, frames: NDArray[np.int64]) -> Floats:
    """Places (frames,) on a way of one speed to and fro between 0 and room."""
    if room <= 0:
        return np.zeros(len(frames))
    return room - np.abs((start + speed * frames) % (2 * room) - room)


def _draw_strip(masks: Masks, frames: NDArray[np.int64], rng: np.random.Generator) -> None:
    """One bar, or two, over the full width or height; half of them near an edge, a third of the clips moving."""
    num, is_moving = rng.choice([1, 1, 2]), rng.random() < 1 / 3
    # Bars across are what is met most: subtitles, tickers, letterboxes.
    bars = masks if rng.random() < 0.7 else masks.swapaxes(1, 2)
    length = bars.shape[1]
    for _ in range(num):
        thickness = max(2, round(length * rng.uniform(0.04, 0.18)))
        start = (length - thickness) * _near_edge(rng)
        speed = is_moving * rng.uniform(0.3, 1.5) * rng.choice([-1, 1]) * masks.shape[2] / SPEED_WIDTH
        places = np.round(_bounce(start, speed, length - thickness, frames)).astype(int)
        for bar, place in zip(bars, places, strict=True):
            bar[place : place + thickness] = 1


def _near_edge(rng: np.random.Generator) -> float:
    """A share in [0, 1]: half of them anywhere, half within 0.12 of 0 or 1."""
    anywhere, near = rng.random(), 0.12 * rng.random()
    return float(rng.choice([anywhere, anywhere, near, 1 - near]))


def _draw_box(masks: Masks, frames: NDArray[np.int64], rng: np.random.Generator) -> None:
    """1 to 3 rectangles, mostly near corners; a quarter of them moving."""
    picture = np.array(masks.shape[1:])
    for _ in range(rng.integers(1, 4)):
        size = np.maximum(3, np.round(picture * rng.uniform((0.06, 0.08), (0.25, 0.35)))).astype(int)
        room = picture - size
        start = room * (_near_edge(rng), _near_edge(rng))
        speed = (rng.random() < 0.25) * rng.uniform(-2, 2, 2) * picture[1] / SPEED_WIDTH
        ways = [_bounce(*way, frames) for way in zip(start, speed, room, strict=True)]
        for mask, (top, left) in zip(masks, np.round(ways).astype(int).T, strict=True):
            mask[top : top + size[0], left : left + size[1]] = 1


def _draw_text(masks: Masks, frames: NDArray[np.int64], rng: np.random.Generator) -> None:
    """A line of text or two: subtitles that stay or change, a ticker, or a logo in a corner."""
    _, height, width = masks.shape
    kind = rng.choice(["subtitle", "changing", "ticker", "logo"])
    letter_px = max(6, round(height * rng.uniform(0.05, 0.12 if kind == "logo" else 0.08)))
    # Small letters would run together.
    stroke_px, dilation_px = (max(1, min(letter_px // 6, round(height / 240 * rng.integers(1, 4)))) for _ in range(2))
    lettering = shapes.Lettering(int(rng.choice(shapes.FACES)), letter_px, stroke_px, dilation_px)
    margin = height * rng.uniform(0.03, 0.1)
    seed = int(rng.integers(2**63))
    if kind == "ticker":
        _draw_ticker(masks, frames, np.random.default_rng(seed), lettering, margin)
        return
    # Cues of 20 to 60 frames. A text is of its cue's number, so that no other has to be drawn.
    ends = np.random.default_rng((seed, 0)).integers(20, 61, int(frames[-1]) // 20 + 1).cumsum()
    cues = np.searchsorted(ends, frames, side="right") if kind == "changing" else 0 * frames
    is_left, is_top = rng.random(2) < 0.5
    for cue in np.unique(cues).tolist():
        chance = np.random.default_rng((seed, 1, cue))
        longest = width * chance.uniform(*((0.12, 0.35) if kind == "logo" else (0.35, 0.9)))
        lines = _draw_lines(int(chance.integers(1, 3)), longest, lettering, chance)
        top, left = height - margin - lines.shape[0], (width - lines.shape[1]) / 2
        if kind == "logo":
            top = margin if is_top else top
            left = margin if is_left else width - margin - lines.shape[1]
        for mask in masks[slice(*np.searchsorted(cues, (cue, cue + 1)))]:
            _paste(mask, lines, top, left)


def _draw_ticker(
    masks: Masks, frames: NDArray[np.int64], rng: np.random.Generator, lettering: shapes.Lettering, margin: float
) -> None:
    _, height, width = masks.shape
    line = _draw_lines(1, 1.5 * width, lettering, rng)
    # Its gap is narrower than the picture, so something is always seen.
    line = np.pad(line, ((0, 0), (0, width // 4)))
    speed = rng.uniform(1, 4) * width / SPEED_WIDTH
    for mask, offset in zip(masks, np.round(speed * frames).astype(int).tolist(), strict=True):
        _paste(mask, line.take(np.arange(offset, offset + width), 1, mode="wrap"), height - margin - len(line), 0)


def _draw_lines(num: int, width: float, lettering: shapes.Lettering, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Lines below each other, centered, about as wide as asked for or less."""
    lines = []
    for index in range(num):
        share = rng.uniform(0.5, 1) if index else 1
        # A letter is 0.6 as wide as a capital is high, measured over the fonts.
        num_letters = max(2, int(share * width / (0.6 * lettering.letter_px)))
        lines.append(shapes.draw_text(shapes.make_text(num_letters, rng), lettering))
    longest = max(line.shape[1] for line in lines)
    gap = max(1, lettering.letter_px // 3)
    padded = []
    for line in lines:
        spare = longest - line.shape[1]
        padded.append(np.pad(line, ((0, gap), (spare // 2, spare - spare // 2))))
    return np.concatenate(padded)[:-gap]


def _paste(mask: NDArray[np.uint8], pixels: NDArray[np.uint8], top: float, left: float) -> None:
    """Put pixels into a mask, moved inward or cut where they would leave it."""
    height, width = mask.shape
    pixels = pixels[:height, :width]
    y = min(max(round(top), 0), height - pixels.shape[0])
    x = min(max(round(left), 0), width - pixels.shape[1])
    mask[y : y + pixels.shape[0], x : x + pixels.shape[1]] |= pixels


def _draw_object(masks: Masks, frames: NDArray[np.int64], rng: np.random.Generator) -> None:
    """A walking person or animal, a vehicle, or a blob that changes its form; it crosses the picture to and fro."""
    _, height, width = masks.shape
    fill = shapes.make_blob(rng) if rng.random() < 0.25 else shapes.make_figure(rng)
    sample = np.zeros((192, 192), np.uint8)
    fill(sample, np.array([96.0, 96.0]), 96.0, 0.0)
    share = rng.uniform(0.05, 0.16)
    # A slim one that is higher than the picture would be cut to a column.
    size = min(96 * math.sqrt(share * height * width / sample.sum()), 1.05 * height)

    cycles = rng.uniform(0.02, 0.06)  # a frame
    growth, growth_period, growth_phase = rng.uniform(0.05, 0.2), rng.uniform(60, 200), rng.uniform(0, math.tau)
    scale = width / SPEED_WIDTH
    # The center stays in the picture, and with it most of the object.
    x = 0.15 * width + _bounce(rng.uniform(0, 1.4 * width), rng.uniform(1, 4) * scale, 0.7 * width, frames)
    y = 0.4 * height + _bounce(rng.uniform(0, 0.4 * height), rng.uniform(0, 0.4) * scale, 0.2 * height, frames)
    sizes = size * (1 + growth * np.sin(math.tau * frames / growth_period + growth_phase))
    for mask, center, size_now, turn in zip(masks, np.stack([x, y], 1), sizes, cycles * frames, strict=True):
        fill(mask, center, float(size_now), float(turn))


_DRAW: dict[Family, Callable[[Masks, NDArray[np.int64], np.random.Generator], None]] = {
    "moving_shape": partial(_draw_shape, is_moving=True),
    "static_shape": partial(_draw_shape, is_moving=False),
    "strip": _draw_strip,
    "box": _draw_box,
    "text": _draw_text,
    "object": _draw_object,
}
