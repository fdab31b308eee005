"""MP4 and MOV files that were cut off before their header was written, which most recorders do at the end."""

from sttn_ray.paths import open_binary, reading

_FIRST = {b"ftyp", b"mdat", b"free", b"skip", b"wide"}
_MAX_BOXES = 10_000


def lacks_header(path: str, num_bytes: int) -> bool:
    """Whether a file begins as an MP4 or MOV and has no whole `moov` box, without which none of it can be decoded.

    Raises:
        StorageError: it cannot be read.
    """
    start = 0
    with reading(path), open_binary(path) as file:
        for number in range(_MAX_BOXES):
            file.seek(start)
            head = file.read(16)
            size, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if not number and kind not in _FIRST:
                return False
            if size == 1:
                size = int.from_bytes(head[8:16], "big")
            if kind == b"moov":
                return start + size > num_bytes
            if size < 8 or start + size >= num_bytes:  # the last one, up to the end or beyond it
                return True
            start += size
    return False
