"""What `scripts/cluster` refuses, before anything is changed: to build, to deploy, to go back to, to delete."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from operations.target import PROTECTED

from tests import cluster_world
from tests.cluster_world import IMAGE, IMAGE_ID, NAME, Machine, entry, items, namespace, ray_service, rule

PRODUCTION = "ENVIRONMENT=prod\nMODEL_SOURCE=hugging_face\nMODEL_ID=org/model\nMODEL_REVISION=" + "4d" * 20 + "\n"


PLACE = f"CONTEXT=lab\nREGISTRY=registry.lab\nBUILD_BASE=registry.lab/ray@sha256:{'0' * 64}\n"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with cluster_world.machine(tmp_path) as made:
        yield made


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
    assert not any("create --filename -" in line for line in machine.lines)


def test_no_key_is_made_up_for_a_secret_that_is_taken_whole(machine: Machine) -> None:
    items_of_volume = "          items:\n          - key: password\n            path: password\n"
    production(machine, cluster_world.SURROUNDINGS.replace(items_of_volume, ""))
    machine.first(rule("get secrets", ""))
    machine.run("image", "--env", "prod")
    assert "create secret generic redis --from-file=FOLDER\n" in machine.run("deploy", "--env", "prod").stderr


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


def test_a_rollback_to_nowhere_changes_nothing(machine: Machine) -> None:
    machine.first(
        rule("get configmaps", items(entry("aaa", "1", IMAGE))), rule("get rayservice", ray_service(mark="aaa"))
    )
    assert "there is no earlier release in the cluster; there are: aaa" in machine.run("rollback").stderr
    assert "there is no release zzz in the cluster" in machine.run("rollback", "zzz").stderr
    assert machine.changes == []


def test_a_release_of_another_model_than_the_settings_name_is_refused(machine: Machine) -> None:
    machine.run("image")
    machine.settings("dev", "ENVIRONMENT=dev\nMODEL_SOURCE=private\nMODEL_ID=lab/other\n")
    machine.forget()
    done = machine.run("deploy")
    assert done.returncode == 2
    names = "holds the model demo, and k8s/overlays/dev/settings.env names private lab/other"
    assert f"{IMAGE} {names}" in done.stderr
    assert machine.lines == []


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


@pytest.mark.parametrize("broken", ["podman build", "kind load"])
def test_a_reset_whose_image_fails_leaves_what_is_there(machine: Machine, broken: str) -> None:
    machine.first(rule(broken, status=1, errors="no space left\n"))
    done = machine.run("reset", "--yes")
    assert done.returncode == 1
    assert not any("delete" in line for line in machine.lines)
    assert "done:     permission\n" in done.stderr


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
        "error: lab is not on this machine: it is made and deleted by those who run it\n",
    )
    assert machine.lines == []


def test_missing_and_old_tools_are_named_together_with_where_they_come_from(machine: Machine) -> None:
    (machine.bin / "kind").unlink()
    machine.first(rule("helm version", "v3.9.1+g1\n"))
    done = machine.run("check")
    assert done.returncode == 1
    assert "kind is not installed" in done.stderr
    assert "https://kind.sigs.k8s.io" in done.stderr
    assert "helm is 3.9, 3.12 is needed (installs KubeRay): https://helm.sh" in done.stderr
    assert machine.changes == []


def test_an_old_cluster_is_refused(machine: Machine) -> None:
    machine.local("stage", "CONTEXT=lab\nREGISTRY=registry.lab\n")
    machine.first(rule("kubectl --context lab .* version", {"serverVersion": {"gitVersion": "v1.30.9"}}))
    done = machine.run("check", "--env", "stage")
    assert "the cluster runs Kubernetes 1.30; 1.31 is needed" in done.stderr
    assert not any(line.startswith("kind") for line in machine.lines)


OVERLAY = """apiVersion: v1
data:
  text: |
    apiVersion: nobody/v1
    kind: Nothing
kind: ConfigMap
metadata:
  name: dashboard
---
apiVersion: external-secrets.io/v1
kind: ExternalSecret
metadata:
  name: redis
---
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata:
  name: ray
---
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: rules
"""


RESOURCES = """configmaps        cm    v1                             true   ConfigMap
externalsecrets   es    external-secrets.io/v2         true   ExternalSecret
podmonitors       pmon  monitoring.coreos.com/v1       true   PodMonitor
prometheusrules         monitoring.coreos.com/v1       true   PrometheusRule
"""


VERSIONS = "external-secrets.io/v1\nexternal-secrets.io/v2\nmonitoring.coreos.com/v1\nv1\n"


@pytest.fixture
def lab(machine: Machine) -> Machine:
    """A machine whose stage is a cluster of somebody's."""
    machine.settings("stage", "ENVIRONMENT=stage\nMODEL_SOURCE=demo\n")
    machine.local("stage", "CONTEXT=lab\nREGISTRY=registry.lab\n")
    machine.first(
        rule("kubectl --context lab .* version", {"serverVersion": {"gitVersion": "v1.33.0"}}),
        rule("kubectl kustomize k8s/overlays/stage", OVERLAY),
    )
    return machine


def knows(machine: Machine, resources: str = RESOURCES, versions: str = VERSIONS, **more: object) -> None:
    machine.first(rule("api-resources", resources, **more), rule("api-versions", versions))


def test_a_cluster_that_knows_every_kind_passes(lab: Machine) -> None:
    knows(lab)
    done = lab.run("check", "--env", "stage")
    assert done.returncode == 0, done.stderr


def test_kinds_of_an_operator_that_is_not_there_are_named_with_where_they_come_from(lab: Machine) -> None:
    knows(lab, "\n".join(row for row in RESOURCES.splitlines() if "monitoring" not in row) + "\n")
    done = lab.run("check", "--env", "stage")
    assert done.returncode == 1
    assert (
        "the cluster knows no PodMonitor and no PrometheusRule of monitoring.coreos.com/v1: the Prometheus operator"
        in done.stderr
    )
    assert "ExternalSecret" not in done.stderr


def test_a_kind_in_another_version_is_none(lab: Machine) -> None:
    knows(lab, versions=VERSIONS.replace("external-secrets.io/v1\n", ""))
    done = lab.run("check", "--env", "stage")
    assert done.returncode == 1
    assert "the cluster knows no ExternalSecret of external-secrets.io/v1: the External Secrets operator" in done.stderr


def test_an_api_of_the_cluster_that_is_away_hides_no_other(lab: Machine) -> None:
    knows(lab, status=1, errors="unable to retrieve the complete list of server APIs: metrics.k8s.io/v1beta1\n")
    assert lab.run("check", "--env", "stage").returncode == 0


def test_a_cluster_that_does_not_tell_is_no_cluster_that_knows(lab: Machine) -> None:
    knows(lab, "", status=1, errors="Forbidden\n")
    done = lab.run("check", "--env", "stage")
    assert done.returncode == 1
    assert "the cluster lab does not tell its kinds: Forbidden" in done.stderr


def test_an_overlay_that_cannot_be_built_is_told(lab: Machine) -> None:
    lab.first(rule("kubectl kustomize k8s/overlays/stage", status=1, errors="no such file\n"))
    done = lab.run("check", "--env", "stage")
    assert done.returncode == 1
    assert "k8s/overlays/stage cannot be built: no such file" in done.stderr
