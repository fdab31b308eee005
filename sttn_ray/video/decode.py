"""Exactly the frames of a range, by seeking."""

from collections.abc import Iterator
from itertools import islice

import av

from sttn_ray.choices import OnDamage
from sttn_ray.errors import VideoError
from sttn_ray.video.conceal import concealed_range
from sttn_ray.video.deinterlace import MARGIN_FRAMES, deinterlaced
from sttn_ray.video.frames import check_format
from sttn_ray.video.index import VideoIndex
from sttn_ray.video.planar import in_format
from sttn_ray.video.source import frames_of, open_video

# So far a codec may show frames out of the order in which it codes them.
_MAX_REORDERED = 16


def decode_range(
    index: VideoIndex,
    start: int,
    stop: int,
    *,
    threads: int = 1,
    on_damage: OnDamage = "fail",
    concealed: set[int] | None = None,
) -> Iterator[av.VideoFrame]:
    """Decode frames `start` to `stop` (exclusive) of a video, in order, each checked by its timestamp.

    Those of an interlaced video are deinterlaced where its index says so, from a few more frames on both sides, so
    that a frame's picture does not depend on the range.

    Args:
        index: the video.
        start, stop: frame numbers; those beyond the last frame are left out.
        threads: of the decoder; always one where damage is concealed, since several do not repeat themselves there.
        on_damage: "conceal" gives a copy of the last good frame in place of each that is missing or damaged.
        concealed: is given the numbers of those frames.

    Raises:
        VideoError: a frame is missing or damaged; where that is concealed, all that were read for the range are. A
            frame has another size or format than the first one.
        StorageError: the file cannot be read, which is never concealed.
    """
    stop = min(stop, index.num_frames)
    if start >= stop:
        return
    concealed = set() if concealed is None else concealed
    if not index.is_deinterlaced:
        yield from _coded_range(index, start, stop, threads, on_damage, concealed)
        return
    first, last = max(start - MARGIN_FRAMES, 0), min(stop + MARGIN_FRAMES, index.num_frames)
    concealed_here: set[int] = set()
    coded = _coded_range(index, first, last, threads, on_damage, concealed_here)
    for number, frame in enumerate(deinterlaced(coded, threads=threads), first):
        if start <= number < stop:
            concealed |= concealed_here & {number}
            yield frame


def _coded_range(
    index: VideoIndex, start: int, stop: int, threads: int, on_damage: OnDamage, concealed: set[int]
) -> Iterator[av.VideoFrame]:
    if on_damage == "fail":
        frames = _exact_range(index, start, stop, threads)
    else:
        frames = concealed_range(index, start, stop, concealed)
    return (in_format(frame, index.pix_fmt) for frame in frames)


def _exact_range(index: VideoIndex, start: int, stop: int, threads: int) -> Iterator[av.VideoFrame]:
    """Decoding starts at the last keyframe at or before the range.

    Where the first frame then comes out too late (open groups of pictures, MPEG-TS), it starts one keyframe earlier,
    and at last from the file's beginning.
    """
    wanted = index.pts[start:stop]
    candidates = [p for p in index.keyframe_pts if p <= wanted[0]][::-1]
    candidates = candidates[1:3] if index.loses_times else candidates[:2]
    for keyframe in [*candidates, None]:
        frames = _decode_from(index, keyframe, threads)
        first = next((f for f in frames if f.pts is not None and f.pts >= wanted[0]), None)
        if first is not None and first.pts == wanted[0]:
            break
    else:
        raise VideoError(_lost(index, start, "nothing" if first is None else f"pts {first.pts}"))
    yield _checked(first, index, start)
    for number, pts in enumerate(wanted[1:], start + 1):
        frame = next(frames, None)
        if frame is None or frame.pts != pts:
            if frame is not None and any(later.pts == pts for later in islice(frames, _MAX_REORDERED)):
                raise VideoError(
                    f"{index.path}: its times do not rise: frame {number} of {index.num_frames}, that of "
                    f"{float(pts * index.time_base):.3f} s, comes out behind a later one; encode it anew, "
                    "with the frames per second that it has (ffmpeg -r 25 -i IN -c:v ffv1 -c:a copy OUT.mkv)"
                )
            found = "the end of the stream" if frame is None else f"pts {frame.pts}"
            raise VideoError(_lost(index, number, found))
        yield _checked(frame, index, number)


def _decode_from(index: VideoIndex, keyframe: int | None, threads: int) -> Iterator[av.VideoFrame]:
    try:
        with open_video(index.path) as container:
            stream = container.streams[index.stream]
            stream.codec_context.thread_count = threads
            # Slice threads do nothing for most files; frame threads are what speeds up one file.
            stream.codec_context.thread_type = "FRAME" if threads > 1 else "NONE"
            yield from frames_of(container, stream, keyframe, index.order)
    except av.FFmpegError as error:
        raise VideoError(f"{index.path}: damaged: decoding stopped ({error.strerror})") from error


def _checked(frame: av.VideoFrame, index: VideoIndex, number: int) -> av.VideoFrame:
    if frame.is_corrupt or frame.pts in index.damaged_pts:
        raise VideoError(f"{index.path}: damaged: frame {number} decodes with errors, or does not fit its checksum")
    check_format(frame, index, number)
    return frame


def _lost(index: VideoIndex, number: int, found: str) -> str:
    return (
        f"{index.path}: damaged: frame {number} of {index.num_frames} cannot be decoded: expected pts "
        f"{index.pts[number]} (time base {index.time_base}), got {found}"
    )
