"""An output read back, before anybody sees it."""

import hashlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av

from sttn_ray.errors import VideoError
from sttn_ray.video.assemble import Container
from sttn_ray.video.copied import CopiedPackets, Starts, find_copies, read_copied
from sttn_ray.video.index import VideoIndex
from sttn_ray.video.sound import read_heard
from sttn_ray.video.source import open_video


def verify_output(path: Path, segments: Sequence[Path], index: VideoIndex, container: Container) -> None:
    """Read the output back: its pictures must be the segments', which were decoded, their times the source's.

    The copied packets must be the source's, too, and their times.

    Args:
        path: the output, local.
        segments: what `join_segments` made it of.
        index, container: the source, and what was chosen for it.

    Raises:
        VideoError: what differs.
    """
    _check_pictures(path, segments, index, container)
    check_copies(path, index, container)


def check_copies(path: Path, index: VideoIndex, container: Container, *, starts_s: Starts | None = None) -> None:
    """Compare the output's other streams with the source's: every packet, or every sample of what is converted.

    Args:
        path: the output, local.
        index, container: the source, and what was chosen for it.
        starts_s: when streams begin, where the output holds only their first packets.

    Raises:
        VideoError: what differs.
    """
    with open_video(index.path) as source, open_video(str(path)) as output:
        found = find_copies(output, source, container.copied)
    places = dict(zip(container.copied, found, strict=True))
    was = read_copied(index.path, container.verbatim, muxer=container.muxer, starts_s=starts_s)
    present = [place for number in container.verbatim if (place := places[number]) is not None]
    copies = dict(zip(present, read_copied(str(path), present), strict=True))
    for number, before in zip(container.verbatim, was, strict=True):
        place = places[number]
        after = None if place is None else copies[place]
        if after is None and before.is_nothing and starts_s is not None:
            continue  # it begins too late to be seen here
        if after is None or before.sha256 != after.sha256 or before.is_picture != after.is_picture:
            raise VideoError(f"{index.path}: stream {number} was not copied byte for byte")
        if not before.is_picture:
            _check_times(index.path, number, before, after)
    heard = read_heard(index.path, container.converted, muxer=container.muxer, starts_s=starts_s)
    for number, source_sound in zip(container.converted, heard, strict=True):
        place = places[number]
        output_sound = None if place is None else read_heard(str(path), [place])[0]
        if output_sound is None or source_sound.sha256 != output_sound.sha256:
            raise VideoError(f"{index.path}: the sound of stream {number} was not kept sample by sample")
        # Of Matroska's milliseconds.
        if abs(source_sound.start_s - output_sound.start_s) > Fraction(1, 1000):
            raise VideoError(f"{index.path}: the sound of stream {number} does not begin when it did")


def _check_pictures(path: Path, segments: Sequence[Path], index: VideoIndex, container: Container) -> None:
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
        # A player would show one of them alone.
        if number and pts == found[number - 1]:
            raise VideoError(
                f"{index.path}: frames {number - 1} and {number} of the output are both at {float(pts * tick):.6f} s"
            )
    for segment in segments:
        with av.open(str(segment)) as pictures:
            for packet in pictures.demux(video=0):
                encoded.update(bytes(packet))
    if written.digest() != encoded.digest():
        raise VideoError(f"{index.path}: the output does not hold the pictures of its segments")


def _check_times(path: str, stream: int, source: CopiedPackets, copy: CopiedPackets) -> None:
    """Each packet at its time, as near as the output's ticks allow.

    Uncompressed sound may come in other pieces, of which only the first one's time tells.
    """
    tick = copy.time_base
    num_compared = len(source.pts) if len(source.pts) == len(copy.pts) else 1
    for number, (was, now) in enumerate(zip(source.pts[:num_compared], copy.pts[:num_compared], strict=True)):
        if was is None or now is None:  # the container tells no time
            continue
        if abs(was * source.time_base - now * tick) > tick:
            raise VideoError(
                f"{path}: packet {number} of stream {stream} is at {float(now * tick):.6f} s in the output, at "
                f"{float(was * source.time_base):.6f} s in the source"
            )
