"""In which order frames are shown, and when, where their packets do not tell that."""

from bisect import bisect_left
from itertools import islice, pairwise
from statistics import median_low
from typing import NamedTuple

from sttn_ray.errors import VideoError
from sttn_ray.video.demux import Film
from sttn_ray.video.source import Order, frames_and_errors

# They store decoding times alone; others that FFmpeg gives for them are guesses.
_DECODING_TIMES_ONLY = ("avi", "asf")
# A wrong order shows within the first frames that were reordered.
_LOOKED_AT = 8


class Times(NamedTuple):
    """When a film's frames are shown.

    Attributes:
        pts: ascending, of all frames.
        keyframe_pts: ascending.
        packet_times: of each frame's packet, where that is another time; else empty.
        is_by_dts: whether those are decoding times.
    """

    pts: tuple[int, ...]
    keyframe_pts: tuple[int, ...]
    packet_times: tuple[int, ...] = ()
    is_by_dts: bool = False


def find_times(path: str, stream: int, film: Film, *, format: str, is_reordered: bool) -> Times:
    """When the frames of a film are shown, from its packets where these are right, else by decoding all of it.

    The n-th frame that a decoder gives is shown at the n-th of the packets' times. Of decoding times, an encoder gives
    the n-th packet that of the frame which lies its delay before the n-th one, so that the n-th frame is shown at the
    (n + delay)-th.

    Args:
        path, stream: of the film.
        film: its packets.
        format: FFmpeg's name of the container.
        is_reordered: whether frames are coded in another order than shown, as far as the stream tells.

    Raises:
        VideoError: there is no telling.
    """
    pts, dts = film.shown_pts(), film.coded_dts()
    if pts != dts and dts is not None and format in _DECODING_TIMES_ONLY and not is_reordered:
        # FFmpeg guesses that H.264 is shown a frame later than it is decoded, which the sound knows nothing of.
        return Times(tuple(dts), tuple(film.keyframe_dts), tuple(dts), is_by_dts=True)
    if pts is not None and not (is_reordered and (format in _DECODING_TIMES_ONLY or not _rises(path, stream))):
        return Times(tuple(pts), tuple(film.keyframe_pts))
    is_by_dts = dts is not None and (pts is None or format in _DECODING_TIMES_ONLY)
    told, delay = _decoded_times(path, stream, dts if is_by_dts else None)
    given = [time for time in told if time is not None]
    if len(set(given)) != len(told):
        raise VideoError(
            f"{path}: its frames carry no usable timestamps (missing, or the same one twice); encode it anew, with the "
            "frames per second that it has (ffmpeg -r 25 -i IN -c:v ffv1 -c:a copy OUT.mkv)"
        )
    shown = sorted(given)
    if given == shown and not is_by_dts:
        return Times(tuple(shown), tuple(film.keyframe_pts))
    packet_times = tuple(given)
    if is_by_dts:
        shown = _shown_at(shown, max(delay, _most_behind(given)))
    at = dict(zip(packet_times, shown, strict=True))
    keyframes = film.keyframe_dts if is_by_dts else film.keyframe_pts
    return Times(tuple(shown), tuple(sorted(at[k] for k in keyframes if k in at)), packet_times, is_by_dts)


def _rises(path: str, stream: int) -> bool:
    """Whether the first frames come in the order of their times; damage tells nothing of that."""
    times = []
    for frame in islice(frames_and_errors(path, stream, None), _LOOKED_AT):
        if frame is None or frame.is_corrupt or frame.pts is None:
            break
        times.append(frame.pts)
    return all(before < after for before, after in pairwise(times))


def _shown_at(dts: list[int], delay: int) -> list[int]:
    """When frames are shown, the first one at the first decoding time; there sound without times of its own begins.

    Gaps within the delay are chunks without a picture of an encoder that waits. Later ones are pictures that stand. No
    packet tells of the last frames.
    """
    delay = min(delay, len(dts) - 1)
    step = median_low([after - before for before, after in pairwise(dts)] or [0])
    shown = dts[delay:] + [dts[-1] + step * (n + 1) for n in range(delay)]
    return [time - (shown[0] - dts[0]) for time in shown]


def _most_behind(packet_times: list[int]) -> int:
    """By how many places a frame is coded behind where it is shown, at most: others are coded ahead of it."""
    place = {time: n for n, time in enumerate(sorted(packet_times))}
    return max(place[time] - n for n, time in enumerate(packet_times))


def _decoded_times(path: str, stream: int, by_dts: list[int] | None) -> tuple[list[int | None], int]:
    """The time of each frame's packet, in the order in which frames are shown; and the decoder's delay in packets."""
    order = None if by_dts is None else Order.of(by_dts, by_dts, is_by_dts=True)
    times: list[int | None] = []
    delay = 0
    for frame in frames_and_errors(path, stream, None, order):
        if frame is None:
            raise VideoError(
                f"{path}: damaged: frame {len(times)} cannot be decoded, and nothing tells when the others are shown"
            )
        if not times and by_dts is not None and frame.dts is not None:
            delay = bisect_left(by_dts, frame.dts)  # of the packet that made it come out
        times.append(frame.pts)
    return times, delay
