"""The manifests as a cluster gets them: every overlay rendered by kubectl, and every component that none of them uses,
laid over one that has everything else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

import yaml

from manifests.documents import NAMES_OF_SECRETS, Document, Finding, read

SERVICE: Final = "rayservice.yaml"
OVERLAYS: Final = "k8s/overlays"
SERVICES: Final = "k8s/service"
SECRETS: Final = "k8s/secrets.yaml"
COMPONENTS: Final = "k8s/components"
SERVICE_COMPONENTS: Final = "k8s/service/components"
BASE: Final = "stage"
"""The overlay with the most: prod takes PostgreSQL from elsewhere, dev leaves out what watches."""
SITE_VALUE: Final = "10.1.2.3/32"
"""For parameters that a component takes from the site; a network, because most are."""
DEADLINE_S: Final = 60.0

Read = tuple[list[Document], list[Finding]]


def environments(root: Path) -> dict[str, Read]:
    """What each overlay gives a cluster, the RayService and the names of the secrets with it."""
    secrets = secrets_of(root)
    names = sorted(path.parent.name for path in (root / OVERLAYS).glob("*/kustomization.yaml"))
    found = {}
    for name in names:
        around = rendered(root, f"{OVERLAYS}/{name}")
        own = service_of(root, name)
        found[name] = (around[0] + own[0] + secrets[0], around[1] + own[1] + secrets[1])
    return found


def rendered(root: Path, folder: str) -> Read:
    """A kustomization, built."""
    if (kubectl := find_kubectl()) is None:
        return [], [Finding(folder, "?", "", "kubectl is needed to build this; `make setup` installs one.")]
    command = [kubectl, "kustomize", "--load-restrictor", "LoadRestrictionsNone", str(root / folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    except subprocess.TimeoutExpired:
        return [], [Finding(folder, "?", "", f"kubectl did not build this within {DEADLINE_S:.0f} s.")]
    if done.returncode != 0:
        return [], [Finding(folder, "?", "", f"kubectl cannot build this: {done.stderr.strip()[-400:]}")]
    return read(done.stdout, folder)


def find_kubectl() -> str | None:
    """The one of this environment (its version is locked), else the machine's."""
    own = Path(sys.executable).with_name("kubectl")
    return str(own) if os.access(own, os.X_OK) else shutil.which("kubectl")


def service_of(root: Path, name: str) -> Read:
    """The RayService of an environment: its variant, or the file itself where there is none."""
    folder = f"{SERVICES}/{name}"
    return rendered(root, folder) if (root / folder / "kustomization.yaml").is_file() else _file(root, SERVICE)


def secrets_of(root: Path) -> Read:
    """The list of secrets that are not in git, as if it were a resource."""
    documents, findings = _file(root, SECRETS)
    return [replace(one, body={**one.body, "kind": NAMES_OF_SECRETS}) for one in documents], findings


def _file(root: Path, name: str) -> Read:
    return read((root / name).read_text("utf-8"), name)


def variants(root: Path) -> dict[str, Read]:
    """By component what a cluster would get: the overlay with it, the RayService with its half of it, the secrets."""
    used = {name for file in (root / OVERLAYS).glob("*/kustomization.yaml") for name in _components(file)}
    folders = [
        *(root / COMPONENTS).glob("*/kustomization.yaml"),
        *(root / SERVICE_COMPONENTS).glob("*/kustomization.yaml"),
    ]
    names = sorted({file.parent.name for file in folders} - used)
    found = {}
    for name in names:
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
