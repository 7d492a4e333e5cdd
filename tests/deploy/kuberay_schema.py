"""KubeRay's own fields, and a validator made from its resource definition where somebody has that file.

The names are those of KubeRay's API reference (ray.io/v1, release 1.6); pod templates inside are Kubernetes' own and
are checked against its schemas.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jsonschema
import yaml

RAY_JOB_SPEC = {
    "activeDeadlineSeconds": int,
    "backoffLimit": int,
    "clusterSelector": dict,
    "deletionStrategy": dict,
    "entrypoint": str,
    "entrypointNumCpus": (int, float),
    "entrypointNumGpus": (int, float),
    "entrypointResources": str,
    "jobId": str,
    "managedBy": str,
    "metadata": dict,
    "preRunningDeadlineSeconds": int,
    "rayClusterSpec": dict,
    "runtimeEnvYAML": str,
    "shutdownAfterJobFinishes": bool,
    "submissionMode": str,
    "submitterConfig": dict,
    "submitterPodTemplate": dict,
    "suspend": bool,
    "ttlSecondsAfterFinished": int,
}
RAY_CLUSTER_SPEC = {
    "authOptions": dict,
    "autoscalerOptions": dict,
    "enableInTreeAutoscaling": bool,
    "gcsFaultToleranceOptions": dict,
    "headGroupSpec": dict,
    "headServiceAnnotations": dict,
    "managedBy": str,
    "rayVersion": str,
    "suspend": bool,
    "upgradeStrategy": dict,
    "workerGroupSpecs": list,
}
AUTH_OPTIONS = {"enableK8sTokenAuth": bool, "mode": str, "secretName": str}
AUTOSCALER_OPTIONS = {
    "env": list,
    "envFrom": list,
    "idleTimeoutSeconds": int,
    "image": str,
    "imagePullPolicy": str,
    "resources": dict,
    "securityContext": dict,
    "upscalingMode": str,
    "version": str,
    "volumeMounts": list,
}
HEAD_GROUP_SPEC = {
    "enableIngress": bool,
    "headService": dict,
    "labels": dict,
    "rayStartParams": dict,
    "resources": dict,
    "serviceType": str,
    "template": dict,
}
WORKER_GROUP_SPEC = {
    "groupName": str,
    "idleTimeoutSeconds": int,
    "labels": dict,
    "maxReplicas": int,
    "minReplicas": int,
    "numOfHosts": int,
    "rayStartParams": dict,
    "replicas": int,
    "resources": dict,
    "scaleStrategy": dict,
    "suspend": bool,
    "template": dict,
}
SUBMISSION_MODES = {"K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"}


def field_problems(where: str, values: dict[str, Any], fields: dict[str, Any]) -> list[str]:
    """Fields of ``values`` that are not in ``fields``, or not of the type given there."""
    found = [f"{where} has no field {name}" for name in values if name not in fields]
    for name, value in values.items():
        if name in fields and not isinstance(value, fields[name]):
            found.append(f"{where}.{name} is of the wrong type")
        if fields.get(name) is int and isinstance(value, bool):
            found.append(f"{where}.{name} should be a number")
    return found


def definition_problems(manifest: dict[str, Any], definition: Path) -> list[str]:
    """What a custom resource definition (KubeRay's ray.io_rayjobs.yaml) has against ``manifest``."""
    versions = yaml.safe_load(definition.read_text())["spec"]["versions"]
    version = manifest["apiVersion"].split("/")[1]
    (schema,) = [each["schema"]["openAPIV3Schema"] for each in versions if each["name"] == version]
    validator = jsonschema.Draft7Validator(closed(schema))
    return [f"{'.'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(manifest)]


def closed(schema: Any) -> Any:
    """A copy of an OpenAPI schema in which unknown fields are errors, as the API server's strict mode has it."""
    schema = copy.deepcopy(schema)
    _close(schema, root=True)
    return schema


def _close(schema: Any, root: bool = False) -> None:
    if isinstance(schema, list):
        for item in schema:
            _close(item)
    if not isinstance(schema, dict):
        return
    if schema.get("x-kubernetes-int-or-string"):
        # A pattern beside it is for the string form.
        schema.pop("type", None)
        schema["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    properties = schema.get("properties")
    if isinstance(properties, dict) and not root:
        schema.setdefault("additionalProperties", bool(schema.get("x-kubernetes-preserve-unknown-fields")))
    if root and isinstance(properties, dict):
        # Defined for every resource, and left open by definitions.
        properties["metadata"] = {"type": "object"}
        schema["additionalProperties"] = False
    for value in properties.values() if isinstance(properties, dict) else ():
        _close(value)
    for name in ("items", "anyOf", "allOf", "oneOf"):
        if name in schema and not schema.get("x-kubernetes-int-or-string"):
            _close(schema[name])
    if isinstance(schema.get("additionalProperties"), dict):
        _close(schema["additionalProperties"])
