"""The overlays as a site has them: prod with every placeholder filled in, and kustomizations of its own."""

from __future__ import annotations

import copy
import fcntl
import hashlib
import pickle
import re
import shutil
import tempfile
from dataclasses import replace
from functools import cache, reduce
from operator import getitem
from pathlib import Path
from typing import Any, Final

import yaml
from manifests.documents import Document, Read, environments, rendered

ROOT: Final = Path(__file__).resolve().parents[1]
DIGEST: Final = "sha256:" + "5a" * 32
UNITS: Final = {"m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "mb": 2**20, "gb": 2**30}
PARAMETERS: Final = {
    "GATEWAY_CLASS": "envoy",
    "ISSUER": "10.4.4.4/32",
    "LOG_NAMESPACE": "logging",
    "OBJECT_STORE": "10.9.9.9/32",
    "POSTGRES": "10.1.2.3/32",
    "POSTGRES_PORT": "5432",
    "SECRET_STORE": "vault",
    "TRACES_NAMESPACE": "traces",
}
"""Of components that no overlay has by itself."""
SITE: Final = """\
HOST=sem.facility.org
INGRESS_CLASS=nginx
STORAGE_CLASS=fast
KUBE_APISERVER=172.18.0.2/32
OPERATOR_NAMESPACE=kuberay-system
EDGE_NAMESPACE=ingress-nginx
MONITORING_NAMESPACE=monitoring
SECRET_STORE=vault
POSTGRES=10.1.2.3/32
POSTGRES_PORT=6432
"""


def prod_for_a_site(folder: Path) -> Path:
    """A copy of the manifests below `folder` as a facility would have them; returns its root."""
    root = folder / "checkout"
    shutil.copytree(ROOT / "k8s", root / "k8s")
    shutil.copy(ROOT / "rayservice.yaml", root)
    prod = root / "k8s" / "overlays" / "prod"
    (prod / "site.env").write_text(SITE)
    settings = prod / "settings.env"
    settings.write_text(settings.read_text().replace("REPLACE-ME.example.org", "login.facility.org"))
    kustomization = prod / "kustomization.yaml"
    ours = f"  - {{name: sem-image-classifier, digest: '{DIGEST}'}}\n"
    kustomization.write_text(
        kustomization.read_text().replace("sha256:REPLACE-ME-with-the-digest-of-valkey", DIGEST) + ours
    )
    service = root / "k8s" / "service" / "prod" / "kustomization.yaml"
    service.write_text(service.read_text() + "images:\n" + ours)
    return root


@cache
def as_shipped() -> dict[str, Read]:
    """What each overlay gives a cluster, as it stands in git."""
    return _rendered_once("shipped", ROOT)


@cache
def as_filled_in() -> dict[str, Read]:
    """What each overlay gives a cluster, prod with the values of a site."""
    with tempfile.TemporaryDirectory() as folder:
        return _rendered_once("filled-in", prod_for_a_site(Path(folder)))


def _rendered_once(name: str, root: Path) -> dict[str, Read]:
    """The overlays below `root`, rendered by the first worker that asks and again when a file of them has changed."""
    files = sorted(path for path in [*root.glob("k8s/**/*"), root / "rayservice.yaml"] if path.is_file())
    code = sorted((ROOT / "scripts" / "manifests").glob("*.py"))
    contents = hashlib.sha256()
    for path in [*files, *code]:
        contents.update(f"{path.name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    kept = ROOT / "build" / f"overlays-{name}.pickle"
    kept.parent.mkdir(exist_ok=True)
    with kept.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if kept.exists():
            digest, found = pickle.loads(kept.read_bytes())  # noqa: S301 - no file of a stranger
            if digest == contents.hexdigest():
                return found  # type: ignore[no-any-return]
        found = environments(root)
        kept.write_bytes(pickle.dumps((contents.hexdigest(), found)))
    return found


def built(site: Path, folder: str, kustomization: dict[str, Any] | None = None) -> list[Document]:
    """What this folder below k8s/ gives; with a kustomization what that gives there, and every parameter of a site."""
    path = site / "k8s" / folder
    if kustomization:
        path.mkdir(parents=True, exist_ok=True)
        write_parameters(path)
        (path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    documents, findings = rendered(site, f"k8s/{folder}")
    assert findings == []
    return documents


def write_parameters(folder: Path) -> None:
    """Every parameter of a site as the folder's `site.env`."""
    given = dict(line.split("=", 1) for line in SITE.split())
    (folder / "site.env").write_text("".join(f"{name}={value}\n" for name, value in (PARAMETERS | given).items()))


def around(*components: str) -> dict[str, Any]:
    """The kustomization of an overlay with these components."""
    options = {"annotations": {"config.kubernetes.io/local-config": "true"}, "disableNameSuffixHash": True}
    return {
        "resources": ["../../base"],
        "components": [f"../../components/{name}" for name in (*components, "site")],  # it fills in the others
        "configMapGenerator": [{"name": "site", "envs": ["site.env"], "options": options}],
    }


def of_service(*components: str) -> dict[str, Any]:
    """The kustomization of a RayService with these components."""
    parts = [f"../components/{name}" for name in components]
    return {"resources": ["../../../rayservice.yaml"], "components": parts}


def put(documents: list[Document], resource: str, path: str, value: Any = None) -> list[Document]:
    """The documents with another value at a place of one of them, `spec.ports.0.name`; None takes it away.

    The resource is `Kind/name`, without the mark of its content that kustomize adds to a name.
    """
    [old] = [one for one in documents if resource in (one.resource, re.sub(r"-[0-9a-z]{10}$", "", one.resource))]
    *above, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    body = copy.deepcopy(old.body)
    inner = reduce(getitem, above, body)
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return [replace(one, body=body) if one is old else one for one in documents]


def amount(text: str) -> float:
    """A quantity of Kubernetes, or a size as Redis writes it."""
    number, unit = re.fullmatch(r"([\d.]+)(\w*)", str(text)).groups()  # type: ignore[union-attr]
    return float(number) * UNITS.get(unit, 1)
