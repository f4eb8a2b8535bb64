"""Stage, prod and every component, taken by the API server with the real definitions of the other operators.

Nothing is made but definitions and empty namespaces: the API server is asked what it would say (`--dry-run=server`),
and it refuses every field that it does not know. The objects are asked for in a namespace of their own, because a dry
run against the running service would meet what cannot be changed, such as the size of its volumes.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import yaml
from manifests.documents import Document, service_of
from overlays import ROOT, around, built, prod_for_a_site, write_parameters
from real_cluster import NAME, Json, RealCluster

DEFINITIONS: Final = {
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": "example/prometheus-operator-crd",
    "github.com/external-secrets/external-secrets@v1.3.2": "config/crds/bases",
    # `retry` of an HTTPRoute is in the standard channel from 1.7 on, which needs a newer Go than this project's.
    "sigs.k8s.io/gateway-api@v1.4.1": "config/crd/experimental",
    "istio.io/api@v1.32.0": "kubernetes",
    "github.com/cert-manager/cert-manager@v1.21.2": "deploy/crds",
}
"""Where the definitions of the other operators come from: a Go module, and a folder in it."""
TRIAL: Final = "manifests-trial"
DOWNLOAD_S: Final = 300
APPLY_S: Final = 180.0
EDGES: Final = ("gateway-api", "service-mesh")
"""Each takes the place of the Ingress, so they do not go together."""
COMPONENTS: Final = sorted(path.parent.name for path in (ROOT / "k8s/components").glob("*/kustomization.yaml"))
SERVICE_COMPONENTS: Final = sorted(
    path.parent.name for path in (ROOT / "k8s/service/components").glob("*/kustomization.yaml")
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifests with every placeholder filled in: in stage as in prod."""
    root = prod_for_a_site(tmp_path_factory.mktemp("site"))
    for overlay in ("stage", "prod"):
        write_parameters(root / "k8s" / "overlays" / overlay)
    return root


@pytest.fixture(scope="module")
def sets(site: Path) -> dict[str, list[Document]]:
    """What a cluster would get: stage, prod, and stage with everything that goes together, by either edge."""
    found = {name: built(site, f"overlays/{name}") + service_of(site, name)[0] for name in ("stage", "prod")}
    parts = [f"../components/{name}" for name in SERVICE_COMPONENTS]
    service = built(site, "service/every", {"resources": ["../stage"], "components": parts})
    for edge in EDGES:
        chosen = [name for name in COMPONENTS if name not in {*EDGES, "site", "dev-issuer", "external-postgres"}] + [
            edge
        ]
        found[edge] = built(site, f"overlays/with-{edge}", around("../monitoring", *chosen)) + service
    return found


@pytest.fixture(scope="module")
def api(
    node: RealCluster, sets: dict[str, list[Document]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealCluster]:
    """The cluster with the definitions of the kinds that are used, and the namespaces that are named."""
    kinds = {(_group(one.body), one.kind) for documents in sets.values() for one in documents}
    named = {_namespace(_on_trial(one)) for documents in sets.values() for one in documents}
    there = set(node.kubectl("get", "crd,namespace", "--output", "jsonpath={.items[*].metadata.name}").split())
    definitions = {
        name: text
        for name, text in _definitions(tmp_path_factory.mktemp("modules"))
        if (_line(text, "  group"), _line(text, "    kind")) in kinds and name not in there
    }
    labels = yaml.safe_load((ROOT / "k8s" / "base" / "namespace.yaml").read_text())["metadata"]["labels"]
    of_trial = {TRIAL: {"labels": labels}}
    metadata = [{"name": one} | of_trial.get(one, {}) for one in named - there]
    namespaces = [{"apiVersion": "v1", "kind": "Namespace", "metadata": one} for one in metadata]
    made = "\n---\n".join([*definitions.values(), *map(json.dumps, namespaces)])
    node.kubectl("apply", "--server-side", "--filename", "-", input=made, timeout_s=APPLY_S)
    try:
        node.kubectl("wait", "crd", "--all", "--for=condition=Established", "--timeout=60s", timeout_s=APPLY_S)
        yield node
    finally:
        node.kubectl("delete", "--filename", "-", input=made, timeout_s=APPLY_S)


@pytest.mark.parametrize("name", ["stage", "prod", *EDGES])
def test_no_field_is_unknown_and_pod_security_has_nothing_to_say(
    api: RealCluster, sets: dict[str, list[Document]], name: str
) -> None:
    objects = [_on_trial(one) for one in sets[name]]
    for namespace in sorted({_namespace(one) for one in objects}):
        status, said = _ask(api, namespace, [one for one in objects if _namespace(one) == namespace])
        assert status == 0, said
        assert "Warning" not in said


def test_every_component_was_asked_for(sets: dict[str, list[Document]]) -> None:
    kinds = {one.kind for documents in sets.values() for one in documents}
    assert {"PodMonitor", "PrometheusRule", "ExternalSecret", "Certificate", "HTTPRoute", "RayService"} <= kinds
    assert {"VirtualService", "AuthorizationPolicy", "PeerAuthentication", "EnvoyFilter"} <= kinds


def test_an_unknown_field_is_refused(api: RealCluster, sets: dict[str, list[Document]]) -> None:
    [monitor] = [one for one in sets["stage"] if one.resource == "PodMonitor/ray"]
    changed = _on_trial(monitor)
    changed["spec"]["podMetricsEndpoint"] = []
    status, said = _ask(api, TRIAL, [changed])
    assert status != 0
    assert 'unknown field "podMetricsEndpoint"' in said


def _ask(api: RealCluster, namespace: str, objects: list[Json]) -> tuple[int, str]:
    """How kubectl ends and what it says when these objects are tried in that namespace."""
    options = ("--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "--filename", "-")
    command = api.in_namespace(namespace).kubectl_command("apply", *options)
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=APPLY_S)
    return done.returncode, done.stderr


def _on_trial(document: Document) -> Json:
    """The object as it would be in the namespace of the trial."""
    body = copy.deepcopy(document.body)
    metadata = body["metadata"]
    if metadata.get("namespace") == NAME:
        metadata["namespace"] = TRIAL
    elif document.resource == f"Namespace/{NAME}":
        metadata["name"] = TRIAL
    elif document.kind == "RayService":
        metadata["namespace"] = TRIAL
    return body


def _namespace(body: Json) -> str:
    return str(body["metadata"].get("namespace", TRIAL))


def _definitions(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and text of the definitions in the pinned modules. As text, because PyYAML cannot read all of them."""
    go = shutil.which("go", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/local/go/bin")))
    assert go, "Go is needed to fetch the definitions"
    command = [go, "mod", "download", "-json", *DEFINITIONS]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=DOWNLOAD_S)
    assert done.returncode == 0, done.stdout + done.stderr
    decoder, rest = json.JSONDecoder(), done.stdout.strip()
    while rest:
        module, end = decoder.raw_decode(rest)
        rest = rest[end:].lstrip()
        for file in sorted(Path(module["Dir"], DEFINITIONS[f"{module['Path']}@{module['Version']}"]).glob("*.yaml")):
            for text in re.split(r"^---.*$", file.read_text("utf-8"), flags=re.MULTILINE):
                if _line(text, "kind") == "CustomResourceDefinition":
                    yield _line(text, "  name"), text


def _line(text: str, key: str) -> str:
    """The value of the first line with that key, which is written with its indentation."""
    found = re.search(rf"^{key}: (\S+)", text, re.MULTILINE)
    return found[1] if found else ""


def _group(body: Json) -> str:
    return str(body.get("apiVersion", "")).rpartition("/")[0]
