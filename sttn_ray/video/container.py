"""Which container takes a video's output: found by writing the beginning of each stream, and reading it again."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import av
import numpy as np

from sttn_ray.choices import Sound
from sttn_ray.errors import VideoError
from sttn_ray.scratch import scratch_folder
from sttn_ray.shown import shown
from sttn_ray.video.assemble import Container, join_segments
from sttn_ray.video.demux import OtherStream, refuse_steps_back
from sttn_ray.video.encode import EncoderSettings, encode_segment
from sttn_ray.video.index import VideoIndex
from sttn_ray.video.verify import check_copies

# Containers that keep every source timestamp exactly. Others go to mp4 where all streams fit, else to Matroska, and
# what fits neither to QuickTime.
_MUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
_MEDIA = ("audio", "subtitle", "video", "cover", "attachment")


def choose_container(index: VideoIndex, settings: EncoderSettings, *, sound: Sound = "copy") -> Container:
    """The source's own container where all its streams fit there, else mp4, else mkv, else mov; found by trying.

    Streams that cannot be copied (time codes, telemetry, some kinds of subtitles) are dropped and named; sound is not.
    Those that hold nothing are left out.

    Args:
        index, settings: the source, and what encodes it.
        sound: "flac" converts sound that cannot be copied, in place of an error.

    Raises:
        VideoError: none takes its sound, or all streams together; or a stream's times go back.
    """
    media = [stream for stream in index.others if stream.kind in _MEDIA and not stream.is_empty]
    other = [stream for stream in index.others if stream.kind not in _MEDIA]
    with _trial(index, settings) as trial:
        if found := _first_that_takes(trial, media):
            return trial.container(found, media, dropped=other)
        # Which streams it is takes one trial of each.
        holders = {stream.index: {m for m in trial.suffixes if not trial.refusal(m, [stream])} for stream in media}
        mute = [stream for stream in media if not holders[stream.index] and stream.kind == "audio"]
        lost = [stream for stream in media if not holders[stream.index] and stream.kind != "audio"]
        kept = [stream for stream in media if stream not in lost]
        copied = [stream for stream in kept if stream not in mute]
        steps_back = [s.step_back for s in media if s.step_back and s.kind in ("audio", "video") and not s.is_cut]
        refuse_steps_back(index.path, index.format, steps_back)
        if not mute and (found := _first_that_takes(trial, copied)):
            return trial.container(found, copied, dropped=[*other, *lost])
        if sound == "flac":
            for suffix in trial.suffixes:
                converted = [s for s in kept if s.kind == "audio" and suffix not in holders[s.index]]
                if not trial.refusal(suffix, kept, converted):
                    return trial.container(suffix, kept, converted, dropped=[*other, *lost])
        if lasting := [fault for stream in mute if (fault := trial.conversion_fault(stream))]:
            raise VideoError(
                f"{index.path}: its sound fits no container that is written here, and cannot be converted: "
                f"{'; '.join(lasting)}; convert it, or leave it out, before (ffmpeg -i IN -map 0 -map -0:a -c copy OUT)"
            )
        if mute and sound != "flac":
            raise VideoError(
                f"{index.path}: its sound (stream {', '.join(map(str, mute))}) fits no container that is written here "
                "and would be lost; encode.sound=flac converts it, without loss"
            )
        told = "; ".join(f"{suffix[1:]}: {trial.refusal(suffix, kept, mute)}" for suffix in trial.suffixes)
        advice = "leave some out before" if sound == "flac" else "encode.sound=flac converts sound that does not fit"
        raise VideoError(
            f"{index.path}: no container takes all its streams together: {', '.join(map(str, kept))} ({told}); {advice}"
        )


def _differ_in_milliseconds(index: VideoIndex) -> bool:
    """Whether Matroska, which counts these, has a time for each frame."""
    # In integers, as FFmpeg rounds: films have hundreds of thousands of frames.
    ticks, second = (index.time_base * 1000).as_integer_ratio()
    return len({(2 * pts * ticks + second) // (2 * second) for pts in index.pts}) == index.num_frames


def _first_that_takes(trial: "_Trial", streams: Sequence[OtherStream]) -> str | None:
    return next((suffix for suffix in trial.suffixes if not trial.refusal(suffix, streams)), None)


@contextmanager
def _trial(index: VideoIndex, settings: EncoderSettings) -> Iterator["_Trial"]:
    with scratch_folder() as folder:
        yield _Trial(index, settings, folder)


class _Trial:
    """One frame of a video and the beginning of its other streams, written as the output will be."""

    def __init__(self, index: VideoIndex, settings: EncoderSettings, folder: Path) -> None:
        own = Path(index.path).suffix.lower()
        # WebM takes neither H.264 nor FFV1; its streams belong in Matroska, of which it is a part.
        first = [own] if own in _MUXERS else [".mkv"] if own == ".webm" else [".mp4"]
        # FFmpeg writes FFV1 to mp4 and mkv only.
        refused = {"mov"} if settings.encoder == "ffv1" else set()
        suffixes = dict.fromkeys([*first, ".mkv", ".mov"])
        if not _differ_in_milliseconds(index):
            refused.add("matroska")
            suffixes = dict.fromkeys([*first, ".mp4", ".mov"])
        self.suffixes = [s for s in suffixes if _MUXERS[s] not in refused]
        self._index = replace(index, pts=index.pts[:1], packet_times=())
        self._starts_s = {stream.index: stream.start_s for stream in index.others}
        self._folder = folder
        self._segment = folder / "frame.mp4"
        self._known: dict[tuple[str, tuple[int, ...], tuple[int, ...]], str] = {}
        frame = av.VideoFrame(index.width, index.height, index.pix_fmt)
        frame.pts, frame.time_base = 0, index.time_base
        for plane in frame.planes:
            np.frombuffer(plane, np.uint8)[:] = 0
        encode_segment(self._segment, [frame], self._index.pts, self._index, settings)

    def container(
        self,
        suffix: str,
        streams: Sequence[OtherStream],
        converted: Sequence[OtherStream] = (),
        dropped: Sequence[OtherStream] = (),
    ) -> Container:
        """Of that suffix, with these streams."""
        return Container(
            suffix=suffix,
            muxer=_MUXERS[suffix],
            copied=tuple(stream.index for stream in streams),
            converted=tuple(stream.index for stream in converted),
            dropped=tuple(str(stream) for stream in sorted(dropped, key=lambda stream: stream.index)),
        )

    def refusal(self, suffix: str, streams: Sequence[OtherStream], converted: Sequence[OtherStream] = ()) -> str:
        """Why a container does not take these streams; blank where it does."""
        container = self.container(suffix, streams, converted)
        key = (suffix, container.copied, container.converted)
        if key not in self._known:
            self._known[key] = self._refusal(container, streams)
        return self._known[key]

    def conversion_fault(self, stream: OtherStream) -> str:
        """Why no container takes a stream's sound as FLAC either; blank where one does."""
        faults = [self.refusal(suffix, [stream], [stream]) for suffix in self.suffixes]
        return f"stream {stream}: {faults[0]}" if all(faults) else ""

    def _refusal(self, container: Container, streams: Sequence[OtherStream]) -> str:
        rest = [stream for stream in streams if stream.index in container.verbatim]
        if back := [stream.step_back for stream in rest if stream.step_back]:
            return f"times go back: {'; '.join(back)}"
        if container.muxer != "matroska" and (same := [s for s in rest if not s.is_rising and s.kind != "subtitle"]):
            return f"packets have the same time: {', '.join(map(str, same))}"
        path = self._folder / f"trial{container.suffix}"
        try:
            join_segments(path, [self._segment], [0], self._index, container, starts_s=self._starts_s)
            check_copies(path, self._index, container, starts_s=self._starts_s)
        except VideoError as error:
            return str(error).removeprefix(f"{shown(self._index.path)}: ")
        except (av.FFmpegError, ValueError, NotImplementedError) as error:  # what it made of them cannot be read
            return str(error)
        return ""
