"""rayservice.yaml, every overlay and every component pass every check, and each check finds its mistake."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifests.documents import Document, Finding, read
from manifests.render import BASE, environments, find_kubectl, rendered, variants
from manifests.rules import check_documents
from overlays import ROOT

SERVICE_TEXT = (ROOT / "rayservice.yaml").read_text("utf-8")
HASHED = re.compile(r"-[0-9a-z]{10}$")


@cache
def all_environments() -> dict[str, tuple[list[Document], list[Finding]]]:
    return environments(ROOT)


@cache
def all_variants() -> dict[str, tuple[list[Document], list[Finding]]]:
    return variants(ROOT)


def given() -> list[Document]:
    return all_environments()[BASE][0]


@pytest.mark.parametrize("environment", ["dev", "stage", "prod"])
def test_what_a_cluster_gets_has_no_fault(environment: str) -> None:
    documents, findings = all_environments()[environment]
    assert [str(finding) for finding in [*findings, *check_documents(documents)]] == []
    kinds = {one.kind for one in documents}
    assert {"RayService", "StatefulSet", "NetworkPolicy", "Ingress", "Job", "ResourceQuota", "SecretNames"} <= kinds


@pytest.mark.parametrize("component", sorted(all_variants()))
def test_a_component_that_no_overlay_uses_has_no_fault(component: str) -> None:
    documents, findings = all_variants()[component]
    assert [str(finding) for finding in [*findings, *check_documents(documents)]] == []


def test_every_component_is_in_an_overlay_or_a_variant() -> None:
    folders = {file.parent.name for file in ROOT.glob("k8s/**/components/*/kustomization.yaml")}
    assert folders - set(all_variants()) == {"dev-issuer", "external-postgres", "external-secrets", "site"}


def test_kubectl_is_the_locked_one() -> None:
    assert find_kubectl() == str(Path(sys.executable).with_name("kubectl"))


def test_an_overlay_that_cannot_be_built_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [missing.yaml]\n")
    documents, [finding] = rendered(tmp_path, ".")
    assert documents == []
    assert "missing.yaml" in finding.sentence


def test_what_is_no_yaml_is_a_finding() -> None:
    assert read("spec: [", "x.yaml")[1][0].sentence.startswith("This is no YAML")
    assert read("- a list\n", "x.yaml")[1][0].sentence == "A document is no mapping."


DEPLOYMENTS = "        args:\n"
DATABASE_URL = "                    valueFrom: {secretKeyRef: {name: sem-image-classifier, key: database-url}}"
IN_SERVICE = {
    # (what becomes what; the first place after a third text, where there is one): the end of the path, and a word
    "a misspelt key of Serve": ("keep_alive_timeout_s", "keep_alive_s", "http_options.keep_alive_s", "would drop"),
    "a text for a number": ("port: 8000", 'port: "8000"', "http_options.port", "integer"),
    "a misspelt argument": ("gateway_cpus", "gateway_cpu", "args.gateway_cpu", "Extra inputs"),
    "no such application": ("serve_app.app:build", "serve_app.app:built", "import_path", "imported"),
    "no such model": ("sem_classifier:SemClassifier", "sem_classifier:Classifier", "args", "not a subclass"),
    "an override of no deployment": (
        *(DEPLOYMENTS, f"        deployments: [{{name: gatewya, max_ongoing_requests: 3}}]\n{DEPLOYMENTS}"),
        *("deployments[0].name", "gateway, sem-classifier"),
    ),
    "an override with a misspelt key": (
        *(DEPLOYMENTS, f"        deployments: [{{name: gateway, autoscaling_config: {{target: 3}}}}]\n{DEPLOYMENTS}"),
        *("autoscaling_config.target", "would drop"),
    ),
    "proxies on the head alone": ("proxy_location: EveryNode", "proxy_location: HeadOnly", "location", "readiness"),
    "a replica that no worker fits": ("num_cpus: 2", "num_cpus: 4", "models[0]", "No worker of any group fits"),
    "more replicas than workers": ("max_replicas: 8", "max_replicas: 9", "models[0]", "maxReplicas take 8"),
    "more gateways than pods": ("gateway_replicas: 2", "gateway_replicas: 5", "args", "take 4"),
    "a home that is no group": ("home_group: models", "home_group: model", "home_group", "No worker group"),
    "workers without a replica": (
        *("groupName: models\n        minReplicas: 2", "groupName: models\n        minReplicas: 3"),
        *("minReplicas", "never be Ready"),
    ),
    "replicas on the head": ('num-cpus: "0"', 'num-cpus: "2"', "num-cpus", "beside the control"),
    "another Ray than the image's": ('"2.60.0"', '"2.59.0"', "rayVersion", "locked Ray"),
    "a group in another mode": ("                  - *haproxy\n", "", "env", "differs from the head's"),
    "another image in a group": ("image: *image", "image: sem-image-classifier:0.2.0", "image", "Another image"),
    "the tag latest": ("classifier:0.1.0", "classifier:latest", "containers[0].image", "names no version"),
    "an image without a tag": ("classifier:0.1.0", "classifier", "containers[0].image", "names no version"),
    "a limit above the request": (
        *("limits: *models-resources", 'limits: {cpu: "4", memory: 6Gi}', "resources", "must be equal"),
    ),
    "a root that can be written to": (
        *("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "securityContext", "must be true"),
    ),
    "a misspelt key of a pod": (
        *("terminationGracePeriodSeconds: 75", "terminationGracePeriod: 75", "template.spec", "unexpected"),
    ),
    "less time than the drain takes": (
        *("terminationGracePeriodSeconds: 120", "terminationGracePeriodSeconds: 50", "lifecycle", "after 50 s"),
    ),
    "a secret that is not there": (
        *("{name: sem-image-classifier-ray-redis, key: password}", "{name: ray-redis, key: password}"),
        *("secretKeyRef", "no Secret ray-redis"),
    ),
    "a key that is not there": ("key: redis-url", "key: redis_url", "secretKeyRef", "no key redis_url"),
    "a secret in the open": (DATABASE_URL, "                    value: postgresql://x:y@z/app", "]", "in the open"),
    "a Redis that is not there": ("redis://ray-redis:", "redis://redis-ray:", "redisAddress", "no Service redis-ray"),
    "an account that is not there": (
        *("serviceAccountName: models", "serviceAccountName: model", "serviceAccountName", "no ServiceAccount"),
    ),
    "the port of Ray Client": (
        *("{name: gcs-server, containerPort: 6379}", "{name: client, containerPort: 10001}", "ports[0]", "runs code"),
    ),
    "no token": ("mode: token", "mode: disabled", "authOptions", "runs code"),
    "a token for each cluster": ("      secretName: sem-image-classifier-ray\n", "", "secretName", "of its own"),
    "a dashboard for the world": (
        *("    headGroupSpec:\n", "    headGroupSpec:\n      serviceType: LoadBalancer\n", "serviceType", "to all"),
    ),
    "a head in the Service": (
        *("excludeHeadPodFromServeSvc: true", "excludeHeadPodFromServeSvc: false", "spec", "no way to the head"),
    ),
    "a head whose loss takes all": ("gcsFaultToleranceOptions:", "gcs:", "rayClusterConfig", "takes every replica"),
    "replicas that a lost head kills": ("RAY_SERVE_SLOW_STARTUP_WARNING_S", "RAY_X", "env", "kills healthy replicas"),
    "a proxy that refuses large tokens": ('BUFSIZE, value: "98304"', 'BUFSIZE, value: "65536"', "env", "long token"),
    "an old cluster that goes too early": (
        *("rayClusterDeletionDelaySeconds: ", "rayClusterDeletionDelaySeconds: 1 # ", "DelaySeconds", "outlive"),
    ),
    "a head that leaves before its workers": (
        *("preStop: {sleep: {seconds: 6", "preStop: {sleep: {seconds: 1", "lifecycle", "with the head's help"),
    ),
    "an upgrade that is never made": ("type: NewCluster", 'type: "None"', "upgradeStrategy.type", "never made"),
    "no autoscaler": ("InTreeAutoscaling: true", "InTreeAutoscaling: false", "InTreeAutoscaling", "ever grows"),
    "a number that the autoscaler owns": (
        *("        minReplicas: 0\n", "        replicas: 0\n        minReplicas: 0\n", "replicas", "owns this number"),
    ),
    "pods that may all be on one node": (
        *("            topologySpreadConstraints: *spread\n", "", "template.spec", "one lost node"),
    ),
    "the database beside a decoder": (
        *("                  - *bucket-key\n", "                  - {name: DATABASE_URL, value: x}\n"),
        *("containers[0].env", "Only gateways need DATABASE_URL"),
    ),
    "a model among the gateways": ("{models: 0.01}", "{}", "models[0]", "beside the gateways' secrets"),
}


@pytest.mark.parametrize(("old", "new", "path", "words"), IN_SERVICE.values(), ids=IN_SERVICE.keys())
def test_a_mistake_in_the_service_is_found_in_its_place(old: str, new: str, path: str, words: str) -> None:
    at = SERVICE_TEXT.rindex(old) if "bucket-key" in old else SERVICE_TEXT.index(old)
    [service] = read(SERVICE_TEXT[:at] + new + SERVICE_TEXT[at + len(old) :], "rayservice.yaml")[0]
    found = check_documents([service, *(one for one in given() if one.kind != "RayService")])
    named = [one for one in found if one.path.endswith(path) and words in one.sentence]
    assert named, found
    assert {one.file for one in named} == {"rayservice.yaml"}


def spec(**values: Any) -> Callable[[Any], object]:
    return lambda body: body["spec"].update(values)


def container(**values: Any) -> Callable[[Any], object]:
    return lambda body: body["spec"]["template"]["spec"]["containers"][0].update(values)


def setting(name: str, value: str) -> Callable[[Any], object]:
    return lambda body: body["data"].update({name: value})


def backend(name: str) -> Callable[[Any], object]:
    return lambda body: body["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"].update(name=name)


WORLD = {"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}], "ports": [{"port": 443}]}
PORTS: dict[str, Any] = {"ports": [{"protocol": "TCP", "port": 8000}]}
EVERYBODY = {"namespaceSelector": {}}
NOBODY = {"matchLabels": {"app.kubernetes.io/component": "gateways"}}
KEY = {"secretKeyRef": {"name": "postgres", "key": "pass"}}
AROUND = [
    ("NetworkPolicy/edge", spec(ingress=[PORTS]), "spec.ingress[0]", "everybody in"),
    ("NetworkPolicy/edge", spec(ingress=[{**PORTS, "from": [EVERYBODY]}]), "spec.ingress[0]", "everybody in"),
    ("NetworkPolicy/gateway-public", spec(egress=[WORLD]), "spec.egress[0]", "169.254.0.0/16"),
    ("NetworkPolicy/gateway-public", spec(policyTypes=["Ingress"]), "spec.policyTypes", "Egress is missing"),
    ("NetworkPolicy/default-deny", spec(policyTypes=["Ingress"]), "spec", "denies what none allows"),
    ("NetworkPolicy/gateway", spec(podSelector=NOBODY), "spec.podSelector", "no pod"),
    ("NetworkPolicy/gateway", spec(egress=[{"to": [{"podSelector": NOBODY}]}]), "spec.egress", "no pod"),
    ("PodDisruptionBudget/models", spec(selector=NOBODY), "spec.selector", "no pod"),
    ("Service/redis", spec(selector={"app": "redis"}), "spec.selector", "no pod"),
    ("Service/redis", spec(type="NodePort"), "spec.type", "beside the edge"),
    ("Ingress/sem-image-classifier", backend("sem-image-classifier-head-svc"), "spec.rules", "dashboard"),
    ("Ingress/sem-image-classifier", backend("sem-image-classifier-svc"), "spec.rules[0]", "no Service"),
    ("Ingress/sem-image-classifier", lambda body: body["spec"].pop("tls"), "spec", "needs tls"),
    (
        "ResourceQuota/namespace",
        lambda body: body["spec"]["hard"].update({"requests.memory": "64Gi"}),
        *("spec.hard.requests.memory", "An upgrade needs"),
    ),
    ("ConfigMap/sem-image-classifier", setting("OIDC_AUDIENCES", "x"), "data.OIDC_AUDIENCES", "no setting"),
    ("ConfigMap/sem-image-classifier", setting("LEASE_SECONDS", "ten"), "data.LEASE_SECONDS", "valid number"),
    ("ConfigMap/sem-image-classifier", setting("REDIS_URL", "redis://:x@r/0"), "data.REDIS_URL", "is a secret"),
    ("PodDisruptionBudget/redis", lambda body: body.update(apiVersion="policy/v1beta1"), "", "has no policy/v1beta1"),
    ("CronJob/redis-backup", spec(schedul="0 3 * * *"), "spec", "unexpected"),
    ("StatefulSet/redis", spec(replicas="one"), "spec.replicas", "not of type"),
    ("StatefulSet/redis", container(resources={"requests": {"cpu": "1"}}), "", "are needed"),
    ("StatefulSet/redis", container(image="valkey/valkey"), "", "names no version"),
    ("Job/migrate", container(env=[{"name": "A", "valueFrom": KEY}]), "spec.template", "no key pass"),
    ("Job/migrate", container(env=[{"name": "PGPASSWORD", "value": "x"}]), "spec.template", "in the open"),
]


@pytest.mark.parametrize(("resource", "change", "path", "words"), AROUND, ids=[f"{one[0]}: {one[3]}" for one in AROUND])
def test_a_mistake_around_the_service_is_found_in_its_place(
    resource: str, change: Callable[[Any], object], path: str, words: str
) -> None:
    documents = given()
    [old] = [one for one in documents if resource in (one.resource, HASHED.sub("", one.resource))]
    body = copy.deepcopy(old.body)
    change(body)
    found = check_documents([replace(one, body=body) if one is old else one for one in documents])
    assert [
        one for one in found if one.path.startswith(path) and words in one.sentence and one.resource == old.resource
    ]


def checked(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "check_manifests.py"), *arguments]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False, env=environment)


def test_the_program_says_place_and_remedy_and_ends_with_1(tmp_path: Path) -> None:
    text = SERVICE_TEXT.replace("keep_alive_timeout_s", "keep_alive_timeouts_s")
    (tmp_path / "rayservice.yaml").write_text(text)
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s", ignore=shutil.ignore_patterns("dev", "prod", "components"))
    (tmp_path / "k8s" / "overlays" / "stage" / "kustomization.yaml").write_text(yaml.safe_dump({"resources": []}))
    done = checked("--root", str(tmp_path))
    place = "RayService/sem-image-classifier spec.serveConfigV2.http_options.keep_alive_timeouts_s: Serve knows no key"
    assert place in done.stdout
    assert done.returncode == 1


def test_the_program_explains_itself() -> None:
    done = checked("--help")
    assert done.returncode == 0
    assert "exit status" in done.stdout
