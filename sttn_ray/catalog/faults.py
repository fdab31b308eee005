"""Processes that ended because their GPU failed: whether the node is to blame, or the video.

After such an error a process cannot use its GPU any more, and would fail all that it is given, in milliseconds each. So
it ends, and Ray starts another one. What it was busy with is left to the job's next chain of operators, and done
elsewhere where another node can: so three faults of a node are mostly those of three segments, and a video that makes
GPUs fail costs each node one process.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

from sttn_ray.errors import DeviceError

MAX_FAULTS = 3  # of a node, after which it gets no more work
MAX_NODES = 2  # that are not sick, and on each of which a segment had a fault: then it is the segment
# Sick nodes, where no other one has completed a frame, that are enough: it is not the nodes. A cluster that grows would
# start one after another.
MAX_SICK_NODES = 3
NO_ITEM = -1

Decision = Literal["go", "leave", "wait"]


class Fault(NamedTuple):
    """A process that ended because its GPU failed.

    Attributes:
        node: Ray's id of it.
        address: of the node.
        gpus: the numbers of those that the process had, as Ray counts them on the node; may be empty.
        item: number of the video, or `NO_ITEM` while the process started.
        segment: of the video.
        name: what it was busy with, for people.
        reason: the error's first line.
        chain: the job's chain of operators.
    """

    node: str
    address: str
    gpus: str
    item: int
    segment: int
    name: str
    reason: str
    chain: int


def sick_nodes(faults: Sequence[Fault]) -> set[str]:
    """The nodes that get no more work."""
    return {node for node, count in Counter(fault.node for fault in faults).items() if count >= MAX_FAULTS}


def decide(faults: Sequence[Fault], item: int, segment: int, node: str, chain: int) -> Decision:
    """What a process is to do with a segment: "go", "leave" it to the next chain, or "wait" for that chain to begin.

    Raises:
        DeviceError: it is the segment that makes GPUs fail.
    """
    sick = sick_nodes(faults)
    if node in sick:
        return "wait"
    own = [fault for fault in faults if (fault.item, fault.segment) == (item, segment) and item != NO_ITEM]
    failed = {fault.node: fault for fault in own if fault.node not in sick}
    if len(failed) >= MAX_NODES:
        places = ", ".join(fault.address for fault in failed.values())
        raise DeviceError(
            f"segment {segment} ended the network's process on {len(failed)} nodes that do other work ({places}), with "
            f"an error of the GPU, the last time: {own[-1].reason}; so it is this video, or this program, and not a "
            "GPU; the same command tries it again"
        )
    return "leave" if any((fault.node, fault.chain) == (node, chain) for fault in own) else "go"


def is_common(faults: Sequence[Fault], working: Collection[str]) -> bool:
    """Whether what fails is common to all nodes; `working` are those that have completed frames."""
    sick = sick_nodes(faults)
    return len(sick) >= MAX_SICK_NODES and sick.issuperset(working)


def describe_sick(faults: Sequence[Fault]) -> dict[str, str]:
    """A line for each sick node, by its id: which it is, what its GPU said, and what to do."""
    return {node: _describe(node, faults) for node in sorted(sick_nodes(faults))}


def describe_faults(faults: Sequence[Fault]) -> list[str]:
    """A line for each node that had faults."""
    counts = Counter(fault.node for fault in faults)
    last = {fault.node: fault for fault in faults}
    return [
        f"GPU of node {last[node].address} ({node}): {count} fault{'s'[: count != 1]}, the last one: "
        f"{last[node].reason}{'; it got no more work' if count >= MAX_FAULTS else '; its segment was done again'}"
        for node, count in counts.items()
    ]


def _describe(node: str, faults: Sequence[Fault]) -> str:
    own = [fault for fault in faults if fault.node == node]
    gpus = ", ".join(sorted({fault.gpus for fault in own if fault.gpus}))
    busy_with = list(dict.fromkeys(fault.name for fault in own))
    return (
        f"node {own[-1].address} ({node}) gets no more work: its GPU{f' {gpus}' if gpus else ''} failed "
        f"{len(own)} times ({'; '.join(busy_with)}), the last time: {own[-1].reason}; look at `nvidia-smi` and at "
        "`dmesg` (NVRM, Xid) there, reset or replace the GPU, or leave it out (CUDA_VISIBLE_DEVICES), and start Ray on "
        "the node anew: then it gets work again"
    )
