"""What k8s/ says for a cluster to try things out in: its NetworkPolicies and its settings."""

from __future__ import annotations

from manifests.documents import Document, of_kind
from manifests.render import rendered

from serve_app.contracts import Json
from simulator.pods.image import ROOT

OVERLAY = "dev"


def documents() -> list[Document]:
    """Every object of the overlay, as kubectl builds it. Raises ValueError with what kubectl says."""
    found, findings = rendered(ROOT, f"k8s/overlays/{OVERLAY}")
    if findings:
        raise ValueError(str(findings[0]))
    return found


def policies(found: list[Document]) -> list[Json]:
    """The NetworkPolicies among them."""
    return [document.body for document in of_kind(found, "NetworkPolicy")]


def settings(found: list[Document]) -> dict[str, str]:
    """The settings of the service: ConfigMap sem-image-classifier."""
    named = [one for one in of_kind(found, "ConfigMap") if one.name == "sem-image-classifier"]
    return dict(named[0].mapping("data"))
