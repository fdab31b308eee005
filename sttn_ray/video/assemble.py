"""Segments joined to one file without re-encoding, with every other stream of the source copied."""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import lcm
from pathlib import Path

import av

from sttn_ray.errors import VideoError
from sttn_ray.storage import CANNOT_WRITE
from sttn_ray.video.copied import Starts, copy_stream_tags, make_players_show, source_packets
from sttn_ray.video.encode import set_picture_tags, tick_of
from sttn_ray.video.index import VideoIndex
from sttn_ray.video.source import open_video
from sttn_ray.video.tracks import Track, add_tracks

# Written by the muxer itself.
_OWN_METADATA = {"major_brand", "minor_version", "compatible_brands", "encoder"}
_MAX_TIMESCALE = (1 << 31) - 1


@dataclass(frozen=True, kw_only=True)
class Container:
    """Where a video's output goes.

    Attributes:
        suffix: of the file name, with its dot.
        muxer: FFmpeg's name.
        copied: indices of the source's streams that are copied, or converted.
        dropped: streams that no container takes, as "index kind codec".
        converted: those of `copied` whose sound becomes FLAC.
    """

    suffix: str
    muxer: str
    copied: tuple[int, ...]
    dropped: tuple[str, ...] = ()
    converted: tuple[int, ...] = ()

    @property
    def verbatim(self) -> tuple[int, ...]:
        """The streams that are copied packet by packet."""
        return tuple(number for number in self.copied if number not in self.converted)


def join_segments(
    path: Path,
    segments: Sequence[Path],
    starts: Sequence[int],
    index: VideoIndex,
    container: Container,
    *,
    starts_s: Starts | None = None,
) -> None:
    """Write the output: the segments' video at the source's timestamps, every other stream packet by packet.

    Args:
        path: the file to write, local.
        segments: files by `encode_segment`, in order.
        starts: frame number at which each segment starts.
        index, container: the source, and what `choose_container` chose for it.
        starts_s: for the first packets of the other streams alone: when these begin.

    Raises:
        VideoError: the container does not take it.
    """
    tick = tick_of(index.time_base)
    with av.open(str(segments[0])) as first, open_video(index.path) as source:
        options = {"fflags": "+bitexact"}
        if container.muxer in ("mp4", "mov"):
            timescale = str(_movie_timescale(index, container, source))
            options |= {"video_track_timescale": str(tick.denominator), "movie_timescale": timescale}
            options |= {"movflags": "+faststart"}
        else:
            # Else a first sound packet before zero (AAC's priming) would move everything.
            options |= {"avoid_negative_ts": "disabled"}
        try:
            with av.open(
                str(path), "w", format=container.muxer, options=options, metadata_errors="surrogateescape"
            ) as output:
                video = output.add_stream_from_template(first.streams.video[0])
                video.time_base = tick
                set_picture_tags(video.codec_context, index)
                copy_stream_tags(source.streams[index.stream], video)
                if index.display_matrix is not None:
                    video.set_display_matrix(list(index.display_matrix))
                tracks = add_tracks(output, container.muxer, source, index.path, container.copied, container.converted)
                make_players_show(video, [track.stream for track in tracks.values()])
                output.metadata.update({k: v for k, v in source.metadata.items() if k not in _OWN_METADATA})
                if chapters := source.chapters():
                    output.set_chapters(chapters)
                offsets = [_ticks(index, index.pts[start]) for start in starts]
                merged = heapq.merge(
                    _video_packets(segments, offsets, index, tick),
                    _copied_packets(source, tracks, container.muxer, starts_s),
                    key=lambda timed: timed[0],
                )
                for _, stream, packet in merged:
                    packet.stream = stream or video
                    output.mux(packet)
        except (av.FFmpegError, ValueError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno in CANNOT_WRITE:
                raise  # not of the streams
            reason = getattr(error, "log", None)
            told = reason[2] if reason else getattr(error, "strerror", None) or str(error)
            raise VideoError(f"{index.path}: {container.muxer} does not take its streams together ({told})") from error


def _movie_timescale(index: VideoIndex, container: Container, source: av.container.InputContainer) -> int:
    """Ticks a second in which mp4 counts how late each stream starts, and how long what begins before zero is heard.

    Those of the film, or more that fit all: FFmpeg's milliseconds would move them, and the last packets of sound that
    begins before zero would lie outside.
    """
    film_s = index.pts[0] * index.time_base
    starts_s = [film_s]
    for other in index.others:
        start_s = other.start_s or Fraction(0)
        if other.index not in container.copied or (start_s == 0 and other.index not in container.converted):
            continue
        context = source.streams[other.index].codec_context
        if isinstance(context, av.AudioCodecContext) and context.sample_rate:
            # In the ticks of its track; what is decoded may begin at any of them.
            ticks = 1 if other.index in container.converted else round(start_s * context.sample_rate)
            starts_s.append(Fraction(ticks, context.sample_rate))
        else:
            starts_s.append(start_s)
    fitting = lcm(tick_of(index.time_base).denominator, *(start.denominator for start in starts_s))
    if fitting <= _MAX_TIMESCALE:
        return fitting
    # The film's own start, and the others as near as can be told.
    return _MAX_TIMESCALE // film_s.denominator * film_s.denominator


# When a packet is decoded, in seconds, and the output's stream that it goes to; None: the film's.
Timed = tuple[float, av.stream.Stream | None, av.Packet]


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


def _copied_packets(
    source: av.container.InputContainer, tracks: Mapping[int, Track], muxer: str, starts_s: Starts | None
) -> Iterator[Timed]:
    last = 0.0
    for packet in source_packets(source, tuple(tracks), muxer, starts_s):
        if packet.dts is not None:
            last = float(packet.dts * packet.time_base)
        track = tracks[packet.stream_index]
        yield from ((last, track.stream, converted) for converted in track.encode(packet))
    for track in tracks.values():
        yield from ((last, track.stream, converted) for converted in track.encode(None))
