"""Segments joined to one file without re-encoding, with every other stream of the source copied."""

import hashlib
import heapq
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import av

from sttn_ray.errors import VideoError
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
            _copy_stream_tags(source.streams[index.stream], video)
            if index.display_matrix is not None:
                video.set_display_matrix(list(index.display_matrix))
            copies = {}
            for number in container.copied:
                copies[number] = output.add_stream_from_template(source.streams[number])
                _copy_stream_tags(source.streams[number], copies[number])
            output.metadata.update({k: v for k, v in source.metadata.items() if k not in _OWN_METADATA})
            if chapters := source.chapters():
                output.set_chapters(chapters)
            offsets = [_ticks(index, index.pts[start]) for start in starts]
            merged = heapq.merge(
                _video_packets(segments, offsets, index, tick),
                _copied_packets(source, container.copied),
                key=lambda timed: timed[0],
            )
            for _, source_stream, packet in merged:
                packet.stream = video if source_stream is None else copies[source_stream]
                output.mux(packet)


def verify_output(path: Path, segments: Sequence[Path], index: VideoIndex, container: Container) -> None:
    """Read the output back: its pictures must be the segments', which were decoded, their times the source's.

    The copied packets must be the source's, too.

    Raises:
        VideoError: what differs.
    """
    written, encoded = hashlib.sha256(), hashlib.sha256()
    found = []
    with open_video(str(path)) as output:
        video = output.streams.video[0]
        tick = video.time_base
        assert tick is not None
        for packet in output.demux(video):
            if packet.size and not packet.is_discard:
                written.update(bytes(packet))
                found.append(packet.pts)
    found.sort()
    wanted = [p * index.time_base for p in index.pts]
    # Matroska counts milliseconds: half a tick of rounding is its best.
    tolerance = Fraction(0) if container.muxer != "matroska" else tick / 2
    if len(found) != len(wanted):
        raise VideoError(f"{index.path}: the output holds {len(found)} frames, the source {len(wanted)}")
    for number, (pts, time) in enumerate(zip(found, wanted, strict=True)):
        if abs(pts * tick - time) > tolerance:
            raise VideoError(
                f"{index.path}: frame {number} of the output is at {float(pts * tick):.6f} s, in the source at "
                f"{float(time):.6f} s"
            )
    for segment in segments:
        with av.open(str(segment)) as pictures:
            for packet in pictures.demux(video=0):
                encoded.update(bytes(packet))
    if written.digest() != encoded.digest():
        raise VideoError(f"{index.path}: the output does not hold the pictures of its segments")
    sources = copied_packets(index.path, container.copied)
    copies = copied_packets(str(path), range(1, 1 + len(container.copied)))
    for number, source, copy in zip(container.copied, sources, copies, strict=True):
        if source.sha256 != copy.sha256:
            raise VideoError(f"{index.path}: stream {number} was not copied byte for byte")
        _check_times(index.path, number, source, copy)


def _check_times(path: str, stream: int, source: "CopiedPackets", copy: "CopiedPackets") -> None:
    """Each packet at its time, as near as the output's ticks allow."""
    tick = copy.time_base
    for number, (was, now) in enumerate(zip(source.pts, copy.pts, strict=True)):
        if was is None or now is None:  # the container tells no time
            continue
        if abs(was * source.time_base - now * tick) > tick:
            raise VideoError(
                f"{path}: packet {number} of stream {stream} is at {float(now * tick):.6f} s in the output, at "
                f"{float(was * source.time_base):.6f} s in the source"
            )


class CopiedPackets(NamedTuple):
    """What is read of a stream to compare it: hex sha256 of all packets' bytes, their times, seconds of a tick."""

    sha256: str
    pts: list[int | None]
    time_base: Fraction


def copied_packets(path: str, streams: Sequence[int]) -> list[CopiedPackets]:
    """The packets of each of the given streams."""
    if not streams:
        return []
    hashes = {number: hashlib.sha256() for number in streams}
    pts: dict[int, list[int | None]] = {number: [] for number in streams}
    with open_video(path) as container:
        found = [container.streams[number] for number in streams]
        for packet in container.demux(found):
            if packet.size:
                hashes[packet.stream_index].update(_payload(packet))
                pts[packet.stream_index].append(packet.pts)
        # One that has none, as an attachment, has no packets either.
        ticks = [stream.time_base or Fraction(1) for stream in found]
    return [
        CopiedPackets(hashes[number].hexdigest(), pts[number], tick)
        for number, tick in zip(streams, ticks, strict=True)
    ]


def _payload(packet: av.Packet) -> bytes:
    """A packet's bytes; AAC without the ADTS header, which MPEG-TS needs and other containers must not hold."""
    data = bytes(packet)
    context = packet.stream.codec_context
    is_aac = context is not None and context.name == "aac"
    if is_aac and data[:1] == b"\xff" and data[1] & 0xF6 == 0xF0:  # no frame of AAC begins so by itself
        return data[7 if data[1] & 1 else 9 :]
    return data


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


def _copy_stream_tags(source: av.stream.Stream, target: av.stream.Stream) -> None:
    target.metadata.update({k: v for k, v in source.metadata.items() if k.lower() not in ("duration", "encoder")})
    target.disposition = source.disposition


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


def _copied_packets(source: av.container.InputContainer, streams: Sequence[int]) -> Iterator[Timed]:
    if not streams:
        return
    last = 0.0
    for packet in source.demux([source.streams[number] for number in streams]):
        if not packet.size:
            continue
        if packet.dts is not None:
            last = float(packet.dts * packet.time_base)
        yield last, packet.stream_index, packet
