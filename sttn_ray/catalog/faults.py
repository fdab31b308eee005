"""Processes of the network that ended: whether the node, the video, or what all have in common is to blame.

They ended because their GPU failed, or they were killed as they started.

After such an error a process cannot use its GPU any more, and would fail all that it is given, in milliseconds each. So
it ends, and Ray starts another one. That leaves the video to the job's next chain of operators, on another node where
there is one: so three faults of a node are mostly those of three videos, and a video that makes GPUs fail costs a node
one process.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

from sttn_ray.errors import DeviceError

MAX_FAULTS = 3  # of a node, after which it gets no more work
MAX_NODES = 2  # that are not sick, and on which a video had faults: then it is the video
# So many sick nodes, or such videos, while nothing else works, are no matter of nodes and videos. A cluster that grows
# would start one node after another.
MAX_SICK_NODES, MAX_BAD_ITEMS = 3, 10
NO_ITEM = -1
# The reason of a fault of which nothing else is known.
KILLED = "its process was killed"

Decision = Literal["go", "leave", "wait"]


class Fault(NamedTuple):
    """A process that ended because its GPU failed, or that was killed as it started.

    Attributes:
        node: Ray's id of it.
        address: of the node.
        gpus: the numbers of those that the process had, as Ray counts them on the node; may be empty.
        item: number of the video, or `NO_ITEM` while the process started.
        name: what it was busy with, for people.
        reason: the error's first line.
        chain: the job's chain of operators.
    """

    node: str
    address: str
    gpus: str
    item: int
    name: str
    reason: str
    chain: int


class Health(NamedTuple):
    """A job's faults, in their order, and the nodes on which a process has started or completed frames."""

    faults: list[Fault]
    working: set[str]


class Blamed(NamedTuple):
    """Nodes that get no more work, and numbers of videos that make GPUs fail."""

    nodes: frozenset[str]
    items: frozenset[int]


def blame(faults: Sequence[Fault]) -> Blamed:
    """Who is to blame, as it became known: faults of a video that is to blame do not count against nodes any more."""
    nodes: set[str] = set()
    items: set[int] = set()
    of_node: Counter[str] = Counter()
    of_item: dict[int, Counter[str]] = {}
    counted: set[tuple[str, int, int]] = set()
    for fault in faults:
        # Several processes of a node may be at one video, which is left there only before a segment begins.
        once = (fault.node, fault.item, fault.chain)
        if fault.item in items or (once in counted and fault.item != NO_ITEM):
            continue
        counted.add(once)
        of_node[fault.node] += 1
        own = of_item.setdefault(fault.item, Counter())
        own[fault.node] += 1
        if fault.item != NO_ITEM and len(own.keys() - nodes) >= MAX_NODES:
            items.add(fault.item)
            of_node.subtract(own)
        elif of_node[fault.node] >= MAX_FAULTS:
            nodes.add(fault.node)
    return Blamed(frozenset(nodes), frozenset(items))


def decide(faults: Sequence[Fault], item: int, node: str, chain: int) -> Decision:
    """What a process is to do with a segment: "go", "leave" it to the next chain, or "wait" for that chain to begin.

    Args:
        faults: of the job.
        item: number of the video, or `NO_ITEM` where a process starts.
        node, chain: of the process.

    Raises:
        DeviceError: it is the video that makes GPUs fail.
    """
    blamed = blame(faults)
    if node in blamed.nodes:
        return "wait"
    own = [fault for fault in faults if fault.item == item != NO_ITEM]
    if item in blamed.items:
        places = ", ".join(dict.fromkeys(fault.address for fault in own))
        raise DeviceError(
            f"it ended the network's processes on several nodes ({places}), each time with an error of the GPU, the "
            f"last time at {own[-1].name}: {own[-1].reason}; so it is this video, or this program, and not a GPU; the "
            "same command tries it again"
        )
    return "leave" if any((fault.node, fault.chain) == (node, chain) for fault in own) else "go"


def is_common(health: Health) -> bool:
    """Whether what fails is common to all nodes on which the network's processes have started."""
    blamed = blame(health.faults)
    are_many = len(blamed.nodes) >= MAX_SICK_NODES or len(blamed.items) >= MAX_BAD_ITEMS
    return are_many and blamed.nodes >= health.working


def describe_sick(faults: Sequence[Fault]) -> dict[str, str]:
    """A line for each sick node, by its id: which it is, what its GPU said, and what to do."""
    return {node: _describe(node, faults) for node in sorted(blame(faults).nodes)}


def describe_faults(faults: Sequence[Fault]) -> list[str]:
    """A line for each node that had faults."""
    counts = Counter(fault.node for fault in faults)
    last = {fault.node: fault for fault in faults}
    sick = blame(faults).nodes
    return [
        f"device of node {last[node].address} ({node}): {count} fault{'s'[: count != 1]}, the last one at "
        f"{last[node].name}: {last[node].reason}{'; the node got no more work' if node in sick else ''}"
        for node, count in counts.items()
    ]


def _describe(node: str, faults: Sequence[Fault]) -> str:
    own = [fault for fault in faults if fault.node == node]
    gpus = ", ".join(sorted({fault.gpus for fault in own if fault.gpus}))
    busy_with = "; ".join(dict.fromkeys(fault.name for fault in own))
    if own[-1].reason == KILLED:
        return (
            f"node {own[-1].address} ({node}) gets no more work: {len(own)} processes of the network were killed there "
            "while they loaded it, most likely by the system because memory was short (`dmesg` tells); give the node "
            "more, or use fewer processes (run.num_actors)"
        )
    device = f"its GPU {gpus}" if gpus else "its device"
    # A processor may compute wrong numbers, too; that error says itself what to do.
    advice = "do what that says"
    if gpus or "CUDA" in own[-1].reason:
        advice = (
            "look at `nvidia-smi` and at `dmesg` (NVRM, Xid) there, reset or replace the GPU, or leave it out "
            "(CUDA_VISIBLE_DEVICES)"
        )
    return (
        f"node {own[-1].address} ({node}) gets no more work: {device} failed {len(own)} times (at {busy_with}), the "
        f"last time: {own[-1].reason}; {advice}, and start Ray on the node anew: then it gets work again"
    )
