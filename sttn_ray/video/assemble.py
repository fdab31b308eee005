"""Segments joined to one file without re-encoding, with every other stream of the source copied."""

import heapq
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av

from sttn_ray.errors import VideoError
from sttn_ray.video.copied import add_copies, copy_stream_tags, kept_packets, make_players_show
from sttn_ray.video.encode import EncoderSettings, set_picture_tags, tick_of
from sttn_ray.video.index import VideoIndex
from sttn_ray.video.source import open_video

# Containers that keep every source timestamp exactly. Others go to mp4 where all streams fit, else to Matroska.
_MUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
# Written by the muxer itself.
_OWN_METADATA = {"major_brand", "minor_version", "compatible_brands", "encoder"}


@dataclass(frozen=True, kw_only=True)
class Container:
    """Where a video's output goes.

    Attributes:
        suffix: of the file name, with its dot.
        muxer: FFmpeg's name.
        copied: indices of the source's streams that are copied.
        dropped: streams that no container takes, as "index kind codec".
    """

    suffix: str
    muxer: str
    copied: tuple[int, ...]
    dropped: tuple[str, ...]


def choose_container(index: VideoIndex, settings: EncoderSettings) -> Container:
    """The source's own container where all its streams fit there, else mp4, else mkv; found by trying.

    Streams that cannot be copied (time codes, telemetry, some kinds of subtitles) are dropped and named; sound is not.

    Raises:
        VideoError: none takes its sound, or all streams together.
    """
    copyable, dropped = [], []
    for stream in index.others:
        is_media = stream.kind in ("audio", "subtitle", "video", "cover", "attachment")
        if is_media and any(_fits(index, muxer, [stream.index]) for muxer in ("matroska", "mp4")):
            copyable.append(stream.index)
        elif stream.kind == "audio":
            raise VideoError(
                f"{index.path}: its sound (stream {stream.index}, {stream.codec}) fits no container that is written "
                "here and would be lost; convert it first (ffmpeg -i IN -map 0 -c copy -c:a flac OUT.mkv)"
            )
        else:
            dropped.append(f"{stream.index} {stream.kind} {stream.codec}")
    own = Path(index.path).suffix.lower()
    # WebM takes neither H.264 nor FFV1; its streams belong in Matroska, of which it is a part.
    candidates = [own] if own in _MUXERS else [".mkv"] if own == ".webm" else [".mp4", ".mkv"]
    for suffix in [*candidates, ".mkv"]:
        if _MUXERS[suffix] == "mov" and settings.encoder == "ffv1":
            continue  # FFmpeg writes FFV1 to mp4 and mkv only
        if _fits(index, _MUXERS[suffix], copyable):
            return Container(suffix=suffix, muxer=_MUXERS[suffix], copied=tuple(copyable), dropped=tuple(dropped))
    names = [f"{s.index} {s.kind} {s.codec}" for s in index.others if s.index in copyable]
    raise VideoError(f"{index.path}: no container takes all its streams together: {', '.join(names)}")


def join_segments(
    path: Path, segments: Sequence[Path], starts: Sequence[int], index: VideoIndex, container: Container
) -> None:
    """Write the output: the segments' video at the source's timestamps, every other stream packet by packet.

    Args:
        path: the file to write, local.
        segments: files by `encode_segment`, in order.
        starts: frame number at which each segment starts.
        index, container: the source, and what `choose_container` chose for it.
    """
    tick = tick_of(index.time_base)
    with av.open(str(segments[0])) as first, open_video(index.path) as source:
        options = {"fflags": "+bitexact"}
        if container.muxer in ("mp4", "mov"):
            # The film's own counts the late start of each stream; FFmpeg's milliseconds would move it.
            timescale = str(tick.denominator)
            options |= {"video_track_timescale": timescale, "movie_timescale": timescale, "movflags": "+faststart"}
        else:
            # Else a first sound packet before zero (AAC's priming) would move everything.
            options |= {"avoid_negative_ts": "disabled"}
        with av.open(
            str(path), "w", format=container.muxer, options=options, metadata_errors="surrogateescape"
        ) as output:
            video = output.add_stream_from_template(first.streams.video[0])
            video.time_base = tick
            set_picture_tags(video.codec_context, index)
            copy_stream_tags(source.streams[index.stream], video)
            if index.display_matrix is not None:
                video.set_display_matrix(list(index.display_matrix))
            copies = add_copies(output, container.muxer, source, index.path, container.copied)
            make_players_show(video, copies.values())
            output.metadata.update({k: v for k, v in source.metadata.items() if k not in _OWN_METADATA})
            if chapters := source.chapters():
                output.set_chapters(chapters)
            offsets = [_ticks(index, index.pts[start]) for start in starts]
            merged = heapq.merge(
                _video_packets(segments, offsets, index, tick),
                _copied_packets(source, tuple(copies), container.muxer),
                key=lambda timed: timed[0],
            )
            for _, source_stream, packet in merged:
                packet.stream = video if source_stream is None else copies[source_stream]
                output.mux(packet)


def _fits(index: VideoIndex, muxer: str, streams: Sequence[int]) -> bool:
    try:
        with (
            open_video(index.path) as source,
            av.open(io.BytesIO(), "w", format=muxer) as trial,
        ):
            for number in streams:
                trial.add_stream_from_template(source.streams[number])
            if streams:
                trial.start_encoding()
    except (av.FFmpegError, ValueError, NotImplementedError):
        return False
    return True


Timed = tuple[float, int | None, av.Packet]


def _ticks(index: VideoIndex, pts: int) -> int:
    return round(pts * index.time_base / tick_of(index.time_base))


def _video_packets(
    segments: Sequence[Path], offsets: Sequence[int], index: VideoIndex, tick: Fraction
) -> Iterator[Timed]:
    """The segments' packets with absolute pts, and dts made anew for the whole file.

    A segment's own dts overlap its neighbor's where frame times vary. The n-th packet's dts is the (n - delay)-th
    frame time, which is what encoders do, so that dts rises and never passes pts.
    """
    delay = _reorder_delay(segments)
    all_pts = [_ticks(index, pts) for pts in index.pts]
    last_duration = max(1, round(1 / (index.rate * tick)))
    durations = [b - a for a, b in pairwise(all_pts)] + [last_duration]
    duration_at = dict(zip(all_pts, durations, strict=True))
    step = durations[0]
    lead = [all_pts[0] - step * (delay - n) for n in range(delay)]
    dts = iter(lead + all_pts)
    for segment, offset in zip(segments, offsets, strict=True):
        with av.open(str(segment)) as container:
            for packet in container.demux(video=0):
                if not packet.size:
                    continue
                assert packet.pts is not None
                packet.pts += offset
                packet.dts = next(dts)
                packet.duration = duration_at[packet.pts]
                yield float(packet.dts * tick), None, packet


def _reorder_delay(segments: Sequence[Path]) -> int:
    """Frames by which decoding order runs ahead of presentation order, the most of all segments."""
    delay = 0
    for segment in segments:
        with av.open(str(segment)) as container:
            pts = [p.pts for p in container.demux(video=0) if p.size and p.pts is not None]
        rank = {value: n for n, value in enumerate(sorted(pts))}
        delay = max([delay, *(n - rank[value] for n, value in enumerate(pts))])
    return delay


def _copied_packets(source: av.container.InputContainer, streams: Sequence[int], muxer: str) -> Iterator[Timed]:
    if not streams:
        return
    last = 0.0
    for packet in kept_packets(source.demux([source.streams[number] for number in streams]), muxer):
        if packet.dts is not None:
            last = float(packet.dts * packet.time_base)
        yield last, packet.stream_index, packet
