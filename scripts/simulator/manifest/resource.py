"""The RayService of this checkout, as it is applied into the simulation."""

from __future__ import annotations

import copy
from pathlib import Path

import yaml

from serve_app.contracts import Json

HAPROXY_MODE = ("RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_THROUGHPUT_OPTIMIZED")


def read_resource(path: Path, namespace: str, *, haproxy: bool) -> Json:
    """The manifest with a namespace; in HAProxy mode where that is asked for."""
    resource: Json = copy.deepcopy(yaml.safe_load(path.read_text()))
    resource["metadata"]["namespace"] = namespace
    if haproxy:
        for container in containers(resource):
            for entry in container["env"]:
                if entry["name"] in HAPROXY_MODE:
                    entry["value"] = "1"
    return resource


def containers(resource: Json) -> list[Json]:
    """The Ray container of every group, the head's first."""
    spec = resource["spec"]["rayClusterConfig"]
    return [group["template"]["spec"]["containers"][0] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]
