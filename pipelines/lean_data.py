"""Ray Data on a Ray that one program has for itself: without the actors that serve a dashboard and several nodes.

Each is a process, that starts before the first of ours and takes a second and more of a core's time. No setting of Ray
Data leaves them out.
"""

from types import SimpleNamespace
from typing import Any

import ray
from ray.data._internal.cluster_autoscaler import placement_group_cluster_autoscaler as autoscaler
from ray.data._internal.execution.operators import actor_pool_map_operator as operator
from ray.data._internal.stats import _StatsManager
from ray.data._internal.utils import cached_ray_internals


def _nothing(*_: object, **__: object) -> None:
    pass


class _Coordinator:
    """Asks nobody for nodes: none come, and the placement group is there already."""

    __init__ = request_resources = cancel_request = _nothing


def _tracker() -> SimpleNamespace:
    """Knows of no actor that has moved to another node; Ray Data then takes each to be where it was."""
    return SimpleNamespace(
        update_actor_location=SimpleNamespace(remote=_nothing), get_actor_locations=SimpleNamespace(remote=_nowhere)
    )


def _nowhere(_: Any) -> ray.ObjectRef:
    return ray.put({})


_OURS: list[tuple[Any, str, Any]] = [
    (_StatsManager, "register_dataset_to_stats_actor", staticmethod(_nothing)),
    (_StatsManager, "update_execution_metrics", staticmethod(_nothing)),
    (_StatsManager, "update_iteration_metrics", staticmethod(_nothing)),
    (autoscaler, "DefaultAutoscalingCoordinator", _Coordinator),
    (operator, "get_or_create_actor_location_tracker", _tracker),
    (cached_ray_internals, "get_or_create_actor_location_tracker", _tracker),
]
_RAYS = [(module, name, vars(module)[name]) for module, name, _ in _OURS]


def leave_out_actors(is_alone: bool) -> None:
    """Choose for the datasets that this process builds from now on.

    Args:
        is_alone: whether Ray is this program's alone, of one node without a dashboard; else Ray Data's actors start.
    """
    for module, name, value in _OURS if is_alone else _RAYS:
        setattr(module, name, value)
