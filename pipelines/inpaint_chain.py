"""The chain of operators of `pipelines.inpaint` on Ray Data, and the processes it is given."""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup

from sttn_ray import cluster
from sttn_ray.catalog.items import Item
from sttn_ray.catalog.plan import Settings
from sttn_ray.config import Experiment
from sttn_ray.errors import ConfigError
from sttn_ray.placement import Node

from .inpaint_completer import Completer
from .inpaint_faults import Nodes, are_news, known_health, left_behind, next_nodes
from .inpaint_nodes import NodesChangedError, NodeWatch
from .inpaint_outcomes import collect
from .inpaint_part import Part
from .inpaint_steps import Job, Pool, make_encode_fn, make_plan_fn
from .progress import ProgressLine, prepare_data

# A task costs the driver some 10 ms. Where there are many videos several are planned in one, though their segments then
# come later.
MAX_SINGLE_ITEMS, MAX_ITEMS_A_TASK = 4000, 32
NO_TURN = "inpaint.max_hours: other jobs held the cluster until then"
Row = dict[str, Any]


def work(
    experiment: Experiment,
    items: Sequence[Item],
    job: Job,
    network: ray.ObjectRef,
    pool: Pool,
    part: Part,
    outcomes: dict[int, Row],
    keep: Callable[[], None],
) -> tuple[Iterator[Row], str | None]:
    """Do all that has no outcome; returns the rows that are left, and why they are, or None.

    Args:
        experiment: what is asked for.
        items: of the catalog.
        job: of the first chain of operators.
        network: the bytes of a `Network`.
        pool: that `part` carries.
        part: of the cluster, which is taken; given back by the caller.
        outcomes: is filled; it may hold some from before.
        keep: writes the manifest of what is done so far.

    Where the cluster loses nodes for good, or gets some, or other jobs end, or GPUs fail, the chain of operators is
    built anew for what is left, on the nodes that then get work.
    """
    nodes = Nodes(pool)

    def choose(avoided: Collection[str]) -> Pool:
        room = None if experiment.run.autoscaling else part.nodes(avoided)
        return choose_pool(experiment, job.settings, takes_fewer=True, avoided=avoided, nodes=room)

    def count() -> int:
        if experiment.run.autoscaling:  # Ray Data itself makes more and fewer
            return nodes.pool.size
        try:
            return choose(nodes.avoided).size
        except ConfigError:
            return 0  # no node has room for a process and a task of video

    def falls_sick() -> bool:
        return are_news(known_health(job.progress), nodes)

    fraction = experiment.inpaint.max_error_fraction
    with ProgressLine(job.progress, num_items=len(items), interval_s=experiment.run.log_interval_s) as line:
        job.progress.finish_all.remote({n: outcome["status"] for n, outcome in outcomes.items()})
        while numbered := [(n, item) for n, item in enumerate(items) if n not in outcomes]:
            left = []
            with suppress(NodesChangedError), NodeWatch(nodes.pool.size, count, falls_sick) as watch:
                rows = watch.rows(build(numbered, job, network, nodes, part.group))
                stopped = collect(rows, items, outcomes, fraction, tell=line.tell, keep=keep)
                left = left_behind(known_health(job.progress).faults, job.chain, outcomes)
                if stopped is not None or not left:
                    return rows, stopped
            job = job._replace(chain=job.chain + 1)
            job.progress.begin_again.remote(job.chain)
            following = next_nodes(nodes, known_health(job.progress), left, choose, line.tell)
            if isinstance(following, str):
                return iter(()), following
            taken = part.take(following.pool, following.avoided, until_s=job.deadline_s)
            if taken is None:
                return iter(()), NO_TURN
            nodes = following._replace(pool=taken)
    return iter(()), None


def choose_device(experiment: Experiment) -> str:
    """The kind of device that `run.device` means on this cluster."""
    return cluster.choose_device(experiment.run.device, can_grow=experiment.run.autoscaling)


def choose_pool(
    experiment: Experiment,
    settings: Settings,
    *,
    takes_fewer: bool = False,
    avoided: Collection[str] = (),
    nodes: Sequence[Node] | None = None,
) -> Pool:
    """The processes that run the network on this cluster.

    Args:
        experiment: what is asked for.
        settings: of the job.
        takes_fewer: whether fewer than asked for will do.
        avoided: ids of nodes that get no work.
        nodes: what there is of the cluster; default: all of the nodes that answer.

    Raises:
        ConfigError: the cluster cannot carry them.
    """
    options = experiment.run
    video_cpus = cluster.choose_video_cpus(settings.encoder_threads, options.actor_cpus)
    min_size, size = cluster.choose_num_actors(
        options.num_actors,
        settings.device,
        options.actor_cpus,
        video_cpus,
        gpus_per_actor=options.gpus_per_actor,
        can_grow=options.autoscaling,
        takes_fewer=takes_fewer,
        avoided=avoided,
        nodes=nodes,
    )
    gpus = options.gpus_per_actor if settings.device == "cuda" else None
    return Pool(size, min_size, options.actor_cpus, gpus, video_cpus, wanted=options.num_actors)


def build(
    items: Sequence[tuple[int, Item]],
    job: Job,
    network: ray.ObjectRef,
    nodes: Nodes,
    group: PlacementGroup | None = None,
) -> ray.data.Dataset:
    """The chain of operators for numbered items; its rows are segments and, where a video ends, the video's outcome."""
    prepare_data(nodes.avoided, group)
    pool = nodes.pool
    numbered = [(n, item.as_dict()) for n, item in items]
    at_once = min(MAX_ITEMS_A_TASK, 1 + len(items) // MAX_SINGLE_ITEMS)
    rows = [{"items": json.dumps(numbered[n : n + at_once])} for n in range(0, len(items), at_once)]
    return (
        ray.data.from_items(rows, override_num_blocks=len(rows))
        # 1. Plan videos (1:N): index, masks, segments still to do. One CPU: one demuxer.
        .flat_map(make_plan_fn(job), num_cpus=1)
        # 2. One row a block, so that the segments of one film spread over all processes.
        .repartition(target_num_rows_per_block=1)
        # 3. Complete each segment (1:1). A pool: each process holds the network, and loads it once.
        .map(
            Completer,  # type: ignore[arg-type]  # Ray's types do not know classes here
            fn_constructor_kwargs={"network": network, "job": job, "threads": pool.cpus},
            compute=pool.strategy,
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
        )
        # 4. Encode each segment, and publish the video after its last one (1:1). One core: decoding, blending and
        #    encoding share it.
        .map(make_encode_fn(job), num_cpus=pool.video_cpus)
    )
