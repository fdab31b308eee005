"""Made clips whose truth is known: a camera that moves over a textured scene, and something to remove."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from sttn_ray.video.write import SAMPLE_RATE

WIDTH, HEIGHT, FPS = 384, 224, 25
_MARGIN = 96  # how far the camera can move


class Scene(NamedTuple):
    """Frames with and without what is to be removed, where that is, and sound.

    Shapes: frames and truth (frames, height, width, 3) uint8; masks (frames, height, width) bool; sound (samples,).
    """

    frames: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    sound: NDArray[np.float32]


def moving_object(seed: int, num_frames: int) -> Scene:
    """A ball that crosses the picture while the camera pans."""
    rng = np.random.default_rng(seed)
    truth = _camera(_texture(rng), num_frames, rng)
    frames, masks = truth.copy(), np.zeros(truth.shape[:3], bool)
    for n in range(num_frames):
        across = n / max(1, num_frames - 1)
        center = (int(60 + across * (WIDTH - 120)), int(HEIGHT / 2 + 40 * np.sin(across * 9)))
        mask = cv2.circle(np.zeros((HEIGHT, WIDTH), np.uint8), center, 26, 1, -1)
        masks[n] = mask > 0
        cv2.circle(frames[n], center, 26, (235, 220, 60), -1, cv2.LINE_AA)
        cv2.circle(frames[n], (center[0] - 8, center[1] - 8), 7, (255, 255, 240), -1, cv2.LINE_AA)
    return Scene(frames, truth, masks, _sound(num_frames, 220))


def logo(seed: int, num_frames: int) -> Scene:
    """Letters that stand still in a corner while the camera pans."""
    rng = np.random.default_rng(seed)
    truth = _camera(_texture(rng), num_frames, rng)
    frames = truth.copy()
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.putText(drawn, "LIVE 7", (WIDTH - 124, 40), cv2.FONT_HERSHEY_DUPLEX, 0.9, 255, 2, cv2.LINE_AA)
    share = drawn[..., None] / 255 * 0.85
    for n in range(num_frames):
        frames[n] = np.rint(share * 250 + (1 - share) * truth[n]).astype(np.uint8)
    masks = np.repeat((drawn > 0)[None], num_frames, 0)
    return Scene(frames, truth, masks, _sound(num_frames, 330))


def _texture(rng: np.random.Generator) -> NDArray[np.uint8]:
    """A scene of soft and sharp detail, larger than the picture."""
    height, width = HEIGHT + 2 * _MARGIN, WIDTH + 2 * _MARGIN
    image = np.zeros((height, width, 3), np.float32)
    for cell, weight in ((128, 0.5), (40, 0.3), (12, 0.2)):
        noise = rng.uniform(0, 1, (height // cell + 2, width // cell + 2, 3)).astype(np.float32)
        noise = 0.35 * noise + 0.65 * noise.mean(2, keepdims=True)  # muted colors
        image += weight * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    picture: NDArray[np.uint8] = np.clip(image * 220 + 10, 0, 255).astype(np.uint8)
    for _ in range(28):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        color = tuple(int(v) for v in rng.integers(20, 235, 3))
        size = int(rng.integers(10, 46))
        cv2.rectangle(picture, (x, y), (x + size, y + int(size * rng.uniform(0.4, 1.6))), color, -1)
    return picture


def _camera(scene: NDArray[np.uint8], num_frames: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A slow pan with sub-pixel steps."""
    phase = rng.uniform(0, 2 * np.pi)
    frames = []
    for n in range(num_frames):
        angle = phase + n * 2 * np.pi / 150
        x = _MARGIN + 0.8 * _MARGIN * np.cos(angle)
        y = _MARGIN + 0.8 * _MARGIN * np.sin(angle)
        move = np.array([[1, 0, -x], [0, 1, -y]])
        frames.append(cv2.warpAffine(scene, move, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR))
    return np.stack(frames)


def _sound(num_frames: int, pitch_hz: float) -> NDArray[np.float32]:
    time_s = np.arange(num_frames * SAMPLE_RATE // FPS) / SAMPLE_RATE
    return (0.2 * np.sin(2 * np.pi * pitch_hz * time_s) * (1 + np.sin(3 * time_s)) / 2).astype(np.float32)
