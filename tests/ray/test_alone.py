"""A Ray that a program starts for itself is reached by its user alone."""

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray._private.ray_constants import DEFAULT_DASHBOARD_AGENT_LISTEN_PORT

from tests.processes import ROOT
from tests.store import free_port

# What of Ray's processes listens, and where its session lies.
LOOK = """
import json, os, sys
import ray
import psutil  # Ray brings it
from sttn_ray import cluster
cluster.connect(has_dashboard=sys.argv[1] == "dashboard")
assert ray.get(ray.remote(lambda: 1).remote()) == 1
session = ray._private.worker._global_node.get_session_dir_path()
ours = {os.getpid()}
for process in psutil.process_iter(["pid", "ppid", "cmdline"]):
    if session in " ".join(process.info["cmdline"] or []):
        ours.add(process.info["pid"])
ours |= {process.pid for pid in list(ours) for process in psutil.Process(pid).children(recursive=True)}
hosts, ports = set(), set()
for found in psutil.net_connections("inet"):
    if found.pid in ours and found.status == psutil.CONN_LISTEN:
        hosts.add(found.laddr.ip.removeprefix("::ffff:"))
        ports.add(found.laddr.port)
print(json.dumps({"session": session, "hosts": sorted(hosts), "ports": sorted(ports), "processes": len(ours)}))
"""


def test_it_listens_on_loopback_and_its_folder_and_token_are_closed(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TMPDIR"))}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    for kind in ("none", "dashboard"):
        done = subprocess.run(
            [sys.executable, "-c", LOOK, kind], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["hosts"] == ["127.0.0.1"]
        assert DEFAULT_DASHBOARD_AGENT_LISTEN_PORT not in found["ports"]  # of which there is one for all Rays
        assert found["processes"] >= 4
        closed = Path(found["session"]).parents[1]
        assert closed.name.startswith(f"sttn-ray-{os.getuid()}")
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / ".ray" / "auth_token").stat().st_mode) == 0o600
        assert len(done.stderr.splitlines()) <= 1, done.stderr  # none of Ray's own


# A process of one Ray asks that Ray for its actors, as some of Ray's own processes do; where another runs beside it.
ASK = """
import sys
import ray
from ray.util.state import list_actors
from sttn_ray import cluster
cluster.connect()
print(ray.get(ray.remote(list_actors).remote()), flush=True)
sys.stdin.read()
"""


def test_two_on_one_machine_are_told_apart(short_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_TMPDIR": str(short_path), "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", ASK], cwd=ROOT, env=environment, stdin=pipe, stdout=pipe) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"[]\n"
        done = subprocess.run(
            [sys.executable, "-c", ASK],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        assert (done.stdout, done.returncode) == (b"[]\n", 0), done.stderr.decode()
        first.communicate()


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder in which Ray's sockets have room for their names."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def test_a_cluster_that_ended_without_a_word_is_not_joined(short_path: Path) -> None:
    """What `ray start` wrote down stays there where its processes were killed."""
    (short_path / "ray").mkdir()
    (short_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{free_port()}")
    told = "import logging; logging.basicConfig(level=20); from sttn_ray import cluster; cluster.connect()"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_TMPDIR": str(short_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", told], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "started Ray on this machine" in done.stderr
    assert "Failed to connect" not in done.stderr
