"""A Ray of one machine that nobody but its user reaches: its token, its folder, its ports."""

import logging
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from ray import NodeID
from ray._private import parameter, ray_constants, services, worker  # no public way to say where Ray listens
from ray._raylet import GcsClient  # type: ignore[attr-defined]

from sttn_ray.scratch import closed_folder

log = logging.getLogger(__name__)

_TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
# A socket's path has 107 bytes at most on Linux, 103 on a Mac; of these Ray takes 70 for its session below the folder.
_MAX_FOLDER = 30
# The longest to wait for the node. Ray's own limit comes after it.
_NODE_S = 20.0


@contextmanager
def started_lean(*, has_dashboard: bool) -> Iterator[str]:
    """For the time of a `with` block Ray starts as one program needs it; gives the address to listen at.

    - It takes this machine's loopback address for its own, and its processes listen there, else on all interfaces. So
      it does by itself on Macs, to spare questions of the firewall.
    - The port of its agent is any that is free: by default it is the same for all Rays of a machine, and the second one
      waits six seconds for it.
    - Nothing looks for nodes to start, as none come.
    - Its processes know its address. Some of Ray's own look for one else, and fail where the machine has two.
    - Without a dashboard there is no process of it: by default Ray starts one that does nothing, and waits for it.
    - The node is looked for fifty times a second, where Ray looks once.

    Args:
        has_dashboard: whether it has one.
    """
    names = [
        (ray_constants, "ENABLE_RAY_CLUSTER", False),
        (parameter, "RayParams", partial(parameter.RayParams, dashboard_agent_listen_port=0, no_monitor=True)),
        (services, "start_raylet", partial(_start_raylet, services.start_raylet)),
        (services, "get_node", partial(_find_node, services.get_node)),
    ]
    if not has_dashboard:
        names.append((services, "start_api_server", _start_no_dashboard))
    before = [(module, name, getattr(module, name)) for module, name, _ in names]
    try:
        for module, name, value in names:
            setattr(module, name, value)
        yield "127.0.0.1"
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def is_alone() -> bool:
    """Whether Ray was started by this process, for one node without a dashboard."""
    node = worker._global_node
    return node is not None and node.is_head() and not node.webui_url


def _start_no_dashboard(*_: object, **__: object) -> tuple[None, None]:
    """What Ray takes for its address and its process where one did not start."""
    return None, None


def _start_raylet(
    start: Callable[..., Any], redis_address: str | None, gcs_address: str, *others: Any, **named: Any
) -> Any:
    """Ray's `start`, for a node all of whose processes have RAY_ADDRESS; they inherit it."""
    before = os.environ.get("RAY_ADDRESS")
    os.environ["RAY_ADDRESS"] = gcs_address
    try:
        return start(redis_address, gcs_address, *others, **named)
    finally:
        if before is None:
            del os.environ["RAY_ADDRESS"]
        else:
            os.environ["RAY_ADDRESS"] = before


def _find_node(find: Callable[[str, str], Any], gcs_address: str, node_id: str) -> Any:
    """Ray's `find`, called when there is something to find."""
    client = GcsClient(address=gcs_address)
    until_s = time.monotonic() + _NODE_S
    while NodeID.from_hex(node_id) not in client.get_all_node_info(timeout=_NODE_S) and time.monotonic() < until_s:
        time.sleep(0.02)
    return find(gcs_address, node_id)


def ray_folder() -> str | None:
    """A folder for Ray's files that only this user may enter; None where RAY_TMPDIR is too long a path for one in it.

    Ray opens its own folder to everybody, so that it lies in one that is closed.
    """
    name = f"sttn-ray-{os.getuid()}"
    chosen = os.environ.get("RAY_TMPDIR")
    base = chosen or tempfile.gettempdir()
    if len(base) + len(name) + 1 > _MAX_FOLDER:
        if chosen:
            return None
        base = "/tmp"
    Path(base).mkdir(parents=True, exist_ok=True)
    return str(closed_folder(name, base) / "ray")


def close_token() -> None:
    """Make the token by which Ray knows its user, readable by nobody else; Ray would make it readable by all."""
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token" or any(map(os.environ.get, _TOKEN_VARIABLES)):
        return
    path = Path.home() / ".ray" / "auth_token"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists():
            if path.stat().st_mode & 0o077:
                path.chmod(0o600)
            return
        handle, temporary = tempfile.mkstemp(dir=path.parent)  # readable by its user alone
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
        with suppress(FileExistsError):  # another program was faster; its token is as good
            os.link(temporary, path)
        os.unlink(temporary)
    except OSError as error:
        # No home that can be written: this run has a token of its own, which its processes inherit.
        log.debug("%s: %s", path, error)
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
