"""`scripts/cluster` from nothing to a smoke test: the order of what it asks of other programs, repeats, dry runs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import cluster_world
from tests.cluster_world import IMAGE, IMAGE_ID, NAME, Machine, items, operator, rule

KUBECTL = f"kubectl --context kind-{NAME} --namespace {NAME} "
APPLY = f"{KUBECTL}apply --server-side --force-conflicts --field-manager {NAME} "
WAY = [
    f"kind create cluster --name {NAME} --config k8s/kind.yaml --wait 5m",
    "helm upgrade --install kuberay-operator kuberay-operator --repo https://ray-project.github.io/kuberay-helm/ "
    f"--version 1.7.0 --kube-context kind-{NAME} --namespace kuberay-system --create-namespace --wait --timeout 5m",
    "podman build --file k8s/image/Containerfile --iidfile build/cluster/dev/image-id --build-arg ENVIRONMENT=dev "
    "--build-arg VERSION=0.1.0 --build-arg COMMIT=0123456789abcdef0123456789abcdef01234567 "
    "--build-arg MODEL_SOURCE=demo .",
    f"podman tag {IMAGE_ID} {IMAGE}",
    f"podman save --output build/cluster/dev/image.tar {IMAGE}",
    f"kind load image-archive build/cluster/dev/image.tar --name {NAME}",
    f"{KUBECTL}create --filename build/cluster/dev/namespace.json",
    f"{KUBECTL}create --filename -",
    f"{KUBECTL}delete job migrate --ignore-not-found --wait",
    f"{APPLY}--filename -",
    f"{APPLY}--filename -",
    f"{KUBECTL}apply --server-side --force-conflicts --filename -",
]
"""Everything that `all` changes, in order."""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with cluster_world.machine(tmp_path) as made:
        yield made


def relative(machine: Machine) -> list[str]:
    return [line.replace(str(machine.tree), "TREE") for line in machine.changes]


def test_one_command_leads_from_nothing_to_a_passing_smoke_test(machine: Machine) -> None:
    done = machine.run("all")
    assert done.returncode == 0, done.stderr
    assert relative(machine) == WAY
    assert "nanowires.jpg is Nanowires" in done.stderr
    assert "its outcome is a row in PostgreSQL" in done.stderr
    assert done.stdout == ""


def test_a_second_time_nothing_is_made_that_is_there(machine: Machine) -> None:
    machine.run("all")
    before = len(machine.changes)
    done = machine.run("all")
    assert done.returncode == 0, done.stderr
    again = relative(machine)[before:]
    assert again == [WAY[2], WAY[3], *WAY[8:]]  # a cached build, and what is applied as it stands already
    for text in ("the kind cluster sem-image-classifier is there", "KubeRay 1.7.0 is there", "holds it already"):
        assert text in done.stderr


def test_all_is_tried_by_the_api_server_before_anything_is_applied(machine: Machine) -> None:
    machine.run("all")
    applied = [line for line in machine.lines if " apply --server-side" in line and "--field-manager" in line]
    assert ["--dry-run=server" in line for line in applied] == [True, True, False, False]
    inputs = [one["stdin"] for one in machine.asked if one["line"] in applied]
    assert inputs == [cluster_world.SURROUNDINGS, cluster_world.SERVICE] * 2


def test_what_the_api_server_does_not_take_leaves_the_migration_of_the_release_before(machine: Machine) -> None:
    machine.first(rule("--dry-run=server .*--selector", status=1, errors='no matches for kind "PodMonitor"\n'))
    done = machine.run("all")
    assert done.returncode == 1
    assert 'no matches for kind "PodMonitor"' in done.stderr
    assert not any("delete job" in line for line in machine.lines)


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


def test_a_dry_run_prints_the_commands_that_are_then_run(machine: Machine) -> None:
    printed = machine.run("all", "--dry-run").stdout.replace("0" * 64, IMAGE_ID).replace("0" * 12, IMAGE_ID[:12])
    printed = printed.replace("COMMIT=COMMIT", "COMMIT=0123456789abcdef0123456789abcdef01234567")
    machine.run("all")
    lines = [re.sub(r"^.* \| |   # .*$", "", line) for line in printed.splitlines()]
    programs = tuple(f"{tool} " for tool in cluster_world.TOOLS)
    said = [line for line in lines if line.startswith(programs) and cluster_world.changes(line)]
    waits = [line for line in said if " wait " in line]
    assert [line for line in said if line not in waits] == machine.changes
    assert len(waits) == 2  # what is watched, with its reasons, is one command for whoever types it


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


def test_the_release_is_a_file_and_an_entry_in_the_cluster(machine: Machine) -> None:
    machine.run("all")
    folder = machine.tree / "build" / "releases"
    release = json.loads((folder / "release-dev-latest.json").read_text())
    assert (release["image"], release["digest"]) == (IMAGE, f"sha256:{IMAGE_ID}")
    assert release["model_source"] == "demo"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", release["created_at_utc"])
    assert (folder / "release-dev-latest.json").resolve().name.startswith("release-dev-2")
    [entry] = [json.loads(one["stdin"]) for one in machine.asked if '"ConfigMap"' in one["stdin"]]
    assert json.loads(entry["data"]["release.json"]) == release
    assert "kind: RayService" in entry["data"]["manifests.yaml"]
    assert "ENVIRONMENT: dev" in entry["data"]["manifests.yaml"]


def test_image_settings_and_release_are_written_into_the_manifests(machine: Machine) -> None:
    machine.run("all")
    folder = machine.tree / "build" / "cluster" / "dev"
    text = (folder / "service" / "kustomization.yaml").read_text()
    assert f"newName: localhost/{NAME}\n    newTag: {IMAGE_ID[:12]}" in text
    assert re.search(rf'annotations: {{{NAME}/release: "[0-9a-f]{{12}}"}}', text)
    assert "resources: [../../../../k8s/service/dev, ../settings]" in text
    assert re.search(r'^nameSuffix: "-[0-9a-f]{12}"$', (folder / "settings" / "kustomization.yaml").read_text(), re.M)
    assert "resources: [../../../../k8s/overlays/dev]" in (folder / "surroundings" / "kustomization.yaml").read_text()


def test_other_settings_have_another_name(machine: Machine) -> None:
    written = machine.tree / "build" / "cluster" / "dev" / "settings" / "kustomization.yaml"
    names = []
    for settings in (cluster_world.SETTINGS, cluster_world.SETTINGS.replace("  ENV", "  JOB_TTL: '60'\n  ENV")) * 2:
        machine.first(rule("kustomize .*/settings", settings))
        machine.run("all")
        names.append(written.read_text())
    assert names[0] != names[1]
    assert names[:2] == names[2:]


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


def test_the_namespace_is_made_with_the_label_by_which_it_is_ours(machine: Machine) -> None:
    machine.run("all")
    made = json.loads((machine.tree / "build" / "cluster" / "dev" / "namespace.json").read_text())
    assert made["metadata"] == {"name": NAME, "labels": {"app.kubernetes.io/part-of": NAME}}


def test_every_kubectl_names_its_cluster(machine: Machine) -> None:
    for command in ("all", "status", "rollback"):
        machine.run(command)
    asked = [line for line in machine.lines if line.startswith("kubectl") and "kustomize" not in line]
    assert [line for line in asked if f"--context kind-{NAME} " not in line and "--client" not in line] == []
