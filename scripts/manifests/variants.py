"""The components that no overlay uses, each laid over one that has everything else, so that none goes unchecked."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

import yaml

from manifests.render import OVERLAYS, SERVICES, Read, rendered, secrets_of, service_of

BASE: Final = "stage"
COMPONENTS: Final = "k8s/components"
SERVICE_COMPONENTS: Final = "k8s/service/components"
SITE_VALUE: Final = "10.1.2.3/32"
"""For parameters that a component takes from the site; a network, because most are."""


def variants(root: Path) -> dict[str, Read]:
    """By component what a cluster would get: the overlay with it, the RayService with its half of it, the secrets."""
    used = {name for file in (root / OVERLAYS).glob("*/kustomization.yaml") for name in _components(file)}
    folders = [
        *(root / COMPONENTS).glob("*/kustomization.yaml"),
        *(root / SERVICE_COMPONENTS).glob("*/kustomization.yaml"),
    ]
    names = sorted({file.parent.name for file in folders} - used)
    found = {}
    for name in names if (root / OVERLAYS / BASE).is_dir() else []:
        around = _laid_over(root, f"{OVERLAYS}/{BASE}", f"{COMPONENTS}/{name}")
        service = service_of(root, BASE)
        if (root / SERVICE_COMPONENTS / name).is_dir():
            service = _laid_over(root, f"{SERVICES}/{BASE}", f"{SERVICE_COMPONENTS}/{name}")
        secrets = secrets_of(root)
        found[name] = (around[0] + service[0] + secrets[0], around[1] + service[1] + secrets[1])
    return found


def _components(file: Path) -> list[str]:
    content = yaml.safe_load(file.read_text("utf-8")) or {}
    return [Path(component).name for component in content.get("components") or []]


def _laid_over(root: Path, base: str, component: str) -> Read:
    """The base with the component, where there is one; findings name the component's folder."""
    with tempfile.TemporaryDirectory() as folder:
        above = os.path.relpath(root, Path(folder).resolve())
        kustomization: dict[str, object] = {"resources": [f"{above}/{base}"]}
        if (root / component / "kustomization.yaml").is_file():
            kustomization["components"] = [f"{above}/{component}"]
            text = (root / component / "kustomization.yaml").read_text("utf-8")
            if parameters := sorted(set(re.findall(r"fieldPath: data\.(\w+)", text))):
                literals = [f"{name}={SITE_VALUE}" for name in parameters]
                kustomization["configMapGenerator"] = [{"name": "site", "behavior": "merge", "literals": literals}]
        Path(folder, "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        documents, findings = rendered(Path(folder), ".")
    place = component if "components" in kustomization else base
    return [replace(one, file=place) for one in documents], [replace(one, file=place) for one in findings]
