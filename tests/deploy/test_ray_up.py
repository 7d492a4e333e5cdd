"""deploy/ray-aws.yaml, without AWS: Ray's own schema and checks, and what they leave open."""

from __future__ import annotations

import copy
import re
import shlex
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.deploy.commands import DEPLOY, header_commands, ray_problems, wrapped_train_problems

FILE = DEPLOY / "ray-aws.yaml"
# Ray's schema takes anything in these two.
PROVIDER_KEYS = {"type", "region", "cache_stopped_nodes", "security_group"}
NODE_KEYS = {"InstanceType", "BlockDeviceMappings", "InstanceMarketOptions", "ImageId", "KeyName", "SubnetIds"}
DEVICE_KEYS = {"DeviceName", "Ebs", "VolumeSize", "VolumeType"}
RULE_KEYS = {"FromPort", "ToPort", "IpProtocol", "IpRanges", "CidrIp"}


def ray_up_problems(text: str) -> list[str]:
    try:
        config = yaml.safe_load(text)
        prepared = prepare_config(copy.deepcopy(config))
        validate_config(prepared)
    except Exception as error:  # Ray's checks raise whatever is nearest: ValidationError, AssertionError, ...
        return [f"{type(error).__name__}: {error}"]
    found = [f"provider.{key}" for key in config["provider"] if key not in PROVIDER_KEYS]
    found += [f"key {key} of a rule" for key in _keys(config["provider"].get("security_group", {})) - RULE_KEYS]
    for name, kind in config["available_node_types"].items():
        found += [f"{name}: {key}" for key in kind["node_config"] if key not in NODE_KEYS]
        devices = kind["node_config"].get("BlockDeviceMappings", [])
        found += [f"{name}: key {key} of a device" for key in _keys(devices) - DEVICE_KEYS]
    most = sum(kind.get("max_workers", 0) for kind in config["available_node_types"].values())
    if config["max_workers"] != most:
        found.append(f"max_workers {config['max_workers']} is not the sum of the node types' {most}")
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        found += _start_problems(name, config.get(name, []))
    return found + _security_problems(config) + _header_problems(text)


def _keys(tree: Any) -> set[str]:
    """Every key at any depth, but for those that the schema knows."""
    if isinstance(tree, list):
        return {key for item in tree for key in _keys(item)}
    if isinstance(tree, dict):
        return {*tree, *(key for value in tree.values() for key in _keys(value))} - {"GroupName", "IpPermissions"}
    return set()


def _start_problems(name: str, commands: list[str]) -> list[str]:
    starts = [part.strip() for command in commands for part in command.split(";") if "ray start" in part]
    if len(starts) != 1:
        return [f"{name} starts Ray {len(starts)} times"]
    words = shlex.split(starts[0])
    found = ray_problems(words[words.index("ray") + 1 :])
    found += [f"{name}: no token is asked for"] * (words[0] != "RAY_AUTH_MODE=token")
    is_head = name.startswith("head")
    found += [f"{name}: --head"] * (("--head" in words) != is_head)
    joins = any(word.startswith("--address=$RAY_HEAD_IP:6379") for word in words)
    found += [f"{name}: does not join the head's port"] * (not is_head and not joins)
    if is_head:
        found += [
            f"{name}: lacks {word}" for word in ("--port=6379", "--dashboard-host=127.0.0.1") if word not in words
        ]
        scaled = "--autoscaling-config=~/ray_bootstrap_config.yaml" in words
        found += [f"{name}: no node would ever be started"] * (not scaled)
    return found


def _security_problems(config: dict[str, Any]) -> list[str]:
    found = []
    rules = config["provider"].get("security_group", {}).get("IpPermissions", [])
    found += ["no rule says who may use SSH: Ray would open it to the world"] * (not rules)
    for rule in rules:
        found += ["a port beside SSH is open"] * (rule.get("FromPort") != 22 or rule.get("ToPort") != 22)
        ranges = rule.get("IpRanges", [{}])
        found += ["SSH is open to the world"] * any(each.get("CidrIp", "0.0.0.0/0") == "0.0.0.0/0" for each in ranges)
    token = "/home/agent57/.ray/auth_token"
    found += ["the token is not given to the nodes"] * (config.get("file_mounts", {}).get(token) != "~/.ray/auth_token")
    volumes = [option for option in config["docker"].get("run_options", []) if "--volume" in option]
    found += ["the container does not see the runs"] * (volumes != ["--volume /mnt/runs:/app/runs"])
    mounts = " ".join(config.get("initialization_commands", []))
    return found + ["/mnt/runs is not mounted"] * (not re.search(r"mount -t nfs4 \S+ \S+ \S+ /mnt/runs", mounts))


def _header_problems(text: str) -> list[str]:
    """The commands that the file's own comment tells to type."""
    found: list[str] = []
    commands = header_commands(text, "ray")
    found += ["the launch command is missing"] * (not any(command.startswith("ray exec") for command in commands))
    for command in commands:
        words = shlex.split(command)
        found += ray_problems(words[1:])
        found += [
            f"{word} does not exist" for word in words if word.endswith(".yaml") and word != "deploy/ray-aws.yaml"
        ]
        if words[1] == "exec":
            found += wrapped_train_problems(words[3])
    return found


def test_ray_up_takes_the_file() -> None:
    assert ray_up_problems(FILE.read_text()) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("max_workers: 2\nupscaling", "max_wrokers: 2\nupscaling"),
        ("max_workers: 2\nupscaling", "max_workers: 3\nupscaling"),
        ("idle_timeout_minutes: 10", "idle_timeout_minutes: ten"),
        ("head_node_type: head", "head_node_type: haed"),
        ("type: aws", "type: awss"),
        ("region:", "regoin:"),
        ("CidrIp: 203.0.113.0/24", "CidrIp: 0.0.0.0/0"),
        ("CidrIp: 203", "CidrIP: 203"),
        ("FromPort: 22", "FromPort: 0"),
        ("ssh_user", "ssh_usr"),
        ("head_image", "head_imgae"),
        ("InstanceType: g5", "InstanceTyp: g5"),
        ("VolumeSize: 200", "VolumSize: 200"),
        ("min_workers: 0", "min_worker: 0"),
        ('{"CPU": 16}', '{"CPU": sixteen}'),
        ("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0"),
        ("--dashboard-host", "--dashbord-host"),
        ("--autoscaling-config", "--autoscale-config"),
        ("RAY_AUTH_MODE=token ray start --head", "ray start --head"),
        ("RAY_AUTH_MODE=token ray start --address", "RAY_AUTH_MOD=token ray start --address"),
        ("--address=$RAY_HEAD_IP:6379", "--address=$RAY_HEAD_IP:6397"),
        ("--object-manager-port=8076\n    --auto", "--object-manager-port=port\n    --auto"),
        ("/home/agent57/.ray/auth_token: ~", "/home/agent57/.ray/token: ~"),
        ("/mnt/runs:/app/runs", "/mnt/runs:/app/run"),
        ("mount -t nfs4", "mount -t nfs4 -z"),
        ("ray exec deploy", "ray exce deploy"),
        ("--tmux", "--tmuxx"),
        ("ray up deploy/ray-aws.yaml", "ray up deploy/ray-asw.yaml"),
        ("--cluster.address auto", "--cluster.adress auto"),
        ("worker_start_ray_commands:", "worker_start_ray_command:"),
        ("  - ray stop\n  - ulimit", "  - ray stop\n - ulimit"),
    ],
)
def test_mistakes_are_found(old: str, new: str) -> None:
    text = FILE.read_text()
    assert old in text
    assert ray_up_problems(text.replace(old, new)) != []
