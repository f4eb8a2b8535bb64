"""`scripts/cluster`: what it asks of other programs, and what it never shows.

That it works is shown on a real cluster, in tests/cluster.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import cluster_world
from tests.cluster_world import IMAGE, IMAGE_ID, NAME, Machine, entry, items, operator, rule


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with cluster_world.machine(tmp_path) as made:
        yield made


@pytest.mark.parametrize(
    "command",
    [
        *(
            "all",
            "check",
            "up",
            "down",
            "install",
            "image",
            "deploy",
            "deploy --rebuild",
            "smoke",
            "upgrade",
            "rollback",
        ),
        *(
            "rollback",
            "status",
            "logs gateway",
            "logs redis",
            "access",
            "token",
            "reset",
            "remove",
            "config --manifests",
        ),
        *("restart service", "restart head", "restart redis"),
    ],
)
def test_a_dry_run_starts_no_program_and_writes_no_file(machine: Machine, command: str) -> None:
    files = sorted(machine.tree.rglob("*"))
    done = machine.run(*command.split(), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert machine.lines == []
    made = [path for path in sorted(machine.tree.rglob("*")) if path not in files and "__pycache__" not in str(path)]
    assert made == []
    assert done.stdout.strip()


def test_secrets_of_development_are_random_and_never_shown(machine: Machine) -> None:
    done = machine.run("all")
    [made] = [one["stdin"] for one in machine.asked if one["line"].endswith("create --filename -")]
    values = {one["metadata"]["name"]: one["stringData"] for one in json.loads(made)["items"]}
    assert set(values) == {NAME, f"{NAME}-ray", "redis"}
    password = values["redis"]["password"]
    assert re.fullmatch(r"[\w-]{32}", password)
    assert values[NAME]["redis-url"] == f"redis://:{password}@redis:6379/0"
    shown = done.stdout + done.stderr + "\n".join(machine.lines)
    assert not any(value in shown for secret in values.values() for value in secret.values())


def test_a_job_redis_with_a_certificate_is_reached_by_tls(machine: Machine) -> None:
    certificate = "---\napiVersion: cert-manager.io/v1\nkind: Certificate\nmetadata:\n  name: redis-tls\n"
    certificate += "spec:\n  secretName: redis-tls\n"
    machine.first(rule("kustomize .*/surroundings", cluster_world.SURROUNDINGS + certificate))
    assert machine.run("all").returncode == 0
    [made] = [one["stdin"] for one in machine.asked if one["line"].endswith("create --filename -")]
    values = {one["metadata"]["name"]: one["stringData"] for one in json.loads(made)["items"]}
    url = f"rediss://:{values['redis']['password']}@redis:6379/0?ssl_ca_certs=/run/secrets/redis-ca/ca.crt"
    assert values[NAME]["redis-url"] == url


def test_a_secret_that_was_there_keeps_its_password(machine: Machine) -> None:
    machine.first(
        rule("get secrets", "redis password\n", before="create --filename -"),
        rule("get secret redis", {"data": {"password": "c2VjcmV0LW9mLWJlZm9yZQ=="}}),
    )
    assert machine.run("all").returncode == 0
    [made] = [one["stdin"] for one in machine.asked if one["line"].endswith("create --filename -")]
    values = {one["metadata"]["name"]: one["stringData"] for one in json.loads(made)["items"]}
    assert "redis" not in values
    assert values[NAME]["redis-url"] == "redis://:secret-of-before@redis:6379/0"


@pytest.mark.parametrize(
    ("found", "says", "does"),
    [
        (operator("1.7.0"), "KubeRay 1.7.0 is there", []),
        (operator("1.7.0", "platform"), "write OPERATOR_NAMESPACE=platform to k8s/overlays/dev/site.env", []),
        (operator("", "kuberay-system"), "KubeRay of a version that its image does not tell runs in kuberay", []),
        (operator("1.5.1"), "after 1.5.1", ["apply --server-side --force-conflicts --filename -", "helm upgrade"]),
        (operator("1.8.0"), "error: KubeRay: KubeRay 1.8.0 runs in kuberay-system, and 1.7.0 is wanted", []),
        (operator("1.5.1", "platform"), "error: KubeRay: KubeRay 1.5.1 runs in platform", []),
    ],
)
def test_an_operator_that_is_there_is_kept_upgraded_with_its_definitions_or_left_alone(
    machine: Machine, found: dict[str, object], says: str, does: list[str]
) -> None:
    machine.first(
        rule("get deployments --all-namespaces", items(found)),
        rule("helm show crds", "kind: CustomResourceDefinition\n"),
    )
    done = machine.run("install")
    assert says in done.stderr
    assert [any(word in line for line in machine.changes) for word in does] == [True] * len(does)
    assert len(machine.changes) == len(does)


def test_an_operator_is_looked_for_and_put_where_the_policies_let_it_in_from(machine: Machine) -> None:
    (machine.tree / "k8s" / "overlays" / "dev" / "site.env").write_text("OPERATOR_NAMESPACE=platform\n")
    assert machine.run("install").returncode == 0
    assert "--namespace platform --create-namespace" in machine.changes[0]
    machine.first(rule("get deployments --all-namespaces", items(operator("1.7.0", "platform"))))
    assert "KubeRay 1.7.0 is there" in machine.run("install").stderr
    machine.run("logs", "operator")
    assert "--namespace platform logs --selector" in machine.lines[-1]


def test_the_operator_of_a_shared_cluster_is_not_upgraded_unasked(machine: Machine) -> None:
    machine.local("stage", "CONTEXT=lab\n")
    machine.first(rule("get deployments --all-namespaces", items(operator("1.5.1"))))
    done = machine.run("install", "--env", "stage")
    assert done.returncode == 2
    assert "KubeRay 1.5.1 becomes 1.7.0 for every RayService and RayCluster at lab" in done.stderr
    assert machine.changes == []
    assert machine.run("install", "--env", "stage", "--yes").returncode == 0
    assert ["helm upgrade" in line for line in machine.changes] == [False, True]


def test_every_kubectl_names_its_cluster(machine: Machine) -> None:
    for command in ("all", "status", "rollback"):
        machine.run(command)
    asked = [line for line in machine.lines if line.startswith("kubectl") and "kustomize" not in line]
    assert [line for line in asked if f"--context kind-{NAME} " not in line and "--client" not in line] == []


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


def test_old_entries_leave_the_cluster_with_settings_that_nobody_reads(machine: Machine) -> None:
    kept, oldest, serving, failed = (f"{NAME}-{mark * 12}" for mark in "abcd")
    entries = [entry(f"{n:02}", f"{n:02}", IMAGE) for n in range(12)]
    for old, settings in ((entries[11], kept), (entries[0], oldest)):
        old["data"]["manifests.yaml"] += f"- configMapRef:\n    name: {settings}\n"
    too_late = {"spec": {"envFrom": [{"configMapRef": {"name": serving}}]}}
    by_hand = NAME
    there = [{"metadata": {"name": name}} for name in (kept, oldest, serving, failed, by_hand)]
    machine.first(
        rule("get configmaps .*component=settings", items(*there)),
        rule("get configmaps .*component=release", items(*entries)),
        rule("get rayclusters", items(too_late)),
    )
    machine.run("all")
    gone = [line.rpartition("delete configmap ")[2] for line in machine.changes if "delete configmap" in line]
    dropped = (f"{NAME}-release-01", f"{NAME}-release-00", oldest, failed)
    assert gone == [f"{name} --ignore-not-found" for name in dropped]
