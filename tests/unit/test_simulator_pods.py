"""The pods of the simulation are those that KubeRay 1.7 makes of a RayService."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from simulator.manifest.environment import Objects, Unresolved, command_of, environment_of, files_of
from simulator.manifest.rendered import RayCluster, head_pod, worker_pod
from simulator.manifest.resource import HAPROXY_MODE, containers, read_resource

MANIFEST = Path(__file__).resolve().parents[2] / "rayservice.yaml"
ADDRESS = "example-1-head-svc.there.svc.cluster.local:6379"
READY = (
    "wget --tries 1 -T 2 -q -O- http://localhost:52365/api/local_raylet_healthz | grep success"
    " && wget --tries 1 -T 10 -q -O- http://localhost:8000/-/healthz | grep success"
)


def resource(**cluster: Any) -> dict[str, Any]:
    """A small RayService; `cluster` goes into its rayClusterConfig."""
    container = {
        "name": "ray",
        "image": "i",
        "securityContext": {"readOnlyRootFilesystem": True},
        "env": [{"name": "MINE", "value": "1"}],
        "ports": [{"name": "serve", "containerPort": 8000}],
        "resources": {"limits": {"cpu": "1500m", "memory": "2Gi"}},
    }
    template = {"metadata": {"labels": {"app.kubernetes.io/name": "ours"}}, "spec": {"containers": [container]}}
    config = {
        "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": copy.deepcopy(template)},
        "workerGroupSpecs": [{"groupName": "small", "rayStartParams": {}, "template": template}],
        **cluster,
    }
    return {"metadata": {"name": "example", "namespace": "there"}, "spec": {"rayClusterConfig": config}}


def cluster(**config: Any) -> RayCluster:
    return RayCluster(resource(**config), "example-1", "uid-1")


def values(container: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


def test_the_head_starts_as_the_operator_starts_it() -> None:
    head = head_pod(cluster(), "h")["spec"]["containers"][0]
    assert head["command"] == ["/bin/bash", "-c", "--"]
    assert head["args"] == [
        "ulimit -n ${RAY_START_ULIMIT_OPEN_FILES:-65536}; ray start --head --block --dashboard-agent-listen-port=52365 "
        "--dashboard-host=0.0.0.0 --memory=2147483648 --metrics-export-port=8080 --num-cpus=0"
    ]


def test_a_worker_takes_its_size_from_its_limits_rounded_up() -> None:
    worker = worker_pod(cluster(), "small", "w")["spec"]["containers"][0]
    assert worker["args"][0].endswith(
        f"ray start --address={ADDRESS} --block --dashboard-agent-listen-port=52365 --memory=2147483648 "
        "--metrics-export-port=8080 --num-cpus=2"
    )


def test_probes_are_the_operators_literal_ones() -> None:
    head = head_pod(cluster(), "h")["spec"]["containers"][0]
    worker = worker_pod(cluster(), "small", "w")["spec"]["containers"][0]
    alive = {"path": "/api/healthz", "port": 52365}
    assert head["readinessProbe"]["httpGet"] == head["livenessProbe"]["httpGet"] == alive
    assert worker["livenessProbe"]["httpGet"] == alive
    assert worker["readinessProbe"]["exec"] == {"command": ["bash", "-c", READY]}
    assert (worker["readinessProbe"]["failureThreshold"], worker["livenessProbe"]["failureThreshold"]) == (1, 120)


def test_a_probe_of_the_containers_own_stays() -> None:
    own = {"tcpSocket": {"port": 8000}}
    given = resource()
    given["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["readinessProbe"] = (
        own
    )
    worker = worker_pod(RayCluster(given, "example-1", "uid-1"), "small", "w")["spec"]["containers"][0]
    assert worker["readinessProbe"] == own


def test_the_token_goes_to_every_container_where_its_mode_is_written() -> None:
    secret = {"secretKeyRef": {"name": "word", "key": "auth_token"}}
    given = cluster(authOptions={"mode": "token", "secretName": "word"}, enableInTreeAutoscaling=True)
    for container in [
        *head_pod(given, "h")["spec"]["containers"],
        *worker_pod(given, "small", "w")["spec"]["containers"],
    ]:
        assert values(container)["RAY_AUTH_MODE"] == "token"
        assert values(container)["RAY_AUTH_TOKEN"] == secret
    silent = cluster(authOptions={"secretName": "word"})
    assert "RAY_AUTH_MODE" not in values(head_pod(silent, "h")["spec"]["containers"][0])


def test_a_head_with_storage_knows_it_and_its_workers_wait_for_it() -> None:
    password = {"valueFrom": {"secretKeyRef": {"name": "r", "key": "p"}}}
    given = cluster(gcsFaultToleranceOptions={"redisAddress": "redis://r:6379", "redisPassword": password})
    head = head_pod(given, "h")["spec"]["containers"][0]
    assert "--redis-password=$REDIS_PASSWORD" in head["args"][0]
    assert values(head)["RAY_REDIS_ADDRESS"] == "redis://r:6379"
    assert values(head)["RAY_external_storage_namespace"] == "uid-1"
    assert values(head)["REDIS_PASSWORD"] == password["valueFrom"]
    worker = worker_pod(given, "small", "w")["spec"]["containers"][0]
    assert values(worker)["RAY_gcs_rpc_server_reconnect_timeout_s"] == "600"


def test_the_autoscaler_stands_beside_the_head_with_its_own_context() -> None:
    context = {"allowPrivilegeEscalation": False}
    given = cluster(enableInTreeAutoscaling=True, autoscalerOptions={"version": "v2", "securityContext": context})
    pod = head_pod(given, "h")["spec"]
    head, autoscaler = pod["containers"]
    assert "--no-monitor" in head["args"][0]
    assert (autoscaler["securityContext"], autoscaler["image"]) == (context, "i")
    assert autoscaler["args"] == ["ray kuberay-autoscaler --cluster-name example-1 --cluster-namespace there"]
    assert {mount["mountPath"] for mount in autoscaler["volumeMounts"]} < {
        one["mountPath"] for one in head["volumeMounts"]
    }
    assert pod["restartPolicy"] == "Never"
    assert "--no-monitor" not in head_pod(cluster(), "h")["spec"]["containers"][0]["args"][0]


def test_a_worker_first_waits_for_the_head_as_the_ray_container_would() -> None:
    pod = worker_pod(cluster(), "small", "w")["spec"]
    [waiting], [worker] = pod["initContainers"], pod["containers"]
    assert ADDRESS in waiting["args"][0]
    assert waiting["securityContext"] == worker["securityContext"]
    assert (waiting["env"], waiting["image"]) == (worker["env"], worker["image"])


def test_labels_say_what_services_and_policies_select() -> None:
    given = resource()
    given["spec"]["excludeHeadPodFromServeSvc"] = True
    running = RayCluster(given, "example-1", "uid-1")
    head, worker = head_pod(running, "h")["metadata"]["labels"], worker_pod(running, "small", "w")["metadata"]["labels"]
    assert (head["ray.io/serve"], worker["ray.io/serve"]) == ("false", "true")
    assert (head["ray.io/node-type"], worker["ray.io/node-type"]) == ("head", "worker")
    assert head["ray.io/cluster"] == worker["ray.io/cluster"] == "example-1"
    assert worker["ray.io/group"] == "small"
    assert worker["app.kubernetes.io/name"] == "ours"


def test_what_a_container_says_itself_wins() -> None:
    given = resource()
    container = given["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    container["env"].append({"name": "RAY_SERVE_KV_TIMEOUT_S", "value": "9"})
    head = head_pod(RayCluster(given, "example-1", "uid-1"), "h")["spec"]["containers"][0]
    assert [entry["value"] for entry in head["env"] if entry["name"] == "RAY_SERVE_KV_TIMEOUT_S"] == ["9"]


def test_rendering_changes_nothing_of_the_resource() -> None:
    given = resource(enableInTreeAutoscaling=True)
    before = copy.deepcopy(given)
    running = RayCluster(given, "example-1", "uid-1")
    head_pod(running, "h")
    worker_pod(running, "small", "w")
    assert given == before


def test_our_manifest_gives_pods_that_lack_no_object() -> None:
    ours = read_resource(MANIFEST, "sem-image-classifier", haproxy=False)
    running = RayCluster(ours, "ours-1", "uid-1")
    objects = Objects(
        secrets={
            "sem-image-classifier": {"redis-url": "redis://r", "database-url": "postgresql://p"},
            "sem-image-classifier-ray": {"auth_token": "t"},
            "sem-image-classifier-ray-redis": {"password": "p"},
        },
        config_maps={"sem-image-classifier": {"ENVIRONMENT": "dev"}},
    )
    pods = [head_pod(running, "h"), *(worker_pod(running, group, "w") for group in ("gateway", "models", "burst"))]
    for pod in pods:
        for container in pod["spec"]["containers"]:
            environment = environment_of(container, pod, "10.0.0.1", objects)
            assert environment["RAY_AUTH_TOKEN"] == "t"
            assert command_of(container, environment)[0] == "/bin/bash"
    databases = [any(entry["name"] == "DATABASE_URL" for entry in pod["spec"]["containers"][0]["env"]) for pod in pods]
    assert databases == [False, True, False, False]


def test_haproxy_mode_is_the_manifest_with_two_other_values() -> None:
    own, other = (containers(read_resource(MANIFEST, "there", haproxy=haproxy)) for haproxy in (False, True))
    for one, changed in zip(own, other, strict=True):
        differing = {entry["name"] for entry, new in zip(one["env"], changed["env"], strict=True) if entry != new}
        assert differing == set(HAPROXY_MODE)


def test_variables_come_from_everywhere_and_the_containers_own_win() -> None:
    pod = {"metadata": {"name": "p", "namespace": "n"}}
    container = {
        "envFrom": [{"configMapRef": {"name": "c"}}, {"secretRef": {"name": "s"}, "prefix": "S_"}],
        "env": [
            {"name": "A", "value": "own"},
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            {"name": "NONE", "valueFrom": {"secretKeyRef": {"name": "s", "key": "away", "optional": True}}},
            {"name": "BOTH", "value": "$(NAME)@$(IP) $(UNKNOWN)"},
        ],
    }
    found = environment_of(container, pod, "10.0.0.1", Objects({"s": {"k": "v"}}, {"c": {"A": "map", "B": "map"}}))
    expected = {"A": "own", "B": "map", "S_k": "v", "NAME": "p", "IP": "10.0.0.1", "KEY": "v"}
    assert found == {**expected, "BOTH": "p@10.0.0.1 $(UNKNOWN)"}
    assert command_of({"command": ["run"], "args": ["$(KEY)"]}, found) == ["run", "v"]


@pytest.mark.parametrize(
    "container",
    [
        {"envFrom": [{"configMapRef": {"name": "away"}}]},
        {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "away"}}}]},
        {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "away", "key": "k"}}}]},
    ],
)
def test_a_pod_that_names_what_is_not_there_does_not_start(container: dict[str, Any]) -> None:
    with pytest.raises(Unresolved):
        environment_of(container, {"metadata": {"name": "p", "namespace": "n"}}, "10.0.0.1", Objects({"s": {"k": "v"}}))


def test_volumes_of_objects_are_their_files() -> None:
    objects = Objects({"s": {"k": "v", "other": "w"}}, {"c": {"f": "text"}})
    assert files_of({"configMap": {"name": "c"}}, objects) == {"f": "text"}
    assert files_of({"secret": {"secretName": "s", "items": [{"key": "k", "path": "key.pem"}]}}, objects) == {
        "key.pem": "v"
    }
    assert files_of({"emptyDir": {}}, objects) is None
