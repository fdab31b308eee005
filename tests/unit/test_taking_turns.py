"""Several jobs on one cluster, in a small model of actors and tasks: each comes to its end, whatever the order.

What a job takes of the free nodes is decided by the functions that decide it on a real cluster; the model adds what Ray
does: placement groups come whole or not at all, tasks and processes go to any node where they fit, at random.
"""

import random
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from sttn_ray.placement import Need, Node, best_number, carried_workers, smallest_part

CLUSTERS = [
    [Node(3), Node(3)],
    [Node(2)],
    [Node(4)],
    [Node(2), Node(2), Node(2)],
    [Node(8, 1), Node(4)],
    [Node(16, 2), Node(16, 2), Node(6)],
]


class Cluster:
    """CPUs and GPUs of nodes that are free, from which everything is taken in one step or not at all."""

    def __init__(self, nodes: list[Node], rng: random.Random) -> None:
        self.free, self.rng = list(nodes), rng

    def place(self, bundles: list[Node]) -> list[int] | None:
        """Take bundles on any nodes where all of them fit; returns the nodes' numbers."""
        before, places = list(self.free), []
        for bundle in sorted(bundles, key=lambda b: (-b.gpus, -b.cpus)):
            fits = [n for n, node in enumerate(self.free) if node.cpus >= bundle.cpus and node.gpus >= bundle.gpus]
            if not fits:
                self.free = before
                return None
            place = min(fits, key=lambda n: self.free[n].cpus) if len(bundles) > 1 else self.rng.choice(fits)
            self.free[place] = Node(self.free[place].cpus - bundle.cpus, self.free[place].gpus - bundle.gpus)
            places.append(place)
        return places

    def give_back(self, place: int, bundle: Node) -> None:
        self.free[place] = Node(self.free[place].cpus + bundle.cpus, self.free[place].gpus + bundle.gpus)


# A job is a generator: each step does one thing, and yields whether it could. It ends when its work is done.
Job = Iterator[bool]


def bulk_job(cluster: Cluster, need: Need, segments: int, *, reserves: bool = True) -> Job:
    """`pipelines.inpaint`: processes that stay, and a task of video for each segment, before and after."""
    nodes: list[Node] = []
    if reserves:
        while True:
            size = best_number(cluster.free, need)
            part = smallest_part(cluster.free, need, size) if size else []
            held = sorted(part, key=lambda b: (-b.gpus, -b.cpus))
            places = cluster.place(part) if part else None
            if places is not None:
                break
            yield False
        merged: dict[int, Node] = {}
        for place, bundle in zip(places, held, strict=True):
            before = merged.get(place, Node(0))
            merged[place] = Node(before.cpus + bundle.cpus, before.gpus + bundle.gpus)
        inside, nodes = Cluster(list(merged.values()), cluster.rng), list(merged.values())
        yield True
    else:  # as many as the whole cluster carries, wherever there is a place
        size, inside = best_number(WHOLE[id(cluster)], need), cluster
    process = Node(need.actor_cpus, 1 if need.gpus_per_actor is not None else 0)
    task = Node(need.video_cpus)
    planned = running = completed = encoded = 0
    at: list[int] = []
    tasks: list[int] = []
    while encoded < segments:
        moved = False
        for step in cluster.rng.sample(range(5), 5):
            if step == 0 and len(at) < size and (place := inside.place([process])) is not None:
                at, moved = [*at, *place], True
            elif step == 1 and planned < segments and (place := inside.place([Node(1)])) is not None:
                inside.give_back(place[0], Node(1))
                planned, moved = planned + 1, True
            elif step == 2 and running < min(len(at), planned - completed):
                running, moved = running + 1, True
            elif step == 3 and running:
                running, completed, moved = running - 1, completed + 1, True
            elif step == 4 and completed > encoded + len(tasks) and (place := inside.place([task])) is not None:
                tasks, moved = [*tasks, *place], True
            elif step == 4 and tasks:
                inside.give_back(tasks.pop(), task)
                encoded, moved = encoded + 1, True
        yield moved
    for place in at:
        inside.give_back(place, process)
    if reserves:
        assert sorted(inside.free) == sorted(nodes)
        for place, bundle in zip(places, held, strict=True):
            cluster.give_back(place, bundle)
    yield True


def training(cluster: Cluster, num_workers: int, worker_cpus: int, steps: int, *, slices: int = 1) -> Job:
    """`sttn_ray.train`: all workers or none; a trial of a sweep is several of them, one after another."""
    worker = Node(worker_cpus)
    for _ in range(slices):
        while (places := cluster.place([worker] * num_workers)) is None:
            yield False
        for _ in range(steps):
            yield True
        for place in places:
            cluster.give_back(place, worker)
        yield True


def shards(cluster: Cluster, tasks: int) -> Job:
    """`pipelines.build_shards`: tasks alone."""
    for _ in range(tasks):
        while (place := cluster.place([Node(1)])) is None:
            yield False
        yield True
        cluster.give_back(place[0], Node(1))
    yield True


WHOLE: dict[int, list[Node]] = {}


class Run(NamedTuple):
    jobs: list[Job]
    arrivals: list[int]


def come_to_their_ends(run: Run, rng: random.Random) -> bool:
    """Whether all jobs end; they do not where none of them can do anything any more."""
    living = dict(enumerate(run.jobs))
    for now in range(200_000):
        if not living:
            return True
        present = [n for n in living if run.arrivals[n] <= now]
        moved = not present
        for number in rng.sample(present, len(present)):
            try:
                moved |= next(living[number])
            except StopIteration:
                del living[number]
                moved = True
        if not moved and len(present) == len(living):
            return False
    return False


def make_run(cluster: Cluster, num_jobs: int, rng: random.Random, *, reserves: bool = True) -> Run:
    total = [*cluster.free]
    WHOLE[id(cluster)] = total
    jobs: list[Job] = []
    for number in range(num_jobs):
        kind = "bulk" if number == 0 else rng.choice(("bulk", "bulk", "training", "sweep", "shards"))
        needs = [Need(a, v, g) for a in (1, 2) for v in (1, 2) for g in (None, 1.0)]
        needs = [need for need in needs if best_number(total, need)]
        workers = [(n, cpus) for n in (1, 2, 4) for cpus in (1, 2) if carried_workers(total, cpus, "cpu") >= n]
        if kind == "bulk":
            jobs.append(bulk_job(cluster, rng.choice(needs), rng.randint(1, 30), reserves=reserves))
        elif kind == "shards":
            jobs.append(shards(cluster, rng.randint(1, 40)))
        else:
            jobs.append(training(cluster, *rng.choice(workers), rng.randint(1, 40), slices=1 + 3 * (kind == "sweep")))
    return Run(jobs, [rng.choice((0, rng.randint(0, 60))) for _ in jobs])


@pytest.mark.parametrize("nodes", CLUSTERS)
@pytest.mark.parametrize("num_jobs", [1, 2, 3, 5])
def test_jobs_of_all_kinds_come_to_their_ends(nodes: list[Node], num_jobs: int) -> None:
    for seed in range(60):
        rng = random.Random(f"{nodes} {num_jobs} {seed}")
        cluster = Cluster(nodes, rng)
        assert come_to_their_ends(make_run(cluster, num_jobs, rng), rng), seed
        assert cluster.free == nodes  # all was given back


def test_jobs_that_size_themselves_by_the_whole_cluster_stop_each_other() -> None:
    """The model knows the fault that it is there to exclude: two nodes of 3 CPUs, two jobs of four processes each."""
    ended = []
    for seed in range(20):
        rng = random.Random(seed)
        cluster = Cluster([Node(3), Node(3)], rng)
        WHOLE[id(cluster)] = [*cluster.free]
        jobs = [bulk_job(cluster, Need(1, 1), 24, reserves=False) for _ in range(2)]
        ended.append(come_to_their_ends(Run(jobs, [0, 0]), rng))
    assert not all(ended)
