"""Every overlay passes every check, and each check finds its mistake in its place."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from check_manifests import OLDEST, check_documents
from manifests.documents import Document, find_kubectl, read, rendered
from operations import tools
from overlays import ROOT, as_shipped, put

SERVICE_TEXT = (ROOT / "rayservice.yaml").read_text("utf-8")


def given() -> list[Document]:
    """The overlay with the most: prod takes PostgreSQL from elsewhere, dev leaves out what watches."""
    return as_shipped()["stage"][0]


@pytest.mark.parametrize("environment", ["dev", "stage", "prod"])
@pytest.mark.slow(reason="kustomize renders the environments")
def test_what_a_cluster_gets_has_no_fault(environment: str) -> None:
    documents, findings = as_shipped()[environment]
    assert [str(finding) for finding in [*findings, *check_documents(documents)]] == []
    kinds = {one.kind for one in documents}
    assert {"RayService", "StatefulSet", "NetworkPolicy", "Ingress", "Job", "ResourceQuota", "SecretNames"} <= kinds


def test_kubectl_is_the_locked_one_and_the_oldest_cluster_the_one_whose_schemas_are_checked() -> None:
    assert find_kubectl() == str(Path(sys.executable).with_name("kubectl"))
    assert "{}.{}".format(*tools.SERVER) == OLDEST


def test_an_overlay_that_cannot_be_built_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [missing.yaml]\n")
    documents, [finding] = rendered(tmp_path, ".")
    assert documents == []
    assert "missing.yaml" in finding.sentence


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("spec: [", "This is no YAML"),
        ("- a list\n", "A document is no mapping"),
        ("spec: {a: &x {b: 1, b: 2}}", "b stands twice"),
    ],
)
def test_what_is_no_document_is_a_finding(text: str, says: str) -> None:
    [finding] = read(text, "x.yaml")[1]
    assert says in finding.sentence


DEPLOYMENTS = "        args:\n"
IN_SERVICE = {
    # (what becomes what): the end of the path, and a word
    "a misspelt key of Serve": ("keep_alive_timeout_s", "keep_alive_s", "http_options.keep_alive_s", "would drop"),
    "a key of Serve twice": ("      port: 8000\n", "      port: 8000\n      port: 80\n", "serveConfigV2", "twice"),
    "a text for a number": ("port: 8000", 'port: "8000"', "http_options.port", "integer"),
    "a misspelt argument": ("gateway_cpus", "gateway_cpu", "args.gateway_cpu", "knows no key"),
    "no such application": ("serve_app.app:build", "serve_app.app:built", "import_path", "cannot build"),
    "no such model": ("sem_classifier:SemClassifier", "sem_classifier:Classifier", "import_path", "not a subclass"),
    "an override of no deployment": (
        *(DEPLOYMENTS, f"        deployments: [{{name: gatewya, max_ongoing_requests: 3}}]\n{DEPLOYMENTS}"),
        *("deployments[0].name", "dummy-detector, gateway, "),
    ),
    "an override with a misspelt key": (
        *(DEPLOYMENTS, f"        deployments: [{{name: gateway, autoscaling_config: {{target: 3}}}}]\n{DEPLOYMENTS}"),
        *("autoscaling_config.target", "would drop"),
    ),
    "a replica that no worker fits": ("num_cpus: 2", "num_cpus: 4", "models[0]", "No worker of any group fits"),
    "more replicas than workers": ("max_replicas: 8", "max_replicas: 9", "models[0]", "maxReplicas take 8"),
    "more gateways than pods": ("gateway_replicas: 2", "gateway_replicas: 5", "args", "take 4"),
    "a home that is no group": ("home_group: models", "home_group: model", "home_group", "No worker group"),
    "workers without a replica": (
        *("groupName: models\n        minReplicas: 2", "groupName: models\n        minReplicas: 3"),
        *("minReplicas", "never be Ready"),
    ),
}


@pytest.mark.parametrize(("old", "new", "path", "words"), IN_SERVICE.values(), ids=IN_SERVICE.keys())
def test_a_mistake_in_the_service_is_found_in_its_place(old: str, new: str, path: str, words: str) -> None:
    assert old in SERVICE_TEXT
    [service] = read(SERVICE_TEXT.replace(old, new, 1), "rayservice.yaml")[0]
    found = check_documents([service, *(one for one in given() if one.kind != "RayService")])
    named = [one for one in found if one.path.endswith(path) and words in one.sentence]
    assert named, found
    assert {one.file for one in named} == {"rayservice.yaml"}


WORLD = {"ipBlock": {"cidr": "0.0.0.0/0"}}
EVERYBODY = {"namespaceSelector": {}}
SETTINGS = "ConfigMap/sem-image-classifier"
AROUND = [
    # the resource, what is put where, where it is found, and a word
    ("NetworkPolicy/edge", "spec.ingress", [{"ports": [{"port": 8000}]}], "spec.ingress[0]", "everybody"),
    ("NetworkPolicy/edge", "spec.ingress", [{"from": [EVERYBODY]}], "spec.ingress[0]", "everybody"),
    ("NetworkPolicy/gateway-public", "spec.egress", [{"to": [WORLD]}], "spec.egress[0]", "everybody"),
    ("NetworkPolicy/gateway-public", "spec.policyTypes", ["Ingress"], "spec.policyTypes", "Egress is missing"),
    ("ResourceQuota/namespace", "spec.hard", {"requests.memory": "64Gi"}, "spec.hard.requests.memory", "An upgrade"),
    (SETTINGS, "data.OIDC_AUDIENCES", "x", "data.OIDC_AUDIENCES", "no setting"),
    (SETTINGS, "data.LEASE_SECONDS", "ten", "data.LEASE_SECONDS", "valid number"),
    (SETTINGS, "data.REDIS_URL", "redis://:x@r/0", "data.REDIS_URL", "is a secret"),
    ("PodDisruptionBudget/redis", "apiVersion", "policy/v1beta1", "", "find schema"),
    ("CronJob/redis-backup", "spec.schedul", "0 3 * * *", "spec", "unexpected"),
]


@pytest.mark.parametrize(("resource", "at", "value", "path", "words"), AROUND)
def test_a_mistake_around_the_service_is_found_in_its_place(
    resource: str, at: str, value: Any, path: str, words: str
) -> None:
    [finding] = check_documents(put(given(), resource, at, value))
    assert finding.resource == resource
    assert finding.path == path
    assert words in finding.sentence


def test_the_program_says_place_and_remedy_and_ends_with_1(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s", ignore=shutil.ignore_patterns("dev", "prod", "components"))
    (tmp_path / "k8s" / "overlays" / "stage" / "kustomization.yaml").write_text(yaml.safe_dump({"resources": []}))
    (tmp_path / "rayservice.yaml").write_text(SERVICE_TEXT.replace("keep_alive_timeout_s", "keep_alive_timeouts_s"))
    command = [sys.executable, str(ROOT / "scripts" / "check_manifests.py"), "--root", str(tmp_path)]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False, env=environment)
    place = "RayService/sem-image-classifier spec.serveConfigV2.http_options.keep_alive_timeouts_s: Serve knows no key"
    assert place in done.stdout
    assert done.returncode == 1
