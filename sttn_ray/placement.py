"""How much of a cluster's nodes a job takes: numbers of processes and CPUs, for any nodes that it is told of."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

# Cores that plan, decode and encode for one GPU: films in which everything moves want eleven beside an H100
# (docs/sizing.md). More would stand idle, which another job may want.
MOST_VIDEO_CPUS_PER_GPU = 12
# One plans or decodes while another encodes.
VIDEO_TASKS = 2


class Node(NamedTuple):
    """What a node has, or has left, or what of it a job takes."""

    cpus: int
    gpus: int = 0


class Need(NamedTuple):
    """What one process of the network needs, and one task of video.

    Attributes:
        actor_cpus: CPUs of a process.
        video_cpus: CPUs of a task that decodes and encodes, at least 1.
        gpus_per_actor: of a process, at most 1; None: it needs none.
    """

    actor_cpus: int
    video_cpus: int
    gpus_per_actor: float | None = None


def carried_actors(nodes: Sequence[Node], need: Need) -> int:
    """How many processes of the network nodes carry so that, wherever Ray puts them, a task of video fits too."""
    most = []
    for cpus, gpus in nodes:
        # No process takes parts of two GPUs.
        at_gpus = math.inf if need.gpus_per_actor is None else gpus * int(1 / need.gpus_per_actor)
        most.append(int(min(cpus // need.actor_cpus, at_gpus)))
    # Processes on a node after which no task fits there.
    blocking = [(cpus - need.video_cpus) // need.actor_cpus + 1 if cpus >= need.video_cpus else 0 for cpus, _ in nodes]
    if any(block > fit for block, fit in zip(blocking, most, strict=True)):
        return sum(most)  # on such a node one always fits
    # With this many all nodes may be blocked, those too small for a task being filled last.
    return max(0, min(sum(most), sum(blocking) - 1))


def best_number(nodes: Sequence[Node], need: Need, wanted: int | None = None) -> int:
    """How many processes do the most work on nodes: one a GPU or a share of it, or what CPUs carry beside video.

    Args:
        nodes: what there is.
        need: of each process, and of a task of video.
        wanted: as many as that instead, or as are carried.

    Returns:
        0 where there is no room for one and a task of video.
    """
    carried = carried_actors(nodes, need)
    if wanted is not None:
        return min(wanted, carried)
    if need.gpus_per_actor is not None:
        return carried
    cpus = sum(node.cpus for node in nodes)
    return min(carried, max(1, (cpus - VIDEO_TASKS * need.video_cpus) // need.actor_cpus))


def smallest_part(nodes: Sequence[Node], need: Need, number: int, *, video_tasks: int = VIDEO_TASKS) -> list[Node]:
    """What of each node a job takes for a number of processes, so that others find the rest free.

    Args:
        nodes: that carry as many.
        need: of each process, and of a task of video.
        number: of processes.
        video_tasks: that run at once beside them, where there is room for as many; on GPUs it may be more.
    """

    def video_cpus(part: Sequence[Node]) -> int:
        gpus = sum(node.gpus for node in part) if need.gpus_per_actor is not None and video_tasks > 1 else 0
        return max(video_tasks * need.video_cpus, MOST_VIDEO_CPUS_PER_GPU * gpus)

    def is_enough(part: Sequence[Node]) -> bool:
        wanted = number * need.actor_cpus + video_cpus(part)
        return carried_actors(part, need) >= number and sum(node.cpus for node in part) >= min(total, wanted)

    total = sum(node.cpus for node in nodes)
    has_gpus = need.gpus_per_actor is not None
    part = [node if has_gpus else Node(node.cpus) for node in nodes]
    # Whole nodes first, and of these the ones that it can use least: another job may want a node's GPUs.
    order = sorted(range(len(nodes)), key=lambda n: (nodes[n].gpus if has_gpus else -nodes[n].gpus, nodes[n].cpus))
    for make_less in (_without_node, _with_fewer_gpus, _with_fewer_cpus):
        for index in order:
            part = make_less(part, index, is_enough)
    return [node for node in part if node.cpus]


def _without_node(part: list[Node], index: int, is_enough: Callable[[Sequence[Node]], bool]) -> list[Node]:
    less = [*part[:index], Node(0), *part[index + 1 :]]
    return less if is_enough(less) else part


def _with_fewer_gpus(part: list[Node], index: int, is_enough: Callable[[Sequence[Node]], bool]) -> list[Node]:
    def take(gpus: int) -> list[Node]:
        return [*part[:index], part[index]._replace(gpus=gpus), *part[index + 1 :]]

    return take(_least(part[index].gpus, lambda gpus: is_enough(take(gpus))))


def _with_fewer_cpus(part: list[Node], index: int, is_enough: Callable[[Sequence[Node]], bool]) -> list[Node]:
    def take(cpus: int) -> list[Node]:
        return [*part[:index], part[index]._replace(cpus=cpus), *part[index + 1 :]]

    return take(_least(part[index].cpus, lambda cpus: is_enough(take(cpus))))


def _least(most: int, is_enough: Callable[[int], bool]) -> int:
    """A number up to `most`, which is enough, below which it is not, found by halving."""
    low, high = -1, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def carried_workers(nodes: Sequence[Node], worker_cpus: int, device: str) -> int:
    """How many workers of a training nodes carry."""
    carried = 0
    for node in nodes:
        on_node = node.cpus // worker_cpus
        carried += min(on_node, node.gpus) if device == "cuda" else on_node
    return min(carried, 1) if device == "mps" else carried
