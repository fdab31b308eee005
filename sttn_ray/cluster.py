"""Join a Ray cluster, or start a small local one."""

import json
import logging
import math
import os
import socket
import sys
from collections.abc import Collection, Sequence
from typing import Any

import ray
from ray._private.services import find_bootstrap_address  # what `ray start` wrote; no public way to ask

from sttn_ray import alone, interrupts, quiet
from sttn_ray.errors import ConfigError
from sttn_ray.paths import ENDPOINT_VARIABLE, is_remote
from sttn_ray.placement import Need, Node, best_number, carried_actors, carried_workers

log = logging.getLogger(__name__)

# Set by `ray job submit` for what it runs.
_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
# Ray Data and Train can wait for each other for ever where there are two logical CPUs.
MIN_LOCAL_CPUS = 4
NODE_TIMEOUT_S = 5.0
CONNECT_MS = 50


def connect(*, shows_workers: bool = True, has_dashboard: bool = True) -> None:
    """Join the cluster that RAY_ADDRESS or a running `ray start` names, else start one on this machine.

    A process that is connected already stays so.

    Args:
        shows_workers: what the cluster's processes say is said here too.
        has_dashboard: of a cluster that is started. Tune and Train leak placement groups without one; others start
            faster.
    """
    # Ray's usage statistics are off unless the user asks for them.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if ray.is_initialized():
        return
    interrupts.again()
    quiet.before_start()
    try:
        with interrupts.ended_at_once():  # nothing was begun yet
            _connect(shows_workers=shows_workers, has_dashboard=has_dashboard)
    finally:
        interrupts.again()  # Ray has taken SIGTERM


def _connect(*, shows_workers: bool, has_dashboard: bool) -> None:
    # Not address="auto": it would also join the private cluster of another program on this machine, and die with it.
    address = os.environ.get("RAY_ADDRESS") or _started_cluster()
    if address and _join(address, shows_workers=shows_workers):
        return
    cpus = max(MIN_LOCAL_CPUS, os.cpu_count() or 1)
    alone.close_token()
    with alone.started_lean(has_dashboard=has_dashboard) as host:
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=has_dashboard,
            dashboard_host=host,
            logging_level=logging.WARNING,
            log_to_driver=shows_workers,
            _temp_dir=alone.ray_folder(),
            _system_config={
                # Processes that may start at once. By default as many as cores, however many logical CPUs there are.
                "worker_maximum_startup_concurrency": cpus,
                # A node's own processes, where one calls another that is not there yet: by default each second.
                "raylet_client_connect_timeout_milliseconds": CONNECT_MS,
                "raylet_client_num_connect_attempts": 10_000 // CONNECT_MS,
            },
        )
    log.info("started Ray on this machine with %d logical CPUs; Ray's own log: %s", cpus, quiet.after_start())


def _started_cluster() -> str | None:
    """The address that `ray start` wrote down; None where nobody listens there any more, which Ray finds in minutes."""
    address = find_bootstrap_address(None)
    host, _, port = (address or "").rpartition(":")
    if address is None or (port.isdigit() and not _listens(host.strip("[]"), int(port))):
        return None
    return str(address)


def _join(address: str, *, shows_workers: bool) -> bool:
    host, _, port = address.rpartition(":")
    try:
        if "//" not in host and port.isdigit() and not _listens(host.strip("[]"), int(port)):
            raise ConnectionError("nobody listens there")  # Ray would look for minutes
        ray.init(
            address=address,
            logging_level=logging.WARNING,
            log_to_driver=shows_workers,
            runtime_env={"env_vars": _shared_environment()},
        )
    except ConnectionError as error:
        if os.environ.get("RAY_ADDRESS"):
            raise ConfigError(f"RAY_ADDRESS={address}: no Ray cluster answers there ({error})") from error
        return False  # it has just ended
    log.info("joined the Ray cluster at %s; Ray's own log: %s", address, quiet.after_start())
    return True


def _shared_environment() -> dict[str, str]:
    """What the processes of another machine must know of this one's environment; no credentials."""
    # What a submitted job was given reaches them anyway, and Ray refuses it a second time.
    given = json.loads(os.environ.get(_JOB_VARIABLE) or "{}").get("runtime_env", {}).get("env_vars", {})
    return {name: os.environ[name] for name in (ENDPOINT_VARIABLE,) if name in os.environ and name not in given}


def num_nodes() -> int:
    """Nodes that are alive."""
    return sum(node["Alive"] for node in ray.nodes())


def cpus_per_core() -> int:
    """Logical CPUs that stand for one core: more than one where a small machine was given more than it has.

    Tasks that keep a core busy ask for as many: twice as many of them take 7 % longer for the same work, measured on
    two cores.
    """
    cpus = int(ray.cluster_resources().get("CPU", 0))
    return max(1, cpus // (os.cpu_count() or 1)) if num_nodes() == 1 else 1


def choose_video_cpus(threads: int, actor_cpus: int) -> int:
    """Logical CPUs of a task that decodes and encodes: those of its cores, where a process of the network fits beside.

    Fewer such tasks at once need less memory: one takes half a gigabyte and more.

    Args:
        threads: of the encoder.
        actor_cpus: CPUs of a process that runs the network.
    """
    room = int(ray.cluster_resources().get("CPU", 0)) - actor_cpus
    return max(threads, min(threads * cpus_per_core(), room))


def head_resource() -> str:
    """The resource that the head node has one of, and that nobody asks for.

    Not `node:__internal_head__`, of which Train takes small parts for itself.
    """
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    head = next((found for found in resources if "node:__internal_head__" in found), resources[0])
    return next(name for name in head if name.startswith("node:") and name != "node:__internal_head__")


def require_shared_paths(paths: dict[str, str | None]) -> None:
    """Refuse relative paths on several nodes, where each would take its own folder for them, and in submitted jobs.

    Args:
        paths: by the setting's name.

    Raises:
        ConfigError: which settings hold one.
    """
    nodes = num_nodes()
    if os.environ.get(_JOB_VARIABLE):
        reason = "this job runs in a copy of the working directory, which is deleted"
    elif nodes > 1:
        reason = f"the cluster has {nodes} nodes"
    else:
        return
    faults = [
        f"{name}={path}: is relative, and {reason}; give the absolute path of storage that all nodes see"
        for name, path in paths.items()
        if path and not os.path.isabs(path) and not is_remote(path)
    ]
    if faults:
        raise ConfigError(*faults)


def choose_device(wanted: str, *, can_grow: bool = False) -> str:
    """The kind of device that `run.device` means on this cluster: "cuda", "mps" or "cpu".

    Args:
        wanted: as asked for, or "auto".
        can_grow: whether nodes that the cluster does not have yet will be started.

    Raises:
        ConfigError: the cluster does not have it, and will not.
    """
    if can_grow and wanted == "auto":
        # Ray does not tell a program what its autoscaler may start.
        raise ConfigError(
            "run.autoscaling=true: say run.device=cuda or run.device=cpu; what nodes may come is not known"
        )
    if can_grow and wanted == "cuda":
        return wanted
    num_gpus = ray.cluster_resources().get("GPU", 0)
    if wanted == "cuda" and not num_gpus:
        raise ConfigError(
            "run.device=cuda: the Ray cluster has no GPU; use run.device=auto, or start Ray on a machine with one"
        )
    has_mps = wanted in ("auto", "mps") and _has_mps()
    if wanted == "mps" and not has_mps:
        raise ConfigError("run.device=mps: this machine has no Metal device; use run.device=auto")
    if wanted != "auto":
        return wanted
    return "cuda" if num_gpus else "mps" if has_mps and num_nodes() == 1 else "cpu"


def _has_mps() -> bool:
    if sys.platform != "darwin":
        return False  # and torch, which would know, takes a second to load
    import torch

    return torch.backends.mps.is_available()


def require_workers(num_workers: int, worker_cpus: int, device: str, *, can_grow: bool = False) -> None:
    """Check that the cluster can carry the workers of a training, or say that nodes are waited for.

    Raises:
        ConfigError: it cannot, and will not grow. Ray would wait for ever.
    """
    resources = ray.cluster_resources()
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    carried = carried_workers(_all_nodes(), worker_cpus, device)
    if num_workers > carried and can_grow:
        log.info("waiting for nodes: the cluster carries %d of %d workers now", carried, num_workers)
    elif num_workers > carried:
        raise ConfigError(
            f"train.num_workers={num_workers}: with train.worker_cpus={worker_cpus} the cluster of {cpus} CPUs and "
            f"{gpus} GPUs carries {carried} on {device}; lower one of them"
        )


def carries_workers(num_workers: int, worker_cpus: int, device: str) -> bool:
    """Whether the cluster could carry the workers of a training, were it free."""
    return num_workers <= carried_workers(_all_nodes(), worker_cpus, device)


def choose_num_trials(
    wanted: int | None, num_workers: int, worker_cpus: int, device: str, *, can_grow: bool = False
) -> int:
    """How many trainings go on at a time: as many as have GPUs, or cores, for all of their workers.

    Args:
        wanted: as asked for, or None.
        num_workers: of each.
        worker_cpus: CPUs of each worker.
        device: from `choose_device`.
        can_grow: whether nodes that the cluster does not have yet will be started.

    Raises:
        ConfigError: the cluster cannot carry as many as asked for. Their workers would be awaited in vain.
    """
    if can_grow:
        if wanted is None:
            raise ConfigError(
                "run.autoscaling=true: say tune.max_concurrent, the most trials that nodes are started for"
            )
        return wanted
    carried = carried_workers(_all_nodes(), worker_cpus, device) // num_workers
    if wanted is None:
        # On a small machine there are more logical CPUs than cores; a training keeps those busy that it asks for.
        cores = (os.cpu_count() or 1) if num_nodes() == 1 else math.inf
        return max(1, int(min(carried, cores // (num_workers * worker_cpus))))
    if wanted > carried:
        raise ConfigError(
            f"tune.max_concurrent={wanted}: with train.num_workers={num_workers} and train.worker_cpus={worker_cpus} "
            f"the cluster carries {carried} on {device}; lower one of them"
        )
    return wanted


def _all_nodes() -> list[Node]:
    """The nodes as Ray has them, also those that do not answer."""
    return [_as_node(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def _as_node(resources: dict[str, float]) -> Node:
    return Node(int(resources.get("CPU", 0)), int(resources.get("GPU", 0)))


def choose_num_actors(
    wanted: int | None,
    device: str,
    actor_cpus: int,
    video_cpus: int,
    *,
    gpus_per_actor: float = 1,
    can_grow: bool = False,
    takes_fewer: bool = False,
    avoided: Collection[str] = (),
    nodes: Sequence[Node] | None = None,
) -> tuple[int, int]:
    """How few and how many processes run the network: one a GPU or a share of it, or what CPUs carry beside video.

    The two are one number, but where the cluster grows with its work.

    Args:
        wanted: as asked for, or None.
        device: from `choose_device`.
        actor_cpus: CPUs of each.
        video_cpus: CPUs of one task that decodes and encodes; without room for one nothing would ever end.
        gpus_per_actor: of each, at most 1.
        can_grow: whether nodes that the cluster does not have yet will be started.
        takes_fewer: whether as many as are carried will do instead of those asked for, at least one.
        avoided: ids of nodes that get no work.
        nodes: what there is of the cluster; default: all of the nodes that answer.

    Raises:
        ConfigError: the cluster cannot carry it, and will not grow. Ray would wait for ever.
    """
    need = Need(actor_cpus, video_cpus, gpus_per_actor if device == "cuda" else None)
    if nodes is None:
        nodes = list(living_nodes(avoided=avoided).values())
    if not nodes and not (can_grow and avoided):
        others = " but those that get no work" if avoided else ""
        raise ConfigError(f"no node of the Ray cluster{others} answers; look at `ray status`, and start it anew")
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    largest = max((node.cpus for node in nodes), default=0)
    at_most = 1 if device == "mps" else math.inf
    carried = int(min(carried_actors(nodes, need), at_most))
    if can_grow:
        if wanted is None:
            raise ConfigError("run.autoscaling=true: say run.num_actors, the most processes that nodes are started for")
        if carried < wanted:
            log.info(
                "nodes are started as they are needed: the cluster carries %d of %d processes now", carried, wanted
            )
        return 1, wanted
    if takes_fewer and wanted is not None:
        wanted = max(1, min(wanted, carried))
    faults = []
    if max(actor_cpus, video_cpus) > largest:
        faults.append(
            f"run.actor_cpus={actor_cpus}, encode.threads={video_cpus}: the cluster's largest node has {largest} CPUs"
        )
    elif (wanted or 1) > carried:
        faults.append(
            f"run.num_actors={wanted or 1}: with run.actor_cpus={actor_cpus} and {video_cpus} CPUs for video, "
            f"each on one node, the cluster of {cpus} CPUs and {gpus} GPUs carries {carried} on {device}; lower one of "
            "them"
        )
    if faults:
        raise ConfigError(*faults)
    size = wanted or int(min(best_number(nodes, need), at_most))
    return size, size


def living_nodes(*, avoided: Collection[str] = ()) -> dict[str, Node]:
    """The nodes that answer, by id, without those avoided."""
    return {
        node["NodeID"]: _as_node(node["Resources"])
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] not in avoided and _answers(node)
    }


def _answers(node: dict[str, Any]) -> bool:
    """Whether a node can be reached: Ray notices half a minute later that one has died.

    Processes for its CPUs would take all of the others', and leave none for tasks of video.
    """
    return _listens(node["NodeManagerAddress"], node["NodeManagerPort"])


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), NODE_TIMEOUT_S).close()
    except OSError:
        return False
    return True
