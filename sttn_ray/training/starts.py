"""How often the workers of a run were started from one and the same place: a limit to trying again."""

from pathlib import PurePosixPath

from sttn_ray.paths import StoragePath, remove_file
from sttn_ray.storage import read_record, write_record

STARTS_RECORD, FAULT_RECORD = "starts.json", "fault.json"
# Starts of the workers from one and the same step, before the training is given up. A killed worker is replaced, and
# all go on from the checkpoint; over a week that may happen often.
MAX_STARTS = 4


def forget_starts(run_dir: StoragePath) -> None:
    """Begin to count anew, for a driver that begins."""
    write_record(run_dir / STARTS_RECORD, {})
    remove_file(run_dir / FAULT_RECORD)


def count_start(run_dir: StoragePath, checkpoint: str | None, num_workers: int) -> str | None:
    """Note that the workers start from a checkpoint, or from the beginning.

    Returns:
        What to say where as many workers have started there too often; else None.
    """
    place = "the beginning" if checkpoint is None else PurePosixPath(checkpoint).name
    here = {"place": place, "workers": num_workers}
    last = read_record(run_dir / STARTS_RECORD) or {}
    starts = last["starts"] + 1 if {**last, **here} == last else 1
    write_record(run_dir / STARTS_RECORD, {**here, "starts": starts})
    if starts <= MAX_STARTS:
        return None
    fault = (read_record(run_dir / FAULT_RECORD) or {}).get("fault", "see Ray's logs")
    return (
        f"the workers died {MAX_STARTS} times after {place}, before another checkpoint; the last: {fault}; "
        "the same command goes on from there"
    )


def note_fault(run_dir: StoragePath, fault: str) -> None:
    """Keep what ended a worker, for the message should it happen again and again."""
    write_record(run_dir / FAULT_RECORD, {"fault": fault})
