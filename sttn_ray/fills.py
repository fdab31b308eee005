"""Classical fills of holes, with which a learned completion is compared.

All take frames (T, height, width, 3) uint8 RGB and masks (T, height, width) bool, True = hole, and return completed
frames of the frames' shape, uint8: the source, bit for bit, outside the holes. What the source shows inside the holes
does not matter. Other shapes or types are a ValueError.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

MID_GRAY = 127  # where a frame is all hole and so has no color of its own
# Rows that the median takes at once. It holds some six copies of them: a few percent of a clip of usual height.
_BLOCK_ROWS = 8


def fill_mean_color(frames: NDArray[np.uint8], masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Each hole with the mean color, rounded half up, of its frame outside the hole; mid-gray if all is hole."""
    _check(frames, masks)
    completed = frames.copy()
    for frame, mask in zip(completed, masks, strict=True):
        frame[mask] = MID_GRAY if mask.all() else np.floor(frame[~mask].mean(0) + 0.5)
    return completed


def fill_telea(frames: NDArray[np.uint8], masks: NDArray[np.bool_], *, radius_px: float = 3) -> NDArray[np.uint8]:
    """Each frame by itself from the hole's rim inward, by fast marching; mid-gray if all is hole.

    Source: A. Telea, An image inpainting technique based on the fast marching method, 2004, as in OpenCV.

    Args:
        radius_px: how far from a pixel those lie that it is made from.
    """
    # Not from the source: in holes at the top or left edge of a frame OpenCV 5.0 mixes what the hole shows into the
    # fill, by up to 7 of 255 where measured.
    completed = fill_mean_color(frames, masks)
    for frame, mask in zip(completed, masks, strict=True):
        if mask.any() and not mask.all():
            frame[mask] = cv2.inpaint(frame, mask.astype(np.uint8), radius_px, cv2.INPAINT_TELEA)[mask]
    return completed


def fill_temporal_median(frames: NDArray[np.uint8], masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Each hole pixel with the median over time, by channel, of its place in the frames where that is no hole.

    Of an even number of frames the mean of the middle two, rounded half up. Places never seen take the frame's color
    as in `fill_mean_color`. Right for a camera that stands; needs one clip's memory beside the frames and masks.
    """
    completed = fill_mean_color(frames, masks)
    for top in range(0, frames.shape[1], _BLOCK_ROWS):
        rows = slice(top, top + _BLOCK_ROWS)
        num_seen = (~masks[:, rows]).sum(0)
        # Only places that are hole at one time and seen at another need, and have, a median.
        places = (num_seen > 0) & (num_seen < len(frames))
        if not places.any():
            continue
        values, hidden = frames[:, rows][:, places], masks[:, rows][:, places]
        medians = _median(values, hidden, num_seen[places])
        completed[:, rows][:, places] = np.where(hidden[..., None], medians, values)
    return completed


def _median(values: NDArray[np.uint8], hidden: NDArray[np.bool_], num_seen: NDArray[np.int_]) -> NDArray[np.uint8]:
    """Median over the first axis of values (T, places, 3) not hidden (T, places), of which each place has some."""
    # Hidden values go to the end as the largest; a seen 255 is the same, so which of them comes first is all one.
    ordered = np.where(hidden[..., None], np.uint8(255), values)
    ordered.sort(0)
    places = np.arange(len(num_seen))
    lower, upper = ordered[(num_seen - 1) // 2, places], ordered[num_seen // 2, places]
    middle: NDArray[np.uint8] = ((lower.astype(np.uint16) + upper + 1) // 2).astype(np.uint8)
    return middle


def _check(frames: NDArray[np.uint8], masks: NDArray[np.bool_]) -> None:
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"frames are {frames.dtype} {frames.shape}, expected uint8 (T, height, width, 3)")
    if masks.shape != frames.shape[:3] or masks.dtype != np.bool_:
        raise ValueError(f"masks are {masks.dtype} {masks.shape}, expected bool {frames.shape[:3]}")
