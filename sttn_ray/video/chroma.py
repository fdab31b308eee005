"""Where a film's chroma samples lie between those of its luma."""

import io
import re

import av

# Columns and rows as Matroska has them (1: where a sample of the luma lies, 2: half a sample on), FFmpeg's name, and
# H.264's number. Of (1, 2), left, H.264 need not be told. Of the two at the bottom, which no film was seen to have,
# Matroska has no word.
_LOCATIONS = {(2, 2): "center", (1, 1): "topleft", (2, 1): "top"}
H264_NUMBERS = {name: number for number, name in enumerate(_LOCATIONS.values(), 1)}
# Of a file's header: its elements ChromaSitingHorz and ChromaSitingVert.
_SITING = re.compile(rb"\x55\xb7\x81([\1\2])\x55\xb8\x81([\1\2])")


def chroma_location(stream: av.VideoStream) -> str:
    """FFmpeg's name of where chroma samples lie; blank where that is on the left, as of H.264, or is not told.

    The binding to FFmpeg has no word for it, but a Matroska header that is made of the stream tells.
    """
    header = io.BytesIO()
    try:
        with av.open(header, "w", format="matroska") as container:
            container.add_stream_from_template(stream, opaque=True)
            container.start_encoding()
    except (av.FFmpegError, ValueError):  # Matroska does not take it
        return ""
    found = _SITING.search(header.getvalue())
    return _LOCATIONS.get((found[1][0], found[2][0]), "") if found else ""
