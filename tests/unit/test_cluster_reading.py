"""What `scripts/cluster` reads out of manifests and out of a cluster's state: pure functions, no programs."""

from __future__ import annotations

import re
from typing import Any

import pytest
from operations.delivery import diagnosis, render

from tests import cluster_world
from tests.cluster_world import NAME, ray_service

STREAM = f"""apiVersion: v1
kind: Namespace
metadata:
  labels:
    a: b
  name: space
---
apiVersion: v1
data:
  long: |
    c2VjcmV0
    c2VjcmV0
  password: c2VjcmV0
kind: Secret
metadata:
  annotations:
    name: not this
  name: redis
type: Opaque
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: edge
spec:
  tls:
  - hosts:
    - sem.lab
    secretName: certificate
---
{cluster_world.SURROUNDINGS}---
{cluster_world.SERVICE}"""


def test_documents_are_told_apart_by_kind_and_name() -> None:
    found = [(render.kind_of(one), render.name_of(one)) for one in render.documents(STREAM)]
    assert found == [
        ("Namespace", "space"),
        ("Secret", "redis"),
        ("Ingress", "edge"),
        ("StatefulSet", "redis"),
        ("ConfigMap", NAME),
        ("RayService", NAME),
    ]
    assert len(render.documents(STREAM, "ConfigMap", NAME)) == 1


def test_the_secrets_that_pods_need_from_elsewhere() -> None:
    assert render.secret_keys(STREAM) == {NAME: {"database-url"}, f"{NAME}-ray": {"auth_token"}}
    made_elsewhere = STREAM.replace("kind: Secret", "kind: ConfigMap")
    assert render.secret_keys(made_elsewhere)["redis"] == {"password"}
    taken_whole = re.sub(r" +items:\n +- key: .*\n +path: .*\n", "", made_elsewhere)
    assert render.secret_keys(taken_whole)["redis"] == set()
    optional = taken_whole.replace("secretName: redis", "optional: true\n          secretName: redis")
    assert "redis" not in render.secret_keys(optional)


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("Certificate", "spec:\n  secretName: redis\n"),
        ("ExternalSecret", "spec:\n  target:\n    creationPolicy: Owner\n    name: redis\n"),
        ("ExternalSecret", "spec:\n  refreshInterval: 1h\n"),
    ],
)
def test_a_secret_that_an_operator_makes_is_not_demanded_before_it_can_be_there(kind: str, spec: str) -> None:
    name = "redis" if "target" not in spec and kind == "ExternalSecret" else "other"
    maker = f"apiVersion: v1\nkind: {kind}\nmetadata:\n  name: {name}\n{spec}"
    assert "redis" in render.secret_keys(cluster_world.SURROUNDINGS)
    assert "redis" not in render.secret_keys(f"{cluster_world.SURROUNDINGS}---\n{maker}")


def test_no_value_of_a_secret_is_left_when_masked() -> None:
    shown = render.masked(STREAM)
    assert "c2VjcmV0" not in shown
    assert "  long: '********'\n  password: '********'\nkind: Secret" in shown
    assert "ENVIRONMENT: dev" in shown
    assert len(render.documents(shown)) == 6


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("host: sem.example.org", ["sem.example.org"]),
        ("class: REPLACE-ME", ["REPLACE-ME"]),
        ("digest: sha256:REPLACE-ME-with-the-digest", ["REPLACE-ME"]),
        ("password: change_me", ["change_me"]),
        ("image: redis:latest", ["redis:latest"]),
        ("enforce-version: latest\nhost: sem.lab\nreplacements: 3", []),
    ],
)
def test_placeholders(text: str, found: list[str]) -> None:
    assert render.PLACEHOLDER.findall(text) == found


def pod(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p"}, "status": status}


def waiting(reason: str, message: str = "why", **more: Any) -> dict[str, Any]:
    container = {"name": "c", "image": "i", "state": {"waiting": {"reason": reason, "message": message}}, **more}
    return pod(containerStatuses=[container])


STATES = [
    (
        pod(conditions=[{"type": "PodScheduled", "status": "False", "message": "0/1 nodes: Insufficient cpu"}]),
        "fits on no node",
    ),
    (waiting("ImagePullBackOff"), "has no image i: why"),
    (
        waiting("CreateContainerConfigError", 'secret "x" not found'),
        'lacks a Secret or a ConfigMap, or a key of it: secret "x"',
    ),
    (waiting("RunContainerError"), "cannot start c: why"),
    (waiting("CrashLoopBackOff", lastState={"terminated": {"exitCode": 7}}), "c ended with 7"),
    (
        waiting("CrashLoopBackOff", lastState={"terminated": {"exitCode": 137, "reason": "OOMKilled"}}),
        "c was killed at its memory limit",
    ),
    (
        pod(initContainerStatuses=[{"name": "wait-gcs-ready", "state": {"running": {}}}]),
        "waits for the head",
    ),
]


@pytest.mark.parametrize(("found", "says"), STATES)
def test_a_pod_that_does_not_run_is_explained(found: dict[str, Any], says: str) -> None:
    [reason] = diagnosis.pod_reasons(found)
    assert says in reason


@pytest.mark.parametrize(
    "found", [waiting("ContainerCreating"), waiting("PodInitializing"), pod(phase="Running"), pod()]
)
def test_a_pod_that_is_on_its_way_is_no_reason(found: dict[str, Any]) -> None:
    assert list(diagnosis.pod_reasons(found)) == []


def event(reason: str, at: str, message: str) -> dict[str, Any]:
    thing = {"kind": "RayCluster", "name": "green"}
    return {"type": "Warning", "reason": reason, "lastTimestamp": at, "message": message, "involvedObject": thing}


def test_of_each_refusal_the_newest_is_told() -> None:
    events = [
        event("FailedCreate", "2", "exceeded quota: pods"),
        event("FailedCreate", "1", "older"),
        event("Unhealthy", "3", ""),
    ]
    assert list(diagnosis.event_reasons(events)) == ["RayCluster green: FailedCreate: exceeded quota: pods"]


def test_a_volume_without_a_disk_is_told_if_a_pod_waits_for_it() -> None:
    volumes = [{"metadata": {"name": name}, "status": {"phase": "Pending"}} for name in ("data-redis-0", "backups")]
    mounts = [{"persistentVolumeClaim": {"claimName": "data-redis-0"}}, {"emptyDir": {}}]
    waits = pod(phase="Pending") | {"spec": {"volumes": mounts}}
    assert diagnosis.storage_reasons([waits], volumes, []) == ["the volume data-redis-0 is Pending"]
    assert diagnosis.storage_reasons([waits | pod(phase="Running")], volumes, []) == []
    assert diagnosis.reasons(ray_service(), [], volumes, []) == []


def test_what_serve_says_is_told() -> None:
    coming = {
        "applicationStatuses": {
            NAME: {
                "status": "DEPLOYING",
                "message": "",
                "serveDeploymentStatuses": {
                    "gateway": {"status": "HEALTHY", "message": ""},
                    "sem-classifier": {"status": "UPDATING", "message": "no node with 2 CPUs"},
                },
            }
        }
    }
    found = list(diagnosis.service_reasons(ray_service(pendingServiceStatus=coming)))
    assert found == [f"the application {NAME} is DEPLOYING: ", "sem-classifier is UPDATING: no node with 2 CPUs"]


def test_an_operator_that_is_not_there_is_told() -> None:
    assert list(diagnosis.service_reasons({"metadata": {"name": NAME}})) == [
        "KubeRay has not looked at the RayService: does the operator run?"
    ]
    assert list(diagnosis.service_reasons(None)) == ["there is no RayService"]


@pytest.mark.parametrize(
    ("service", "current"),
    [
        (ray_service(), True),
        (ray_service(ready=False), False),
        (ray_service(generation=0), False),
        (ray_service(activeServiceStatus={"applicationStatuses": {NAME: {"status": "DEPLOYING"}}}), False),
        (ray_service(activeServiceStatus={}), False),
        (
            ray_service(
                conditions=[{"type": "Ready", "status": "True"}, {"type": "UpgradeInProgress", "status": "True"}]
            ),
            False,
        ),
    ],
)
def test_ready_is_the_newest_alone(service: dict[str, Any], current: bool) -> None:
    assert diagnosis.is_current(service) is current
