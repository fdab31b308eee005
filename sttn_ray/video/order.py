"""In which order frames are shown, and when, where their packets do not tell that."""

from itertools import islice, pairwise
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

    The n-th frame that a decoder gives is shown at the n-th of the packets' times.

    Args:
        path, stream: of the film.
        film: its packets.
        format: FFmpeg's name of the container.
        is_reordered: whether frames are coded in another order than shown, as far as the stream tells.

    Raises:
        VideoError: there is no telling.
    """
    pts = film.shown_pts()
    if pts is not None and not (is_reordered and (format in _DECODING_TIMES_ONLY or not _rises(path, stream))):
        return Times(tuple(pts), tuple(film.keyframe_pts))
    is_by_dts = film.coded_dts() is not None and (pts is None or format in _DECODING_TIMES_ONLY)
    told = _decoded_times(path, stream, film.coded_dts() if is_by_dts else None)
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
    if format == "avi" and len(shown) > 1:
        # Chunks without a picture behind the first one are an encoder's delay. Later ones are pictures that stand.
        delay = shown[1] - shown[0] - 1
        shown[1:] = [time - delay for time in shown[1:]]
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


def _decoded_times(path: str, stream: int, by_dts: list[int] | None) -> list[int | None]:
    """The time of each frame's packet, in the order in which frames are shown."""
    order = None if by_dts is None else Order.of(by_dts, by_dts, is_by_dts=True)
    times: list[int | None] = []
    for frame in frames_and_errors(path, stream, None, order):
        if frame is None:
            raise VideoError(
                f"{path}: damaged: frame {len(times)} cannot be decoded, and nothing tells when the others are shown"
            )
        times.append(frame.pts)
    return times
