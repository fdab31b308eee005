"""`completion.pictures` in numpy, as tests have their pictures."""

import numpy as np
import torch
from numpy.typing import NDArray

from sttn_ray.completion.pictures import to_planes
from sttn_ray.video.color import ColorFormat


def rgb_to_planes(rgb: NDArray[np.float32], color: ColorFormat) -> list[NDArray[np.float32]]:
    """RGB (rows, columns, 3) in [0, 1] to planes of code values, not rounded."""
    return [plane.numpy() for plane in to_planes(torch.from_numpy(rgb).permute(2, 0, 1), color)]
