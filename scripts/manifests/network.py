"""Who may reach what: nothing is open to all, and nothing leads from the edge to the control plane."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Final

from manifests.documents import Document, Finding, Path, of_kind
from manifests.rayservice.groups import CLUSTER, HEAD, groups_of

RAY_CLIENT_PORT: Final = 10001
SERVE_PORT: Final = 8000
NEVER_REACHED: Final = (
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
)
"""Private, shared, loopback and link-local addresses, clouds' metadata among them: for no address that a user names."""

Fault = tuple[Path, str]


def check(documents: list[Document]) -> Iterator[Finding]:
    """Findings about ports and policies."""
    for document in documents:
        for path, sentence in CHECKS.get(document.kind, _nothing)(document):
            yield document.finding(path, sentence)
    yield from _default_deny(documents)


def _nothing(document: Document) -> Iterator[Fault]:
    return iter(())


def _policy(document: Document) -> Iterator[Fault]:
    for number, rule in enumerate(document.items("spec", "ingress")):
        path: Path = ("spec", "ingress", number)
        if not rule.get("from"):
            yield path, "Without `from` these ports are open to all; name who may come."
        for place, peer in enumerate(rule.get("from") or []):
            if peer.get("namespaceSelector") == {} and not peer.get("podSelector"):
                yield (*path, "from", place), "This lets every pod of the cluster in; name a namespace."
            if _is_everywhere(peer):
                yield (*path, "from", place, "ipBlock"), "This lets the whole world in; name the networks."
    for number, rule in enumerate(document.items("spec", "egress")):
        path = ("spec", "egress", number)
        if not rule.get("to"):
            yield path, "Without `to` everything can be reached; name what."
        for place, peer in enumerate(rule.get("to") or []):
            yield from _world(peer, (*path, "to", place, "ipBlock"), rule)
    yield from _selects_none(document)


def _selects_none(document: Document) -> Iterator[Fault]:
    types = document.items("spec", "policyTypes")
    for direction in ("ingress", "egress"):
        if direction in document.mapping("spec") and direction.capitalize() not in types:
            yield ("spec", "policyTypes"), f"{direction.capitalize()} is missing, so its rules say nothing."


def _is_everywhere(peer: dict[str, Any]) -> bool:
    network = _network((peer.get("ipBlock") or {}).get("cidr"))
    return network is not None and network.prefixlen == 0


def _world(peer: dict[str, Any], path: Path, rule: dict[str, Any]) -> Iterator[Fault]:
    """A way into the Internet leaves out what is no Internet, and names its ports."""
    if not _is_everywhere(peer):
        return
    except_networks = [_network(one) for one in peer["ipBlock"].get("except") or []]
    for text in NEVER_REACHED:
        inner = ip_network(text)
        if not any(isinstance(one, IPv4Network) and inner.subnet_of(one) for one in except_networks):  # type: ignore[arg-type]
            yield (*path, "except"), f"{text} must be left out: a user could name such an address."
    if not rule.get("ports"):
        yield path[:-3], "Name the ports; all of the Internet's are too many."


def _network(text: Any) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(str(text))
    except ValueError:
        return None  # a site's parameter


def _service(document: Document) -> Iterator[Fault]:
    if document.at("spec", "type") in ("NodePort", "LoadBalancer"):
        yield ("spec", "type"), "This opens a port beside the edge, with no TLS and no policy; leave it ClusterIP."


def _ingress(document: Document) -> Iterator[Fault]:
    if not document.items("spec", "tls"):
        yield ("spec",), "Tokens come this way: it needs tls."
    if document.at("spec", "defaultBackend"):
        yield ("spec", "defaultBackend"), "This answers for every host; name hosts."
    for number, rule in enumerate(document.items("spec", "rules")):
        for place, one in enumerate((rule.get("http") or {}).get("paths") or []):
            path: Path = ("spec", "rules", number, "http", "paths", place, "backend", "service")
            service = (one.get("backend") or {}).get("service") or {}
            if str(service.get("name")).endswith("-head-svc"):
                yield path, "The head's dashboard runs code for whoever reaches it; lead to the serve service."
            port = (service.get("port") or {}).get("number", (service.get("port") or {}).get("name"))
            if str(service.get("name")).endswith("-serve-svc") and port not in (SERVE_PORT, "serve"):
                yield (*path, "port"), f"Serve listens on {SERVE_PORT}."


def _ray_service(document: Document) -> Iterator[Fault]:
    head: Path = (*CLUSTER, HEAD)
    if document.at(*head, "serviceType") not in (None, "ClusterIP"):
        yield (*head, "serviceType"), "This would open the dashboard, which runs code, to all; leave it out."
    if document.at(*head, "enableIngress"):
        yield (*head, "enableIngress"), "This would lead the dashboard, which runs code, outside; leave it out."
    for group in groups_of(document):
        for number, port in enumerate(group.container.get("ports") or []):
            if port.get("containerPort") == RAY_CLIENT_PORT:
                path = (*group.container_path, "ports", number)
                yield path, "Ray Client runs code for whoever reaches it, and nothing here uses it; leave it out."
    if document.at(*CLUSTER, "authOptions", "mode") != "token":
        yield (*CLUSTER, "authOptions"), "Without mode: token whoever reaches Ray's ports runs code."
    if document.at("spec", "excludeHeadPodFromServeSvc") is not True:
        yield ("spec",), "excludeHeadPodFromServeSvc must be true: users have no way to the head."


def _default_deny(documents: list[Document]) -> Iterator[Finding]:
    """Where there are policies, one of them closes everything that no other opens."""
    policies = list(of_kind(documents, "NetworkPolicy"))
    for policy in policies:
        spec = policy.mapping("spec")
        is_whole = spec.get("podSelector") == {} and set(spec.get("policyTypes") or []) == {"Ingress", "Egress"}
        if is_whole and not spec.get("ingress") and not spec.get("egress"):
            return
    if policies:
        yield policies[0].finding(("spec",), "No policy denies what none allows; add one with an empty podSelector.")


CHECKS: Final = {"NetworkPolicy": _policy, "Service": _service, "Ingress": _ingress, "RayService": _ray_service}
