"""What the documentation promises of the RayService: a head may be lost, an upgrade costs no request, and no process
that decodes what strangers send holds a secret that it does not need."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from manifests.documents import Document, Finding, Path, embedded, of_kind
from manifests.pods import leaving_s
from manifests.rayservice.capacity import readable, replicas_of
from manifests.rayservice.groups import CLUSTER, Group, groups_of
from manifests.rayservice.serve import CONFIG
from manifests.rayservice.start import node_types

GATEWAY: Final = "gateway"
"""The deployment, and the group of nodes, that answer users."""
GATEWAYS_ALONE: Final = ("DATABASE_URL", "METRICS_TOKEN")
HEAD_LOSS: Final = {
    "RAY_SERVE_SLOW_STARTUP_WARNING_S": "after a silent loss of the head Serve kills healthy replicas after 30 s",
    "RAY_grpc_client_keepalive_time_ms": "a node notices late that the head is gone",
    "RAY_grpc_client_keepalive_timeout_ms": "a node notices late that the head is gone",
}
LONGEST_SUBMIT_S: Final = 65
"""A submit, its wait, and some more: what HAProxy waits for as well."""
HAPROXY, HAPROXY_TIMEOUT = "RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S"
HAPROXY_BUFFER = "RAY_SERVE_HAPROXY_TUNE_BUFSIZE"
HEADERS_MIN: Final = 96 * 1024
"""Bytes of a request's headers: the longest token (64 KiB), the others, and what HAProxy keeps free to change them."""


def check(documents: list[Document]) -> Iterator[Finding]:
    """Promises that the manifest does not keep."""
    for document in of_kind(documents, "RayService"):
        groups = groups_of(document)
        yield from _upgrade(document)
        yield from _last(groups)
        yield from _token(document)
        yield from _survival(document, groups)
        yield from _scaling(document, groups)
        yield from _secrets(document, groups)
        yield from _neighbours(document, groups)


def _upgrade(document: Document) -> Iterator[Finding]:
    path: Path = ("spec", "upgradeStrategy", "type")
    if document.at(*path) == "None":
        yield document.finding(path, "With None a change of the cluster is never made; take NewCluster.")
    path = ("spec", "rayClusterDeletionDelaySeconds")
    if int(document.at(*path) or 60) < LONGEST_SUBMIT_S:
        yield document.finding(path, f"The old cluster must outlive what was sent to it: {LONGEST_SUBMIT_S} s or more.")


def _last(groups: list[Group]) -> Iterator[Finding]:
    """The end of an upgrade asks all pods of the old cluster at once, and a worker drains with what the head knows."""
    longest = max(sum(leaving_s(group.container)) for group in groups[1:])
    waits, _ = leaving_s(groups[0].container)
    if waits < longest:
        place = (*groups[0].container_path, "lifecycle")
        sentence = f"Workers end within {longest} s, and with the head's help: let it sleep as long in preStop."
        yield groups[0].document.finding(place, sentence)


def _token(document: Document) -> Iterator[Finding]:
    path = (*CLUSTER, "authOptions", "secretName")
    if not document.at(*path):
        yield document.finding(path, "Name a Secret of ours, or each cluster of an upgrade has a token of its own.")


def _survival(document: Document, groups: list[Group]) -> Iterator[Finding]:
    if document.at(*CLUSTER, "gcsFaultToleranceOptions") is None:
        sentence = "Without gcsFaultToleranceOptions a lost head takes every replica with it."
        yield document.finding(CLUSTER, sentence)
    elif not document.at(*CLUSTER, "gcsFaultToleranceOptions", "redisPassword"):
        path = (*CLUSTER, "gcsFaultToleranceOptions", "redisPassword")
        yield document.finding(path, "Who reaches this Redis runs code in the cluster: it needs a password.")
    for group in groups:
        variables = (*group.container_path, "env")
        for name, why in HEAD_LOSS.items():
            if name not in group.environment:
                yield document.finding(variables, f"{name} is missing: without it {why}.")
        if HAPROXY in group.environment and HAPROXY_TIMEOUT not in group.environment:
            sentence = f"{HAPROXY_TIMEOUT} is missing: a request to a lost node would hang for as long as its client."
            yield document.finding(variables, sentence)
        if HAPROXY in group.environment and int(group.environment.get(HAPROXY_BUFFER) or 0) < HEADERS_MIN:
            sentence = f"{HAPROXY_BUFFER} must be {HEADERS_MIN} or more: HAProxy answers 400 to a token of many groups."
            yield document.finding(variables, sentence)


def _scaling(document: Document, groups: list[Group]) -> Iterator[Finding]:
    if not document.at(*CLUSTER, "enableInTreeAutoscaling"):
        for group in groups[1:]:
            if group.count("minReplicas") < group.count("maxReplicas"):
                sentence = "Without enableInTreeAutoscaling this group never grows."
                yield document.finding((*group.path, "maxReplicas"), sentence)
        return
    for group in groups[1:]:
        if group.at("replicas") is not None:
            sentence = "The autoscaler owns this number; each `apply` would set it back. Leave it out."
            yield document.finding((*group.path, "replicas"), sentence)
        if not group.mapping("template", "spec").get("topologySpreadConstraints"):
            sentence = "Without topologySpreadConstraints one lost node may take all pods of this group."
            yield document.finding((*group.path, "template", "spec"), sentence)


def _secrets(document: Document, groups: list[Group]) -> Iterator[Finding]:
    for group in groups:
        if group.name == GATEWAY:
            continue
        path = (*group.container_path, "env")
        for number, name in enumerate(group.environment):
            if name in GATEWAYS_ALONE:
                sentence = (
                    f"Only gateways need {name}; here it would be read by whoever breaks out of an image decoder."
                )
                yield document.finding((*path, number), sentence)
        for number, source in enumerate(group.container.get("envFrom") or []):
            if "secretRef" in source:
                place = (*group.container_path, "envFrom", number)
                yield document.finding(place, "This gives the group every key of the Secret; name single keys in env.")


def _neighbours(document: Document, groups: list[Group]) -> Iterator[Finding]:
    """Where gateways' secrets are, no model's replica finds room."""
    config, _ = embedded(document, *CONFIG)
    nodes = readable(node_types, document)
    if config is None or nodes is None:
        return
    for group in groups[1:]:
        if set(GATEWAYS_ALONE) & set(group.environment):
            for one in replicas_of(config):
                if one.name != GATEWAY and one.fit_on(nodes[group.name]["resources"]):
                    sentence = f"A replica of {one.name} fits the group {group.name}, beside the gateways' secrets."
                    yield config.finding(one.path, f"{sentence} Give it a resource that only other groups have.")
