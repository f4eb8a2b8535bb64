"""Network access: the table k8s/network.yaml, the rules of the policies, and what no policy may open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from manifests.documents import Document, Finding, matches, of_kind

NAMESPACE: Final = "sem-image-classifier"
RAY: Final = ("head", "gateway", "models", "burst")


@dataclass(frozen=True)
class Party:
    """One end of a connection: a pod, or an address that is not a pod."""

    name: str
    namespace: str = NAMESPACE
    labels: dict[str, str] = field(default_factory=dict, hash=False)
    address: str = ""

    @property
    def is_ours(self) -> bool:
        """Whether the policies apply to this party."""
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
    """Every connection that the policies of an overlay decide: each party to each address except its own."""
    table = yaml.safe_load(path.read_text("utf-8"))
    here = {
        name: Party(name, row.get("namespace", NAMESPACE), row.get("labels", {}), row.get("address", ""))
        for name, row in table["parties"].items()
        if overlay in row.get("overlays", [overlay])
    }
    cells = []
    for row in table["addresses"]:
        if row["to"] in here and overlay in row.get("overlays", [overlay]):
            target, allowed = here[row["to"]], let_in(row)
            for source in here.values():
                if source != target and (source.is_ours or target.is_ours):
                    cells.append(Cell(source, target, row["port"], source.name in allowed, row["what"]))
    return cells


def let_in(row: dict[str, Any]) -> set[str]:
    """The parties in `from`; `ray` stands for all of Ray's groups."""
    return {name for listed in row["from"] for name in (RAY if listed == "ray" else (listed,))}


def rules(documents: list[Document], direction: str, labels: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The rules of a direction (`ingress`, `egress`) in every policy that selects pods with these labels."""
    for policy in of_kind(documents, "NetworkPolicy"):
        if matches(policy.mapping("spec", "podSelector"), labels):
            yield from policy.items("spec", direction)


def names_port(rule: dict[str, Any], port: int) -> bool:
    """Whether a rule applies to that port; a rule without ports applies to all."""
    ports = rule.get("ports") or []
    return not ports or any(one["port"] <= port <= one.get("endPort", one["port"]) for one in ports)


def check(documents: list[Document]) -> Iterator[Finding]:
    """Rules that open a port to everybody or a way to everywhere, and rules without effect."""
    for document in of_kind(documents, "NetworkPolicy"):
        for direction, key in (("ingress", "from"), ("egress", "to")):
            for number, rule in enumerate(document.items("spec", direction)):
                if not rule.get(key) or any(_is_everybody(peer, direction) for peer in rule[key]):
                    sentence = "This is about everybody; name a namespace or the networks."
                    yield document.finding(("spec", direction, number), sentence)
            if document.at("spec", direction) and direction.capitalize() not in document.items("spec", "policyTypes"):
                sentence = f"{direction.capitalize()} is missing, so its rules say nothing."
                yield document.finding(("spec", "policyTypes"), sentence)


def _is_everybody(peer: dict[str, Any], direction: str) -> bool:
    """Every pod of the cluster, or every address; the gateways' rule for egress has exceptions."""
    block = peer.get("ipBlock", {})
    every_address = str(block.get("cidr")).endswith("/0") and (direction == "ingress" or not block.get("except"))
    return every_address or (peer.get("namespaceSelector") == {} and not peer.get("podSelector"))
