"""Made clips whose truth is known: a camera over a textured scene with moving objects, and what is laid over it.

Everything is a function of a seed.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from sttn_ray.video.write import SAMPLE_RATE

WIDTH, HEIGHT, FPS = 288, 160, 25
_MARGIN = 72  # how far the camera can move

Pictures = NDArray[np.uint8]


def make_scene(seed: int, num_frames: int) -> Pictures:
    """Frames (num_frames, HEIGHT, WIDTH, 3) RGB of a scene: a slow camera over texture, and two things that move."""
    rng = np.random.default_rng(seed)
    frames = _camera(_texture(rng), num_frames, rng)
    for _ in range(2):
        _add_object(frames, rng)
    return frames


def make_sound(num_frames: int, pitch_hz: float) -> NDArray[np.float32]:
    """A tone that swells, as long as so many frames: (samples,) mono in [-1, 1] at SAMPLE_RATE."""
    time_s = np.arange(num_frames * SAMPLE_RATE // FPS) / SAMPLE_RATE
    return (0.2 * np.sin(2 * np.pi * pitch_hz * time_s) * (1 + np.sin(3 * time_s)) / 2).astype(np.float32)


def lay_over(truth: Pictures, masks: NDArray[np.bool_], seed: int) -> Pictures:
    """Frames with something to remove: a striped thing where the masks (frames, height, width) are."""
    rng = np.random.default_rng(seed)
    colors = rng.integers(30, 226, (2, 3))
    rows, columns = np.mgrid[: truth.shape[1], : truth.shape[2]]
    frames = truth.copy()
    for n, mask in enumerate(masks):
        stripe = (rows + columns + 2 * n) // 6 % 2
        frames[n][mask] = colors[stripe[mask]]
    return frames


def _texture(rng: np.random.Generator) -> Pictures:
    """A scene larger than the picture, of soft and sharp detail: the larger, the stronger, as in nature."""
    height, width = HEIGHT + 2 * _MARGIN, WIDTH + 2 * _MARGIN
    image = np.zeros((height, width, 3), np.float32)
    for cell, weight in ((200, 0.55), (80, 0.25), (32, 0.12), (10, 0.08)):
        noise = rng.uniform(0, 1, (height // cell + 2, width // cell + 2, 3)).astype(np.float32)
        noise = 0.35 * noise + 0.65 * noise[..., :1]  # muted colors
        image += weight * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    picture: Pictures = np.clip((image - 0.5) * 330 + 125, 0, 255).astype(np.uint8)
    for _ in range(20):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        color = tuple(int(v) for v in rng.integers(20, 235, 3))
        size = int(rng.integers(10, 46))
        cv2.rectangle(picture, (x, y), (x + size, y + int(size * rng.uniform(0.4, 1.6))), color, -1)
    return picture


def _camera(scene: Pictures, num_frames: int, rng: np.random.Generator) -> Pictures:
    """A slow pan with sub-pixel steps."""
    phase, turn = rng.uniform(0, 2 * np.pi), rng.choice([-1, 1])
    frames = []
    for n in range(num_frames):
        angle = phase + turn * n * 2 * np.pi / 150
        x = _MARGIN + 0.8 * _MARGIN * np.cos(angle)
        y = _MARGIN + 0.8 * _MARGIN * np.sin(angle)
        move = np.array([[1, 0, -x], [0, 1, -y]])
        frames.append(cv2.warpAffine(scene, move, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR))
    return np.stack(frames)


def _add_object(frames: Pictures, rng: np.random.Generator) -> None:
    """Draw a ball or a card that crosses the picture, into the frames."""
    color = tuple(int(v) for v in rng.integers(20, 235, 3))
    light = tuple(min(255, v + 60) for v in color)
    start, end = rng.uniform([0, 0], [WIDTH, HEIGHT], (2, 2))
    sway, radius, is_ball = rng.uniform(0, 30), int(rng.integers(10, 24)), rng.random() < 0.5
    for n, frame in enumerate(frames):
        share = n / max(1, len(frames) - 1)
        x, y = (start + share * (end - start) + [0, sway * np.sin(9 * share)]).astype(int).tolist()
        if is_ball:
            cv2.circle(frame, (x, y), radius, color, -1, cv2.LINE_AA)
            cv2.circle(frame, (x - radius // 3, y - radius // 3), radius // 3, light, -1, cv2.LINE_AA)
        else:
            cv2.rectangle(frame, (x - radius, y - radius // 2), (x + radius, y + radius // 2), color, -1)
            cv2.line(frame, (x - radius, y), (x + radius, y), light, 2, cv2.LINE_AA)
