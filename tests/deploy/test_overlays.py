"""What overlays and components give a cluster: no fault, no open parameter, ways for those they say, sizes that fit."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
from check_manifests import check_documents
from manifests import capacity
from manifests.application import texts
from manifests.documents import CLUSTER, HEAD, Document, Pod, matches, of_kind, pods_of, secrets_of
from manifests.network import rules
from overlays import PARAMETERS, ROOT, SITE, amount, around, built, of_service, prod_for_a_site

from serve_app.settings import Settings

K8S: Final = ROOT / "k8s"
AROUND: Final = sorted({path.parent.name for path in (K8S / "components").glob("*/kustomization.yaml")} - {"site"})
SERVICE: Final = sorted(path.parent.name for path in (K8S / "service" / "components").glob("*/kustomization.yaml"))
TOGETHER: Final = [one for one in AROUND if one not in ("service-mesh", "dev-issuer", "external-postgres")]
"""With the last of these, which takes things out of others and so stands after them."""
COMPONENT: Final = "app.kubernetes.io/component"
DATABASE: Final = {"ipBlock": {"cidr": re.findall(r"^POSTGRES=(.+)$", SITE, re.MULTILINE)[0]}}
COLLECTOR: Final = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "traces"}}}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prod_for_a_site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def everything(site: Path) -> list[Document]:
    """All components that go together, and all of the service's."""
    service = built(site, "service/every", of_service(*SERVICE))
    return built(site, "overlays/every", around(*TOGETHER, "external-postgres")) + service + secrets_of(site)[0]


def is_without_fault(documents: list[Document]) -> bool:
    """Whether no parameter of a site is left open and no check finds anything."""
    open_parameters = [
        (one.resource, text) for one in documents for _, text in texts(one.body) if re.fullmatch(r"site(-\w+)?", text)
    ]
    assert open_parameters == []
    assert [str(found) for found in check_documents(documents)] == []
    return True


@pytest.mark.parametrize("component", sorted({*AROUND, *SERVICE}))
@pytest.mark.slow(reason="kustomize renders every component")
def test_every_component_alone_has_no_fault(site: Path, component: str) -> None:
    service = built(site, "service/trial", of_service(*{component} & {*SERVICE}))
    documents = built(site, "overlays/trial", around(*{component} & {*AROUND})) + secrets_of(site)[0]
    assert is_without_fault(documents + service)
    assert [pod.group for pod in pods_of(service)] == ["head", "gateway", "models", "burst"]


def test_components_go_together(everything: list[Document]) -> None:
    assert is_without_fault(everything)
    assert not [one for one in everything if one.kind == "Ingress"], "gateway-api takes its place"
    left = [one for one in everything if "postgres" in one.name and one.kind != "NetworkPolicy"]
    assert left == [], "a server of the site takes its place"


@pytest.mark.parametrize(
    ("peer", "ways"),
    [
        ({"ipBlock": {"cidr": PARAMETERS["ISSUER"]}}, {"gateway": {443}}),
        (COLLECTOR, {name: {4318} for name in ("gateway", "models", "burst")}),
        (DATABASE, {"gateway": {6432}, "migrate": {6432}}),
    ],
    ids=["a private issuer", "the collector of traces", "a database of the site's"],
)
def test_a_way_is_open_for_those_who_need_it(
    everything: list[Document], peer: dict[str, Any], ways: dict[str, set[int]]
) -> None:
    found: dict[str, set[int]] = {}
    for pod in pods_of(everything):
        for rule in rules(everything, "egress", pod.labels):
            if peer in rule["to"]:
                found.setdefault(pod.labels[COMPONENT], set()).update(one["port"] for one in rule["ports"])
    assert found == ways


def test_the_databases_authority_is_with_those_who_connect(everything: list[Document]) -> None:
    folders = {
        pod.labels[COMPONENT]: {mount["mountPath"] for _, box in pod.containers() for mount in box["volumeMounts"]}
        for pod in pods_of(everything)
    }
    assert {name for name, mounted in folders.items() if "/run/secrets/postgres-ca" in mounted} == {
        "gateway",
        "migrate",
    }


def test_every_pod_has_the_registrys_secret(everything: list[Document]) -> None:
    accounts = {one.name for one in of_kind(everything, "ServiceAccount") if one.items("imagePullSecrets")}
    without = [
        pod.labels[COMPONENT]
        for pod in pods_of(everything)
        if pod.spec.get("serviceAccountName") not in accounts and not pod.spec.get("imagePullSecrets")
    ]
    assert without == []


def test_a_quota_binds_and_holds_two_clusters_with_what_is_around(filled_in: dict[str, list[Document]]) -> None:
    documents = filled_in["prod"]
    [quota] = of_kind(documents, "ResourceQuota")
    [service] = of_kind(documents, "RayService")
    for resource in ("cpu", "memory"):
        bound = amount(quota.at("spec", "hard", f"requests.{resource}"))
        needed = float(capacity.needed(documents, service, "requests", resource))
        assert needed <= bound <= 1.3 * needed, "a quota that never binds bounds nothing"


@pytest.mark.parametrize("overlay", ["dev", "stage", "prod"])
def test_the_queue_fits_into_its_redis(overlay: str, filled_in: dict[str, list[Document]]) -> None:
    documents = filled_in[overlay]
    [redis] = [one for one in documents if one.resource == "StatefulSet/redis"]
    [settings] = [one for one in documents if one.resource == "ConfigMap/sem-image-classifier"]
    [box] = redis.items("spec", "template", "spec", "containers")
    maxmemory = next(amount(row["value"]) for row in box["env"] if row["name"] == "MAXMEMORY")
    queue = float(settings.mapping("data").get("QUEUE_MAX_BYTES", Settings().queue_max_bytes))
    assert queue <= maxmemory * Settings().image_store_share
    assert maxmemory <= amount(box["resources"]["limits"]["memory"]) / 2


VERSIONED: Final = re.compile(r":(?!latest$)[\w.-]+$|@sha256:")
SECRET_WORDS: Final = re.compile(r"(?:PASSWORD|SECRET|TOKEN|ACCESS_KEY|REDIS_URL|DATABASE_URL)(?!.*_FILE$)")
DRAIN: Final = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
GATEWAYS_ALONE: Final = {"DATABASE_URL", "METRICS_TOKEN"}
ONLY_SOME: Final = {*GATEWAYS_ALONE, "REDIS_URL", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY", DRAIN}
"""Variables that some groups have and others must not, and the one that a head does not need."""
OF_A_LOST_HEAD: Final = {
    "RAY_SERVE_SLOW_STARTUP_WARNING_S",  # else Serve kills healthy replicas after 30 s
    "RAY_grpc_client_keepalive_time_ms",  # else a node notices late that the head is gone
    "RAY_grpc_client_keepalive_timeout_ms",
    "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S",  # else a request to a lost node hangs for as long as its client
}


@pytest.fixture(scope="module")
def sets(filled_in: dict[str, list[Document]], everything: list[Document]) -> list[list[Document]]:
    return [*filled_in.values(), everything]


@pytest.fixture(scope="module")
def pods(sets: list[list[Document]]) -> list[Pod]:
    return [pod for documents in sets for pod in pods_of(documents)]


@pytest.fixture(scope="module")
def services(sets: list[list[Document]]) -> list[Document]:
    return [one for documents in sets for one in of_kind(documents, "RayService")]


def test_a_container_has_a_version_and_a_size_and_writes_nowhere(pods: list[Pod]) -> None:
    for path, box in (row for pod in pods for row in pod.containers()):
        assert VERSIONED.search(box["image"]), path
        assert box["securityContext"]["readOnlyRootFilesystem"] is True, path
        assert set(box["resources"]["limits"]) >= {"cpu", "memory"}, path
        assert box["resources"]["requests"] == box["resources"]["limits"], path


def leaving_s(box: dict[str, Any]) -> tuple[int, int]:
    """Seconds that a container which is asked to end waits before SIGTERM, and those that Ray may drain after it."""
    waits = box.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    return waits, sum(int(one["value"]) for one in box.get("env", []) if one["name"] == DRAIN)


def test_a_pod_has_time_to_leave_and_to_drain(pods: list[Pod]) -> None:
    for pod in pods:
        longest = max(sum(leaving_s(box)) for _, box in pod.containers())
        assert longest < pod.spec.get("terminationGracePeriodSeconds", 30), pod.labels


def test_no_secret_stands_in_the_open_and_only_a_head_asks_the_api_server(
    sets: list[list[Document]], pods: list[Pod]
) -> None:
    assert [one.resource for documents in sets for one in of_kind(documents, "Secret")] == []
    for pod in pods:
        assert pod.group == "head" or pod.spec["automountServiceAccountToken"] is False, pod.labels
        open_values = {one["name"] for _, box in pod.containers() for one in box.get("env", []) if one.get("value")}
        assert not any(map(SECRET_WORDS.search, open_values)), pod.labels


def test_every_name_that_a_pod_needs_is_there(sets: list[list[Document]]) -> None:
    """Of Secrets: test_cluster_manifests.py."""
    for documents in sets:
        there = {(one.kind, one.name) for one in documents}
        there |= {("PersistentVolumeClaim", f"data-{one.name}-0") for one in of_kind(documents, "StatefulSet")}
        for pod in pods_of(documents):
            account = pod.spec.get("serviceAccountName")
            names = {("ServiceAccount", account)} if account else set()
            for volume in pod.spec.get("volumes", []):
                names |= {("ConfigMap", volume["configMap"]["name"])} if "configMap" in volume else set()
                claim = volume.get("persistentVolumeClaim", {}).get("claimName")
                names |= {("PersistentVolumeClaim", claim)} if claim else set()
            for source in (one for _, box in pod.containers() for one in box.get("envFrom", [])):
                names.add(("ConfigMap", source["configMapRef"]["name"]))
            assert names <= there, pod.labels


def test_every_selector_selects_a_pod_and_no_service_is_open_to_the_world(sets: list[list[Document]]) -> None:
    for documents in sets:
        labels = [pod.labels for pod in pods_of(documents)]
        for one in of_kind(documents, "PodDisruptionBudget", "PodMonitor", "NetworkPolicy", "Service"):
            selector = one.mapping("spec", "podSelector" if one.kind == "NetworkPolicy" else "selector")
            selector = {"matchLabels": selector} if one.kind == "Service" else selector
            assert not any(selector.values()) or any(matches(selector, each) for each in labels), one.resource
            assert one.kind != "Service" or one.at("spec", "type") in (None, "ClusterIP"), one.resource


def shared(pod: Pod) -> dict[str, str | None]:
    return {name: value for name, value in pod.environment.items() if name not in ONLY_SOME}


def test_every_node_runs_the_same_in_the_same_way(services: list[Document]) -> None:
    for service in services:
        head, *workers = pods_of([service])
        assert set(head.environment) >= OF_A_LOST_HEAD
        for pod in workers:
            assert service.at(*pod.ray_path, "image") == service.at(*head.ray_path, "image")
            assert shared(pod) == shared(head)
            assert service.at(*pod.group_path, "replicas") is None, "the autoscaler owns this number"
            # A second key would spread nothing over nodes without it, and one lost node could take all pods of a group.
            assert [one["topologyKey"] for one in pod.spec["topologySpreadConstraints"]] == ["kubernetes.io/hostname"]
            leaves_s = sum(leaving_s(service.at(*pod.ray_path)))
            assert leaving_s(service.at(*head.ray_path))[0] >= leaves_s, "workers end with the head's help"


def test_nothing_leads_to_the_ports_of_ray_where_whoever_comes_in_runs_code(services: list[Document]) -> None:
    for service in services:
        assert service.at(*HEAD, "rayStartParams", "num-cpus") == "0", "no replica beside the control plane"
        assert service.mapping(*HEAD).keys() <= {"rayStartParams", "template"}, "no Ingress, no other kind of Service"
        assert service.mapping(*CLUSTER, "authOptions") == {"mode": "token", "secretName": "sem-image-classifier-ray"}
        assert service.at("spec", "excludeHeadPodFromServeSvc") is True
        ports = {port["containerPort"] for pod in pods_of([service]) for port in service.at(*pod.ray_path, "ports")}
        assert 10001 not in ports, "Ray Client"


def test_who_decodes_what_strangers_send_holds_no_secret_of_the_gateways(services: list[Document]) -> None:
    for service in services:
        for pod in pods_of([service]):
            assert (pod.group == "gateway") == bool(GATEWAYS_ALONE & set(pod.environment))
            sources = service.items(*pod.ray_path, "envFrom")
            assert not any("secretRef" in one for one in sources), "single keys, not the whole Secret"
        node = capacity.node_types(service)["gateway"]["resources"]
        assert {one.name for one in capacity.replicas_of(service) if one.fit_on(node)} == {"gateway"}


def test_a_renewed_certificate_is_read_before_the_old_one_ends(tmp_path: Path) -> None:
    """The settings that start.sh gives the server, told by a server that only repeats them."""
    (tmp_path / "password").write_text("a-password-of-enough-characters")
    server = tmp_path / "valkey-server"
    server.write_text("#!/bin/sh\ncat\n")
    server.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PASSWORD_FILE": str(tmp_path / "password")}
    command = ["sh", str(K8S / "base" / "redis" / "start.sh"), "redis.conf"]

    def told(folder: str) -> str:
        given = environment | {"MAXMEMORY": "1gb", "TLS_FOLDER": folder}
        return subprocess.run(command, env=given, capture_output=True, text=True, check=True, timeout=30).stdout

    [interval] = re.findall(r"^tls-auto-reload-interval (\d+)$", told("/run/secrets/redis-tls"), re.MULTILINE)
    certificates = (K8S / "components" / "redis-tls" / "certificates.yaml").read_text()
    [before] = re.findall(r"renewBefore: (\d+)h", certificates)
    assert 0 < int(interval) < int(before) * 3600
    assert "tls" not in told("")
