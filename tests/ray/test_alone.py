"""A Ray that a program starts for itself is reached by its user alone."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

from tests.processes import ROOT

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
hosts = set()
for found in psutil.net_connections("inet"):
    if found.pid in ours and found.status == psutil.CONN_LISTEN:
        hosts.add(found.laddr.ip.removeprefix("::ffff:"))
print(json.dumps({"session": session, "hosts": sorted(hosts), "processes": len(ours)}))
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
        assert found["processes"] >= 4
        closed = Path(found["session"]).parents[1]
        assert closed.name.startswith(f"sttn-ray-{os.getuid()}")
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / ".ray" / "auth_token").stat().st_mode) == 0o600
        assert len(done.stderr.splitlines()) <= 1, done.stderr  # none of Ray's own
