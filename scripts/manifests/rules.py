"""Our own rules: what every pod, the RayService and the ways in and out must be, which no API server asks for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib.metadata import version
from ipaddress import IPv4Network, ip_network
from pathlib import Path as File
from typing import Any, Final

from manifests import capacity, references, schemas, serve, settings
from manifests.capacity import node_types, replicas_of
from manifests.documents import Document, Finding, Path, of_kind
from manifests.pods import CLUSTER, DRAIN, HEAD, Group, groups_of, leaving_s, pods_of
from manifests.render import environments, variants

GATEWAY: Final = "gateway"
"""The deployment, and the group of nodes, that answer users."""
GATEWAYS_ALONE: Final = ("DATABASE_URL", "METRICS_TOKEN")
ONLY_SOME: Final = {*GATEWAYS_ALONE, "REDIS_URL", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY", DRAIN}
"""Variables that some groups have and others must not, and the one that a head does not need."""
HEAD_LOSS: Final = {
    "RAY_SERVE_SLOW_STARTUP_WARNING_S": "after a silent loss of the head Serve kills healthy replicas after 30 s",
    "RAY_grpc_client_keepalive_time_ms": "a node notices late that the head is gone",
    "RAY_grpc_client_keepalive_timeout_ms": "a node notices late that the head is gone",
    "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": "in HAProxy mode a request to a lost node hangs for as long as its client",
}
LONGEST_SUBMIT_S: Final = 65
"""A submit, its wait, and some more: what HAProxy waits for as well."""
HAPROXY_BUFFER: Final = "RAY_SERVE_HAPROXY_TUNE_BUFSIZE"
HEADERS_MIN: Final = 96 * 1024
"""Bytes of a request's headers: the longest token (64 KiB), the others, and what HAProxy keeps free to change them."""
RAY_CLIENT_PORT: Final = 10001
NEVER_REACHED: Final = (
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
)
"""Private, shared, loopback and link-local addresses, clouds' metadata among them: for no address that a user names."""
VERSIONED: Final = re.compile(r":(?!latest$)[\w.-]+$|@sha256:")

Fault = tuple[Path, str]


def check(documents: list[Document]) -> Iterator[Finding]:
    """What breaks one of our own rules."""
    for pod in pods_of(documents):
        for path, container in pod.containers():
            for inner, sentence in (*_container(container, bool(pod.group)), *_leaving(pod.spec, container)):
                yield pod.document.finding((*path, *inner), sentence)
        if pod.group != "head" and pod.spec.get("automountServiceAccountToken") is not False:
            sentence = "automountServiceAccountToken must be false: nothing here asks the API server."
            yield pod.document.finding(pod.spec_path, sentence)
    for document in documents:
        for rule in RULES.get(document.kind, ()):
            for path, sentence in rule(document):
                yield document.finding(path, sentence)
    yield from _default_deny(documents)


def _container(container: dict[str, Any], is_ray: bool) -> Iterator[Fault]:
    if not VERSIONED.search(str(container.get("image"))):
        yield ("image",), "It names no version; give a tag that is not `latest`, or a digest."
    if (container.get("securityContext") or {}).get("readOnlyRootFilesystem") is not True:
        yield ("securityContext",), "readOnlyRootFilesystem must be true; mount an emptyDir where something is written."
    resources = container.get("resources") or {}
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    for name in ("cpu", "memory"):
        if name not in requests or name not in limits:
            yield ("resources",), f"requests and limits of {name} are needed: the namespace has a quota."
        elif is_ray and str(requests[name]) != str(limits[name]):
            yield ("resources",), f"{name}: request and limit must be equal; Ray counts on the whole limit."


def _leaving(spec: dict[str, Any], container: dict[str, Any]) -> Iterator[Fault]:
    """A pod has time to leave the Service, to drain, and some more, before it is killed."""
    grace = int(spec.get("terminationGracePeriodSeconds") or 30)
    if (needed := sum(leaving_s(container))) >= grace:
        sentence = f"preStop and draining take {needed} s; the pod is killed after {grace} s. Give it more."
        yield ("lifecycle",), sentence


def _nodes(document: Document) -> Iterator[Fault]:
    """All nodes run the same image in the same way, and no replica runs on the head."""
    head, *workers = groups_of(document)
    if str(head.mapping("rayStartParams").get("num-cpus")) != "0":
        path: Path = (*head.path, "rayStartParams", "num-cpus")
        yield path, 'The head must have num-cpus: "0", or replicas run beside the control plane.'
    if (given := document.at(*CLUSTER, "rayVersion")) != version("ray"):
        sentence = f"rayVersion is {given}, the locked Ray is {version('ray')}; KubeRay chooses probes by it."
        yield (*CLUSTER, "rayVersion"), sentence
    for group in workers:
        if group.container.get("image") != head.container.get("image"):
            sentence = "Another image than the head's; Ray and the application must be the same on every node."
            yield (*group.container_path, "image"), sentence
        for name in sorted({*group.environment, *head.environment} - ONLY_SOME):
            if group.environment.get(name, "") != head.environment.get(name, ""):
                sentence = f"{name} differs from the head's; Ray and Serve must run the same way on every node."
                yield (*group.container_path, "env"), sentence


def _upgrade(document: Document) -> Iterator[Fault]:
    """A change makes a new cluster; the old one outlives its requests, and its head its workers."""
    if document.at("spec", "upgradeStrategy", "type") == "None":
        yield ("spec", "upgradeStrategy", "type"), "With None a change of the cluster is never made; take NewCluster."
    path: Path = ("spec", "rayClusterDeletionDelaySeconds")
    if int(document.at(*path) or 60) < LONGEST_SUBMIT_S:
        yield path, f"The old cluster must outlive what was sent to it: {LONGEST_SUBMIT_S} s or more."
    head, *workers = groups_of(document)
    longest = max(sum(leaving_s(group.container)) for group in workers)
    if leaving_s(head.container)[0] < longest:
        sentence = f"Workers end within {longest} s, and with the head's help: let it sleep as long in preStop."
        yield (*head.container_path, "lifecycle"), sentence


def _survival(document: Document) -> Iterator[Fault]:
    """A head may be lost."""
    path: Path = (*CLUSTER, "gcsFaultToleranceOptions")
    if document.at(*path) is None:
        yield CLUSTER, "Without gcsFaultToleranceOptions a lost head takes every replica with it."
    elif not document.at(*path, "redisPassword", "valueFrom"):
        sentence = "Whoever reaches this Redis runs code in the cluster: it needs a password from a Secret."
        yield (*path, "redisPassword"), sentence
    for group in groups_of(document):
        place = (*group.container_path, "env")
        for name, why in HEAD_LOSS.items():
            if name not in group.environment:
                yield place, f"{name} is missing: without it {why}."
        if int(group.environment.get(HAPROXY_BUFFER) or 0) < HEADERS_MIN:
            yield place, f"{HAPROXY_BUFFER} must be {HEADERS_MIN} or more, or HAProxy answers 400 to a long token."


def _scaling(document: Document) -> Iterator[Fault]:
    if not document.at(*CLUSTER, "enableInTreeAutoscaling"):
        yield (*CLUSTER, "enableInTreeAutoscaling"), "Without it no group ever grows."
    for group in groups_of(document)[1:]:
        if group.at("replicas") is not None:
            sentence = "The autoscaler owns this number; each `apply` would set it back. Leave it out."
            yield (*group.path, "replicas"), sentence
        if not group.mapping("template", "spec").get("topologySpreadConstraints"):
            sentence = "Without topologySpreadConstraints one lost node may take all pods of this group."
            yield (*group.path, "template", "spec"), sentence
        if not leaving_s(group.container)[0]:
            sentence = "A worker needs preStop.sleep, or requests reach it after it has gone."
            yield (*group.container_path, "lifecycle"), sentence


def _secrets(document: Document) -> Iterator[Fault]:
    """No process that decodes what strangers send holds a secret that it does not need."""
    for group in groups_of(document):
        if group.name != GATEWAY:
            yield from _secrets_of(group)
        elif set(GATEWAYS_ALONE) & set(group.environment):
            resources = node_types(document)[group.name]["resources"]
            for one in replicas_of(document):
                if one.name != GATEWAY and one.fit_on(resources):
                    sentence = f"A replica of {one.name} fits the group {group.name}, beside the gateways' secrets."
                    yield one.path, f"{sentence} Give it a resource that only other groups have."


def _secrets_of(group: Group) -> Iterator[Fault]:
    for name in GATEWAYS_ALONE:
        if name in group.environment:
            sentence = f"Only gateways need {name}; here whoever breaks out of an image decoder would read it."
            yield (*group.container_path, "env"), sentence
    if any("secretRef" in source for source in group.container.get("envFrom") or []):
        sentence = "This gives the group every key of the Secret; name single keys in env."
        yield (*group.container_path, "envFrom"), sentence


def _closed(document: Document) -> Iterator[Fault]:
    """Whoever reaches Ray's ports runs code: they ask for a token, and no way leads to them from outside."""
    head: Path = (*CLUSTER, HEAD)
    if document.at(*CLUSTER, "authOptions", "mode") != "token":
        yield (*CLUSTER, "authOptions"), "Without mode: token whoever reaches Ray's ports runs code."
    if not document.at(*CLUSTER, "authOptions", "secretName"):
        sentence = "Name a Secret of ours, or each cluster of an upgrade has a token of its own."
        yield (*CLUSTER, "authOptions", "secretName"), sentence
    if document.at(*head, "serviceType") not in (None, "ClusterIP"):
        yield (*head, "serviceType"), "This would open the dashboard, which runs code, to all; leave it out."
    if document.at(*head, "enableIngress"):
        yield (*head, "enableIngress"), "This would lead the dashboard, which runs code, outside; leave it out."
    if document.at("spec", "excludeHeadPodFromServeSvc") is not True:
        yield ("spec",), "excludeHeadPodFromServeSvc must be true: users have no way to the head."
    for group in groups_of(document):
        for number, port in enumerate(group.container.get("ports") or []):
            if port.get("containerPort") == RAY_CLIENT_PORT:
                sentence = "Ray Client runs code for whoever reaches it, and nothing here uses it; leave it out."
                yield (*group.container_path, "ports", number), sentence


def _policy(document: Document) -> Iterator[Fault]:
    """No port is open to all, and the way into the Internet leaves out what is no Internet."""
    for number, rule in enumerate(document.items("spec", "ingress")):
        peers = rule.get("from") or []
        if not peers or any(_is_wide(peer) for peer in peers):
            yield ("spec", "ingress", number), "This lets everybody in; name a namespace or the networks."
    for number, rule in enumerate(document.items("spec", "egress")):
        path: Path = ("spec", "egress", number)
        if not rule.get("to"):
            yield path, "Without `to` everything can be reached; name what."
        for peer in filter(_is_wide, rule.get("to") or []):
            yield from ((path, sentence) for sentence in _world(peer, rule))
    for direction in ("ingress", "egress"):
        if direction in document.mapping("spec") and direction.capitalize() not in document.items(
            "spec", "policyTypes"
        ):
            yield ("spec", "policyTypes"), f"{direction.capitalize()} is missing, so its rules say nothing."


def _world(peer: dict[str, Any], rule: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a way to every address."""
    left_out = [ip_network(one) for one in (peer.get("ipBlock") or {}).get("except") or []]
    v4 = [one for one in left_out if isinstance(one, IPv4Network)]
    for text in NEVER_REACHED:
        if not any(IPv4Network(text).subnet_of(one) for one in v4):
            yield f"{text} must be left out: a user could name such an address."
    if not rule.get("ports"):
        yield "Name the ports; all of the Internet's are too many."


def _is_wide(peer: dict[str, Any]) -> bool:
    """Whether a peer is every pod of the cluster, or every address."""
    every_pod = peer.get("namespaceSelector") == {} and not peer.get("podSelector")
    return every_pod or str((peer.get("ipBlock") or {}).get("cidr")).endswith("/0")


def _service(document: Document) -> Iterator[Fault]:
    if document.at("spec", "type") in ("NodePort", "LoadBalancer"):
        yield ("spec", "type"), "This opens a port beside the edge, with no TLS and no policy; leave it ClusterIP."


def _ingress(document: Document) -> Iterator[Fault]:
    if not document.items("spec", "tls"):
        yield ("spec",), "Tokens come this way: it needs tls."
    if document.at("spec", "defaultBackend"):
        yield ("spec", "defaultBackend"), "This answers for every host; name hosts."
    if "-head-svc" in str(document.at("spec", "rules")):
        yield ("spec", "rules"), "The head's dashboard runs code for whoever reaches it; lead to the serve service."


def _default_deny(documents: list[Document]) -> Iterator[Finding]:
    """Where there are policies, one of them closes everything that no other opens."""
    policies = list(of_kind(documents, "NetworkPolicy"))
    closed = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    if policies and not any(policy.at("spec") == closed for policy in policies):
        yield policies[0].finding(("spec",), "No policy denies what none allows; add one with an empty podSelector.")


RULES: Final[dict[str, tuple[Callable[[Document], Iterator[Fault]], ...]]] = {
    "RayService": (_nodes, _upgrade, _survival, _scaling, _secrets, _closed),
    "NetworkPolicy": (_policy,),
    "Service": (_service,),
    "Ingress": (_ingress,),
}
CHECKS: Final = (serve.check, capacity.check, check, references.check, settings.check)


def check_documents(documents: list[Document]) -> list[Finding]:
    """All that is wrong in the documents of one cluster, by place. What the schemas refuse is told alone: the other
    checks rely on them."""
    refused = set(schemas.check(documents))
    return sorted(refused or {finding for one in CHECKS for finding in one(documents)})


def check_repository(root: File) -> list[Finding]:
    """All that is wrong in the RayService, in every overlay and in every component, by place. What a component has in
    common with the rest is told once."""
    found: dict[tuple[str, str, str], Finding] = {}
    for documents, findings in (*environments(root).values(), *variants(root).values()):
        for one in (*findings, *check_documents(documents)):
            found.setdefault((one.resource, one.path, one.sentence), one)
    return sorted(found.values())
