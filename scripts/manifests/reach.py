"""Which connections the network policies let through, told by the rules of Kubernetes, and the table they are held to.

A policy that selects a pod closes its direction for all but what some policy names. A connection needs both ends to
agree; an end outside the policies' namespace always does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Final

import yaml

from manifests.documents import Document, of_kind
from manifests.references import matches

NAMESPACE: Final = "sem-image-classifier"
RAY: Final = ("head", "gateway", "models", "burst")
NAME_LABEL: Final = "kubernetes.io/metadata.name"
UDP_PORTS: Final = (53,)
DIRECTIONS: Final = {"Ingress": ("ingress", "from"), "Egress": ("egress", "to")}


@dataclass(frozen=True)
class Party:
    """Somebody who connects or is connected to: a pod, or an address that is none."""

    name: str
    namespace: str = NAMESPACE
    labels: dict[str, str] = field(default_factory=dict, hash=False)
    address: str = ""

    @property
    def is_ours(self) -> bool:
        """Whether the policies are about it."""
        return self.namespace == NAMESPACE and not self.address


@dataclass(frozen=True)
class Cell:
    """One connection of the table."""

    source: Party
    target: Party
    port: int
    allowed: bool
    what: str

    def __str__(self) -> str:
        return f"{self.source.name} to {self.target.name}:{self.port}"


def read_table(path: Path, overlay: str) -> list[Cell]:
    """Every cell that the policies decide, in that overlay: each party on each address but its own."""
    table = yaml.safe_load(path.read_text("utf-8"))
    here = {
        name: _party(name, row) for name, row in table["parties"].items() if overlay in row.get("overlays", [overlay])
    }
    rows = [row for row in table["addresses"] if row["to"] in here and overlay in row.get("overlays", [overlay])]
    cells = []
    for row in rows:
        target, allowed = here[row["to"]], let_in(row)
        for source in here.values():
            if source != target and (source.is_ours or target.is_ours):
                cells.append(Cell(source, target, row["port"], source.name in allowed, row["what"]))
    return cells


def let_in(row: dict[str, Any]) -> set[str]:
    """The parties in `from`, `ray` spelled out."""
    return {name for listed in row["from"] for name in (RAY if listed == "ray" else (listed,))}


def _party(name: str, row: dict[str, Any]) -> Party:
    return Party(name, row.get("namespace", NAMESPACE), row.get("labels", {}), row.get("address", ""))


def reaches(documents: list[Document], source: Party, target: Party, port: int) -> bool:
    """Whether the policies among the documents let the connection through."""
    policies = list(of_kind(documents, "NetworkPolicy"))
    return _agrees(policies, "Egress", source, target, port) and _agrees(policies, "Ingress", target, source, port)


def _agrees(policies: list[Document], direction: str, end: Party, other: Party, port: int) -> bool:
    mine = [one for one in policies if _selects(one, end) and direction in _directions(one)]
    return not mine or any(_names(rule, direction, other, port) for one in mine for rule in _rules(one, direction))


def _selects(policy: Document, end: Party) -> bool:
    here = end.namespace == policy.at("metadata", "namespace") and not end.address
    return here and matches(policy.mapping("spec", "podSelector"), end.labels)


def _directions(policy: Document) -> list[Any]:
    return policy.items("spec", "policyTypes") or ["Ingress", *(["Egress"] if policy.at("spec", "egress") else [])]


def _rules(policy: Document, direction: str) -> Iterator[dict[str, Any]]:
    yield from (rule or {} for rule in policy.items("spec", DIRECTIONS[direction][0]))


def _names(rule: dict[str, Any], direction: str, other: Party, port: int) -> bool:
    peers, ports = rule.get(DIRECTIONS[direction][1]), rule.get("ports")
    named = not peers or any(_is(peer, other) for peer in peers)
    return named and (not ports or any(_has(one, port) for one in ports))


def _is(peer: dict[str, Any], other: Party) -> bool:
    if block := peer.get("ipBlock"):
        return bool(other.address) and _within(other.address, block["cidr"], block.get("except", []))
    if other.address:
        return False
    if "namespaceSelector" in peer:
        if not matches(peer["namespaceSelector"] or {}, {NAME_LABEL: other.namespace}):
            return False
    elif other.namespace != NAMESPACE:
        return False
    return matches(peer.get("podSelector") or {}, other.labels)


def _within(address: str, network: str, without: list[str]) -> bool:
    found = ip_address(address)
    return found in ip_network(network) and not any(found in ip_network(one) for one in without)


def _has(allowed: dict[str, Any], port: int) -> bool:
    protocol = "UDP" if port in UDP_PORTS else "TCP"
    first = allowed.get("port")
    within = first is None or first <= port <= allowed.get("endPort", first)
    return within and bool(allowed.get("protocol", "TCP") == protocol)
