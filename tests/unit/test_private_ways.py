"""Components that open a way, mount an authority or name a pull secret do so for whom they say, and for nobody else."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from manifests.documents import Document, of_kind
from manifests.network import rules
from manifests.pods import pods_of
from manifests.render import rendered
from overlays import PARAMETERS, ROOT, prod_for_a_site

COMPONENT: Final = "app.kubernetes.io/component"
ISSUER: Final = {"ipBlock": {"cidr": PARAMETERS["ISSUER"]}}
DATABASE: Final = {"ipBlock": {"cidr": PARAMETERS["POSTGRES"]}}
COLLECTOR: Final = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "traces"}}}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prod_for_a_site(tmp_path_factory.mktemp("private"))


def built(site: Path, folder: str, kustomization: dict[str, Any]) -> list[Document]:
    path = site / folder
    path.mkdir(parents=True)
    more = "".join(f"{name}={PARAMETERS[name]}\n" for name in ("ISSUER", "TRACES_NAMESPACE"))
    (path / "site.env").write_text((site / "k8s" / "overlays" / "prod" / "site.env").read_text() + more)
    (path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    documents, findings = rendered(site, folder)
    assert findings == []
    return documents


@pytest.fixture(scope="module")
def around(site: Path) -> list[Document]:
    chosen = (
        "external-secrets",
        "external-postgres",
        "postgres-ca",
        "private-issuer",
        "private-registry",
        "traces",
        "site",
    )
    options = {"annotations": {"config.kubernetes.io/local-config": "true"}, "disableNameSuffixHash": True}
    kustomization = {
        "resources": ["../../base"],
        "components": [f"../../components/{name}" for name in chosen],
        "configMapGenerator": [{"name": "site", "envs": ["site.env"], "options": options}],
    }
    return built(site, "k8s/overlays/private", kustomization)


@pytest.fixture(scope="module")
def service(site: Path) -> list[Document]:
    parts = [f"../components/{name}" for name in ("postgres-ca", "private-registry")]
    return built(site, "k8s/service/private", {"resources": ["../../../rayservice.yaml"], "components": parts})


def ways_to(documents: list[Document], peer: dict[str, Any]) -> dict[str, set[int]]:
    """The pods that some policy lets out to that peer, with the ports."""
    found: dict[str, set[int]] = {}
    for pod in pods_of(documents):
        for rule in rules(documents, "egress", pod.labels):
            if peer in rule["to"]:
                found.setdefault(pod.labels[COMPONENT], set()).update(one["port"] for one in rule["ports"])
    return found


def test_a_private_issuer_is_reached_by_gateways_alone(around: list[Document], service: list[Document]) -> None:
    assert ways_to(around + service, ISSUER) == {"gateway": {443}}


def test_traces_go_to_the_collector_from_those_who_make_them(around: list[Document], service: list[Document]) -> None:
    assert ways_to(around + service, COLLECTOR) == {name: {4318} for name in ("gateway", "models", "burst")}


def test_a_database_of_the_sites_has_a_port_of_the_sites(around: list[Document], service: list[Document]) -> None:
    assert ways_to(around + service, DATABASE) == {"gateway": {6432}, "migrate": {6432}}


def test_the_databases_authority_is_with_those_who_connect(around: list[Document], service: list[Document]) -> None:
    mounting = {
        pod.labels[COMPONENT]
        for pod in pods_of(around + service)
        for _, box in pod.containers()
        if any(mount["mountPath"] == "/run/secrets/postgres-ca" for mount in box["volumeMounts"])
    }
    assert mounting == {"gateway", "migrate"}


def test_every_pod_has_the_registrys_secret(around: list[Document], service: list[Document]) -> None:
    accounts = {one.name for one in of_kind(around, "ServiceAccount") if one.items("imagePullSecrets")}
    without = [
        pod.labels[COMPONENT]
        for pod in pods_of(around + service)
        if pod.spec.get("serviceAccountName") not in accounts and not pod.spec.get("imagePullSecrets")
    ]
    assert without == []


def test_a_renewed_certificate_is_read_before_the_old_one_ends(tmp_path: Path) -> None:
    """The settings that start.sh gives the server, told by a server that only repeats them."""
    (tmp_path / "password").write_text("a-password-of-enough-characters")
    server = tmp_path / "valkey-server"
    server.write_text("#!/bin/sh\ncat\n")
    server.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PASSWORD_FILE": str(tmp_path / "password"),
        "MAXMEMORY": "1gb",
        "TLS_FOLDER": "/run/secrets/redis-tls",
    }
    script = ROOT / "k8s" / "base" / "redis" / "start.sh"
    told = subprocess.run(
        ["sh", str(script), "redis.conf"], env=environment, capture_output=True, text=True, check=True, timeout=30
    ).stdout
    [interval] = re.findall(r"^tls-auto-reload-interval (\d+)$", told, re.MULTILINE)
    certificates = (ROOT / "k8s" / "components" / "redis-tls" / "certificates.yaml").read_text()
    [before] = re.findall(r"renewBefore: (\d+)h", certificates)
    assert 0 < int(interval) < int(before) * 3600
    plain = subprocess.run(
        ["sh", str(script), "redis.conf"],
        env={**environment, "TLS_FOLDER": ""},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout
    assert "tls" not in plain
