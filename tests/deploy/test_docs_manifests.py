"""The page of k8s/ has every component and every parameter of a site, and says which overlay has which component."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
PAGE = (ROOT / "docs" / "manifests.md").read_text("utf-8")
OVERLAYS = ("dev", "stage", "prod")


def used(overlay: str) -> set[Path]:
    folder = K8S / "overlays" / overlay
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["components"]
    return {(folder / path).resolve() for path in listed}


def test_every_component_is_a_row_with_its_overlays() -> None:
    found = {path.parent for path in K8S.rglob("kustomization.yaml") if "kind: Component" in path.read_text()}
    rows = re.findall(r"^\| `([a-z/-]+)` \| .+ \| ?([a-z, ]*?) ?\|$", PAGE.partition("## Components")[2], re.MULTILINE)
    expected = {
        str(folder.relative_to(K8S)): ", ".join(name for name in OVERLAYS if folder.resolve() in used(name))
        for folder in found
    }
    assert dict(rows) == expected


def test_every_parameter_of_a_site_is_a_row() -> None:
    read = {
        name for path in K8S.rglob("kustomization.yaml") for name in re.findall(r"data\.([A-Z_]+)", path.read_text())
    }
    rows = re.findall(r"^\| `([A-Z_]+)` \|", PAGE.partition("## The site")[2].partition("## ")[0], re.MULTILINE)
    assert set(rows) == read
    for overlay in OVERLAYS:
        lines = (K8S / "overlays" / overlay / "site.env").read_text().splitlines()
        assert {line.split("=")[0] for line in lines if "=" in line and not line.startswith("#")} <= read
