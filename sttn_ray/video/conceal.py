"""The frames of a range where some are damaged: the last good one stands in for those."""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import av

from sttn_ray.errors import VideoError
from sttn_ray.video.frames import check_format, copy_frame
from sttn_ray.video.index import VideoIndex
from sttn_ray.video.source import frames_and_errors

# A frame that is shown earlier may have been made from one that turns out to be damaged; so many wait for that.
REORDERED_FRAMES = 4


class _Decoded(NamedTuple):
    """A frame and its number; in place of a frame that failed, None and the number that was next."""

    number: int
    frame: av.VideoFrame | None


def concealed_range(index: VideoIndex, start: int, stop: int, concealed: set[int]) -> Iterator[av.VideoFrame]:
    """Frames `start` to `stop` (exclusive), a copy of the last good frame in place of every damaged one.

    Damaged is what does not come out of the decoder, comes out marked as corrupt, or is known to be. The last good
    frame may lie before the range; where none does, the next good one is taken, as at the beginning of a file. Frames
    that the decoder makes of wrong references without a word, from the damage to the next keyframe, are taken as they
    come.

    Args:
        index: the video.
        start, stop: frame numbers, within the video.
        concealed: is given the number of each damaged frame, before its substitute is yielded.

    Raises:
        VideoError: no frame of the range is good, or one has another size or format.
        StorageError: the file cannot be read.
    """
    number, good = start - 1, None  # the last good frame, not handed out yet: who has it may write into it
    for found, frame in chain(_good_frames(index, start), [_Decoded(stop, None)]):
        if found >= stop:
            found, frame = stop, None
        if frame is None and (good is None or number < start):
            raise VideoError(f"{index.path}: damaged: none of the frames {start} to {stop - 1} can be decoded")
        damaged = range(max(number + 1, start), found)
        spare = copy_frame(good or frame) if damaged else None
        if good is not None and number >= start:
            yield good
        for missing in damaged:
            substitute = copy_frame(spare)
            substitute.pts = index.pts[missing]
            concealed.add(missing)
            yield substitute
        if frame is None:
            return
        number, good = found, frame


def _good_frames(index: VideoIndex, start: int) -> Iterator[_Decoded]:
    """Frames that decode, by number, from a good one at or before `start`, or the file's first good one.

    After damage a decoder gives pictures that depend on all it has seen. So that they do not depend on the range,
    each frame about which there is damage is taken from a decoder that started at the last keyframe that allows it.

    What remains is damage of which nothing tells (some of JPEG, MPEG-TS, and FFV1 without checksums): the picture may
    then hold what lay in the decoder's memory. In 340 files of 15 kinds with random faults, ranges differed from the
    whole for these three alone.
    """
    keyframes = _keyframes(index)
    before = keyframes[: bisect_right(keyframes, index.pts[start])]
    # Each place twice as far back as the one before: in a long damage all keyframes are.
    distances = [1 << power for power in range(len(before).bit_length())]
    tested, frames = _started_at(index, [before[-distance] for distance in distances]) or (None, _decode(index, None))
    handed_out = last = -1
    is_damaged = False
    waiting: deque[_Decoded] = deque()
    while True:
        for number, frame in frames:
            is_damaged = is_damaged or frame is None or -1 < last < number - 1
            if number <= last:
                continue
            if is_damaged:
                later = _keyframes_between(index, tested, index.pts[min(number, index.num_frames - 1)])
                tested = max(later, default=tested)
                if started := _started_at(index, later[::-1]):
                    keyframe, frames = started
                    while waiting and index.pts[waiting[-1].number] >= keyframe:
                        waiting.pop()
                    last = waiting[-1].number if waiting else handed_out
                    is_damaged = False
                    break
            if frame is not None:
                last = number
                waiting.append(_Decoded(number, frame))
                if len(waiting) > REORDERED_FRAMES:
                    handed_out = waiting[0].number
                    yield waiting.popleft()
        else:
            yield from waiting
            return


def _keyframes_between(index: VideoIndex, after: int | None, until: int) -> tuple[int, ...]:
    keyframes = _keyframes(index)
    first = 0 if after is None else bisect_right(keyframes, after)
    return keyframes[first : bisect_right(keyframes, until)]


def _keyframes(index: VideoIndex) -> tuple[int, ...]:
    """Those from which on no frame is missing but for damage."""
    return () if index.loses_times else index.keyframe_pts


def _started_at(index: VideoIndex, keyframes: Sequence[int]) -> tuple[int, Iterator[_Decoded]] | None:
    """The first of some keyframes, by pts, that decodes where decoding starts with it, and all frames from it on."""
    for keyframe in keyframes:
        frames = _decode(index, keyframe)
        first = next((decoded for decoded in frames if decoded.frame is not None), None)
        if first is not None and index.pts[first.number] == keyframe:
            return keyframe, chain([first], frames)
    return None


def _decode(index: VideoIndex, keyframe: int | None) -> Iterator[_Decoded]:
    """What comes out of a decoder that starts at a keyframe, given by its pts, or at the file's beginning."""
    last = -1 if keyframe is None else bisect_left(index.pts, keyframe) - 1
    known = frozenset(index.damaged_pts)
    for frame in frames_and_errors(index.path, index.stream, keyframe, index.order):
        if frame is None or frame.is_corrupt or frame.pts is None or frame.pts in known:
            yield _Decoded(last + 1, None)
            continue
        number = bisect_left(index.pts, frame.pts)
        # After damage a frame may come out of turn, or twice.
        if last < number < index.num_frames and index.pts[number] == frame.pts:
            check_format(frame, index, number)
            last = number
            yield _Decoded(number, frame)
