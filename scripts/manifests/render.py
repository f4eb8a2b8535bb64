"""The manifests as a cluster would get them: the files of this repository, and its overlays rendered by kubectl."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

from manifests.documents import NAMES_OF_SECRETS, Document, Finding, read

SERVICE: Final = "rayservice.yaml"
OVERLAYS: Final = "k8s/overlays"
SERVICES: Final = "k8s/service"
SECRETS: Final = "k8s/secrets.yaml"
DEADLINE_S: Final = 60.0

Read = tuple[list[Document], list[Finding]]


def environments(root: Path) -> dict[str, Read]:
    """What each overlay gives a cluster, the RayService and the names of the secrets with it. Without overlays the
    RayService alone."""
    secrets = secrets_of(root)
    names = sorted(path.parent.name for path in (root / OVERLAYS).glob("*/kustomization.yaml"))
    found = {}
    for name in names:
        around = rendered(root, f"{OVERLAYS}/{name}")
        own = service_of(root, name)
        found[name] = (around[0] + own[0] + secrets[0], around[1] + own[1] + secrets[1])
    return found or {"": _file(root, SERVICE)}


def rendered(root: Path, folder: str) -> Read:
    """A kustomization, built; its documents have no lines, for they are made of several files."""
    if (kubectl := find_kubectl()) is None:
        return [], [Finding(folder, 0, "?", "", "kubectl is needed to build this; `make setup` installs one.")]
    command = [kubectl, "kustomize", "--load-restrictor", "LoadRestrictionsNone", str(root / folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    except subprocess.TimeoutExpired:
        return [], [Finding(folder, 0, "?", "", f"kubectl did not build this within {DEADLINE_S:.0f} s.")]
    if done.returncode != 0:
        return [], [Finding(folder, 0, "?", "", f"kubectl cannot build this: {done.stderr.strip()[-400:]}")]
    return read(done.stdout, folder, numbered=False)


def find_kubectl() -> str | None:
    """The one of this environment (its version is locked), else the machine's."""
    own = Path(sys.executable).with_name("kubectl")
    return str(own) if os.access(own, os.X_OK) else shutil.which("kubectl")


def service_of(root: Path, name: str) -> Read:
    """The RayService of an environment: the file itself, with its lines, where the variant changes nothing."""
    service = _file(root, SERVICE)
    folder = f"{SERVICES}/{name}"
    if not (root / folder / "kustomization.yaml").is_file():
        return service
    documents, findings = rendered(root, folder)
    originals = {_comparable(document): document for document in service[0]}
    return [originals.get(_comparable(document), document) for document in documents], findings


def _comparable(document: Document) -> str:
    metadata = {key: value for key, value in document.mapping("metadata").items() if key != "namespace"}
    return repr(_sorted({**document.body, "metadata": metadata}))


def _sorted(value: object) -> object:
    if isinstance(value, dict):
        return sorted((str(key), _sorted(item)) for key, item in value.items())
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def secrets_of(root: Path) -> Read:
    """The list of secrets that are not in git, as if it were a resource."""
    if not (root / SECRETS).is_file():
        return [], []
    documents, findings = _file(root, SECRETS)
    return [replace(one, body={**one.body, "kind": NAMES_OF_SECRETS}) for one in documents], findings


def _file(root: Path, name: str) -> Read:
    return read((root / name).read_text("utf-8"), name)
