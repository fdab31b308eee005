"""Rows of shards that were read from an object store once, kept on a node's disk."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sttn_ray.errors import StorageError
from sttn_ray.storage import published

_UNUSED_S = 24 * 3600  # of another corpus, most likely
_GRANULE = 64  # a process looks at the whole cache again once it has added this part of it
_LOOK_AGAIN_S = 60


class RowCache:
    """A folder of rows by the hash of their content, that processes of a node fill together up to a size.

    What is there stays: training reads all clips in turn, so that throwing out the one read longest ago, as caches do,
    would throw out the very one that comes next. Only what nobody read for a day makes room. The size is kept to a
    sixty-fourth for each process.
    """

    def __init__(self, folder: str | Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = Path(folder), max_bytes
        self._room = 0
        self._full_until_s = 0.0

    def get(self, key: str, load: Callable[[], bytes]) -> bytes:
        """The bytes kept under a key, a hash in hex; where there are none, those that `load` gives, which are kept."""
        path = self._folder / key[:2] / key
        try:
            data = path.read_bytes()
        except OSError:
            data = load()
            self._keep(path, data)
            return data
        with suppress(OSError):  # another user's
            os.utime(path)
        return data

    def drop(self, key: str) -> None:
        """Forget what is kept under a key."""
        with suppress(OSError):
            (self._folder / key[:2] / key).unlink()

    def _keep(self, path: Path, data: bytes) -> None:
        if len(data) > self._room and time.monotonic() >= self._full_until_s:
            self._room = self._make_room(len(data))
            if len(data) > self._room:
                self._full_until_s = time.monotonic() + _LOOK_AGAIN_S
        if len(data) > self._room:
            return
        self._room -= len(data)
        # A full disk is no reason to stop a training.
        with suppress(StorageError, OSError), published(path) as temporary:
            temporary.write_bytes(data)

    def _make_room(self, num_bytes: int) -> int:
        found = []
        for folder, _, names in os.walk(self._folder):
            for name in names:
                with suppress(OSError):  # another process may have deleted it
                    state = os.stat(os.path.join(folder, name))
                    found.append((state.st_mtime, state.st_size, os.path.join(folder, name)))
        total, granule = sum(size for _, size, _ in found), max(num_bytes, self._max_bytes // _GRANULE)
        for used_s, size, path in sorted(found):
            if total + granule <= self._max_bytes or time.time() - used_s < _UNUSED_S:
                break
            with suppress(OSError):
                os.unlink(path)
                total -= size
        return min(granule, self._max_bytes - total)
