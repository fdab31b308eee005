"""The part of the cluster that a job of `pipelines.inpaint` reserves: its processes of the network, and CPUs for video.

A process of the network holds its CPUs as long as the job lasts, while tasks of video wait for some. Were processes
placed wherever a CPU is free, those of several jobs would take all of them, and no task would run any more. So a job
takes a placement group, all of it or nothing, in which its processes and its tasks run; what it waits for before, it
waits for with empty hands.
"""

import time
from collections.abc import Collection, Sequence

from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from sttn_ray.placement import Node, best_number, smallest_part
from sttn_ray.turns import LOOK_S, Waiting, free_nodes, own_bundles

from .inpaint_steps import Pool
from .progress import prepare_data, without_nodes

# What has just ended gives its CPUs back one by one.
SETTLED_S = 3.0
CREATED_S = 5.0
QUICK_LOOK_S = 0.1


class Part:
    """What a job holds of the cluster: a placement group, or nothing yet, or nothing at all of a cluster that grows."""

    def __init__(self) -> None:
        self.group: PlacementGroup | None = None

    def take(self, most: Pool, avoided: Collection[str] = (), *, until_s: float | None = None) -> Pool | None:
        """Give back what is held, and take what is free for as many processes; returns the pool that it carries.

        Fewer processes than `most` will do, but for one with a task of video is waited.

        Args:
            most: as many as there are at most.
            avoided: ids of nodes that get no work.
            until_s: by `time.time()`, until when it is waited; then None is returned.
        """
        self.give_back()
        if most.min_size < most.size:  # the cluster grows with the work; Ray Data makes more processes and fewer
            return most
        waiting = Waiting(_describe(most))
        last, since_s = 0, time.monotonic()
        while until_s is None or time.time() < until_s:
            nodes = list(free_nodes(avoided=avoided).values())
            size = min(most.size, best_number(nodes, most.need, most.wanted))
            if size != last:
                last, since_s = size, time.monotonic()
            is_settled = size == most.size or time.monotonic() - since_s >= SETTLED_S
            if size and is_settled and self._reserve(smallest_part(nodes, most.need, size), avoided):
                waiting.end()
                return most._replace(size=size, min_size=size)
            waiting.look()
            time.sleep(QUICK_LOOK_S if size else LOOK_S)
        return None

    def nodes(self, avoided: Collection[str] = ()) -> list[Node]:
        """What is free, and what is held, on the nodes that answer."""
        nodes = free_nodes(avoided=avoided)
        for node, bundle in own_bundles(self.group) if self.group is not None else ():
            if node in nodes:
                cpus, gpus = nodes[node]
                nodes[node] = Node(cpus + int(bundle.get("CPU", 0)), gpus + int(bundle.get("GPU", 0)))
        return list(nodes.values())

    def give_back(self) -> None:
        """Let others have it; what runs in it ends, and what this process does next with Ray Data runs elsewhere."""
        if self.group is not None:
            prepare_data()
            remove_placement_group(self.group)
        self.group = None

    def _reserve(self, part: Sequence[Node], avoided: Collection[str]) -> bool:
        """Take a bundle for each of these; whether that went well, as it does not where another job was faster."""
        bundles = [{"CPU": float(node.cpus), **({"GPU": float(node.gpus)} if node.gpus else {})} for node in part]
        # Not on named nodes: where one is lost, what was reserved there finds another place.
        labels = [selector] * len(bundles) if (selector := without_nodes(avoided)) else None
        group = placement_group(bundles, strategy="SPREAD", bundle_label_selector=labels)
        if group.wait(CREATED_S):
            self.group = group
            return True
        remove_placement_group(group)
        return False


def _describe(most: Pool) -> str:
    gpus = f" and {most.gpus:g} GPU" if most.gpus else ""
    cpus = f"{most.cpus} CPU{'s'[: most.cpus != 1]}"
    return f"{cpus}{gpus} for a process of the network and {most.video_cpus} for a task of video"
