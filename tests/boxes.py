"""MP4 files changed box by box, as a person does who wants to see what a reader believes."""

import struct
from collections.abc import Callable
from pathlib import Path

PARENTS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"mvex", b"moof", b"traf"}


def box(kind: bytes, content: bytes) -> bytes:
    """A box with its head."""
    return struct.pack(">I", 8 + len(content)) + kind + content


def change_boxes(data: bytes, kind: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Boxes with the content of all those of a kind changed; `change` returns whole boxes in its place."""
    changed, start = b"", 0
    while start < len(data):
        size, found = struct.unpack(">I4s", data[start : start + 8])
        content = data[start + 8 : start + size]
        if found == kind:
            changed += change(content)
        elif found in PARENTS:
            changed += box(found, change_boxes(content, kind, change))
        else:
            changed += data[start : start + size]
        start += size
    return changed


def change_file(path: Path, kind: bytes, change: Callable[[bytes], bytes]) -> Path:
    """`change_boxes` of a file, in place; what follows a header moves, so that only headers may be looked at."""
    path.write_bytes(change_boxes(path.read_bytes(), kind, change))
    return path


def edit_list(edits: list[tuple[int, int]]) -> bytes:
    """An edit list of durations in ticks of the movie, and times in ticks of the track."""
    rows = b"".join(struct.pack(">IiI", duration, time, 0x10000) for duration, time in edits)
    return box(b"edts", box(b"elst", struct.pack(">II", 0, len(edits)) + rows))
