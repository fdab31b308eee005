"""Which frames the network sees together, and whose result is kept.

Windows are centered on every `window_stride`-th frame of the video and reach `window_radius` to both sides; to each
belong the `num_references` nearest of every `reference_stride`-th frame of the shot outside the window. The
published schedule takes all of these, so that its cost grows with the square of the length (defect D-39).

All numbers are absolute frame numbers. Whatever segments a video is cut into, a frame is completed by the same
windows with the same references.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Frames between windows, to each side of a center, between references, and references per window (None = all)."""

    window_stride: int = 5
    window_radius: int = 5
    reference_stride: int = 10
    num_references: int | None = 7

    def reach(self, num_frames: int) -> int:
        """How far from a window's center a frame it needs can lie, in a video of `num_frames`."""
        if self.num_references is None:
            return num_frames
        # At a shot's end all references lie on one side.
        return self.window_radius + self.reference_stride * self.num_references

    def margin(self, num_frames: int) -> int:
        """Frames to be read before and after a segment to complete it."""
        return min(num_frames, self.window_radius + self.reach(num_frames))


@dataclass(frozen=True, kw_only=True)
class Shot:
    """Frames between two cuts, `stop` excluded; ends that lie beyond the window's reach may be cut short."""

    start: int
    stop: int


def is_center(frame: int, shot: Shot, schedule: Schedule) -> bool:
    """Whether a window is centered on a frame of a shot.

    A shot too short to hold a multiple of the stride has its window on its first frame.
    """
    stride = schedule.window_stride
    if frame % stride == 0:
        return True
    next_multiple = -(-shot.start // stride) * stride
    return frame == shot.start and next_multiple >= shot.stop


def neighbors(center: int, shot: Shot, schedule: Schedule) -> range:
    """The window's frames, which are completed together."""
    radius = schedule.window_radius
    return range(max(shot.start, center - radius), min(shot.stop, center + radius + 1))


def references(center: int, shot: Shot, schedule: Schedule) -> list[int]:
    """Far frames of the same shot that the window looks at, ascending."""
    stride = schedule.reference_stride
    window = neighbors(center, shot, schedule)
    first = -(-shot.start // stride) * stride
    outside = [frame for frame in range(first, shot.stop, stride) if frame not in window]
    nearest = sorted(outside, key=lambda frame: (abs(frame - center), frame))
    return sorted(nearest[: schedule.num_references])
