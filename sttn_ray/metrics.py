"""How close a completed picture is to the true one."""

import cv2
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


def ssim(completed: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Structural similarity, 1 where nothing differs (Wang et al. 2004: Gaussian window of 11 pixels, sigma 1.5).

    Args:
        completed, truth: (height, width, 3), 0 to 255, at least 11 pixels each way; channels are averaged.
    """
    x, y = completed.astype(np.float64), truth.astype(np.float64)

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        # Only where the window lies inside the picture.
        return cv2.GaussianBlur(values, (11, 11), 1.5)[5:-5, 5:-5]

    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similar = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float((similar / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean())
