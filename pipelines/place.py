"""Where a task of Ray runs."""

import ray

from sttn_ray.attempts import Place


def this_place(chain: int = 0) -> Place:
    """Where the task that asks runs, in one of its job's chains of operators."""
    context = ray.get_runtime_context()
    # What a chain was busy with when it was given up has not died.
    return Place(f"{context.get_job_id()}-{chain}", context.get_node_id(), _living_nodes)


def _living_nodes() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}
