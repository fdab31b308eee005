"""`ray up clusters/aws.yaml` against an EC2 of the tests' own (moto): what it launches is what the file names.

Nobody answers SSH there, so `ray up` is ended when it asks the head that it launched. Workers are launched by the same
node provider with the same resolved settings, as the head's autoscaler does it.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import pytest
import yaml

from tests.processes import ROOT, wait_until
from tests.store import ENVIRONMENT, moto_server

CONFIG = yaml.safe_load((ROOT / "clusters/aws.yaml").read_text())
REGION = CONFIG["provider"]["region"]
ADMIN = "203.0.113.7/32"
NO_GROUP = "sg-00000000000000000"


class Cloud(NamedTuple):
    """The tests' EC2 after `ray up`."""

    ec2: Any
    iam: Any
    vpc: str
    environment: dict[str, str]
    printed: str
    config: Path

    def instances(self, kind: str) -> list[dict[str, Any]]:
        """Machines of a node type."""
        filters = [{"Name": "tag:ray-user-node-type", "Values": [kind]}]
        found = self.ec2.describe_instances(Filters=filters)["Reservations"]
        return [instance for reservation in found for instance in reservation["Instances"]]


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    home = tmp_path_factory.mktemp("home")
    (home / ".ray").mkdir()
    (home / ".ray/auth_token").write_text("made-for-this-test\n")
    # In place of ssh: the addresses are made up, and may be those of others.
    stub = home / "bin/ssh"
    stub.parent.mkdir()
    stub.write_text(f'#!/bin/sh\necho "$@" >> {home}/ssh.log\nexit 255\n')
    stub.chmod(0o755)
    with moto_server() as url:
        environment = {**os.environ, **ENVIRONMENT, "AWS_ENDPOINT_URL": url, "HOME": str(home)}
        environment["PATH"] = f"{stub.parent}:{os.environ['PATH']}"
        environment |= {"RAY_TMPDIR": str(home), "TMPDIR": str(home), "RAY_USAGE_STATS_ENABLED": "0"}
        ec2, iam, stacks = (boto3.client(name, REGION, endpoint_url=url) for name in ("ec2", "iam", "cloudformation"))
        vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
        words = {"Sources": "archive", "Results": "clean/results", "Vpc": vpc, "SshFrom": ADMIN}
        stacks.create_stack(
            StackName="sttn-ray",
            TemplateBody=(ROOT / "clusters/aws_roles.yaml").read_text(),
            Capabilities=["CAPABILITY_NAMED_IAM"],
            Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in words.items()],
        )
        (stack,) = stacks.describe_stacks(StackName="sttn-ray")["Stacks"]
        (output,) = stack["Outputs"]
        assert output["OutputKey"] == "Group"
        config = home / "aws.yaml"
        config.write_text((ROOT / "clusters/aws.yaml").read_text().replace(NO_GROUP, output["OutputValue"]))
        cloud = Cloud(ec2, iam, vpc, environment, "", config)
        log = home / "log"
        with open(log, "wb") as said:
            command = [str(Path(sys.executable).parent / "ray"), "up", "-y", str(config)]
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=said, stderr=said, start_new_session=True
            )
        try:
            asked = home / "ssh.log"
            wait_until(lambda: asked.exists() or process.poll() is not None, "a head that is asked by SSH")
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert asked.exists(), log.read_text()
        yield cloud._replace(printed=log.read_text())


def launch_workers(cloud: Cloud, folder: Path) -> None:
    """Let Ray's node provider launch a node of each worker type from what `ray up` resolved, in another process."""
    script = """
import json, sys, yaml
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler._private.providers import _get_node_provider
from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_NODE_NAME, TAG_RAY_NODE_STATUS, TAG_RAY_USER_NODE_TYPE

config = _bootstrap_config(yaml.safe_load(open(sys.argv[2])))
provider = _get_node_provider(config["provider"], config["cluster_name"])
for name, node_type in config["available_node_types"].items():
    if name != config["head_node_type"]:
        tags = {TAG_RAY_NODE_KIND: "worker", TAG_RAY_USER_NODE_TYPE: name, TAG_RAY_NODE_NAME: f"ray-{name}"}
        provider.create_node(node_type["node_config"], tags | {TAG_RAY_NODE_STATUS: "uninitialized"}, 1)
json.dump(config, open(sys.argv[1], "w"))
"""
    words = [sys.executable, "-c", script, str(folder / "resolved.json"), str(cloud.config)]
    done = subprocess.run(words, cwd=ROOT, env=cloud.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def resolved(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("resolved")
    launch_workers(cloud, folder)
    config: dict[str, Any] = json.loads((folder / "resolved.json").read_text())
    return config


@pytest.mark.parametrize("kind", CONFIG["available_node_types"])
def test_machines_are_those_of_the_file(cloud: Cloud, resolved: dict[str, Any], kind: str) -> None:
    named = CONFIG["available_node_types"][kind]["node_config"]
    instances = cloud.instances(kind)
    assert len(instances) == 1, cloud.printed[-3000:]
    for instance in instances:
        assert instance["InstanceType"] == named["InstanceType"]
        # moto does not look the parameter up; it comes as it was asked for.
        assert instance["ImageId"] == named["ImageId"]
        profile = instance["IamInstanceProfile"]["Arn"]
        assert profile.endswith(f":instance-profile/{named['IamInstanceProfile']['Name']}")
        assert [group["GroupName"] for group in instance["SecurityGroups"]] == ["sttn-ray"]
        is_spot = "InstanceMarketOptions" in named
        assert instance.get("InstanceLifecycle") == ("spot" if is_spot else None)
        (device,) = [device for device in instance["BlockDeviceMappings"] if device["DeviceName"] == "/dev/sda1"]
        (volume,) = cloud.ec2.describe_volumes(VolumeIds=[device["Ebs"]["VolumeId"]])["Volumes"]
        asked = named["BlockDeviceMappings"][0]["Ebs"]
        assert (volume["Size"], volume["VolumeType"]) == (asked["VolumeSize"], asked["VolumeType"])
        assert volume["Encrypted"]
        assert instance["MetadataOptions"]["HttpTokens"] == "required"


def test_resources_are_what_the_machines_have(resolved: dict[str, Any]) -> None:
    """The file states them; `ray up` asks EC2, and adds memory and the kind of GPU."""
    types = resolved["available_node_types"]
    assert types["head"]["resources"]["CPU"] == 0
    assert {"CPU": 8, "GPU": 1, "accelerator_type:L4": 1}.items() <= types["gpu"]["resources"].items()
    assert types["cpu"]["resources"]["CPU"] == 16
    assert "GPU" not in types["cpu"]["resources"]


def test_stated_resources_are_those_of_the_instance_types(cloud: Cloud) -> None:
    for kind, node_type in CONFIG["available_node_types"].items():
        name = node_type["node_config"]["InstanceType"]
        (found,) = cloud.ec2.describe_instance_types(InstanceTypes=[name])["InstanceTypes"]
        if kind != CONFIG["head_node_type"]:
            assert node_type["resources"]["CPU"] == found["VCpuInfo"]["DefaultVCpus"]
        gpus = sum(gpu["Count"] for gpu in found.get("GpuInfo", {}).get("Gpus", []))
        assert node_type["resources"].get("GPU", 0) == gpus


def test_ssh_is_open_to_one_address_and_all_else_to_the_nodes(cloud: Cloud) -> None:
    filters = [{"Name": "group-name", "Values": ["sttn-ray"]}]
    (group,) = cloud.ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
    assert group["VpcId"] == cloud.vpc
    rules = {rule["IpProtocol"]: rule for rule in group["IpPermissions"]}
    assert set(rules) == {"tcp", "-1"}
    assert (rules["tcp"]["FromPort"], rules["tcp"]["ToPort"]) == (22, 22)
    assert [entry["CidrIp"] for entry in rules["tcp"]["IpRanges"]] == [ADMIN]
    assert not rules["-1"]["IpRanges"]
    assert [pair["GroupId"] for pair in rules["-1"]["UserIdGroupPairs"]] == [group["GroupId"]]


def test_workers_may_use_the_bucket_and_nothing_else(cloud: Cloud) -> None:
    actions = {}
    head, worker = f"sttn-ray-head-{REGION}", f"sttn-ray-worker-{REGION}"
    # moto makes the policy of the stack, and does not attach it.
    policies = cloud.iam.list_policies(Scope="Local")["Policies"]
    assert len(policies) == 1
    assert (ROOT / "clusters/aws_roles.yaml").read_text().count("ManagedPolicyArns: [!Ref StoragePolicy]") == 2
    for name in (head, worker):
        profile = cloud.iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
        assert [role["RoleName"] for role in profile["Roles"]] == [name]
        inline = cloud.iam.list_role_policies(RoleName=name)["PolicyNames"]
        documents = [_attached(cloud, policy["Arn"]) for policy in policies]
        documents += [
            cloud.iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"] for policy in inline
        ]
        actions[name] = [statement for document in documents for statement in _parsed(document)["Statement"]]
    allowed: dict[str, set[str]] = {}
    for statement in actions[worker]:
        assert statement["Effect"] == "Allow"
        for action in _list(statement["Action"]):
            allowed.setdefault(action, set()).update(_list(statement["Resource"]))
    arn = "arn:aws:s3:::"
    assert all(action.startswith("s3:") for action in allowed)
    assert allowed["s3:GetObject"] == {f"{arn}archive/*", f"{arn}clean/results/*"}
    for action in ("s3:PutObject", "s3:DeleteObject"):  # never a source
        assert allowed[action] == {f"{arn}clean/results/*"}
    assert allowed["s3:ListBucket"] == {f"{arn}archive", f"{arn}clean"}
    of_head = {action for statement in actions[head] for action in _list(statement["Action"])}
    assert {"ec2:RunInstances", "ec2:TerminateInstances", "iam:PassRole", "ssm:GetParameters"} <= of_head
    # What changes anything is bound to this cluster's mark, and launching to the types of the file.
    types = {
        node_type["node_config"]["InstanceType"]
        for kind, node_type in CONFIG["available_node_types"].items()
        if kind != CONFIG["head_node_type"]
    }
    for statement in actions[head]:
        changing = [
            action
            for action in _list(statement["Action"])
            if action.startswith("ec2:") and action != "ec2:Describe*" and "NotResource" not in statement
        ]
        if changing == ["ec2:RunInstances"]:
            equal = statement["Condition"]["StringEquals"]
            assert set(equal["ec2:InstanceType"]) == types
            assert equal["aws:RequestTag/ray-cluster-name"] == CONFIG["cluster_name"]
        elif changing:
            (condition,) = statement["Condition"]["StringEquals"].items()
            assert condition in (
                ("ec2:ResourceTag/ray-cluster-name", CONFIG["cluster_name"]),
                ("ec2:CreateAction", "RunInstances"),
            )
            assert condition[0] == "ec2:ResourceTag/ray-cluster-name" or changing == ["ec2:CreateTags"]
    excepted = [s for s in actions[head] if "NotResource" in s]
    assert [(s["Action"], s["NotResource"]) for s in excepted] == [("ec2:RunInstances", "arn:aws:ec2:*:*:instance/*")]
    for statement in actions[head]:
        of_ec2 = [action for action in _list(statement["Action"]) if action.startswith("ec2:")]
        is_here = f":ec2:{REGION}:" in str(statement.get("Resource"))
        assert not of_ec2 or is_here or statement["Condition"]["StringEquals"]["aws:RequestedRegion"] == REGION
    (passed,) = [s["Resource"] for s in actions[head] if "iam:PassRole" in _list(s["Action"])]
    assert passed.endswith(f":role/{worker}")


def test_a_second_region_gets_roles_and_a_group_of_its_own(cloud: Cloud) -> None:
    url, region = cloud.environment["AWS_ENDPOINT_URL"], "eu-central-1"
    ec2, stacks = (boto3.client(name, region, endpoint_url=url) for name in ("ec2", "cloudformation"))
    words = {"Sources": "a", "Results": "b", "Vpc": ec2.describe_vpcs()["Vpcs"][0]["VpcId"], "SshFrom": ADMIN}
    stacks.create_stack(
        StackName="sttn-ray",
        TemplateBody=(ROOT / "clusters/aws_roles.yaml").read_text(),
        Capabilities=["CAPABILITY_NAMED_IAM"],
        Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in words.items()],
    )
    roles = {role["RoleName"] for role in cloud.iam.list_roles()["Roles"]}
    kinds = ("head", "worker")
    assert {f"sttn-ray-{kind}-{where}" for kind in kinds for where in (REGION, region)} <= roles
    (group,) = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["sttn-ray"]}])["SecurityGroups"]
    assert group["VpcId"] == words["Vpc"]


def _attached(cloud: Cloud, arn: str) -> Any:
    version = cloud.iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
    return cloud.iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"]


def _parsed(document: Any) -> dict[str, Any]:
    """A policy; moto gives some of CloudFormation's as text, which is JSON or how Python prints it."""
    found: dict[str, Any] = yaml.safe_load(document) if isinstance(document, str) else document
    return found


def _list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
