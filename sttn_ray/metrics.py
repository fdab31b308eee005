"""How close a completed picture is to the true one."""

import numpy as np
from numpy.typing import NDArray


def psnr(completed: NDArray[np.uint8], truth: NDArray[np.uint8], where: NDArray[np.bool_] | None = None) -> float:
    """Peak signal-to-noise ratio in dB.

    Args:
        completed, truth: (..., height, width, 3), 0 to 255.
        where: (..., height, width), the pixels that count; None counts all.

    Returns:
        Infinity where nothing differs.

    Raises:
        ValueError: no pixel counts.
    """
    squared = (completed.astype(np.float64) - truth) ** 2
    if where is not None:
        squared = squared[where]
    if squared.size == 0:
        raise ValueError("no pixel to compare: the hole is empty")
    error = squared.mean()
    return float("inf") if error == 0 else float(10 * np.log10(255.0**2 / error))
