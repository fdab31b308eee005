"""Damage that shows without decoding: a file that ends too early, packets that are marked, checksums that do not fit.

A decoder says nothing of it, or shows something in place of what is missing.
"""

import zlib

import av

from sttn_ray.paths import open_binary

_HEAD_BYTES = 4096
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_MXF_PARTITION = bytes.fromhex("060e2b34020501010d01020101")
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_ALL_ONES = 0xFFFFFFFF


def missing_bytes(container: av.container.InputContainer, path: str, num_bytes: int) -> int:
    """By how much a file is shorter than its container says: that of an interrupted copy; 0 where it says nothing.

    Known of MP4 and MOV by their tables of samples, which are read with all packets, of Matroska and WebM by the size
    of their segment, of MXF by the place of its last partition.

    Args:
        container: the file, of which all packets were read.
        path: of the file, or in an object store.
        num_bytes: its size.

    Raises:
        StorageError: it cannot be read.
    """
    names = container.format.name.split(",")
    end = 0
    if "mov" in names:
        end = max((entry.pos + entry.size for stream in container.streams for entry in stream.index_entries), default=0)
    elif "matroska" in names or "mxf" in names:
        with open_binary(path, ahead=0) as file:
            head = file.read(_HEAD_BYTES)
        end = matroska_end(head) if "matroska" in names else mxf_end(head)
    return max(0, end - num_bytes)


def matroska_end(head: bytes) -> int:
    """Where a file's segment ends, from its first bytes; 0 where its size is not told, as in a recording."""
    if not head.startswith(_EBML):
        return 0
    size, data = _element_size(head, len(_EBML))
    start = data + (size or 0)
    if head[start : start + 4] != _SEGMENT:
        return 0
    size, data = _element_size(head, start + 4)
    return 0 if size is None else data + size


def _element_size(head: bytes, position: int) -> tuple[int | None, int]:
    """The size of an EBML element, None where it is not known, and where its data starts."""
    length = 9 - (head[position] if position < len(head) else 0).bit_length()
    if length > 8:  # no size at all
        return None, position
    value = int.from_bytes(head[position : position + length], "big")
    unknown = (1 << 7 * length) - 1
    value &= unknown
    return None if value == unknown else value, position + length


def mxf_end(head: bytes) -> int:
    """Where the last partition starts, from a file's first bytes; 0 where that is not told (SMPTE ST 377-1, 7.1)."""
    start = head.find(_MXF_PARTITION)
    if start < 0 or start + 64 > len(head):
        return 0
    length = head[start + 16]
    data = start + 17 + (length & 0x7F if length & 0x80 else 0)
    # Two versions of two bytes, the KAG size of four, the places of this and the previous partition of eight each.
    place = head[data + 24 : data + 32]
    return int.from_bytes(place, "big") if len(place) == 8 else 0


def has_good_slices(packet: bytes) -> bool:
    """Whether an FFV1 frame's slices, found from its end, all fit their checksums (RFC 9043, 4.9).

    A frame without checksums has none that fit. The CRC is that of zlib with every byte mirrored and no inversion.
    """
    end = len(packet)
    while end > 0:
        size = int.from_bytes(packet[end - 8 : end - 5], "big") + 8
        if size > end:
            return False
        if zlib.crc32(packet[end - size : end].translate(_MIRRORED), _ALL_ONES) != _ALL_ONES:
            return False
        end -= size
    return True
