"""Pictures as a player shows them, turned and mirrored, and as they are stored."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)
# Of the greater factors, beside which the others are no slant.
_ROUNDING = 0.01


def is_right_angled(matrix: Sequence[int]) -> bool:
    """Whether a display matrix turns by right angles and mirrors, and does nothing else.

    Args:
        matrix: FFmpeg's nine numbers: of a pixel (x, y) as stored the first and the fourth give its column as shown,
            the second and the fifth its row.
    """
    a, b, _, c, d = matrix[:5]
    straight, crossed = sorted((abs(a), abs(d))), sorted((abs(b), abs(c)))
    kept, slant = max(straight, crossed), min(straight, crossed)
    return kept[0] > 0 and slant[1] <= _ROUNDING * kept[0]


def as_shown(stored: NDArray[T], matrix: Sequence[int] | None) -> NDArray[T]:
    """A picture, (rows, columns, ...), as a player shows it; a view."""
    if matrix is None:
        return stored
    a, b, _, c, d = matrix[:5]
    if abs(a) > abs(b):
        return _flipped(stored, rows=d < 0, columns=a < 0)
    return _flipped(stored.swapaxes(0, 1), rows=b < 0, columns=c < 0)


def as_stored(shown: NDArray[T], matrix: Sequence[int] | None) -> NDArray[T]:
    """The inverse of `as_shown`."""
    if matrix is None:
        return shown
    a, b, _, c, d = matrix[:5]
    if abs(a) > abs(b):
        return _flipped(shown, rows=d < 0, columns=a < 0)
    return _flipped(shown, rows=b < 0, columns=c < 0).swapaxes(0, 1)


def _flipped(picture: NDArray[T], *, rows: bool, columns: bool) -> NDArray[T]:
    return picture[:: -1 if rows else 1, :: -1 if columns else 1]
