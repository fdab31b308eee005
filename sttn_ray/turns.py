"""Several jobs on one Ray cluster: what of it is free, who holds the rest, and what a job waits for.

A job either holds all that it needs to come to its end, or nothing: bulk jobs and trainings reserve their part of the
cluster at once, in a placement group of Ray's, and tasks hold their CPUs until they end. So jobs take turns, and none
waits for another that waits for it.
"""

import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from pathlib import PurePath
from typing import Any

import ray
from ray._private import state as ray_state  # what is free on each node, and which jobs there are: no public way to ask
from ray.util.placement_group import placement_group_table

from sttn_ray.cluster import living_nodes
from sttn_ray.placement import Node

log = logging.getLogger(__name__)

LOOK_S = 1.0
# Before it is said what a job waits for, and between two times that it is said.
SAID_AFTER_S, SAID_AGAIN_S = 10.0, 600.0
CREATED = "CREATED"
KINDS = ("CPU", "GPU")


def free_nodes(*, avoided: Collection[str] = ()) -> dict[str, Node]:
    """What is free of the nodes that answer, by id."""
    free = ray_state.available_resources_per_node()
    found = {}
    for node in living_nodes(avoided=avoided):
        resources = free.get(node, {})
        found[node] = Node(int(resources.get("CPU", 0)), int(resources.get("GPU", 0)))
    return found


def own_bundles(group: Any) -> list[tuple[str, Mapping[str, float]]]:
    """The node and the resources of each bundle of a placement group that has a place."""
    told = placement_group_table(group)
    return [(node, told["bundles"][index]) for index, node in told.get("bundles_to_node_id", {}).items() if node]


def describe_holders() -> str:
    """How much of the cluster is free, and which other jobs hold how much, as far as Ray tells that."""
    # There are further resources by the name of each placement group.
    total, free = ray.cluster_resources(), ray.available_resources()
    parts = [f"{free.get(name, 0):g} of {total[name]:g} {name}s are free" for name in KINDS if total.get(name)]
    reserved: dict[str, Counter[str]] = defaultdict(Counter)
    for group in placement_group_table().values():
        if group["state"] == CREATED:
            for bundle in group["bundles"].values():
                reserved[_job_of(group["placement_group_id"])].update(bundle)
    own = ray.get_runtime_context().get_job_id()
    others = {
        job["JobID"]: f"job {job['JobID']} ({describe_program(job['Entrypoint'])}process {job['DriverPid']} on "
        f"{job['DriverIPAddress']})"
        for job in ray_state.jobs()
        if not job["IsDead"] and job["JobID"] != own
    }
    parts += [f"{others.get(job, 'this job')} holds {_amounts(held)}" for job, held in reserved.items() if held["CPU"]]
    # What tasks and actors hold Ray tells of all jobs together.
    taken = {name: total.get(name, 0) - free.get(name, 0) for name in KINDS}
    rest = Counter({name: taken[name] - sum(held[name] for held in reserved.values()) for name in KINDS})
    if rest["CPU"] > 0 or rest["GPU"] > 0:
        names = [name for job, name in others.items() if job not in reserved] or list(others.values())
        parts.append(f"tasks hold {_amounts(rest)}: {', '.join(names) or 'of this job'}")
    return "; ".join(parts)


def _amounts(held: Mapping[str, float]) -> str:
    return " and ".join(f"{held[name]:g} {name}{'s' if held[name] != 1 else ''}" for name in KINDS if held[name] > 0)


def _job_of(placement_group_id: str) -> str:
    return placement_group_id[-8:]  # of Ray's ids the last four bytes are those of the job


def describe_program(entrypoint: str) -> str:
    """The program of a command line, whose other words may hold what is not for everyone; none of one without words."""
    words = entrypoint.split()
    if "-m" in words[:-1]:
        return f"{words[words.index('-m') + 1]}, "
    names = [PurePath(word).name for word in words[:2] if "=" not in word]
    return f"{' '.join(names)}, " if names else ""


class Waiting:
    """Says what a job waits for: after some seconds, and again every few minutes."""

    def __init__(self, wanted: str) -> None:
        self._wanted = wanted
        self._begun_s = time.monotonic()
        self._said_s: float | None = None

    def look(self) -> None:
        """To be called as long as it waits."""
        now = time.monotonic()
        if now - self._begun_s < SAID_AFTER_S or (self._said_s is not None and now - self._said_s < SAID_AGAIN_S):
            return
        self._said_s = now
        log.info("waiting for %s: %s", self._wanted, describe_holders())

    def end(self) -> None:
        """To be called once it goes on."""
        if self._said_s is not None:
            log.info("going on after %.0f s", time.monotonic() - self._begun_s)


def await_task(num_cpus: int, num_gpus: float = 0) -> None:
    """Wait until a task of so many CPUs, and such a share of a GPU, has run, and say what it waits for."""
    gpus = f" and {num_gpus:g} GPU" if num_gpus else ""
    waiting = Waiting(f"{num_cpus} CPU{'s'[: num_cpus != 1]}{gpus} for a task")
    task = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus)(_nothing).remote()
    while not ray.wait([task], timeout=LOOK_S)[0]:
        waiting.look()
    ray.get(task)
    waiting.end()


def _nothing() -> None:
    pass


class PendingWatch:
    """While a `with` block runs, says what placement groups of this job wait for, as Ray Train's of its workers.

    Args:
        wanted: what they are for, in words.
    """

    def __init__(self, wanted: str) -> None:
        self._wanted = wanted
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "PendingWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        waiting: Waiting | None = None
        while not self._stop.wait(LOOK_S):
            try:
                if not _is_pending():
                    if waiting is not None:
                        waiting.end()
                    waiting = None
                    continue
                waiting = waiting or Waiting(self._wanted)
                waiting.look()
            except Exception as error:  # noqa: BLE001 -- Ray, asked while a cluster changes or ends
                log.debug("the cluster could not be asked: %s", error)


def _is_pending() -> bool:
    own = ray.get_runtime_context().get_job_id()
    groups: Callable[[], dict[str, Any]] = placement_group_table
    return any(
        group["state"] not in (CREATED, "REMOVED") and _job_of(group["placement_group_id"]) == own
        for group in groups().values()
    )
