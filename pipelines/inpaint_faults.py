"""GPUs that failed: where the driver of `pipelines.inpaint` goes on, and what it tells of them."""

import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import ray

from sttn_ray.catalog.faults import NO_ITEM, Fault, Health, blame, describe_faults, describe_sick, is_common
from sttn_ray.errors import ConfigError

from .inpaint_steps import Pool

log = logging.getLogger(__name__)

COMMON = (
    "the devices of all nodes on which the network's processes started failed; so it is what they have in common: "
    "their driver, their image, or this program:"
)


class Nodes(NamedTuple):
    """The processes of a chain of operators, and the ids of the nodes on which it does nothing."""

    pool: Pool
    avoided: frozenset[str] = frozenset()


def known_health(progress: ray.actor.ActorHandle) -> Health:
    """What a job knows of its GPUs; nothing where the process that counts is lost."""
    with suppress(ray.exceptions.RayError):
        found: Any = ray.get(progress.health.remote())
        return Health(*found)
    return Health([], set())


def left_behind(faults: Sequence[Fault], chain: int, ended: Collection[int]) -> list[Fault]:
    """The faults of a chain of operators at which videos were left, by the numbers of the videos that have ended."""
    return [fault for fault in faults if fault.chain == chain and fault.item != NO_ITEM and fault.item not in ended]


def are_news(health: Health, nodes: Nodes) -> bool:
    """Whether a chain of operators on these nodes is to be given up."""
    return not blame(health.faults).nodes <= nodes.avoided or is_common(health)


def next_nodes(
    before: Nodes,
    health: Health,
    left: Sequence[Fault],
    choose: Callable[[Collection[str]], Pool],
    tell: Callable[[str], None],
) -> Nodes | str:
    """Where the next chain of operators works, which is told; or why there is none.

    Args:
        before: where the last one worked.
        health: of the job's GPUs.
        left: the faults of the videos that are left, where the last chain came to its end.
        choose: gives the pool where some nodes are avoided, or raises `ConfigError`.
        tell: is given lines.
    """
    sick = describe_sick(health.faults)
    newly_sick = [text for node, text in sick.items() if node not in before.avoided]
    if is_common(health):
        return "\n".join([COMMON, *sick.values()])
    nodes = _choose(health.faults, left, choose)
    if nodes is None and newly_sick:
        return "\n".join(["no node is left that could run the network:", *newly_sick])
    nodes = nodes or before
    for text in newly_sick:
        tell(text)
    if left:
        size = nodes.pool.size
        tell(f"going on with what GPUs failed at, with {size} process{'es'[: 2 * (size != 1)]}")
    else:
        change = "lost nodes" if nodes.pool.size < before.pool.size else "got nodes"
        reason = "a node gets no more work" if newly_sick else f"the cluster has {change}"
        tell(
            f"{reason}: going on with {nodes.pool.size} instead of {before.pool.size} processes; what those were busy "
            "with is begun again"
        )
    return nodes


def _choose(faults: Sequence[Fault], left: Sequence[Fault], choose: Callable[[Collection[str]], Pool]) -> Nodes | None:
    """Without the nodes where videos were left, or where the first of them failed, or at least without those that are
    sick; None where none remains.
    """
    sick = blame(faults).nodes
    all_left = {fault.node for fault in left}
    first = {fault.node for fault in faults if left and fault.item == left[0].item}
    for avoided in (sick | all_left, sick | first, sick):
        try:
            return Nodes(choose(avoided), avoided)
        except ConfigError as error:
            log.debug("without the nodes %s: %s", avoided, error)
    return None


def tell_faults(progress: ray.actor.ActorHandle) -> None:
    """Say at a job's end which nodes had faults."""
    for line in describe_faults(known_health(progress).faults):
        log.warning("%s", line)
