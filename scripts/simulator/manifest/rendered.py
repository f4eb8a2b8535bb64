"""The pods that KubeRay 1.7 makes of a RayService, as Kubernetes Pod objects: `ray start`, environment, sidecar.

Pure: a resource goes in, plain JSON comes out. What is read here is the operator's own rule (controllers/ray/common/
pod.go), so that a simulated pod starts as a real one would, whatever the manifest says.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

from ray.autoscaler._private.kuberay.utils import parse_quantity

from serve_app.contracts import Json
from simulator.manifest.probes import add_probes

GCS_PORT = 6379
RECONNECT_S = "600"
SERVICE_ENVIRONMENT = {
    "RAY_timeout_ms_task_wait_for_death_info": "0",
    "RAY_gcs_server_request_timeout_seconds": "5",
    "RAY_SERVE_KV_TIMEOUT_S": "5",
}
"""What every pod of a RayService gets, unless its container says otherwise."""
BARE_OPTIONS = ("log-color", "include-dashboard")
"""The only options whose `true` or `false` is written out; others become a flag, or nothing."""
WAIT_FOR_GCS = "until ray health-check --address {address} > /dev/null 2>&1; do sleep 5; done"


@dataclass(frozen=True)
class RayCluster:
    """One cluster of the RayService: the blue or the green one."""

    resource: Json
    name: str
    uid: str

    @property
    def namespace(self) -> str:
        return str(self.resource["metadata"].get("namespace", "default"))

    @property
    def spec(self) -> Json:
        spec: Json = self.resource["spec"]["rayClusterConfig"]
        return spec

    @property
    def head_service(self) -> str:
        return f"{self.name}-head-svc.{self.namespace}.svc.cluster.local"

    def group(self, name: str) -> Json:
        """The worker group of this name."""
        return next(group for group in self.spec["workerGroupSpecs"] if group["groupName"] == name)


def head_pod(cluster: RayCluster, name: str) -> Json:
    """The head, with the autoscaler beside it where the resource asks for one."""
    group = cluster.spec["headGroupSpec"]
    params = {"dashboard-host": "0.0.0.0", **group.get("rayStartParams", {})}  # noqa: S104  in the pod's own network
    environment = {"RAY_ADDRESS": f"127.0.0.1:{GCS_PORT}", "RAY_NODE_TYPE_NAME": "headgroup"}
    entries: list[Json] = []
    if cluster.spec.get("enableInTreeAutoscaling"):
        params["no-monitor"] = "true"
        environment["RAY_enable_autoscaler_v2"] = "1"
    if storage := cluster.spec.get("gcsFaultToleranceOptions"):
        environment |= {
            "RAY_REDIS_ADDRESS": storage["redisAddress"],
            "RAY_external_storage_namespace": storage.get("externalStorageNamespace", cluster.uid),
        }
        if "redisPassword" in storage:
            params["redis-password"] = "$REDIS_PASSWORD"
            entries.append({"name": "REDIS_PASSWORD", **storage["redisPassword"]})
    pod = _pod(cluster, name, group, "headgroup", "head")
    container = pod["spec"]["containers"][0]
    _start_ray(cluster, container, "--head", params, environment, entries)
    add_probes(container, is_head=True)
    if cluster.spec.get("enableInTreeAutoscaling"):
        pod["spec"]["restartPolicy"] = "Never"
        _add_autoscaler(cluster, pod)
    return pod


def worker_pod(cluster: RayCluster, group_name: str, name: str) -> Json:
    """A worker of the group. Its init container waits for the head as the operator has it do."""
    group = cluster.group(group_name)
    address = f"{cluster.head_service}:{GCS_PORT}"
    environment = {
        "RAY_ADDRESS": address,
        "FQ_RAY_IP": cluster.head_service,
        "RAY_IP": cluster.head_service.split(".", 1)[0],
        "RAY_NODE_TYPE_NAME": group_name,
    }
    if cluster.spec.get("gcsFaultToleranceOptions"):
        environment["RAY_gcs_rpc_server_reconnect_timeout_s"] = RECONNECT_S
    pod = _pod(cluster, name, group, group_name, "worker")
    container = pod["spec"]["containers"][0]
    _start_ray(cluster, container, f"--address={address}", dict(group.get("rayStartParams", {})), environment, [])
    add_probes(container, is_head=False)
    pod["spec"]["initContainers"] = [_waiting_for_gcs(container, address), *pod["spec"].get("initContainers", [])]
    if cluster.spec.get("enableInTreeAutoscaling"):
        pod["spec"]["restartPolicy"] = "Never"
    return pod


def _pod(cluster: RayCluster, name: str, group: Json, group_name: str, node_type: str) -> Json:
    template = copy.deepcopy(group["template"])
    excluded = node_type == "head" and cluster.resource["spec"].get("excludeHeadPodFromServeSvc")
    labels = {
        "app.kubernetes.io/name": "kuberay",
        "app.kubernetes.io/created-by": "kuberay-operator",
        **template.get("metadata", {}).get("labels", {}),
        "ray.io/cluster": cluster.name,
        "ray.io/group": group_name,
        "ray.io/identifier": f"{cluster.name}-{node_type}",
        "ray.io/is-ray-node": "yes",
        "ray.io/node-type": node_type,
        "ray.io/serve": "false" if excluded else "true",
    }
    metadata = {**template.get("metadata", {}), "name": name, "namespace": cluster.namespace, "labels": labels}
    spec = template["spec"]
    shared = {"name": "shared-mem", "emptyDir": {"medium": "Memory"}}
    spec["volumes"] = [*spec.get("volumes", []), shared]
    container = spec["containers"][0]
    container["volumeMounts"] = [
        *container.get("volumeMounts", []),
        {"name": "shared-mem", "mountPath": "/dev/shm"},  # noqa: S108  where Ray keeps objects
    ]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _start_ray(
    cluster: RayCluster,
    container: Json,
    role: str,
    params: dict[str, str],
    environment: dict[str, str],
    entries: list[Json],
) -> None:
    limits, requests = (container.get("resources", {}).get(kind, {}) for kind in ("limits", "requests"))
    found = {
        "num-cpus": limits.get("cpu", requests.get("cpu")),
        "memory": limits.get("memory"),
        "num-gpus": limits.get("nvidia.com/gpu"),
    }
    sizes = {option: str(math.ceil(parse_quantity(str(value)))) for option, value in found.items() if value is not None}
    options = {
        "block": "true",
        "dashboard-agent-listen-port": "52365",
        "metrics-export-port": "8080",
        **sizes,
        **params,
    }
    flags = " ".join([role, *filter(None, (_flag(option, options[option]) for option in sorted(options)))])
    command = f"ulimit -n ${{RAY_START_ULIMIT_OPEN_FILES:-65536}}; ray start {flags}"
    container["command"], container["args"] = ["/bin/bash", "-c", "--"], [command]
    own = {
        **SERVICE_ENVIRONMENT,
        "RAY_CLUSTER_NAME": cluster.name,
        "RAY_PORT": str(GCS_PORT),
        "RAY_USAGE_STATS_KUBERAY_IN_USE": "1",
        **environment,
    }
    instance = {"name": "RAY_CLOUD_INSTANCE_ID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    _add_environment(container, own, [instance, *entries, *_token(cluster)])


def _flag(option: str, value: str) -> str:
    if value.lower() in ("true", "false") and option not in BARE_OPTIONS:
        return f"--{option}" if value.lower() == "true" else ""
    return f"--{option}={value}"


def _add_environment(container: Json, values: dict[str, str], entries: list[Json]) -> None:
    """Behind what the container says itself, which wins."""
    given = {entry["name"] for entry in container.get("env", [])}
    added = [{"name": name, "value": value} for name, value in values.items()] + entries
    container["env"] = [*container.get("env", []), *(entry for entry in added if entry["name"] not in given)]


def _token(cluster: RayCluster) -> list[Json]:
    options = cluster.spec.get("authOptions", {})
    if options.get("mode") != "token":  # only an explicit mode switches it on
        return []
    secret = {"name": options.get("secretName", cluster.name), "key": "auth_token"}
    return [
        {"name": "RAY_AUTH_MODE", "value": "token"},
        {"name": "RAY_AUTH_TOKEN", "valueFrom": {"secretKeyRef": secret}},
    ]


def _waiting_for_gcs(container: Json, address: str) -> Json:
    kept = ("image", "env", "envFrom", "securityContext", "volumeMounts")
    copied = {name: copy.deepcopy(container[name]) for name in kept if name in container}
    command = ["/bin/bash", "-c", "--"]
    return {"name": "wait-gcs-ready", **copied, "command": command, "args": [WAIT_FOR_GCS.format(address=address)]}


def _add_autoscaler(cluster: RayCluster, pod: Json) -> None:
    """The sidecar shares /tmp/ray with the head; of the security context it has what autoscalerOptions say."""
    options, spec = cluster.spec.get("autoscalerOptions", {}), pod["spec"]
    head = spec["containers"][0]
    spec["volumes"].append({"name": "ray-logs", "emptyDir": {}})
    shared = {"name": "ray-logs", "mountPath": "/tmp/ray"}  # noqa: S108  where Ray keeps its sessions
    head["volumeMounts"].append(shared)
    sidecar: Json = {
        "name": "autoscaler",
        "image": options.get("image", head["image"]),
        "command": ["/bin/bash", "-c", "--"],
        "args": [f"ray kuberay-autoscaler --cluster-name {cluster.name} --cluster-namespace {cluster.namespace}"],
        "env": list(options.get("env", [])),
        "resources": options.get("resources", {"limits": {"cpu": "500m", "memory": "512Mi"}}),
        "volumeMounts": [shared, *options.get("volumeMounts", [])],
    }
    if "securityContext" in options:
        sidecar["securityContext"] = options["securityContext"]
    own = {
        "RAY_CLUSTER_NAME": cluster.name,
        "RAY_CLUSTER_NAMESPACE": cluster.namespace,
        "KUBERAY_CRD_VER": "v1",
        "RAY_enable_autoscaler_v2": "1",
    }
    own_name = {"name": "RAY_HEAD_POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    _add_environment(sidecar, own, [own_name, *_token(cluster)])
    spec["containers"].append(sidecar)
