"""Whether a lossy encoder kept a frame: samples of its luma, compared before and after."""

from typing import NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

GRID_STEP_PX = 8
MAX_PSNR = 100.0  # dB, of equal samples
# What an encoder may be off is bounded by its quantizer's step, which crf sets. No one floor in dB would do: at crf 51
# black and white noise keeps 7 dB, a film 20 to 27, while a film of the wrong range has 26 to 33. Measured with crf 1
# to 51, presets ultrafast to veryslow, textures, noise, cuts and 11 films: the RMS of a frame's differences is at most
# 0.93 steps in films and 1.91 in noise; that of the means over cells, where what an encoder does averages out and what
# a wrong frame, place or range does is left, at most 0.34 and 0.64.
_MAX_STEPS = 3.0
_MAX_CELL_STEPS = 1.0
_CELL = 4  # grid samples in each direction: 32 pixels


class Deviation(NamedTuple):
    """How far a frame is from another.

    Attributes:
        psnr: of the luma samples outside the hole, in dB, at most 100.
        is_plausible: whether an encoder at that crf may have done it.
    """

    psnr: float
    is_plausible: bool


def sample_luma(frame: av.VideoFrame) -> NDArray[np.generic]:
    """Every 8th sample of every 8th row of a planar YUV or gray frame, a copy."""
    plane, dtype = frame.planes[0], np.dtype(np.uint8 if frame.format.components[0].bits <= 8 else np.uint16)
    rows = np.frombuffer(plane, dtype).reshape(-1, plane.line_size // dtype.itemsize)
    return rows[: plane.height : GRID_STEP_PX, : plane.width : GRID_STEP_PX].copy()


def sample_valid(frame: av.VideoFrame, hole: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Which samples of `sample_luma` lie outside the hole: (height, width), True = may have changed; None = no hole."""
    if hole is None:
        hole = np.zeros((frame.height, frame.width), np.bool_)
    return ~hole[::GRID_STEP_PX, ::GRID_STEP_PX]


def deviation(
    given: NDArray[np.generic], found: NDArray[np.generic], valid: NDArray[np.bool_], *, bits: int, crf: int
) -> Deviation:
    """Compare samples of `sample_luma` before and after an encoder, where they are valid.

    Args:
        given, found: of the same size, `bits` deep.
        valid: which of them count; where none does, nothing is found to differ.
        bits: of a sample.
        crf: the encoder's.
    """
    difference = found.astype(np.float64) - given.astype(np.float64)
    error = _rms(difference[valid])
    psnr = MAX_PSNR if error == 0 else min(20 * np.log10(((1 << bits) - 1) / error), MAX_PSNR)
    step = 0.625 * 2 ** (crf / 6) * (1 << (bits - 8))
    rows, columns = (size // _CELL * _CELL for size in difference.shape)
    cells = (rows // _CELL, _CELL, columns // _CELL, _CELL)
    means = difference[:rows, :columns].reshape(cells).mean((1, 3))
    cell_error = _rms(means[valid[:rows, :columns].reshape(cells).all((1, 3))])
    return Deviation(float(psnr), error <= _MAX_STEPS * step and cell_error <= _MAX_CELL_STEPS * step)


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(values**2))) if values.size else 0.0
