"""Mistakes in what stands around the RayService, one at a time, in the rendered overlay: each is found in its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from manifests import commands, kubernetes, network, pods, references, settings, stores
from manifests.everything import Check
from manifests.rayservice import capacity

from tests.manifests_given import with_change

Change = Callable[[Any], object]


class Mistake(NamedTuple):
    """The change of one resource's body, and where and in which words it is found."""

    check: Check
    kind: str
    name: str
    change: Change
    path: str
    """The beginning of the finding's path."""
    words: str
    found_in: str = ""
    """The kind in which it is found; empty: the changed one."""


def data(key: str, old: str, new: str) -> Change:
    """Another text in a ConfigMap."""

    def change(body: Any) -> None:
        assert old in body["data"][key]
        body["data"][key] = body["data"][key].replace(old, new)

    return change


def setting(name: str, value: str) -> Change:
    return lambda body: body["data"].update({name: value})


def spec(**values: Any) -> Change:
    return lambda body: body["spec"].update(values)


def container(**values: Any) -> Change:
    return lambda body: body["spec"]["template"]["spec"]["containers"][0].update(values)


def backend(**values: Any) -> Change:
    return lambda body: body["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"].update(values)


def without(key: str) -> Change:
    return lambda body: body["spec"].pop(key)


COMMENTED = "valkey-server --appendonly yes --requirepass x \\\n  # never evict\n  --maxmemory-policy noeviction"
FOLDED = "valkey-server --appendonly yes # the jobs --maxmemory-policy noeviction"
OPEN = {"ports": [{"protocol": "TCP", "port": 8000}]}
WORLD = {"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}], "ports": [{"port": 443}]}
POD, FIRST = "spec.template.spec", "spec.template.spec.containers[0]"

MISTAKES = {
    "an eviction policy that loses jobs": Mistake(
        stores.check,
        "ConfigMap",
        "redis",
        data("redis.conf", "noeviction", "allkeys-lru"),
        "data.redis.conf",
        "is allkeys-lru",
    ),
    "Ray's Redis without a file": Mistake(
        stores.check,
        "ConfigMap",
        "ray-redis",
        data("redis.conf", "appendonly yes", "appendonly no"),
        "data.redis.conf",
        "is no",
    ),
    "jobs acknowledged before the disk has them": Mistake(
        stores.check,
        "ConfigMap",
        "redis",
        data("redis.conf", "appendfsync always", "appendfsync everysec"),
        "data.redis.conf",
        "is everysec",
    ),
    "a Redis without a password": Mistake(
        stores.check,
        "ConfigMap",
        "redis",
        data("start.sh", "requirepass $password\n", ""),
        "",
        "no password",
        "StatefulSet",
    ),
    "more memory than the container has": Mistake(
        stores.check,
        "StatefulSet",
        "redis",
        lambda body: body["spec"]["template"]["spec"]["containers"][0]["env"][1].update(value="4gb"),
        FIRST,
        "more than 75%",
    ),
    "a comment inside a continued command": Mistake(
        commands.check,
        "StatefulSet",
        "redis",
        container(command=["sh", "-c", COMMENTED]),
        f"{FIRST}.command[2]",
        "inside a continued command",
    ),
    "options that a comment has cut off": Mistake(
        stores.check,
        "StatefulSet",
        "redis",
        container(command=["sh", "-c", COMMENTED]),
        FIRST,
        "maxmemory-policy is not in effect",
    ),
    "a comment in a command of one line": Mistake(
        commands.check,
        "StatefulSet",
        "redis",
        container(command=["sh", "-c", FOLDED]),
        f"{FIRST}.command[2]",
        "everything after #",
    ),
    "a space after a backslash": Mistake(
        commands.check,
        "ConfigMap",
        "redis",
        data("start.sh", "set -eu\n", "set -e \\ \n-u\n"),
        "data.start.sh",
        "A space after",
    ),
    "a probe with a program that the image has not": Mistake(
        commands.check,
        "StatefulSet",
        "redis",
        container(readinessProbe={"exec": {"command": ["redis-cli", "ping"]}}),
        f"{FIRST}.readinessProbe.exec.command",
        "has no redis-cli",
    ),
    "a port open to all": Mistake(
        network.check, "NetworkPolicy", "edge", spec(ingress=[OPEN]), "spec.ingress[0]", "open to all"
    ),
    "a port open to the cluster": Mistake(
        network.check,
        "NetworkPolicy",
        "edge",
        spec(ingress=[{**OPEN, "from": [{"namespaceSelector": {}}]}]),
        "spec.ingress[0].from[0]",
        "every pod of the cluster",
    ),
    "a port open to the world": Mistake(
        network.check,
        "NetworkPolicy",
        "edge",
        spec(ingress=[{**OPEN, "from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]),
        "spec.ingress[0].from[0].ipBlock",
        "whole world",
    ),
    "a way to a cloud's metadata": Mistake(
        network.check,
        "NetworkPolicy",
        "gateway-public",
        spec(egress=[WORLD]),
        "spec.egress[0].to[0].ipBlock.except",
        "169.254.0.0/16",
    ),
    "rules of a direction that is not named": Mistake(
        network.check,
        "NetworkPolicy",
        "gateway-public",
        spec(policyTypes=["Ingress"]),
        "spec.policyTypes",
        "Egress is missing",
    ),
    "no denial of the rest": Mistake(
        network.check, "NetworkPolicy", "default-deny", spec(policyTypes=["Ingress"]), "spec", "denies what none allows"
    ),
    "a policy for pods that are not there": Mistake(
        references.check,
        "NetworkPolicy",
        "gateway",
        spec(podSelector={"matchLabels": {"app.kubernetes.io/component": "gateways"}}),
        "spec.podSelector",
        "no pod",
    ),
    "a peer that is not there": Mistake(
        references.check,
        "NetworkPolicy",
        "gateway",
        spec(egress=[{"to": [{"podSelector": {"matchLabels": {"app": "redis"}}}]}]),
        "spec.egress[0].to[0]",
        "no pod",
    ),
    "a budget for pods that are not there": Mistake(
        references.check,
        "PodDisruptionBudget",
        "models",
        spec(selector={"matchLabels": {"app.kubernetes.io/component": "model"}}),
        "spec.selector",
        "no pod",
    ),
    "a Service that leads nowhere": Mistake(
        references.check, "Service", "redis", spec(selector={"app": "redis"}), "spec.selector", "no pod"
    ),
    "a port of every node": Mistake(
        network.check, "Service", "redis", spec(type="NodePort"), "spec.type", "beside the edge"
    ),
    "an edge before the dashboard": Mistake(
        network.check,
        "Ingress",
        "sem-image-classifier",
        backend(name="sem-image-classifier-head-svc"),
        "spec.rules[0].http.paths[0].backend.service",
        "dashboard",
    ),
    "an edge before nothing": Mistake(
        references.check,
        "Ingress",
        "sem-image-classifier",
        backend(name="sem-image-classifier-svc"),
        "spec.rules[0]",
        "no Service",
    ),
    "an edge without TLS": Mistake(
        network.check, "Ingress", "sem-image-classifier", without("tls"), "spec", "needs tls"
    ),
    "a quota too small for an upgrade": Mistake(
        capacity.check,
        "ResourceQuota",
        "namespace",
        lambda body: body["spec"]["hard"].update({"requests.memory": "64Gi"}),
        "spec.hard.requests.memory",
        "An upgrade needs",
    ),
    "a setting that does not exist": Mistake(
        settings.check,
        "ConfigMap",
        "sem-image-classifier",
        setting("OIDC_AUDIENCES", "x"),
        "data.OIDC_AUDIENCES",
        "no setting",
    ),
    "a setting with a wrong value": Mistake(
        settings.check,
        "ConfigMap",
        "sem-image-classifier",
        setting("LEASE_SECONDS", "ten"),
        "data.LEASE_SECONDS",
        "valid number",
    ),
    "a secret among the settings": Mistake(
        settings.check,
        "ConfigMap",
        "sem-image-classifier",
        setting("REDIS_URL", "redis://:x@redis:6379/0"),
        "data.REDIS_URL",
        "is a secret",
    ),
    "a kind of a version that is gone": Mistake(
        kubernetes.check,
        "PodDisruptionBudget",
        "redis",
        lambda body: body.update(apiVersion="policy/v1beta1"),
        "kind",
        "has no policy/v1beta1",
    ),
    "a misspelt key": Mistake(
        kubernetes.check, "CronJob", "redis-backup", spec(schedul="0 3 * * *"), "spec.schedul", "unexpected"
    ),
    "a text for a number": Mistake(
        kubernetes.check, "StatefulSet", "redis", spec(replicas="one"), "spec.replicas", "not of type"
    ),
    "an image without a version": Mistake(
        pods.check, "StatefulSet", "redis", container(image="valkey/valkey"), f"{FIRST}.image", "names no version"
    ),
    "a pod as root": Mistake(
        pods.check,
        "StatefulSet",
        "redis",
        lambda body: body["spec"]["template"]["spec"]["securityContext"].pop("runAsNonRoot"),
        f"{POD}.securityContext",
        "runAsNonRoot",
    ),
    "a container without limits": Mistake(
        pods.check,
        "StatefulSet",
        "redis",
        container(resources={"requests": {"cpu": "1", "memory": "1Gi"}}),
        f"{FIRST}.resources",
        "needed",
    ),
    "a port of the node": Mistake(
        pods.check,
        "StatefulSet",
        "redis",
        container(ports=[{"containerPort": 6379, "hostPort": 6379}]),
        f"{FIRST}.ports[0].hostPort",
        "open to all",
    ),
    "a key that its Secret has not": Mistake(
        references.check,
        "Job",
        "migrate",
        container(env=[{"name": "A", "valueFrom": {"secretKeyRef": {"name": "postgres", "key": "pass"}}}]),
        f"{FIRST}.env[0].valueFrom.secretKeyRef",
        "no key pass",
    ),
    "a password in the open": Mistake(
        references.check,
        "Job",
        "migrate",
        container(env=[{"name": "PGPASSWORD", "value": "x"}]),
        f"{FIRST}.env[0]",
        "in the open",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_found_in_its_place(mistake: Mistake) -> None:
    found = list(mistake.check(with_change(mistake.kind, mistake.name, mistake.change)))
    named = [one for one in found if one.path.startswith(mistake.path) and mistake.words in one.sentence]
    assert named, found
    assert {one.file for one in named} == {"k8s/overlays/stage"}
    assert {one.resource.partition("/")[0] for one in named} == {mistake.found_in or mistake.kind}
