"""`scripts/cluster` beside deploying: looking, tokens, logs, access, restarts, and the other builder."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from operations.runner import shown

from tests import cluster_world
from tests.cluster_world import IMAGE, IMAGE_ID, NAME, Machine, entry, items, ray_service, rule


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with cluster_world.machine(tmp_path) as made:
        yield made


def pod(name: str, component: str, *, ready: bool = True) -> dict[str, object]:
    labels = {"app.kubernetes.io/component": component}
    conditions = [{"type": "Ready", "status": str(ready)}]
    return {"metadata": {"name": name, "labels": labels}, "status": {"phase": "Running", "conditions": conditions}}


def test_status_lists_pods_applications_and_releases(machine: Machine) -> None:
    machine.first(
        rule("get pods", items(pod("g-1", "gateway"), pod("b-1", "burst", ready=False))),
        rule("get configmaps", items(entry("aaa", "2026-11-21T10:00:00Z", IMAGE))),
    )
    done = machine.run("status")
    assert done.returncode == 0
    assert [line.split() for line in done.stdout.splitlines()[:4]] == [
        ["POD", "COMPONENT", "PHASE", "READY"],
        ["b-1", "burst", "Running", "-"],
        ["g-1", "gateway", "Running", "ready"],
        ["green", "serves", "RUNNING", NAME],
    ]
    assert "release aaa  served from 2026-11-21T10:00:00Z" in done.stdout
    assert "ready: 4 endpoints" in done.stderr


def test_status_says_why_and_fails_where_the_service_is_not_ready(machine: Machine) -> None:
    machine.first(rule("get rayservice", ray_service(ready=False, conditions=[])), rule("get pods", items()))
    done = machine.run("status")
    assert done.returncode == 1
    assert "error: status: the service is not ready" in done.stderr
    assert "next:" not in done.stderr


def test_a_token_is_all_that_is_on_standard_output(machine: Machine) -> None:
    done = machine.run("token", "alice")
    assert (done.returncode, done.stdout) == (0, "token-of-alice\n")


def test_an_issuer_that_cannot_be_reached_is_told(machine: Machine) -> None:
    machine.first(rule("port-forward service/dev-issuer", status=1, errors="error: services not found\n"))
    done = machine.run("token")
    assert done.returncode == 1
    assert "no way to the Service dev-issuer: error: services not found" in done.stderr


def test_logs_of_replicas_are_files_in_their_pods(machine: Machine) -> None:
    machine.first(rule("get pods", items(pod("g-1", "gateway"), pod("g-2", "gateway"))), rule(" exec ", "a line\n"))
    done = machine.run("logs", "gateway", "--lines", "7")
    assert done.stdout == "a line\na line\n"
    read = "tail --lines=7 /tmp/ray/session_latest/logs/serve/*.log"
    asked = [line for line in machine.lines if " exec " in line]
    assert [line.split("exec ")[1] for line in asked] == [
        f"{name} --container ray-worker -- bash -c {read}" for name in ("g-1", "g-2")
    ]


@pytest.mark.parametrize(
    ("component", "asked"),
    [
        ("redis", "--selector app.kubernetes.io/component=redis --all-containers"),
        ("autoscaler", "--selector app.kubernetes.io/component=head --container autoscaler"),
        ("migrate", "logs job/migrate --tail 100"),
        ("operator", "--namespace kuberay-system logs --selector app.kubernetes.io/name=kuberay-operator"),
    ],
)
def test_other_logs_are_those_of_the_pods(machine: Machine, component: str, asked: str) -> None:
    assert machine.run("logs", component).returncode == 0
    assert asked in machine.lines[-1]


def test_config_shows_no_secret(machine: Machine) -> None:
    machine.run("image")
    machine.local("dev", "BUILD_TORCH=pypi\n")
    secret = "---\napiVersion: v1\ndata:\n  password: c2VjcmV0\nkind: Secret\nmetadata:\n  name: made-here\n"
    machine.first(rule("kustomize .*/surroundings", cluster_world.SURROUNDINGS + secret))
    done = machine.run("config", "--manifests")
    assert done.returncode == 0, done.stderr
    for text in (
        "CONTEXT          kind-sem-image-classifier",
        "TORCH=pypi",
        "MODEL_SOURCE     demo",
        "kind: RayService",
    ):
        assert text in done.stdout
    assert "  password: '********'" in done.stdout
    assert "c2VjcmV0" not in done.stdout
    assert [line for line in machine.changes if not line.startswith(("podman", "kind"))] == []


def test_config_shows_what_the_settings_come_to(machine: Machine) -> None:
    site = machine.tree / "k8s" / "overlays" / "dev" / "site.env"
    site.write_text("HOST=sem.localhost\n")
    traced = "  ENVIRONMENT: dev\n  TRACES_ENDPOINT: http://me:word@collector:4318\n"
    machine.first(rule("/overlays/dev", cluster_world.SETTINGS.replace("  ENVIRONMENT: dev\n", traced)))
    shown = machine.run("config").stdout
    assert "HOST             sem.localhost\n" in shown
    assert "  ENVIRONMENT: dev\n  TRACES_ENDPOINT: http://********@collector:4318\n" in shown
    assert "StatefulSet" not in shown


def test_the_password_of_an_index_is_neither_shown_nor_an_argument(machine: Machine) -> None:
    machine.local("dev", "BUILD_PIP_INDEX_URL=https://me:word@index.lab/simple\n")
    secret = "--secret id=pip_index_url,src=build/cluster/dev/pip-index-url"
    for command in (["config"], ["image"], ["image", "--dry-run"]):
        done = machine.run(*command)
        assert done.returncode == 0, done.stderr
        assert "me:word" not in done.stdout + done.stderr
    [build] = [line for line in machine.lines if "podman build" in line]
    assert secret in build
    assert not any("me:word" in line for line in machine.lines)
    assert not (machine.tree / "build" / "cluster" / "dev" / "pip-index-url").exists()


def test_a_password_in_an_address_is_hidden() -> None:
    assert shown(["helm", "https://me:word@a/b", "https://c/d@e"]) == "helm https://********@a/b https://c/d@e"


def test_a_command_tells_what_it_does(machine: Machine) -> None:
    assert "back to the release before, or to a named one" in machine.run("rollback", "--help").stdout


def test_a_restart_of_the_service_is_a_new_cluster(machine: Machine) -> None:
    done = machine.run("restart", "service")
    assert done.returncode == 0, done.stderr
    [change] = machine.changes
    assert " patch rayservice " in change
    assert f'"headGroupSpec": {{"template": {{"metadata": {{"annotations": {{"{NAME}/restarted-at": "20' in change


def test_a_restart_of_the_head_waits_for_another_one(machine: Machine) -> None:
    machine.first(
        rule("get pods --selector .*head", items(pod("head-2", "head")), after="delete pod"),
        rule("get pods --selector .*head", items(pod("head-1", "head"))),
    )
    assert machine.run("restart", "head").returncode == 0
    assert [line.split(f"{NAME} ")[-1] for line in machine.changes] == [
        "delete pod --selector app.kubernetes.io/component=head --wait"
    ]


def test_a_head_is_not_restarted_in_trouble(machine: Machine) -> None:
    machine.first(rule("get rayservice", ray_service(ready=False)))
    assert "a head is replaced while all else is well" in machine.run("restart", "head").stderr
    assert machine.changes == []


def test_a_server_is_restarted_and_waited_for(machine: Machine) -> None:
    assert machine.run("restart", "redis").returncode == 0
    assert [line.split(f"{NAME} ")[-1] for line in machine.lines] == [
        "rollout restart statefulset/redis",
        "rollout status statefulset/redis --timeout=600s",
    ]


def test_an_access_that_breaks_is_opened_again(machine: Machine) -> None:
    machine.first(rule("port-forward", status=1))
    machine.local("stage", "CONTEXT=lab\nREGISTRY=r\n")  # dev has an issuer too, at a port that `make run` may hold
    with machine.start("access", "--env", "stage", "--port", "0") as process:
        while sum("serve-svc" in line for line in machine.lines) < 2:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert f"{NAME}-serve-svc went away; trying again" in errors


def test_a_taken_port_is_told(machine: Machine) -> None:
    with cluster_world.serving() as port:
        done = machine.run("access", "--port", str(port))
    assert f"port {port} of this machine is taken" in done.stderr
    assert machine.lines == []


def test_docker_builds_where_podman_is_not(machine: Machine) -> None:
    (machine.bin / "podman").rename(machine.bin / "docker")
    digest = f"sha256:{'ef56' * 16}"
    machine.settings("stage", "MODEL_SOURCE=private\nMODEL_ID=lab/model\nMODEL_REVISION=v3\n")
    machine.local("stage", "CONTEXT=lab\nREGISTRY=registry.lab/sem\nHF_TOKEN_FILE=token\nBUILD_TORCH=pypi\n")
    machine.first(
        rule("docker build", files={"build/cluster/stage/image-id": f"sha256:{IMAGE_ID}\n"}),
        rule("docker image inspect", f'["other@sha256:1", "registry.lab/sem/{NAME}@{digest}"]'),
    )
    done = machine.run("image", "--env", "stage")
    assert done.returncode == 0, done.stderr
    build, tag, push = machine.changes[:3]
    for part in ("--build-arg MODEL_ID=lab/model --build-arg MODEL_REVISION=v3", "--build-arg TORCH=pypi"):
        assert part in build
    assert build.endswith("--secret id=hf_token,src=token .")
    name = f"registry.lab/sem/{NAME}:{IMAGE_ID[:12]}"
    assert [tag, push] == [f"docker tag {IMAGE_ID} {name}", f"docker push {name}"]
    assert f"registry.lab/sem/{NAME}@{digest}" in done.stderr
