"""What a build of shards leaves behind to go on from, each written whole.

Below the shards' folder:

- `index.parquet`: every clip and mask; written last, so that it names nothing that is not there
- `videos.parquet`: a row for every video of the corpus, and what became of it
- `clips/shard-00000.parquet`, `masks/drawn.parquet`, `masks/objects-KEY.parquet`
- `_sttn/shards.json`: the settings all shards here were made with
- `_sttn/videos/KEY.json`: a video as found, KEY from its path; `_sttn/plan.json`: which frames lie in which shard
- `_sttn/done/clips-shard-00000.json`: a shard file that is done: its rows of the index, and what failed in it
"""

import hashlib
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from sttn_ray.corpus import Entry, Source
from sttn_ray.errors import failed_outcome
from sttn_ray.paths import StoragePath, as_path
from sttn_ray.shards.plan import Range
from sttn_ray.shards.write import Fault, IndexRow
from sttn_ray.storage import file_stamp, is_file, read_record, write_record

STATE_DIR = "_sttn"


class FoundSource(NamedTuple):
    """A video as found, with the `stamps` that its files had then."""

    source: Source
    stamps: list[list[Any]]


class ShardsDir:
    """The records of one folder of shards."""

    def __init__(self, folder: str) -> None:
        self.folder = as_path(folder)
        self._state = self.folder / STATE_DIR

    @property
    def settings_path(self) -> StoragePath:
        return self._state / "shards.json"

    @property
    def attempts(self) -> StoragePath:
        """The folder of notes on what tasks have begun."""
        return self._state / "attempts"

    def read_source(self, path: str) -> FoundSource | None:
        """A video as found before, by its path in the corpus."""
        data = read_record(self._source_path(path))
        return None if data is None else FoundSource(Source.from_dict(data["source"]), data["stamps"])

    def write_source(self, found: FoundSource) -> None:
        record = {"source": found.source.as_dict(), "stamps": found.stamps}
        write_record(self._source_path(found.source.path), record)

    def read_plan(self) -> list[list[Range]]:
        data = read_record(self._state / "plan.json")
        return [] if data is None else [[Range(*part) for part in shard] for shard in data["shards"]]

    def write_plan(self, plan: Sequence[Sequence[Range]]) -> None:
        write_record(self._state / "plan.json", {"shards": plan})

    def read_done(self, file: str, content_hash: str, present: Collection[str] = ()) -> dict[str, Any] | None:
        """The record of a shard file if it was made of this content and the file is there, whole and unchanged.

        Not where a video was gone then and is among the sha256 `present` now, or could not be read for reasons that lie
        in its storage.
        """
        record = read_record(self._done_path(file))
        if record is None or record["content"] != content_hash:
            return None
        faults = record["faults"]
        if any(f["step"] == "read" or (f["step"] == "gone" and f["sha256"] in present) for f in faults):
            return None
        return record if not record["rows"] or is_file(self.folder / file, record) else None

    def write_done(
        self, file: str, content_hash: str, rows: Sequence[IndexRow], faults: Sequence[Fault]
    ) -> dict[str, Any]:
        path = self.folder / file
        stamp = file_stamp(path) if rows else [0, None]
        record = {
            "content": content_hash,
            "rows": rows,
            "stamp": stamp,
            "num_bytes": stamp[0],
            "sha256": rows[0]["file_sha256"] if rows else "",
            "faults": [
                {"sha256": f.sha256, "start": f.start, "stop": f.stop, **failed_outcome(f.step, f.error)}
                for f in faults
            ],
        }
        write_record(self._done_path(file), record)
        return record

    def _source_path(self, path: str) -> StoragePath:
        return self._state / "videos" / f"{path_key(path)}.json"

    def _done_path(self, file: str) -> StoragePath:
        return self._state / "done" / f"{file.removesuffix('.parquet').replace('/', '-')}.json"


def path_key(path: str) -> str:
    """A file name for a path of a corpus."""
    return hashlib.sha256(path.encode()).hexdigest()[:24]


def object_masks_file(entry: Entry) -> str:
    """The shard file of a folder or zip of object masks."""
    return f"masks/objects-{path_key(entry.path)}.parquet"
