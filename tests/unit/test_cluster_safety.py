"""What `scripts/cluster` refuses, and in what order it deletes: nothing before a new image is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from operations.target import PROTECTED

from tests import cluster_world
from tests.cluster_world import IMAGE_ID, NAME, Machine, ray_service, rule

PRODUCTION = "ENVIRONMENT=prod\nMODEL_SOURCE=hugging_face\nMODEL_ID=org/model\nMODEL_REVISION=" + "4d" * 20 + "\n"
PLACE = f"CONTEXT=lab\nREGISTRY=registry.lab\nBUILD_BASE=registry.lab/ray@sha256:{'0' * 64}\n"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with cluster_world.machine(tmp_path) as made:
        yield made


@pytest.mark.parametrize(
    "namespace",
    [
        "default",
        "kube-system",
        "kube-public",
        "kube-node-lease",
        "storage-system",
        "prod",
        "sem-prod",
        "prod-sem",
        "production",
        "live",
        "kuberay-system",
        "istio-system",
        "ingress-nginx",
        "cert-manager",
        "monitoring",
    ],
)
def test_protected_namespaces(namespace: str) -> None:
    assert PROTECTED.fullmatch(namespace)


@pytest.mark.parametrize("namespace", [NAME, "sem", "sem-stage", "products", "reproduction", "alive", "kubectl-tests"])
def test_other_namespaces(namespace: str) -> None:
    assert not PROTECTED.fullmatch(namespace)


@pytest.mark.parametrize("command", ["reset", "remove"])
@pytest.mark.parametrize("namespace", ["default", "kube-system", "sem-prod"])
def test_a_protected_namespace_is_not_touched(machine: Machine, command: str, namespace: str) -> None:
    done = machine.run(command, "--yes", "--namespace", namespace)
    assert done.returncode == 2
    assert f"the namespace {namespace} is protected" in done.stderr
    assert machine.lines == []


@pytest.mark.parametrize("command", ["reset", "remove"])
def test_prod_is_never_deleted(machine: Machine, command: str) -> None:
    machine.settings("prod", PRODUCTION)
    machine.local("prod", PLACE)
    done = machine.run(command, "--yes", "--env", "prod")
    assert done.returncode == 2
    assert done.stderr.endswith("error: prod is not deleted by this program\n")
    assert machine.lines == []


def test_what_calls_itself_prod_is_not_deleted_under_another_name(machine: Machine) -> None:
    machine.first(rule("get configmap", "prod"))
    done = machine.run("reset", "--yes")
    assert done.returncode == 2
    assert "calls itself prod" in done.stderr
    assert machine.changes == []


@pytest.mark.parametrize("command", ["reset", "remove", "down"])
def test_without_a_word_nothing_is_deleted(machine: Machine, command: str) -> None:
    machine.first(rule("kind get clusters", f"{NAME}\n"))
    done = machine.run(command)
    assert done.returncode == 2
    assert "--yes does it without asking" in done.stderr
    assert machine.changes == []


def test_a_reset_deletes_only_when_the_new_image_is_there_and_in_order(machine: Machine) -> None:
    machine.first(rule("api-resources", "rayservices.ray.io\n"))
    done = machine.run("reset", "--yes")
    assert done.returncode == 0, done.stderr
    words = [
        "podman build",
        "kind load",
        "delete rayservice",
        "delete rayclusters",
        "delete namespace",
        "create namespace",
    ]
    places = [next(i for i, line in enumerate(machine.changes) if word in line) for word in words]
    assert places == sorted(places)
    assert (machine.tree / "build" / "releases" / "release-dev-latest.json").exists()
    assert "nanowires.jpg is Nanowires" in done.stderr


@pytest.mark.parametrize("broken", ["podman build", "kind load"])
def test_a_reset_whose_image_fails_leaves_what_is_there(machine: Machine, broken: str) -> None:
    machine.first(rule(broken, status=1, errors="no space left\n"))
    done = machine.run("reset", "--yes")
    assert done.returncode == 1
    assert not any("delete" in line for line in machine.lines)
    assert "done:     permission\n" in done.stderr


def test_a_kind_cluster_is_deleted_once(machine: Machine) -> None:
    machine.first(rule("kind get clusters", f"{NAME}\n", before="kind delete"), rule("kind get clusters", ""))
    assert machine.run("down", "--yes").returncode == 0
    assert "there is no kind cluster" in machine.run("down", "--yes").stderr
    assert machine.changes == [f"kind delete cluster --name {NAME}"]


@pytest.mark.parametrize("command", ["up", "down"])
def test_a_cluster_of_others_is_neither_made_nor_deleted(machine: Machine, command: str) -> None:
    done = machine.run(command, "--yes", "--context", "lab")
    assert (done.returncode, done.stderr) == (
        2,
        "error: lab is no kind cluster: it is made and deleted by those who run it\n",
    )
    assert machine.lines == []


@pytest.mark.parametrize(
    ("local", "arguments", "says"),
    [
        ("", ["status"], "stage needs to be told its cluster: --context NAME, or CONTEXT=NAME in k8s/stage.local.env"),
        (
            "CONTEXT=lab\nREGISTRI=r\n",
            ["status"],
            "stage.local.env: REGISTRI is no setting; there are NAMESPACE, CONTEXT,",
        ),
        ("CONTEXT=lab\nwhat is this\n", ["status"], "stage.local.env:2: NAME=value is wanted"),
        ("CONTEXT=lab\nNAMESPACE=No_Name\n", ["status"], "'No_Name' is no name for a namespace"),
        ("CONTEXT=lab\n", ["image"], "stage needs REGISTRY"),
        ("CONTEXT=lab\n", ["token", "alice"], "its tokens come from your identity provider"),
        ("CONTEXT=lab\n", ["deploy"], "there is no release of stage on this machine yet: scripts/cluster"),
    ],
)
def test_an_environment_that_is_not_told_enough(machine: Machine, local: str, arguments: list[str], says: str) -> None:
    machine.settings("stage", "ENVIRONMENT=stage\n")
    machine.local("stage", local)
    done = machine.run(*arguments, "--env", "stage")
    assert done.returncode in (1, 2)
    assert says in done.stderr
    assert machine.lines == []


@pytest.mark.parametrize(
    ("settings", "local", "says"),
    [
        ("MODEL_SOURCE=demo\n", PLACE, "prod does not serve the demo model"),
        (PRODUCTION.replace("4d" * 20, "main"), PLACE, "prod wants MODEL_REVISION as a commit"),
        (PRODUCTION.replace("MODEL_ID=org/model\n", ""), PLACE, "MODEL_SOURCE=hugging_face needs MODEL_ID"),
        (PRODUCTION, "CONTEXT=lab\nREGISTRY=registry.lab\n", "prod is built on an image that cannot change"),
    ],
)
def test_prod_refuses_what_is_for_development(machine: Machine, settings: str, local: str, says: str) -> None:
    machine.settings("prod", settings)
    machine.local("prod", local)
    done = machine.run("image", "--env", "prod")
    assert done.returncode == 2
    assert says in done.stderr
    assert machine.lines == []


def test_prod_is_built_from_a_clean_checkout(machine: Machine) -> None:
    machine.settings("prod", PRODUCTION)
    machine.local("prod", PLACE)
    machine.first(rule("git status", " M serve_app/app.py\n"))
    done = machine.run("image", "--env", "prod")
    assert "prod is built from a clean checkout" in done.stderr
    assert machine.changes == []


def test_a_model_of_the_shell_is_refused(machine: Machine) -> None:
    machine.environment["MODEL_ID"] = "org/other"
    done = machine.run("image")
    assert "MODEL_ID is set in this shell and is not read: write it to k8s/overlays/dev/settings.env" in done.stderr
    assert machine.lines == []


def production(machine: Machine, surroundings: str = cluster_world.SURROUNDINGS) -> None:
    machine.settings("prod", PRODUCTION)
    machine.local("prod", PLACE)
    machine.make(machine.tree / ".venv" / "bin" / "python")
    digest = f"sha256:{'cd34' * 16}"
    files = {"build/cluster/prod/image-id": f"sha256:{IMAGE_ID}"}
    machine.first(
        rule("podman build", files=files),
        rule("podman push", files={"build/cluster/prod/digest": digest}),
        rule("kubectl kustomize .*/surroundings", surroundings),
        rule("get secrets", cluster_world.SECRETS),
        rule("get raycluster", cluster_world.ray_cluster(f"registry.lab/{NAME}@{digest}")),
    )


def test_images_of_a_registry_are_deployed_by_their_digest(machine: Machine) -> None:
    production(machine)
    assert machine.run("image", "--env", "prod").returncode == 0
    done = machine.run("deploy", "--env", "prod")
    assert done.returncode == 0, done.stderr
    push = f"podman push --digestfile build/cluster/prod/digest registry.lab/{NAME}:{IMAGE_ID[:12]}"
    assert push in machine.lines
    written = (machine.tree / "build" / "cluster" / "prod" / "service" / "kustomization.yaml").read_text()
    assert f"newName: registry.lab/{NAME}\n    digest: sha256:cd34" in written
    assert not any(line.startswith("kind") for line in machine.lines)


def test_a_placeholder_does_not_reach_prod(machine: Machine) -> None:
    production(machine, cluster_world.SURROUNDINGS + "  host: REPLACE-ME.example.org\n")
    machine.run("image", "--env", "prod")
    machine.forget()
    done = machine.run("deploy", "--env", "prod")
    assert done.returncode == 2
    assert done.stderr.endswith("error: the manifests of prod still hold REPLACE-ME.example.org\n")
    assert machine.changes == []


def test_what_the_check_of_production_finds_does_not_reach_prod(machine: Machine) -> None:
    production(machine)
    machine.first(rule("python scripts/check_production.py", "StatefulSet/redis claims no volume\n", status=1))
    machine.run("image", "--env", "prod")
    machine.forget()
    done = machine.run("deploy", "--env", "prod")
    assert done.returncode == 2
    assert "prod refuses these manifests:\nStatefulSet/redis claims no volume\n" in done.stderr
    [checked] = [one["stdin"] for one in machine.asked if "check_production" in one["line"]]
    assert "kind: StatefulSet" in checked
    assert "kind: RayService" in checked
    assert machine.changes == []


def test_prod_is_not_deployed_unchecked(machine: Machine) -> None:
    production(machine)
    machine.run("image", "--env", "prod")
    (machine.tree / ".venv" / "bin" / "python").unlink()
    assert "and that needs: make setup" in machine.run("deploy", "--env", "prod").stderr


def test_secrets_of_prod_are_demanded_and_never_made(machine: Machine) -> None:
    production(machine)
    machine.first(rule("get secrets", f"{NAME} redis-url\nredis password\n"))
    machine.run("image", "--env", "prod")
    done = machine.run("deploy", "--env", "prod")
    assert done.returncode == 1
    assert f"create secret generic {NAME} --from-file=database-url=FILE" in done.stderr
    assert f"create secret generic {NAME}-ray --from-file=auth_token=FILE" in done.stderr
    assert "generic redis" not in done.stderr
    assert not any("create --filename" in line for line in machine.lines)


def test_a_release_of_another_environment_is_refused(machine: Machine) -> None:
    machine.run("image")
    machine.local("stage", "CONTEXT=lab\n")
    file = str(machine.tree / "build" / "releases" / "release-dev-latest.json")
    done = machine.run("deploy", "--env", "stage", "--release", file)
    assert "is a release of dev, not of stage" in done.stderr


def test_an_upgrade_wants_something_healthy_to_go_back_to(machine: Machine) -> None:
    machine.first(rule("get rayservice", ray_service(ready=False)))
    done = machine.run("upgrade")
    assert "there is no healthy service to upgrade; first scripts/cluster status" in done.stderr
    assert machine.changes == []
