"""What a bulk run leaves behind to go on from: plans, segments and outcomes, each written whole.

Below the output folder:

- `films/a.mp4`: outputs, by the videos' own names; `manifest.parquet`: one row a video
- `_sttn/run.json`: the settings all outputs here were made with
- `_sttn/items/KEY/plan.json`, KEY from the output's name
- `_sttn/items/KEY/segment-00000.mp4` and `segment-00000.json`
- `_sttn/items/KEY/outputs.json`: the names of the video's outputs, while no outcome tells them
- `_sttn/items/KEY/attempts-*.json`: which tasks are being worked on
- `_sttn/items/KEY/outcome.json`: done, degraded, copied, failed or quarantined
"""

import hashlib
import logging
from pathlib import Path
from typing import Any

from sttn_ray.catalog.plan import Plan, Settings
from sttn_ray.errors import StorageError
from sttn_ray.paths import StoragePath, as_path, remove_file, walk
from sttn_ray.storage import claim, is_file, read_record, write_record

log = logging.getLogger(__name__)

STATE_DIR = "_sttn"
_OUTPUTS = "outputs.json"


class ItemDir:
    """The records of one video."""

    def __init__(self, output_dir: str | StoragePath, output_name: str) -> None:
        self.output_dir = as_path(output_dir)
        key = hashlib.sha256(output_name.encode()).hexdigest()[:24]
        self.path = self.output_dir / STATE_DIR / "items" / key

    @property
    def again(self) -> str:
        """What to do to have a video tried again that is not."""
        return f"delete its outcome.json in {self.path} to try it"

    def read_plan(self) -> Plan | None:
        data = read_record(self.path / "plan.json")
        return None if data is None else Plan.from_dict(data)

    def write_plan(self, plan: Plan) -> None:
        write_record(self.path / "plan.json", plan.as_dict())

    def read_outcome(self) -> dict[str, Any] | None:
        return read_record(self.path / "outcome.json")

    def write_outcome(self, outcome: dict[str, Any]) -> None:
        write_record(self.path / "outcome.json", outcome)

    def clear_outcome(self) -> None:
        """Forget an outcome, but for what its outputs are named."""
        if names := self.read_outputs():
            write_record(self.path / _OUTPUTS, {"outputs": names})
        remove_file(self.path / "outcome.json")

    def read_outputs(self) -> list[str]:
        """The names of what was published for this video, or is about to be.

        Another task may record an outcome and delete its note in this moment, or the other way round.
        """
        names = self._noted_outputs()
        outcome = self.read_outcome() or {}
        recorded = outcome.get("outputs", [outcome["output"]] if "output" in outcome else [])
        return sorted({*names, *recorded, *self._noted_outputs()})

    def note_output(self, name: str) -> None:
        """Note that an output is about to be published: a run may be killed before it records the outcome."""
        names = self.read_outputs()
        write_record(self.path / _OUTPUTS, {"outputs": sorted({*names, name})})

    def _noted_outputs(self) -> list[str]:
        names: list[str] = (read_record(self.path / _OUTPUTS) or {}).get("outputs", [])
        return names

    def segment_path(self, number: int) -> StoragePath:
        return self.path / f"segment-{number:05d}.mp4"

    def write_segment(self, number: int, record: dict[str, Any]) -> None:
        write_record(self.path / _record_name(number), record)

    def read_segments(self, plan: Plan) -> list[dict[str, Any] | None]:
        """The records of a plan's segments; None for those that are still to be done."""
        names = self._names()
        return [
            self.read_segment(n, plan.plan_hash) if _record_name(n) in names else None
            for n in range(len(plan.segments))
        ]

    def read_segment(self, number: int, plan_hash: str) -> dict[str, Any] | None:
        """A segment's record if it is of this plan and its file is there, whole and unchanged."""
        record = read_record(self.path / _record_name(number))
        if record is None or record["plan_hash"] != plan_hash:
            return None
        return record if is_file(self.segment_path(number), record) else None

    def clear_segment(self, number: int) -> None:
        """Forget a segment, which is then to be done again."""
        remove_file(self.path / _record_name(number))

    def has_all_segments(self, plan: Plan) -> bool:
        """Whether there is a record, of whatever plan, for each of a plan's segments; one listing tells."""
        return self._names().issuperset(_record_name(n) for n in range(len(plan.segments)))

    def clear_work(self) -> None:
        """Delete plan and segments, also half-written ones of killed processes; the outcome stays.

        What cannot be deleted is left: the video is done all the same.
        """
        try:
            if isinstance(self.path, Path):
                names = [path.name for path in self.path.iterdir()] if self.path.is_dir() else []
            else:
                names = sorted(self._names())
            for name in names:
                if not name.startswith(("outcome.json", ".outcome.json")):
                    remove_file(self.path / name)
        except (StorageError, OSError) as error:
            log.warning("%s: work files are left there (%s)", self.path, error)

    def _names(self) -> set[str]:
        try:
            return {name for _, name in walk(str(self.path))}
        except FileNotFoundError:
            return set()


def _record_name(number: int) -> str:
    return f"segment-{number:05d}.json"


def read_claim(output_dir: str | StoragePath) -> dict[str, Any] | None:
    """The fingerprint of the settings that a folder's outputs are made with, or None."""
    return read_record(_claim_path(output_dir))


def _claim_path(output_dir: str | StoragePath) -> StoragePath:
    return as_path(output_dir) / STATE_DIR / "run.json"


def claim_output(output_dir: str | StoragePath, settings: Settings, *, only_checks: bool = False) -> None:
    """Write a run's settings to its output, or check that they are those that stand there, if there are any.

    Raises:
        ConfigError: the folder holds outputs made with other settings.
    """
    advice = "choose another inpaint.output, or delete the folder to do all again"
    claim(
        _claim_path(output_dir),
        settings.fingerprint(),
        output_dir,
        advice,
        only_checks=only_checks,
    )
