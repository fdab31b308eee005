"""Pictures and sound to a file: for clips that are made, not for outputs of the pipeline."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from sttn_ray.video.encode import repeatable_x264

SAMPLE_RATE = 48000


def write_clip(path: Path, frames: Iterable[NDArray[np.uint8]], *, fps: int, sound: NDArray[np.float32]) -> None:
    """Write an H.264 clip with AAC sound.

    Args:
        path: the file, an mp4 whatever its name.
        frames: (height, width, 3) RGB, even sizes.
        fps: frames per second.
        sound: (samples,) mono in [-1, 1] at 48 kHz, as long as the frames.
    """
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        options = {"crf": "14", "preset": "veryfast", "x264-params": ":".join(repeatable_x264())}
        video = container.add_stream("libx264", rate=fps, options=options)
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        video.codec_context.thread_count = 1
        video.pix_fmt = "yuv420p"
        is_first = True
        for picture in frames:
            if is_first:
                video.height, video.width = picture.shape[:2]
                is_first = False
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        frame.time_base = Fraction(1, SAMPLE_RATE)
        frame.pts = 0
        container.mux(audio.encode(frame))
        container.mux(audio.encode(None))


def read_pictures(path: str | Path) -> NDArray[np.uint8]:
    """All frames of a short clip, (frames, height, width, 3) RGB, as decoded."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
