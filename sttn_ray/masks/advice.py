"""What errors advise where marks are not white: a command, where all that is not black is what is to be removed."""

from pathlib import PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

_WHITEN = "make what is to be removed white and all else black"
# Of the brightest channel, up to which a picture is black: soft rims of marks should count as well as they can.
_LOSSLESS_LIMIT, _LOSSY_LIMIT = 7, 31
_MAX_SHARE = 0.5  # of marks; what takes more of a picture is its background

# What FFmpeg takes a file for: it does not read floats, nor colors for print.
Kind = Literal["image", "video", "unreadable"]


def whiten(
    levels: NDArray[np.uint8],
    name: str,
    kind: Kind,
    *,
    limit: int | None = None,
    is_lossy: bool = False,
    is_alpha: bool = False,
) -> str:
    """Advice to make marks white, with an FFmpeg command where the background is black.

    Args:
        levels: (height, width), of the brightest channel, or of transparency.
        name, kind: of the file.
        limit: the highest level that is black, where that is known.
        is_lossy: whether black may have noise.
        is_alpha: whether the levels are of transparency.
    """
    if limit is None:
        limit = min(_LOSSY_LIMIT if is_lossy else _LOSSLESS_LIMIT, int(levels.max()) // 2)
    if kind == "unreadable" or not 0 < (levels > limit).mean() <= _MAX_SHARE:
        return _WHITEN
    suffix = PurePosixPath(name).suffix
    above = f"val*255-{255 * limit}"
    filters = ("format=rgba,alphaextract," if is_alpha else "") + (
        f"format=rgb24,lutrgb=r={above}:g={above}:b={above},colorchannelmixer=1:1:1:0:1:1:1:0:1:1:1"
    )
    output = "OUT.png" if kind == "image" else "-an -c:v ffv1 OUT.mkv"
    what = "all that is not transparent" if is_alpha else "all that is not black"
    return f'{_WHITEN} (for {what}: ffmpeg -i IN{suffix} -vf "{filters}" {output})'
