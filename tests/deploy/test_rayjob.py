"""deploy/rayjob.yaml, without a cluster: Kubernetes' schemas, KubeRay's fields, and what neither would notice.

With AGENT57_KUBERAY_CRD naming KubeRay's ray.io_rayjobs.yaml (ray-operator/config/crd/bases in its repository), the
job is checked against that definition too.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from packaging.specifiers import SpecifierSet

from tests.deploy import kuberay_schema
from tests.deploy.commands import DEPLOY, ROOT, ray_problems, wrapped_train_problems
from tests.deploy.kuberay_schema import definition_problems, field_problems

FILE = DEPLOY / "rayjob.yaml"
KUBERNETES = "1.30"
QUANTITY = re.compile(r"\d+(\.\d+)?([kMGTP]i?|m)?")
CRD = os.environ.get("AGENT57_KUBERAY_CRD", "")


def rayjob_problems(text: str) -> list[str]:
    try:
        resources = {resource["kind"]: resource for resource in yaml.safe_load_all(text)}
        job = resources["RayJob"]
        spec = job["spec"]
        cluster = spec["rayClusterSpec"]
        groups = [("head", cluster["headGroupSpec"]), *((g["groupName"], g) for g in cluster["workerGroupSpecs"])]
        found = _kuberay_problems(job, spec, cluster)
        for name, group in groups:
            found += _pod_problems(name, group["template"], resources)
        for kind in ("PersistentVolumeClaim", "NetworkPolicy"):
            found += _schema_problems(resources[kind])
        return found + _job_problems(spec, cluster, resources)
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        return [f"{type(error).__name__}: {error}"]


def _kuberay_problems(job: dict[str, Any], spec: dict[str, Any], cluster: dict[str, Any]) -> list[str]:
    found = field_problems("RayJob", job, {"apiVersion": str, "kind": str, "metadata": dict, "spec": dict})
    found += ["apiVersion"] * (job["apiVersion"] != "ray.io/v1")
    head, workers = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    found += field_problems("spec", spec, kuberay_schema.RAY_JOB_SPEC)
    found += field_problems("rayClusterSpec", cluster, kuberay_schema.RAY_CLUSTER_SPEC)
    found += field_problems("authOptions", cluster["authOptions"], kuberay_schema.AUTH_OPTIONS)
    found += field_problems("autoscalerOptions", cluster["autoscalerOptions"], kuberay_schema.AUTOSCALER_OPTIONS)
    found += field_problems("headGroupSpec", head, kuberay_schema.HEAD_GROUP_SPEC)
    for group in workers:
        found += field_problems("workerGroupSpecs", group, kuberay_schema.WORKER_GROUP_SPEC)
        found += ["replicas"] * (not 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"])
    found += ["submissionMode"] * (spec["submissionMode"] not in kuberay_schema.SUBMISSION_MODES)
    for group in (head, *workers):
        parameters = [f"--{name}={value}" for name, value in group["rayStartParams"].items()]
        found += ray_problems(["start", *parameters])
        found += [
            f"{name} is not a string" for name, value in group["rayStartParams"].items() if type(value) is not str
        ]
    return found


def _pod_problems(name: str, template: dict[str, Any], resources: dict[str, Any]) -> list[str]:
    pod = template["spec"]
    metadata = {"name": name, **template["metadata"]}
    found = _schema_problems({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod})
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    (container,) = pod["containers"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    found += [f"{name}: no volume {volume}" for volume in mounts.values() if volume not in volumes]
    shared = volumes.get(mounts.get("/dev/shm", ""), {})
    found += [f"{name}: /dev/shm is not in memory"] * (shared.get("emptyDir", {}).get("medium") != "Memory")
    claim = volumes.get(mounts.get("/app/runs", ""), {}).get("persistentVolumeClaim", {}).get("claimName")
    found += [f"{name}: /app/runs is not the claim"] * (claim != resources["PersistentVolumeClaim"]["metadata"]["name"])
    found += [f"{name}: runs as root"] * (not pod["securityContext"].get("runAsNonRoot"))
    found += [f"{name}: may gain privileges"] * (
        container["securityContext"].get("allowPrivilegeEscalation") is not False
    )
    # Ray believes in its limits: with requests below them, pods would be given what is not there.
    found += [f"{name}: requests and limits differ"] * (
        container["resources"]["requests"] != container["resources"]["limits"]
    )
    return found


def _schema_problems(resource: dict[str, Any]) -> list[str]:
    try:
        kubernetes_validate.validate(resource, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{resource['kind']} {'.'.join(map(str, error.path))}: {error.message}"]
    return []


def _job_problems(spec: dict[str, Any], cluster: dict[str, Any], resources: dict[str, Any]) -> list[str]:
    found = wrapped_train_problems(spec["entrypoint"])
    flags = dict(re.findall(r"--(cluster\.\S+) (\S+)", spec["entrypoint"]))
    cores = sum(g["maxReplicas"] * int(_resources(g)["cpu"]) for g in cluster["workerGroupSpecs"])
    if int(flags.get("cluster.num-workers", 0)) > cores:
        found.append(f"{flags['cluster.num-workers']} workers never fit on {cores} cores")
    found += ["it starts a Ray of its own"] * (flags.get("cluster.address") != "auto")
    found += ["the head has no GPU"] * (_resources(cluster["headGroupSpec"]).get("nvidia.com/gpu") != "1")
    found += ["no token is asked for"] * (cluster["authOptions"].get("mode") != "token")
    found += ["the head's ports leave the cluster"] * (cluster["headGroupSpec"].get("serviceType") != "ClusterIP")
    project = (ROOT / "pyproject.toml").read_text()
    (wanted,) = re.findall(r'"ray\[default\]([^"]+)"', project)
    found += [f"rayVersion is not {wanted}"] * (cluster["rayVersion"] not in SpecifierSet(wanted))
    amounts = [_resources(group) for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    amounts.append(resources["PersistentVolumeClaim"]["spec"]["resources"]["requests"])
    found += [f"{value} is no quantity" for each in amounts for value in each.values() if not QUANTITY.fullmatch(value)]
    claim, policy = resources["PersistentVolumeClaim"]["spec"], resources["NetworkPolicy"]["spec"]
    found += ["not all pods see the runs"] * (claim["accessModes"] != ["ReadWriteMany"])
    label = policy["podSelector"]["matchLabels"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        labels = group["template"]["metadata"]["labels"]
        found += ["the NetworkPolicy misses a pod"] * (not label.items() <= labels.items() or not label)
    allowed = [each["podSelector"]["matchLabels"] for rule in policy["ingress"] for each in rule.get("from", [{}])]
    submitter = {"batch.kubernetes.io/job-name": resources["RayJob"]["metadata"]["name"]}
    found += ["the NetworkPolicy shuts the cluster's own pods out"] * (label not in allowed)
    return found + ["the NetworkPolicy shuts the submitter out"] * (submitter not in allowed)


def _resources(group: dict[str, Any]) -> dict[str, str]:
    return group["template"]["spec"]["containers"][0]["resources"]["limits"]


def test_the_manifest_is_sound() -> None:
    assert rayjob_problems(FILE.read_text()) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("kind: RayJob", "kind: RayJbo"),
        ("entrypoint: >-", "entrypont: >-"),
        ("--cluster.address auto", "--cluster.adress auto"),
        ("--cluster.address auto", ""),
        ("--cluster.num-workers 32", "--cluster.num-workers 33"),
        ("--cluster.num-workers 32", "--cluster.num-workers many"),
        ("--preset paper", "--preset papre"),
        ("train_or_resume.sh", "train-or-resume.sh"),
        ("K8sJobMode", "K8SJobMode"),
        ("backoffLimit: 10", "backOffLimit: 10"),
        ("ttlSecondsAfterFinished: 300", 'ttlSecondsAfterFinished: "300"'),
        ("shutdownAfterJobFinishes: true", "shutdownAfterJobFinishes: 1"),
        ('rayVersion: "2.60.0"', 'rayVersion: "2.06.0"'),
        ("mode: token", "mode: disabled"),
        ("authOptions", "authOption"),
        ("idleTimeoutSeconds", "idleTimeoutSecond"),
        ("serviceType: ClusterIP", "serviceType: LoadBalancer"),
        ("dashboard-host: 0", "dashbord-host: 0"),
        ("groupName", "groupNam"),
        ("replicas: 2", "replicaz: 2"),
        ("maxReplicas: 2", "maxReplicas: 1"),
        ("containers:\n            - name: ray-head", "contaniers:\n            - name: ray-head"),
        ("image: registry.example.com/agent57:cpu", "imgae: registry.example.com/agent57:cpu"),
        ("resources:\n                requests: &head", "resourcez:\n                requests: &head"),
        ('nvidia.com/gpu: "1"', 'nvidia.com/gpus: "1"'),
        ("limits: *actor-resources", "limits: *head-resources"),
        ("runAsNonRoot: true", "runAsNonRoot: false"),
        ("runAsUser: 1000", 'runAsUser: "1000"'),
        ("allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true"),
        ("mountPath: /dev/shm", "mountPath: /dev/shmem"),
        ("medium: Memory", "medium: Memroy"),
        ("claimName: agent57-runs", "claimName: agent57-run"),
        ("[ReadWriteMany]", "[ReadWriteOnce]"),
        ("storageClassName", "storageClasName"),
        ("storage: 200Gi", "storage: 200 Gi"),
        ("policyTypes", "policyType"),
        ("podSelector:\n    matchLabels:\n      run: agent57", "podSelector:\n    matchLabels:\n      run: agent75"),
        ("job-name: agent57\n        - name", "job-name: agent75\n        - name"),
        ("  name: agent57\nspec:\n  entrypoint", "  name: agent\nspec:\n  entrypoint"),
        ('value: "240"', "value: 240"),
        ("&volumes", "&volume"),
    ],
)
def test_mistakes_are_found(old: str, new: str) -> None:
    text = FILE.read_text()
    assert old in text
    assert rayjob_problems(text.replace(old, new)) != []


@pytest.mark.skipif(not CRD, reason="AGENT57_KUBERAY_CRD does not name KubeRay's ray.io_rayjobs.yaml")
def test_kuberays_own_definition_takes_the_job() -> None:
    (job,) = [each for each in yaml.safe_load_all(FILE.read_text()) if each["kind"] == "RayJob"]
    assert definition_problems(job, Path(CRD)) == []
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicaz"] = 2
    assert definition_problems(job, Path(CRD)) != []


def test_a_definition_finds_unknown_fields_at_any_depth(tmp_path: Path) -> None:
    """What the test above relies on, on a small definition."""
    quantity = {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True}
    limits = {"type": "object", "additionalProperties": quantity}
    groups = {
        "type": "array",
        "items": {"type": "object", "properties": {"limits": limits, "size": {"type": "integer"}}},
    }
    spec = {"type": "object", "properties": {"groups": groups}, "required": ["groups"]}
    root = {
        "type": "object",
        "properties": {"apiVersion": {"type": "string"}, "kind": {}, "metadata": {}, "spec": spec},
    }
    versions = [{"name": "v1", "schema": {"openAPIV3Schema": root}}]
    file = tmp_path / "definition.yaml"
    file.write_text(yaml.safe_dump({"spec": {"versions": versions}}))
    good = {"limits": {"cpu": "4", "gpu": 1}, "size": 3}

    def problems(**spec: Any) -> list[str]:
        return definition_problems(
            {"apiVersion": "ray.io/v1", "kind": "K", "metadata": {"name": "n"}, "spec": spec}, file
        )

    assert problems(groups=[good]) == []
    assert problems(groups=[{**good, "siez": 3}]) != []
    assert problems(groups=[{**good, "limits": {"cpu": [4]}}]) != []
    assert problems(groups=[{**good, "size": "3"}]) != []
    assert problems(groups=[good], group=[]) != []
    assert problems() != []
