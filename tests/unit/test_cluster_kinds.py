"""`scripts/cluster check` on a cluster of somebody's: a kind that it does not know is told before anything is done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from operations.delivery.deployment import NOT_MIGRATE
from operations.ground import kinds

from tests import cluster_world
from tests.cluster_world import Machine, rule

K8S = Path(__file__).resolve().parents[2] / "k8s"
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
def machine(tmp_path: Path) -> Iterator[Machine]:
    with cluster_world.machine(tmp_path) as made:
        made.settings("stage", "ENVIRONMENT=stage\nMODEL_SOURCE=demo\n")
        made.local("stage", "CONTEXT=lab\nREGISTRY=registry.lab\n")
        made.first(
            rule("kubectl --context lab .* version", {"serverVersion": {"gitVersion": "v1.33.0"}}),
            rule("kubectl kustomize k8s/overlays/stage", OVERLAY),
        )
        yield made


def knows(machine: Machine, resources: str = RESOURCES, versions: str = VERSIONS, **more: object) -> None:
    machine.first(rule("api-resources", resources, **more), rule("api-versions", versions))


def test_a_cluster_that_knows_every_kind_passes(machine: Machine) -> None:
    knows(machine)
    done = machine.run("check", "--env", "stage")
    assert done.returncode == 0, done.stderr


def test_kinds_of_an_operator_that_is_not_there_are_named_with_where_they_come_from(machine: Machine) -> None:
    knows(machine, "\n".join(row for row in RESOURCES.splitlines() if "monitoring" not in row) + "\n")
    done = machine.run("check", "--env", "stage")
    assert done.returncode == 1
    assert (
        "the cluster knows no PodMonitor and no PrometheusRule of monitoring.coreos.com/v1: the Prometheus operator"
        in done.stderr
    )
    assert "ExternalSecret" not in done.stderr


def test_a_kind_in_another_version_is_none(machine: Machine) -> None:
    knows(machine, versions=VERSIONS.replace("external-secrets.io/v1\n", ""))
    done = machine.run("check", "--env", "stage")
    assert done.returncode == 1
    assert "the cluster knows no ExternalSecret of external-secrets.io/v1: the External Secrets operator" in done.stderr


def test_an_api_of_the_cluster_that_is_away_hides_no_other(machine: Machine) -> None:
    knows(machine, status=1, errors="unable to retrieve the complete list of server APIs: metrics.k8s.io/v1beta1\n")
    assert machine.run("check", "--env", "stage").returncode == 0


def test_a_cluster_that_does_not_tell_is_no_cluster_that_knows(machine: Machine) -> None:
    knows(machine, "", status=1, errors="Forbidden\n")
    done = machine.run("check", "--env", "stage")
    assert done.returncode == 1
    assert "the cluster lab does not tell its kinds: Forbidden" in done.stderr


def test_a_dry_run_of_the_check_prints_what_would_be_asked(machine: Machine) -> None:
    done = machine.run("check", "--env", "stage", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert machine.lines == []
    for command in ("kubectl kustomize k8s/overlays/stage", "api-resources --no-headers", "api-versions"):
        assert command in done.stdout


def test_an_overlay_that_cannot_be_built_is_told(machine: Machine) -> None:
    machine.first(rule("kubectl kustomize k8s/overlays/stage", status=1, errors="no such file\n"))
    done = machine.run("check", "--env", "stage")
    assert done.returncode == 1
    assert "k8s/overlays/stage cannot be built: no such file" in done.stderr


def documents(*folders: str) -> Iterator[dict[str, Any]]:
    for path in (path for folder in folders for path in (K8S / folder).rglob("*.yaml")):
        yield from (one for one in yaml.safe_load_all(path.read_text()) if isinstance(one, dict) and "kind" in one)


def test_every_foreign_group_of_the_manifests_is_known_with_where_it_comes_from() -> None:
    versions = {str(one["apiVersion"]) for one in documents("base", "components", "monitoring")}
    groups = {version.rpartition("/")[0] for version in versions} - {"kustomize.config.k8s.io"}
    builtin = {"", "apps", "batch", "networking.k8s.io", "policy"}
    assert groups - builtin == set(kinds.COMES_FROM)


def test_the_trial_leaves_out_every_job_and_nothing_else() -> None:
    key, _, name = NOT_MIGRATE.partition("!=")
    all_of_a_build = list(documents("base", "components", "monitoring"))  # a component may change the Job of the base
    named = {
        (one["kind"], one["metadata"]["name"])
        for one in all_of_a_build
        if one.get("metadata", {}).get("labels", {}).get(key) == name
    }
    jobs = {(one["kind"], one["metadata"]["name"]) for one in all_of_a_build if one["kind"] == "Job"}
    assert named == jobs == {("Job", "migrate")}
