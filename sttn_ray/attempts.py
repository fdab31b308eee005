"""How often the process of one task died: what takes its process with it each time is not tried for ever."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from sttn_ray.errors import PoisonError, StorageError
from sttn_ray.paths import StoragePath, remove_file
from sttn_ray.storage import read_record, write_record

MAX_DEATHS = 3
SAME_COMMAND = "the same command tries it again"


class Place(NamedTuple):
    """Where a task runs: the driver's job, the node, and a way to ask which nodes are alive."""

    job: str
    node: str
    living_nodes: Callable[[], set[str]]


@contextmanager
def attempt(folder: StoragePath, task: str, place: Place, again: str = SAME_COMMAND) -> Iterator[None]:
    """Note that a task begins, and that it ended, well or with an error.

    A note that was left behind by the same job means that the process died. Where the node died with it, or the driver
    was another one, that says nothing of what the task reads.

    Args:
        folder: where the note lies.
        task: its name there, and for people.
        place: where it runs.
        again: what to do to have it tried again.

    Raises:
        PoisonError: it died `MAX_DEATHS` times.
        StorageError: the note cannot be written.
    """
    path = folder / f"attempts-{task}.json"
    record = read_record(path) or {}
    nodes: list[str] = record["nodes"] if record.get("job") == place.job else []
    if len(nodes) >= MAX_DEATHS:
        living = place.living_nodes()
        nodes = [node for node in nodes if node in living]
        if len(nodes) >= MAX_DEATHS:
            remove_file(path)
            raise PoisonError(
                f"the process that worked on it ({task}) died {len(nodes)} times on nodes that live, as when it runs "
                f"out of memory or a decoder crashes; it is not tried again in this run; {again}"
            )
    write_record(path, {"job": place.job, "nodes": [*nodes, place.node]})
    try:
        yield
    finally:
        with suppress(StorageError):  # it counts for this job alone
            remove_file(path)
