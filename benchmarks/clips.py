"""Clips of one length, cut from videos or made, on which several measurements run."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from sttn_ray.corpus import VIDEO_SUFFIXES
from sttn_ray.video.decode import decode_range
from sttn_ray.video.index import index_video
from sttn_ray.video.write import SAMPLE_RATE, write_clip

FPS = 25
Pictures = Iterator[NDArray[np.uint8]]


def videos_in(media: Path | None) -> list[Path]:
    """The videos right in a folder; none where there is no folder."""
    return [] if media is None else sorted(p for p in media.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES)


def cut_clips(videos: Sequence[Path], folder: Path, num_frames: int) -> list[Path]:
    """The first frames of each video, or of made ones where there are none, as files in a new folder.

    Videos that are shorter, or of odd sizes, are passed over.
    """
    folder.mkdir()
    clips = []
    for number, path in enumerate(videos or range(8)):
        pictures = _made(number, num_frames)
        if isinstance(path, Path):
            index = index_video(str(path))
            if index.num_frames < num_frames or index.width % 2 or index.height % 2:
                continue
            frames = decode_range(index, 0, num_frames)
            pictures = (frame.to_ndarray(format="rgb24") for frame in frames)
        name = path.stem if isinstance(path, Path) else "made"
        clips.append(write_silent(folder / f"{number:03d}-{name}.mp4", pictures, num_frames))
    return clips


def write_silent(path: Path, pictures: Pictures, num_frames: int) -> Path:
    """Write pictures as a clip with a silent track; returns its path."""
    write_clip(path, pictures, fps=FPS, sound=np.zeros(num_frames * SAMPLE_RATE // FPS, np.float32))
    return path


def _made(number: int, num_frames: int) -> Pictures:
    rng = np.random.default_rng(number)
    texture = cv2.resize(rng.integers(0, 255, (36, 64, 3), np.uint8), (960, 480))
    for n in range(num_frames):
        yield np.ascontiguousarray(texture[:, 2 * n : 2 * n + 852])
