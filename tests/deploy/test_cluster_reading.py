"""What `scripts/cluster` reads out of manifests and out of a cluster's state: pure functions, no programs."""

from __future__ import annotations

import re
from typing import Any

import pytest
from cluster_world import ROOT, ray_service
from operations import readiness, render, status, tools
from operations.steps import duration, table
from operations.target import NAME

VOLUME = "kind: Pod\nsecret:\n  defaultMode: 288\n  secretName: x\n"
KEY = "kind: Pod\nsecretKeyRef:\n  key: a\n  name: x\n"
EXTERNAL = "---\nkind: ExternalSecret\nmetadata:\n  name: "


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        (KEY, {"x": {"a"}}),
        (f"{KEY}  optional: true\n", {}),
        (VOLUME, {"x": set()}),
        (VOLUME.replace("  secretName", "  items:\n  - key: a\n    path: b\n  secretName"), {"x": {"a"}}),
        (VOLUME.replace("  secretName", "  optional: true\n  secretName"), {}),
        ("kind: RayService\nauthOptions:\n  mode: token\n  secretName: x\n", {"x": {"auth_token"}}),
        ("kind: Ingress\ntls:\n- secretName: x\n", {}),
        (f"{KEY}---\nkind: ConfigMap\nmetadata:\n  name: x\n", {"x": {"a"}}),
        (f"{KEY}---\nkind: Secret\nmetadata:\n  name: x\n", {}),
        (f"{KEY}---\nkind: Certificate\nmetadata:\n  name: other\nspec:\n  secretName: x\n", {}),
        (f"{KEY}{EXTERNAL}x\nspec:\n  refreshInterval: 1h\n", {}),
        (f"{KEY}{EXTERNAL}other\nspec:\n  target:\n    creationPolicy: Owner\n    name: x\n", {}),
    ],
)
def test_the_secrets_that_pods_need_from_elsewhere(text: str, needed: dict[str, set[str]]) -> None:
    """What an operator makes is not demanded before it can be there."""
    assert render.secret_keys(render.documents(text)) == needed


def test_no_value_of_a_secret_is_left_when_masked() -> None:
    secret = "data:\n  long: |\n    c2VjcmV0\n    c2VjcmV0\n  password: c2VjcmV0\nkind: Secret\nmetadata:\n  name: a\n"
    shown = render.masked(f"{secret}---\ndata:\n  ENVIRONMENT: dev\nkind: ConfigMap\n")
    hidden, other = render.documents(shown)
    assert hidden["data"] == {"long": "********", "password": "********"}
    assert other["data"] == {"ENVIRONMENT": "dev"}
    inline = "items: [{kind: Secret, stringData: {password: c2VjcmV0}}]\nkind: List\n"
    assert "c2VjcmV0" not in render.masked(inline)


def test_placeholders() -> None:
    text = "host: sem.example.org\nclass: REPLACE-ME\ndigest: sha256:REPLACE-ME-with-it\nimage: redis:latest\n"
    assert render.PLACEHOLDER.findall(text) == ["sem.example.org", "REPLACE-ME", "REPLACE-ME", "redis:latest"]
    assert not render.PLACEHOLDER.search("enforce-version: latest\nhost: sem.lab\nreplacements: 3")


def pod(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p"}, "status": status}


def waiting(why: str, /, **last: Any) -> dict[str, Any]:
    state = {"waiting": {"reason": why, "message": "why"}}
    return pod(containerStatuses=[{"name": "c", "image": "i", "state": state, "lastState": {"terminated": last}}])


def running(**more: Any) -> dict[str, Any]:
    return pod(containerStatuses=[{"name": "c", "state": {"running": {}}, **more}])


UNPLACED = [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes: Insufficient cpu"}]
SAID = {"terminated": {"exitCode": 1, "message": "semapi: PostgreSQL is not reachable"}}
HEAD = [{"name": "wait-gcs-ready", "state": {"running": {}}}]


@pytest.mark.parametrize(
    ("found", "says", "stuck"),
    [
        (pod(conditions=UNPLACED), "fits on no node: 0/1 nodes: Insufficient cpu", False),
        (waiting("ImagePullBackOff"), "has no image i: why", True),
        (waiting("CreateContainerConfigError"), "lacks a Secret or a ConfigMap, or a key of it: why", True),
        (waiting("RunContainerError"), "cannot start c: why", False),
        (waiting("CrashLoopBackOff", exitCode=7), "c ended with 7", True),
        (waiting("CrashLoopBackOff", reason="OOMKilled"), "c was killed at its memory limit", True),
        (pod(containerStatuses=[{"name": "c", "state": SAID}]), "c ended with 1: semapi: PostgreSQL is not", False),
        (pod(initContainerStatuses=HEAD), "waits for the head", False),
        (waiting("ContainerCreating"), "", False),
        (pod(), "", False),
        (running(restartCount=4, ready=False), "", True),
        (running(restartCount=4, ready=True), "", False),
        (running(restartCount=1, ready=False), "", False),
    ],
)
def test_a_pod_that_does_not_run_is_explained_and_one_that_does_not_mend_itself_known(
    found: dict[str, Any], says: str, stuck: bool
) -> None:
    reasons = list(readiness.pod_reasons(found))
    assert [says in reason for reason in reasons] == ([True] if says else [])
    assert readiness.is_stuck(found) is stuck


def event(reason: str, at: str, message: str) -> dict[str, Any]:
    thing = {"kind": "RayCluster", "name": "green"}
    return {"type": "Warning", "reason": reason, "lastTimestamp": at, "message": message, "involvedObject": thing}


def test_of_each_refusal_the_newest_is_told() -> None:
    refused = [event("FailedCreate", "2", "exceeded quota: pods"), event("FailedCreate", "1", "older")]
    told = list(readiness.event_reasons([*refused, event("Unhealthy", "3", "")]))
    assert told == ["RayCluster green: FailedCreate: exceeded quota: pods"]


def test_a_volume_without_a_disk_is_told_if_a_pod_waits_for_it() -> None:
    volumes = [{"metadata": {"name": name}, "status": {"phase": "Pending"}} for name in ("data-redis-0", "backups")]
    mounts = [{"persistentVolumeClaim": {"claimName": "data-redis-0"}}, {"emptyDir": {}}]
    waits = pod(phase="Pending") | {"spec": {"volumes": mounts}}
    assert readiness.storage_reasons([waits], volumes, []) == ["the volume data-redis-0 is Pending"]
    assert readiness.storage_reasons([waits | pod(phase="Running")], volumes, []) == []
    assert readiness.reasons_of([], volumes, []) == []


def application(status: str, message: str = "", deployments: dict[str, Any] | None = None) -> dict[str, Any]:
    state = {"status": status, "message": message, "serveDeploymentStatuses": deployments or {}}
    return {"applicationStatuses": {NAME: state}}


SLOW = {"gateway": {"status": "HEALTHY"}, "sem": {"status": "UPDATING", "message": "no node with 2 CPUs"}}
LONG = "Deploying app failed. Traceback " + "frame " * 200 + "ValueError: JOB_TTL must be positive"


@pytest.mark.parametrize(
    ("service", "says"),
    [
        (None, ["there is no RayService"]),
        ({"metadata": {}}, ["KubeRay has not looked at the RayService: does the operator run?"]),
        (
            ray_service(pendingServiceStatus=application("DEPLOYING", "", SLOW)),
            [f"the application {NAME} is DEPLOYING: ", "sem is UPDATING: no node with 2 CPUs"],
        ),
        (
            ray_service(pendingServiceStatus=application("DEPLOY_FAILED", LONG)),
            [f"the application {NAME} is DEPLOY_FAILED: {LONG[:80]} … {LONG[-300:]}"],
        ),
        (ray_service(), []),
    ],
)
def test_what_kuberay_and_serve_say_is_told(service: dict[str, Any] | None, says: list[str]) -> None:
    assert list(readiness.service_reasons(service)) == says


UPGRADING = [{"type": "Ready", "status": "True"}, {"type": "UpgradeInProgress", "status": "True"}]
FAILED, COMING = application("DEPLOY_FAILED"), application("DEPLOYING")


@pytest.mark.parametrize(
    ("service", "current", "given_up"),
    [
        (ray_service(), True, False),
        (ray_service(ready=False), False, False),
        (ray_service(generation=0), False, False),
        (ray_service(activeServiceStatus=COMING), False, False),
        (ray_service(activeServiceStatus={}), False, False),
        (ray_service(conditions=UPGRADING), False, False),
        (ray_service(pendingServiceStatus=FAILED), True, True),
        (ray_service(activeServiceStatus=FAILED), False, True),
        (ray_service(activeServiceStatus=FAILED, pendingServiceStatus=COMING), False, False),
    ],
)
def test_ready_and_given_up_is_the_newest_alone(service: dict[str, Any], current: bool, given_up: bool) -> None:
    assert (readiness.is_current(service), readiness.is_given_up(service)) == (current, given_up)


@pytest.mark.parametrize(
    ("generation", "counts", "done"),
    [(1, (1, 1, 1), True), (2, (1, 1, 1), False), (1, (1, 1, 0), False), (1, (1, 0, 1), False), (1, (2, 1, 1), False)],
)
def test_a_server_is_rolled_out_when_all_of_it_is_new_and_ready(
    generation: int, counts: tuple[int, ...], done: bool
) -> None:
    status = dict(zip(("replicas", "updatedReplicas", "readyReplicas"), counts, strict=True))
    server = {"metadata": {"generation": generation}, "spec": {"replicas": 1}}
    assert readiness.is_rolled_out(server | {"status": {"observedGeneration": 1, **status}}) is done
    assert not readiness.is_rolled_out(None)


def test_every_foreign_group_of_the_manifests_is_known_with_where_it_comes_from() -> None:
    files = [
        path for folder in ("base", "components", "monitoring") for path in (ROOT / "k8s" / folder).rglob("*.yaml")
    ]
    versions = re.findall(r"^apiVersion: (\S+)$", "\n".join(path.read_text() for path in files), re.MULTILINE)
    groups = {version.rpartition("/")[0] for version in versions} - {"kustomize.config.k8s.io"}
    assert groups - {"", "apps", "batch", "networking.k8s.io", "policy"} == set(tools.COMES_FROM)


@pytest.mark.parametrize("component", ["redis-tls", "service-mesh"])
def test_names_that_hold_the_usual_namespace_lead_out_of_another(component: str) -> None:
    text = "".join(path.read_text() for path in (ROOT / "k8s" / "components" / component).glob("*.yaml"))
    assert render.names_at_home(text, "trial")
    assert render.names_at_home(text, NAME) == []
    others = f"image: registry.lab/{NAME}:1\nkey: {NAME}/{NAME}\nhost: collector.logging.svc.cluster.local\n"
    assert render.names_at_home(others, "trial") == []


def test_the_tables_of_status_fit_the_names_of_a_real_cluster() -> None:
    name = f"{NAME}-7xk2p-gateway-a-worker-9hqlz"
    assert len(name) == 49
    containers = [{"ready": True, "restartCount": 12}, {"ready": False, "restartCount": 0}]
    labels = {"app.kubernetes.io/component": "postgres-backup"}
    pod_status = {"phase": "Succeeded", "containerStatuses": containers}
    lines = table(status.pod_rows([{"metadata": {"name": name, "labels": labels}, "status": pod_status}]))
    row = [name, "postgres-backup", "Succeeded", "1/2", "12"]
    assert [line.split() for line in lines] == [["POD", "COMPONENT", "PHASE", "READY", "RESTARTS"], row]
    assert max(map(len, lines)) <= 100
    assert status.cluster_rows(ray_service())[1] == ("green", "serves", "RUNNING")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.44, "0.4 s"), (41.3, "41 s"), (119.7, "2 min 0 s"), (725, "12 min 5 s")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
