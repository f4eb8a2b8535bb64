"""What `scripts/cluster` deletes, and in what order: nothing of others, and nothing before a new image is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from operations.target import PROTECTED

from tests import cluster_world
from tests.cluster_world import NAME, Machine, items, namespace, rule

THERE = rule("get namespace", namespace(), before="delete namespace")


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


@pytest.mark.parametrize("command", ["deploy", "reset", "remove"])
@pytest.mark.parametrize("name", ["billing", "argocd", NAME])
def test_a_namespace_of_others_is_neither_deleted_nor_filled(machine: Machine, command: str, name: str) -> None:
    machine.run("image")
    machine.forget()
    machine.first(rule("get namespace", namespace(team="billing")))
    done = machine.run(command, "--yes", "--namespace", name)
    assert done.returncode in (1, 2)
    assert f"the namespace {name} was not made for this service" in done.stderr
    assert f"label namespace {name} app.kubernetes.io/part-of={NAME}" in done.stderr
    assert machine.changes == []


def test_a_namespace_that_came_in_the_place_of_the_permitted_one_is_not_deleted(machine: Machine) -> None:
    machine.first(
        rule("get namespace", namespace("first"), before="podman build"), rule("get namespace", namespace("second"))
    )
    done = machine.run("reset", "--yes")
    assert done.returncode == 1
    assert "was made anew since it was asked for: nothing in it is deleted" in done.stderr
    assert not any("delete" in line for line in machine.lines)


def test_a_removal_of_nothing_asks_nothing_and_deletes_nothing(machine: Machine) -> None:
    done = machine.run("remove")
    assert done.returncode == 0, done.stderr
    assert f"there is no namespace {NAME}" in done.stderr
    assert machine.changes == []


@pytest.mark.parametrize("command", ["reset", "remove"])
def test_prod_is_never_deleted(machine: Machine, command: str) -> None:
    machine.settings("prod", "ENVIRONMENT=prod\n")
    machine.local("prod", "CONTEXT=lab\n")
    done = machine.run(command, "--yes", "--env", "prod")
    assert done.returncode == 2
    assert done.stderr.endswith("error: prod is not deleted by this program\n")
    assert machine.lines == []


def test_what_calls_itself_prod_is_not_deleted_under_another_name(machine: Machine) -> None:
    machine.first(rule("get namespace", namespace()), rule("get configmaps .*ENVIRONMENT", "dev prod"))
    done = machine.run("reset", "--yes")
    assert done.returncode == 2
    assert "calls itself prod" in done.stderr
    assert machine.changes == []


@pytest.mark.parametrize("command", ["reset", "remove", "down"])
def test_without_a_word_nothing_is_deleted(machine: Machine, command: str) -> None:
    machine.first(rule("kind get clusters", f"{NAME}\n"), rule("get namespace", namespace()))
    done = machine.run(command)
    assert done.returncode == 2
    assert "--yes does it without asking" in done.stderr
    assert machine.changes == []


def test_a_reset_deletes_only_when_the_new_image_is_there_and_in_order(machine: Machine) -> None:
    machine.first(THERE, rule("api-resources", "rayservices.ray.io\n"))
    done = machine.run("reset", "--yes")
    assert done.returncode == 0, done.stderr
    words = [
        "podman build",
        "kind load",
        "delete rayservice",
        "delete rayclusters",
        "delete namespace",
        "create --filename build",
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


@pytest.mark.parametrize(("nodes", "deleted"), [([], False), ([{"status": {}}], True)])
def test_a_kind_cluster_of_another_name_is_deleted_if_it_was_made_here(
    machine: Machine, nodes: list[dict[str, object]], deleted: bool
) -> None:
    label = f"{NAME}/cluster: made"
    assert label in (cluster_world.ROOT / "k8s" / "kind.yaml").read_text()
    machine.first(rule("kind get clusters", "lab\n"), rule(f"get nodes --selector {NAME}/cluster=made", items(*nodes)))
    done = machine.run("down", "--yes", "--context", "kind-lab")
    assert ("was not made by this program" in done.stderr) is not deleted
    assert machine.changes == (["kind delete cluster --name lab"] if deleted else [])


@pytest.mark.parametrize("command", ["up", "down"])
def test_a_cluster_of_others_is_neither_made_nor_deleted(machine: Machine, command: str) -> None:
    done = machine.run(command, "--yes", "--context", "lab")
    assert (done.returncode, done.stderr) == (
        2,
        "error: lab is no kind cluster: it is made and deleted by those who run it\n",
    )
    assert machine.lines == []
