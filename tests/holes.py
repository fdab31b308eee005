"""What tests of holes share."""

import numpy as np
from numpy.typing import NDArray

from sttn_ray.masks.hole import Hole


def opacity_of(hole: Hole) -> NDArray[np.float32]:
    """Of the whole frame."""
    opacity = hole.pixels.astype(np.float32)
    if hole.box is not None and hole.opacity is not None:
        left, top, right, bottom = hole.box
        opacity[top:bottom, left:right] = hole.opacity
    return opacity
