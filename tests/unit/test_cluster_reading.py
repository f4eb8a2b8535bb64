"""What `scripts/cluster` reads out of manifests and out of a cluster's state: pure functions, no programs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from manifests.schemas import VERSIONS
from operations.delivery import diagnosis, render
from operations.delivery.deployment import NOT_MIGRATE
from operations.ground import tools
from operations.steps import duration, table
from operations.use import look

from tests import cluster_world
from tests.cluster_world import NAME, ROOT, ray_service

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


K8S = ROOT / "k8s"


def manifests(*folders: str) -> Iterator[dict[str, Any]]:
    for path in (path for folder in folders for path in (K8S / folder).rglob("*.yaml")):
        yield from (one for one in yaml.safe_load_all(path.read_text()) if isinstance(one, dict) and "kind" in one)


def test_every_foreign_group_of_the_manifests_is_known_with_where_it_comes_from() -> None:
    versions = {str(one["apiVersion"]) for one in manifests("base", "components", "monitoring")}
    groups = {version.rpartition("/")[0] for version in versions} - {"kustomize.config.k8s.io"}
    builtin = {"", "apps", "batch", "networking.k8s.io", "policy"}
    assert groups - builtin == set(tools.COMES_FROM)


def test_the_trial_leaves_out_every_job_and_nothing_else() -> None:
    key, _, name = NOT_MIGRATE.partition("!=")
    all_of_a_build = list(manifests("base", "components", "monitoring"))  # a component may change the Job of the base
    named = {
        (one["kind"], one["metadata"]["name"])
        for one in all_of_a_build
        if one.get("metadata", {}).get("labels", {}).get(key) == name
    }
    jobs = {(one["kind"], one["metadata"]["name"]) for one in all_of_a_build if one["kind"] == "Job"}
    assert named == jobs == {("Job", "migrate")}


@pytest.mark.parametrize("component", ["redis-tls", "service-mesh"])
def test_the_components_that_hold_such_names(component: str) -> None:
    text = "".join(path.read_text() for path in (K8S / "components" / component).glob("*.yaml"))
    assert render.names_at_home(text, "trial")
    assert render.names_at_home(text, NAME) == []


def test_other_names_may_hold_the_usual_one() -> None:
    text = f"image: registry.lab/{NAME}:1\nkey: {NAME}/{NAME}\nhost: collector.logging.svc.cluster.local\n"
    assert render.names_at_home(text, "trial") == []


def test_the_oldest_cluster_is_the_oldest_whose_schemas_are_checked() -> None:
    assert VERSIONS[0] == "{}.{}".format(*tools.SERVER)


@pytest.mark.parametrize(
    ("found", "stuck"),
    [
        (waiting("ErrImageNeverPull"), True),
        (waiting("ImagePullBackOff"), True),
        (waiting("CrashLoopBackOff"), True),
        (waiting("CreateContainerConfigError"), True),
        (waiting("ContainerCreating"), False),
        (pod(containerStatuses=[{"state": {"running": {}}, "restartCount": 4, "ready": False}]), True),
        (pod(containerStatuses=[{"state": {"running": {}}, "restartCount": 4, "ready": True}]), False),
        (pod(containerStatuses=[{"state": {"running": {}}, "restartCount": 1, "ready": False}]), False),
        (pod(), False),
    ],
)
def test_what_does_not_mend_itself(found: dict[str, Any], stuck: bool) -> None:
    assert diagnosis.is_stuck(found) is stuck


def test_an_application_that_serve_gave_up_is_that_of_the_newest_cluster() -> None:
    failed = {"applicationStatuses": {NAME: {"status": "DEPLOY_FAILED"}}}
    assert diagnosis.is_given_up(ray_service(pendingServiceStatus=failed))
    assert diagnosis.is_given_up(ray_service(activeServiceStatus=failed))
    coming = {"applicationStatuses": {NAME: {"status": "DEPLOYING"}}}
    assert not diagnosis.is_given_up(ray_service(activeServiceStatus=failed, pendingServiceStatus=coming))
    assert not diagnosis.is_given_up(None)


def test_what_an_ended_program_said_is_told() -> None:
    ended = {"terminated": {"exitCode": 1, "message": "semapi: PostgreSQL is not reachable"}}
    [reason] = diagnosis.pod_reasons(pod(containerStatuses=[{"name": "migrate", "state": ended}]))
    assert reason == "pod p: migrate ended with 1: semapi: PostgreSQL is not reachable"


def test_of_a_long_message_the_end_is_told() -> None:
    said = "Deploying app failed. Traceback " + "frame " * 200 + "ValueError: JOB_TTL must be positive"
    coming = {"applicationStatuses": {NAME: {"status": "DEPLOY_FAILED", "message": said}}}
    [reason] = diagnosis.service_reasons(ray_service(pendingServiceStatus=coming))
    assert "Deploying app failed." in reason
    assert reason.endswith("ValueError: JOB_TTL must be positive")
    assert len(reason) < 500


@pytest.mark.parametrize(
    ("generation", "status", "done"),
    [
        (1, {"replicas": 1, "updatedReplicas": 1, "readyReplicas": 1}, True),
        (2, {"replicas": 1, "updatedReplicas": 1, "readyReplicas": 1}, False),
        (1, {"replicas": 1, "updatedReplicas": 1}, False),
        (1, {"replicas": 1, "readyReplicas": 1}, False),
        (1, {"replicas": 2, "updatedReplicas": 1, "readyReplicas": 1}, False),
    ],
)
def test_a_server_is_rolled_out_when_all_of_it_is_new_and_ready(
    generation: int, status: dict[str, int], done: bool
) -> None:
    server = {"metadata": {"generation": generation}, "spec": {"replicas": 1}}
    assert diagnosis.is_rolled_out(server | {"status": {"observedGeneration": 1, **status}}) is done
    assert not diagnosis.is_rolled_out(None)


def test_the_tables_of_status_fit_the_names_of_a_real_cluster() -> None:
    name = f"{NAME}-7xk2p-gateway-a-worker-9hqlz"
    assert len(name) == 49
    labels = {"app.kubernetes.io/component": "postgres-backup"}
    containers = [{"ready": True, "restartCount": 12}, {"ready": False, "restartCount": 0}]
    found = {
        "metadata": {"name": name, "labels": labels},
        "status": {"phase": "Succeeded", "containerStatuses": containers},
    }
    lines = table(look.pod_rows([found]))
    assert [line.split() for line in lines] == [
        ["POD", "COMPONENT", "PHASE", "READY", "RESTARTS"],
        [name, "postgres-backup", "Succeeded", "1/2", "12"],
    ]
    assert max(map(len, lines)) <= 100
    serving = {"rayClusterName": f"{NAME}-7xk2p", "applicationStatuses": {NAME: {"status": "RUNNING"}}}
    clusters = look.cluster_rows(ray_service(activeServiceStatus=serving))
    assert clusters[1] == (f"{NAME}-7xk2p", "serves", "RUNNING")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.44, "0.4 s"), (41.3, "41 s"), (119.7, "2 min 0 s"), (725, "12 min 5 s")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
