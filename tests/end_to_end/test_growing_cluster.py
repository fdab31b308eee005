"""A cluster that grows from one node to two for a bulk run, and shrinks again.

Ray's fake provider launches nodes as processes of this machine, and the real autoscaler (version 2) decides. All of it
lives in a process namespace of its own, with which it ends.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
from ray._private.services import get_node_ip_address
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

from sttn_ray.model.generator import Generator, GeneratorConfig
from sttn_ray.model.weights import save_generator
from tests.machines import first_inside
from tests.media import make_video
from tests.processes import ROOT, wait_until
from tests.store import free_port

BIN = Path(sys.executable).parent
NAMESPACE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


def why_not() -> str:
    """Why there can be no process namespace; empty where there can."""
    if not shutil.which("unshare"):
        return "needs unshare (util-linux)"
    trial = subprocess.run([*NAMESPACE, "true"], capture_output=True, text=True, check=False)
    return f"no process namespace here: {trial.stderr.strip()}" if trial.returncode else ""


pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not())]

# As in the shipped files the head takes no tasks.
HEAD_CPUS, WORKER_CPUS, MAX_WORKERS = 0, 3, 2
STORE_BYTES = 300 * 2**20
IDLE_S = 45  # a program must have started its processes by then


class Cluster(NamedTuple):
    """A head that launches workers when they are needed, and the process namespace that it lives in."""

    url: str
    environment: dict[str, str]
    pid: int

    def start(self, *words: str, log: Path) -> subprocess.Popen[bytes]:
        """Run Python in the namespace; not as a job, for which a head with a made-up name has no agent."""
        command = ["nsenter", f"--target={self.pid}", "--pid", "--mount", f"--wd={ROOT}", sys.executable]
        with open(log, "wb") as output:
            return subprocess.Popen([*command, *words], cwd=ROOT, env=self.environment, stdout=output, stderr=output)

    def num_nodes(self) -> int:
        with urllib.request.urlopen(f"{self.url}/api/v0/nodes", timeout=30) as answer:
            rows = json.load(answer)["data"]["result"]["result"]
        return sum(row["state"] == "ALIVE" for row in rows)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("growing")
    short = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # the paths of sockets have 107 bytes at most
    port, dashboard = free_port(), free_port()
    (folder / "autoscaling.json").write_text(json.dumps(autoscaling(port)))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"PATH": f"{BIN}:{os.environ['PATH']}", "RAY_TMPDIR": short, "RAY_USAGE_STATS_ENABLED": "0"}
    environment |= {"RAY_AUTH_MODE": "disabled", "RAY_ADDRESS": f"{get_node_ip_address()}:{port}"}
    of_head = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1"}
    of_head |= {"RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID}
    command = [str(BIN / "ray"), "start", "--head", "--block", f"--port={port}", f"--dashboard-port={dashboard}"]
    command.append("--dashboard-agent-listen-port=0")  # by default the same for all Rays of a machine
    command += [f"--num-cpus={HEAD_CPUS}", f"--object-store-memory={STORE_BYTES}"]
    command += [f"--autoscaling-config={folder}/autoscaling.json"]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [*NAMESPACE, *command], env=environment | of_head, stdout=log, stderr=log, start_new_session=True
        )
    found = Cluster(f"http://127.0.0.1:{dashboard}", environment, first_inside(process))

    def answers() -> bool:
        assert process.poll() is None, (folder / "log").read_text()[-3000:]
        try:
            return found.num_nodes() == 1
        except OSError:
            return False

    try:
        wait_until(answers, "the head")
        yield found
    finally:
        process.send_signal(signal.SIGKILL)  # with --kill-child all that is in the namespace
        process.wait()
        shutil.rmtree(short, ignore_errors=True)


def autoscaling(port: int) -> dict[str, Any]:
    """Settings of the autoscaler, as `ray up` leaves them on a head; its GCS listens on a port."""
    empty: dict[str, Any] = {name: {} for name in ("auth", "docker", "file_mounts")}
    lists = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
    lists += ("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude")
    return {
        "cluster_name": "growing",
        "max_workers": MAX_WORKERS,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": IDLE_S / 60,
        "provider": {
            # By its class: the name needs a file that Ray's wheel does not hold.
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": f"{get_node_ip_address()}:{port}",
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": HEAD_CPUS}, "node_config": {}, "max_workers": 0},
            "cpu": {
                "resources": {"CPU": WORKER_CPUS, "object_store_memory": STORE_BYTES},
                "node_config": {},
                "min_workers": 0,
                "max_workers": MAX_WORKERS,
            },
        },
        **empty,
        **{name: [] for name in (*lists, "rsync_filter")},
        "file_mounts_sync_continuously": False,
    }


@pytest.fixture
def request_words(tmp_path: Path) -> list[str]:
    """Settings of a bulk run over a few clips."""
    for number in range(6):
        make_video(tmp_path / f"{number}.mp4", num_frames=120, width=240, height=144, seed=number)
    rows = "".join(f'{tmp_path}/{number}.mp4,"16,12,90,70"\n' for number in range(6))
    (tmp_path / "catalog.csv").write_text(f"video,boxes\n{rows}")
    config = GeneratorConfig(channels=64, num_blocks=4, width=240, height=144, mask_keys=True)
    save_generator(tmp_path / "small.pt", Generator(config))
    words = [f"inpaint.catalog={tmp_path}/catalog.csv", f"inpaint.checkpoint={tmp_path}/small.pt"]
    return [*words, f"inpaint.output={tmp_path}/out", "inpaint.segment_frames=20", "run.log_interval_s=5"]


def watch(cluster: Cluster, folder: Path, *words: str) -> tuple[str, int]:
    """What a program printed, and how many nodes there were at most while it ran."""
    most = 0
    process = cluster.start(*words, log=folder / "log")
    while process.poll() is None:
        most = max(most, cluster.num_nodes())
        time.sleep(1)
    return (folder / "log").read_text(), most


def check_all_done(tmp_path: Path, printed: str) -> None:
    manifest = pq.read_table(tmp_path / "out/manifest.parquet").to_pylist()
    assert [row["status"] for row in manifest] == ["done"] * 6, printed[-3000:]


def test_a_bulk_run_has_workers_started_and_lets_them_go(
    cluster: Cluster, request_words: list[str], tmp_path: Path
) -> None:
    grows = ["run.autoscaling=true", "run.device=cpu", f"run.num_actors={MAX_WORKERS}", "run.actor_cpus=2"]
    printed, most = watch(cluster, tmp_path, "-m", "pipelines.inpaint", *request_words, *grows)
    check_all_done(tmp_path, printed)
    assert f"the cluster carries 0 of {MAX_WORKERS} processes now" in printed
    assert most == 1 + MAX_WORKERS
    wait_until(lambda: cluster.num_nodes() == 1, "the workers' end")


def test_what_cannot_come_is_refused_without_autoscaling(
    cluster: Cluster, request_words: list[str], tmp_path: Path
) -> None:
    printed, most = watch(cluster, tmp_path, "-m", "pipelines.inpaint", *request_words)
    assert "the cluster's largest node has 0 CPUs" in printed
    assert most == 1
