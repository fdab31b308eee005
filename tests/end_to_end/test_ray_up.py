"""`ray up clusters/local.yaml` for real: a head and a worker reached by SSH, a job on them, `ray down`.

The file is the shipped one but for addresses, user and key, and for the installation: the machines have this
environment already.
"""

import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest
import yaml

from sttn_ray.model.generator import Generator, GeneratorConfig
from sttn_ray.model.weights import save_generator
from tests.machines import USER, Machines, machines, why_not
from tests.media import make_video
from tests.processes import ROOT, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not())]
BIN = Path(sys.executable).parent
SEEN_FROM_HERE = 8265


class Launched(NamedTuple):
    """A cluster that `ray up` made."""

    machines: Machines
    config: Path

    def ray(self, *words: str, with_token: bool = True, seconds: float = 300) -> subprocess.CompletedProcess[str]:
        token = ["RAY_AUTH_MODE=token"] if with_token else ["RAY_AUTH_MODE=disabled"]
        command = ["env", *token, str(BIN / "ray"), *words]
        return self.machines.run(*command, capture_output=True, timeout=seconds)

    def submit(self, *words: str, with_token: bool = True) -> subprocess.CompletedProcess[str]:
        address = ["--address", f"http://127.0.0.1:{SEEN_FROM_HERE}"]
        command = ["job", "submit", *address, "--working-dir", ".", "--", "python", *words]
        return self.ray(*command, with_token=with_token)


def write_config(found: Machines, path: Path) -> None:
    config = yaml.safe_load((ROOT / "clusters/local.yaml").read_text())
    head, *workers = found.addresses
    config["provider"] |= {"head_ip": head, "worker_ips": workers}
    config["min_workers"] = config["max_workers"] = len(workers)
    config["auth"] = {"ssh_user": USER, "ssh_private_key": str(found.key)}
    (number,) = [n for n, command in enumerate(config["setup_commands"]) if "install.sh" in command]
    config["setup_commands"][number] = f"ln -sfn {sys.prefix} ~/sttn-ray/venv"
    path.write_text(yaml.safe_dump(config))


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    folder = tmp_path_factory.mktemp("machines")
    with machines(2, folder) as found:
        write_config(found, folder / "local.yaml")
        token = found.home / ".ray/auth_token"
        token.parent.mkdir()
        token.write_text(secrets.token_hex(32))
        cluster = Launched(found, folder / "local.yaml")
        up = cluster.ray("up", "-y", "--no-config-cache", str(cluster.config))
        assert up.returncode == 0, up.stdout[-4000:] + up.stderr[-2000:]
        # As the README has it: the dashboard comes through SSH.
        words = found.words(str(BIN / "ray"), "dashboard", str(cluster.config))
        with open(folder / "dashboard.log", "wb") as log:
            tunnel = subprocess.Popen(words, cwd=ROOT, env=found.environment(), stdout=log, stderr=log)
        try:
            wait_until(lambda: "alive: 2" in nodes(cluster), "the worker")
            yield cluster
        finally:
            tunnel.kill()
            tunnel.wait()


def nodes(cluster: Launched) -> str:
    script = (
        "import ray; ray.init(logging_level='ERROR'); n = [x['Alive'] for x in ray.nodes()]; print('alive:', sum(n))"
    )
    return cluster.submit("-c", script).stdout


def test_every_node_has_the_token_and_who_has_none_is_refused(launched: Launched) -> None:
    for number in range(2):
        token = Path(f"/proc/{launched.machines.pids[number]}/root/home/{USER}/.ray/auth_token")
        assert token.read_text() == (launched.machines.home / ".ray/auth_token").read_text()
        assert token.stat().st_mode & 0o777 == 0o600
    refused = launched.submit("-c", "print(1)", with_token=False)
    assert refused.returncode != 0


def test_a_job_runs_on_both_machines(launched: Launched) -> None:
    shared = launched.machines.shared
    for name in ("a", "b", "c", "d"):
        make_video(shared / f"{name}.mp4", num_frames=24, width=240, height=144, seed=ord(name))
    rows = "".join(f'/mnt/{name}.mp4,"16,12,30,20"\n' for name in "abcd")
    (shared / "catalog.csv").write_text(f"video,boxes\n{rows}")
    save_generator(
        shared / "tiny.pt", Generator(GeneratorConfig(channels=16, num_blocks=1, width=96, height=48, mask_keys=True))
    )
    words = ["inpaint.catalog=/mnt/catalog.csv", "inpaint.checkpoint=/mnt/tiny.pt", "inpaint.output=/mnt/out"]
    done = launched.submit("-m", "pipelines.inpaint", *words, "inpaint.segment_frames=12")
    assert done.returncode == 0, done.stdout[-4000:]
    manifest = pq.read_table(shared / "out/manifest.parquet").to_pylist()
    assert [row["status"] for row in manifest] == ["done"] * 4
    # Lines, not a bar that is drawn over itself.
    assert "\r" not in done.stdout
    assert "4 done (96 frames)" in done.stdout


def test_down_ends_ray_on_the_head(launched: Launched) -> None:
    """Last: it takes the cluster away."""
    assert any("raylet" in line for line in launched.machines.processes(0))
    assert any("raylet" in line for line in launched.machines.processes(1))
    down = launched.ray("down", "-y", str(launched.config))
    assert down.returncode == 0, down.stdout[-3000:]

    def has_ray(number: int) -> bool:
        return any("raylet" in line or "gcs_server" in line for line in launched.machines.processes(number))

    wait_until(lambda: not has_ray(0), "the end of Ray on the head")
    # `ray down` speaks to the head only; a worker ends itself when it has not heard of the head for a minute.
    wait_until(lambda: not has_ray(1), "the end of Ray on the worker")
