"""The files of clusters/: Ray's and Kubernetes' schemas, the project's versions, and what must never stand in them.

Launching machines from them is tested in tests/end_to_end.
"""

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray._private.runtime_env.packaging import _dir_travel
from ray.autoscaler._private.command_runner import SSHOptions
from ray.autoscaler._private.local.config import bootstrap_local
from ray.autoscaler._private.util import prepare_config, validate_config

from sttn_ray.corpus import VIDEO_SUFFIXES
from sttn_ray.images import IMAGE_SUFFIXES

ROOT = Path(__file__).parents[2]
CLUSTERS = ROOT / "clusters"
FILES = sorted(path for path in CLUSTERS.iterdir() if path.is_file())
LAUNCHED = ("aws", "local")


def read(name: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((CLUSTERS / f"{name}.yaml").read_text())
    return config


def pinned(package: str) -> str:
    found = re.search(rf"^{package}==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found
    return found[1]


@pytest.mark.parametrize("name", LAUNCHED)
def test_rays_schema_takes_them(name: str) -> None:
    validate_config(prepare_config(read(name)))


@pytest.mark.parametrize("name", LAUNCHED)
def test_rays_schema_would_say_what_is_wrong(name: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config(read(name) | {"idle_timeout_minuts": 5}))


def test_all_machines_of_ones_own_are_workers() -> None:
    config = bootstrap_local(prepare_config(read("local")))
    node_type = config["available_node_types"][config["head_node_type"]]
    workers = len(config["provider"]["worker_ips"])
    assert node_type["min_workers"] == node_type["max_workers"] == workers == config["max_workers"]


def test_on_aws_workers_start_from_zero_on_spot_and_the_head_does_not() -> None:
    types = read("aws")["available_node_types"]
    head = types.pop(read("aws")["head_node_type"])
    assert "InstanceMarketOptions" not in head["node_config"]
    assert head["resources"]["CPU"] == 0
    assert [name for name, node_type in types.items() if node_type["resources"].get("GPU")] == ["gpu"]
    for node_type in types.values():
        assert node_type["min_workers"] == 0
        assert node_type["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"


@pytest.mark.parametrize("name", LAUNCHED)
def test_the_token_reaches_every_node_and_is_asked_for(name: str) -> None:
    config = read(name)
    token = "~/.ray/auth_token"
    assert config["file_mounts"][token] == token
    environment = (CLUSTERS / "node_env.sh").read_text()
    assert "RAY_AUTH_MODE=token" in environment
    assert 'RAY_AUTH_TOKEN_PATH="$HOME/.ray/auth_token"' in environment
    for command in config["head_start_ray_commands"] + config["worker_start_ray_commands"]:
        assert command.startswith(". ~/sttn-ray/clusters/node_env.sh; ")


@pytest.mark.parametrize("name", LAUNCHED)
def test_the_dashboard_listens_on_loopback(name: str) -> None:
    (start,) = [command for command in read(name)["head_start_ray_commands"] if "ray start" in command]
    assert "--dashboard-host=127.0.0.1" in start


@pytest.mark.parametrize("name", LAUNCHED)
def test_files_that_nodes_get_exist(name: str) -> None:
    for here in read(name)["file_mounts"].values():
        assert here.startswith("~") or (ROOT / here).is_file()


def test_kubernetes_takes_the_ray_cluster_and_the_ray_job() -> None:
    schema = json.loads((Path(__file__).parent / "kuberay_1_6.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    cluster, job = yaml.safe_load_all((CLUSTERS / "kuberay.yaml").read_text())
    for document in (cluster, job):
        errors = [error for error in validator.iter_errors(document) for error in error.context or [error]]
        assert not errors, "\n".join(f"{error.json_path}: {error.message}" for error in errors)
    wrong = json.loads(json.dumps(cluster))
    wrong["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] = "9 GiB"
    assert not validator.is_valid(wrong)
    # Written twice, since documents share nothing.
    assert job["spec"]["rayClusterSpec"] == cluster["spec"]


def test_on_kubernetes_workers_start_from_zero_and_nobody_is_root() -> None:
    cluster, _ = yaml.safe_load_all((CLUSTERS / "kuberay.yaml").read_text())
    spec = cluster["spec"]
    assert spec["authOptions"]["mode"] == "token"
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in spec["workerGroupSpecs"]:
        assert group["replicas"] == group["minReplicas"] == 0
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert group["template"]["spec"]["securityContext"]["runAsNonRoot"] is True


def test_versions_are_the_projects() -> None:
    cluster, _ = yaml.safe_load_all((CLUSTERS / "kuberay.yaml").read_text())
    assert cluster["spec"]["rayVersion"] == pinned("ray")
    install = (CLUSTERS / "install.sh").read_text()
    # No version of its own: the locks and constraints.txt say all.
    assert "--require-hashes" in install
    assert not re.search(r"==\d", install)
    assert "ARG PYTHON=3.11\n" in (CLUSTERS / "Dockerfile").read_text()


def locked(name: str) -> dict[str, tuple[str, list[str]]]:
    """Version and hashes of the packages of a lock file."""
    found = {}
    for block in re.split(r"\n(?=[a-z0-9])", (CLUSTERS / name).read_text()):
        if match := re.match(r"([a-z0-9._-]+)==([^ ;]+)", block):
            found[match[1]] = (match[2], re.findall(r"--hash=sha256:([0-9a-f]{64})", block))
    return found


def test_packages_are_pinned_by_hash_in_the_projects_versions() -> None:
    packages = locked("lock.txt") | locked("lock-cuda.txt")
    assert all(hashes for _, hashes in packages.values())
    assert not locked("lock.txt").keys() & locked("lock-cuda.txt").keys()
    assert "torch" in locked("lock-cuda.txt")
    pins = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    for name, version in pins:
        if (key := re.sub(r"[._]", "-", name.lower())) in packages:
            assert packages[key][0] == version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = {re.match(r"[A-Za-z0-9-]+", need)[0].lower() for need in project["dependencies"]}  # type: ignore[index]
    assert needs <= packages.keys()


def test_disks_are_encrypted_and_the_group_is_never_rays_own() -> None:
    config = read("aws")
    region = config["provider"]["region"]
    assert "security_group" not in config["provider"]
    for name, node_type in config["available_node_types"].items():
        node = node_type["node_config"]
        assert all(device["Ebs"]["Encrypted"] for device in node["BlockDeviceMappings"])
        assert len(node["SecurityGroupIds"]) == 1
        kind = "head" if name == "head" else "worker"
        assert node["IamInstanceProfile"] == {"Name": f"sttn-ray-{kind}-{region}"}


def test_on_kubernetes_pods_are_confined_and_workers_have_an_account_of_their_own() -> None:
    spec = next(yaml.safe_load_all((CLUSTERS / "kuberay.yaml").read_text()))["spec"]
    *accounts, policy = yaml.safe_load_all((CLUSTERS / "kuberay_access.yaml").read_text())
    names = {account["metadata"]["name"] for account in accounts}
    head, workers = spec["headGroupSpec"], spec["workerGroupSpecs"]
    assert head["template"]["spec"]["serviceAccountName"] == "sttn-ray-head"
    assert {group["template"]["spec"]["serviceAccountName"] for group in workers} == {"sttn-ray-worker"}
    assert names == {"sttn-ray-head", "sttn-ray-worker"}
    selected = policy["spec"]["podSelector"]["matchLabels"]
    confined = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert spec["autoscalerOptions"]["securityContext"] == confined
    for group in (head, *workers):
        pod = group["template"]["spec"]
        assert group["template"]["metadata"]["labels"] == selected
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert [container["securityContext"] for container in pod["containers"]] == [confined]
    assert all(group["template"]["spec"]["automountServiceAccountToken"] is False for group in workers)
    # Nobody else reaches the nodes, but the operator and the job's own pod, and these two ports only.
    among, others = policy["spec"]["ingress"]
    assert among == {"from": [{"podSelector": {"matchLabels": selected}}]}
    assert [port["port"] for port in others["ports"]] == [8265, 6379]
    job = list(yaml.safe_load_all((CLUSTERS / "kuberay.yaml").read_text()))[1]
    labels = others["from"][1]["podSelector"]["matchLabels"]
    assert labels == {"batch.kubernetes.io/job-name": job["metadata"]["name"]}


def test_the_checking_ssh_drops_what_ray_switches_off(tmp_path: Path) -> None:
    stub = tmp_path / "ssh"
    stub.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    stub.chmod(0o755)
    options = SSHOptions("key", control_path=None).to_ssh_options_list(timeout=5)
    assert "StrictHostKeyChecking=no" in options
    command = ["ssh", *options, "ray@192.168.1.10", "echo -o StrictHostKeyChecking=no"]
    path = f"{CLUSTERS / 'checked'}:{tmp_path}:{os.environ['PATH']}"
    said = subprocess.run(command, env={"PATH": path}, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[:2] == ["-o", "StrictHostKeyChecking=yes"]
    assert said[-2:] == ["ray@192.168.1.10", "echo -o StrictHostKeyChecking=no"]
    assert "StrictHostKeyChecking=no" not in said
    assert not any(word.startswith("UserKnownHostsFile") for word in said)
    assert "ConnectTimeout=5s" in said


def test_the_image_runs_as_an_ordinary_user() -> None:
    lines = (CLUSTERS / "Dockerfile").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users == ["1000"]
    copied = [words[1:-1] for words in (line.split() for line in lines) if words[:1] == ["COPY"]]
    locks = ["clusters/lock.txt", "clusters/lock-cuda.txt"]
    assert copied == [["constraints.txt"], ["clusters/install.sh", *locks], ["."]]
    # The whole folder is copied, so that the list of what is in it must name what is wanted.
    ignored = (CLUSTERS / "Dockerfile.dockerignore").read_text().splitlines()
    assert ignored[1] == "*"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_holds_a_key(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|aws_secret|SECRET_ACCESS", text)
    assert not re.search(r"RAY_AUTH_TOKEN=", text)


def test_scripts_are_valid_shell() -> None:
    for name in ("install.sh", "node_env.sh", "write_locks.sh", "checked/ssh"):
        subprocess.run(["bash", "-n", str(CLUSTERS / name)], check=True)


def test_install_says_what_it_cannot_do(tmp_path: Path) -> None:
    command = ["bash", str(CLUSTERS / "install.sh"), str(tmp_path / "venv"), "tpu"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "tpu: is not cpu, cuda or auto" in refused.stderr


def test_an_upload_is_small_and_complete(tmp_path: Path) -> None:
    """`ray job submit --working-dir .` sends what neither .gitignore nor .rayignore names."""
    for name in (".gitignore", ".rayignore"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    sent = [
        "pipelines/inpaint.py",
        "sttn_ray/train.py",
        "configs/davis.yaml",
        "clusters/install.sh",
        "pyproject.toml",
    ]
    sent += ["sttn_ray/training/step.py", "benchmarks/engine.py", "my-experiments/mine.yaml"]
    left = [".git/objects/pack/a.pack", ".venv/bin/python", "runs/mine/metrics.jsonl", "demo/corpus/a.mp4"]
    left += ["out/film.mp4", "films/harbor.mov", "shards/clips/shard-00000.parquet", "sttn.pth", "tests/unit/a.py"]
    left += ["docs/training.md", "masks/00000.png", "sttn_ray/__pycache__/train.pyc", ".mypy_cache/a.json"]
    left += [f"films/a{suffix}" for suffix in VIDEO_SUFFIXES | IMAGE_SUFFIXES]
    for name in sent + left:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    found: list[str] = []
    _dir_travel(
        tmp_path,
        [],
        lambda path: found.append(path.relative_to(tmp_path).as_posix()) if path.is_file() else None,
        include_gitignore=True,
    )
    assert set(found) == {*sent, ".gitignore", ".rayignore"}
