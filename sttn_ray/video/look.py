"""How a film's frames look: format, colors, orientation, what they carry; and what of it is not supported."""

from typing import Any, NamedTuple

import av
import numpy as np

from sttn_ray.choices import Alpha, Interlaced, Purpose
from sttn_ray.errors import VideoError
from sttn_ray.video.deinterlace import can_deinterlace
from sttn_ray.video.hdr import read_hdr
from sttn_ray.video.planar import has_alpha, in_format, planar_format, without_alpha
from sttn_ray.video.source import frames_and_errors
from sttn_ray.video.turns import is_right_angled

CAPTIONS = "closed captions"
_FRAME_DATA = {
    "A53_CC": CAPTIONS,
    "DYNAMIC_HDR_PLUS": "HDR10+",
    "DYNAMIC_HDR_VIVID": "HDR Vivid",
    "DOVI_METADATA": "Dolby Vision",
    "DOVI_RPU_BUFFER": "Dolby Vision",
}
_UNSPECIFIED = (0, 2, 2, 2)
_RGB_MATRIX, _FULL_RANGE = 0, 2
_ENCODE_ANEW = "encode it anew (ffmpeg -i IN -c:v ffv1 -c:a copy OUT.mkv)"


class Look(NamedTuple):
    """How a film's first frame looks; attributes as of `VideoIndex`, and `faults`: what is not supported."""

    pix_fmt: str
    decoded_pix_fmt: str
    color: tuple[int, ...]
    display_matrix: tuple[int, ...] | None
    rotation: int
    hdr: str
    frame_data: tuple[str, ...]
    faults: tuple[str, ...]

    def properties(self) -> dict[str, Any]:
        """What a `VideoIndex` has of it."""
        return {name: value for name, value in self._asdict().items() if name != "faults"}


def look_at(
    frame: av.VideoFrame,
    path: str,
    stream: int,
    tags: tuple[int, ...],
    *,
    alpha: Alpha,
    has_alpha_beside: bool,
    purpose: Purpose,
) -> Look:
    """Look at a film's first frame, and at all of them where they have room for transparency.

    Args:
        frame: the first one.
        path, stream: of the film.
        tags: of its header, for what a frame leaves open: range, matrix, primaries and transfer.
        alpha: what is done with a film's transparency; a mask's is kept, that of a corpus left out.
        has_alpha_beside: whether packets carry transparency beside their pictures, which the decoder does not see.
        purpose: of the video.
    """
    decoded = frame.format.name
    faults = []
    pix_fmt = planar_format(decoded)
    if pix_fmt is not None and has_alpha(decoded) and (purpose == "corpus" or _is_opaque(path, stream)):
        pix_fmt = without_alpha(pix_fmt)
    is_transparent = pix_fmt is not None and has_alpha(pix_fmt)
    if has_alpha_beside and purpose == "film":
        faults.append(
            "carries transparency (alpha) beside its pictures, which would be lost; encode it anew, without "
            "(ffmpeg -i IN -c:v ffv1 -c:a copy OUT.mkv) or with it (ffmpeg -c:v libvpx-vp9 -i IN -c:v ffv1 -c:a copy "
            "OUT.mkv, and encode.alpha=keep; libvpx for VP8)"
        )
    elif has_alpha_beside and purpose == "mask":
        faults.append(
            "carries transparency (alpha) beside its pictures, which is not read here; make a mask of it (ffmpeg -c:v "
            "libvpx-vp9 -i IN -vf alphaextract -an -c:v ffv1 OUT.mkv; libvpx for VP8)"
        )
    elif is_transparent and purpose == "film" and alpha == "refuse":
        faults.append(
            "carries transparency (alpha); to keep it as it is say encode.alpha=keep, or encode the video anew without "
            f"it (ffmpeg -i IN -c:v ffv1 -pix_fmt {_format_without_alpha(pix_fmt or '')} -c:a copy OUT.mkv)"
        )
    try:
        if pix_fmt is None:
            raise VideoError(f"pixel format {decoded} is none of YUV, RGB or gray of 8 to 16 bits")
        in_format(frame, pix_fmt)
    except VideoError as error:
        faults.append(f"{error}; encode it anew (ffmpeg -i IN -c:v ffv1 -pix_fmt gbrp16le -c:a copy OUT.mkv)")
    matrix, frame_data, hdr = None, tuple[str, ...](), ""
    try:
        found = list(frame.side_data)
    except ValueError as error:  # PyAV gives none where it does not know one
        faults.append(
            f"its frames carry data of a kind that is not read here ({error}), as a camera's EXIF; {_ENCODE_ANEW}"
        )
    else:
        matrices = [np.frombuffer(bytes(data), np.int32) for data in found if data.type.name == "DISPLAYMATRIX"]
        matrix = tuple(int(value) for value in matrices[-1]) if matrices else None
        names = {_FRAME_DATA[data.type.name] for data in found if data.type.name in _FRAME_DATA}
        frame_data, hdr = tuple(sorted(names)), read_hdr(frame)
    if matrix is not None and not is_right_angled(matrix):
        how = f"is shown turned by {frame.rotation} degrees, which is no right angle"
        if matrix[0] * matrix[4] == matrix[1] * matrix[3]:
            how = "its display matrix leaves nothing of the picture"
        faults.append(f"{how}; {_ENCODE_ANEW}")
    return Look(
        pix_fmt=pix_fmt or decoded,
        decoded_pix_fmt="" if decoded == pix_fmt else decoded,
        color=_color(frame, tags, pix_fmt or ""),
        display_matrix=matrix,
        rotation=frame.rotation % 360,
        hdr=hdr,
        frame_data=frame_data,
        faults=tuple(faults),
    )


def interlaced_faults(frame: av.VideoFrame, pix_fmt: str, interlaced: Interlaced) -> list[str]:
    """What keeps an interlaced video from being done."""
    if interlaced == "refuse":
        return [
            "is interlaced; completing it as full frames would smear its fields; deinterlace it first "
            "(to inpaint it, inpaint.interlaced=deinterlace does that)"
        ]
    if not can_deinterlace(in_format(frame, pix_fmt)):
        return [
            f"is interlaced, and frames of {frame.width}x{frame.height} {pix_fmt} cannot be deinterlaced here; "
            "deinterlace it first"
        ]
    return []


def _color(frame: av.VideoFrame, tags: tuple[int, ...], pix_fmt: str) -> tuple[int, ...]:
    """What a frame says of its colors, else what its header says; some codecs have rules that no header repeats."""
    told = (int(frame.color_range), int(frame.colorspace), int(frame.color_primaries), int(frame.color_trc))
    color = [b if a == nothing else a for a, b, nothing in zip(told, tags, _UNSPECIFIED, strict=True)]
    if pix_fmt.startswith("gbr"):
        color[:2] = color[0] or _FULL_RANGE, _RGB_MATRIX
    elif pix_fmt.startswith("gray") and color[1] == _RGB_MATRIX:  # as PNG says
        color[1] = _UNSPECIFIED[1]
    return tuple(color)


def _is_opaque(path: str, stream: int) -> bool:
    """Whether all frames that decode are opaque everywhere."""
    for frame in frames_and_errors(path, stream, None):
        if frame is None:
            continue
        planar = in_format(frame, planar_format(frame.format.name) or "gbrap")
        plane, bits = planar.planes[3], planar.format.components[3].bits
        dtype = np.dtype(np.uint8 if bits == 8 else np.uint16)
        rows = np.frombuffer(plane, dtype).reshape(-1, plane.line_size // dtype.itemsize)[:, : plane.width]
        if (rows != (1 << bits) - 1).any():
            return False
    return True


def _format_without_alpha(pix_fmt: str) -> str:
    bare = without_alpha(pix_fmt)
    return "bgr0" if bare == "gbrp" else bare  # FFV1 has its own order of 8-bit RGB
