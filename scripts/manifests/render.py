"""The manifests as a cluster gets them: every overlay and its RayService, rendered by kubectl."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

from manifests.documents import NAMES_OF_SECRETS, Document, Finding, read

OVERLAYS: Final = "k8s/overlays"
SERVICES: Final = "k8s/service"
SECRETS: Final = "k8s/secrets.yaml"
DEADLINE_S: Final = 60.0

Read = tuple[list[Document], list[Finding]]


def environments(root: Path) -> dict[str, Read]:
    """What each overlay gives a cluster, the RayService and the names of the secrets with it."""
    secrets, faults = secrets_of(root)
    found = {}
    for name in sorted(path.parent.name for path in (root / OVERLAYS).glob("*/kustomization.yaml")):
        around, service = rendered(root, f"{OVERLAYS}/{name}"), service_of(root, name)
        found[name] = (around[0] + service[0] + secrets, around[1] + service[1] + faults)
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
    """The RayService of an environment."""
    return rendered(root, f"{SERVICES}/{name}")


def secrets_of(root: Path) -> Read:
    """The list of secrets that are not in git, as if it were a resource."""
    documents, findings = read((root / SECRETS).read_text("utf-8"), SECRETS)
    return [replace(one, body={**one.body, "kind": NAMES_OF_SECRETS}) for one in documents], findings
