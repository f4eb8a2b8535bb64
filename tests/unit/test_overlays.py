"""Overlays and components: every one builds, none leaves a parameter open, and what stands twice is the same twice."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifests import capacity, rules, schemas
from manifests.documents import Document, of_kind
from manifests.pods import pods_of
from manifests.production import texts
from manifests.render import environments, rendered
from overlays import PARAMETERS, ROOT, amount, prod_for_a_site

from serve_app.settings import Settings

K8S = ROOT / "k8s"
AROUND = sorted(path.parent.name for path in (K8S / "components").glob("*/kustomization.yaml"))
SERVICE = sorted(path.parent.name for path in (K8S / "service" / "components").glob("*/kustomization.yaml"))
SIZES = {"gateway_cpus", "gateway_replicas", "min_replicas", "max_replicas", "num_cpus", "num_gpus"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prod_for_a_site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Document]]:
    """What each overlay gives a cluster, prod with the values of a site."""
    read = environments(prod_for_a_site(tmp_path_factory.mktemp("overlays")))
    return {name: documents for name, (documents, _) in read.items()}


def build(site: Path, kustomization: dict[str, Any], folder: str = "k8s/overlays/trial") -> list[Document]:
    """A kustomization of the site's own, with every parameter there is."""
    path = site / folder
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    base = (site / "k8s" / "overlays" / "prod" / "site.env").read_text()
    (path / "site.env").write_text(
        base + "".join(f"{name}={value}\n" for name, value in PARAMETERS.items() if name not in base)
    )
    (path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    documents, findings = rendered(site, folder)
    assert findings == []
    return documents


def around(*components: str) -> dict[str, Any]:
    annotations = {"annotations": {"config.kubernetes.io/local-config": "true"}, "disableNameSuffixHash": True}
    return {
        "resources": ["../../base"],
        "components": [*(f"../../components/{name}" for name in components if name != "site"), "../../components/site"],
        "configMapGenerator": [{"name": "site", "envs": ["site.env"], "options": annotations}],
    }


def everything_stands_where_it_should(documents: list[Document]) -> None:
    open_parameters = [
        (document.resource, text)
        for document in documents
        for _, text in texts(document.body)
        if re.fullmatch(r"site(-\w+)?", text)
    ]
    assert open_parameters == []
    assert [str(found) for check in (schemas.check, rules.check) for found in check(documents)] == []


@pytest.mark.parametrize("component", AROUND)
def test_every_component_builds_alone(site: Path, component: str) -> None:
    everything_stands_where_it_should(build(site, around(component)))


def test_components_go_together(site: Path) -> None:
    apart = ("service-mesh", "dev-issuer", "external-postgres")
    chosen = [name for name in AROUND if name not in apart] + ["external-postgres"]  # it takes things out of others
    documents = build(site, around(*chosen))
    everything_stands_where_it_should(documents)
    assert not [one for one in documents if one.kind == "Ingress"], "gateway-api takes its place"
    assert not [one.resource for one in documents if "postgres" in one.name and one.kind != "NetworkPolicy"]


@pytest.mark.parametrize("components", [*([name] for name in SERVICE), SERVICE], ids=",".join)
def test_every_component_of_the_service_builds(site: Path, components: list[str]) -> None:
    parts = [f"../components/{name}" for name in components]
    [service] = build(site, {"resources": ["../../../rayservice.yaml"], "components": parts}, "k8s/service/trial")
    everything_stands_where_it_should([service])
    assert [pod.group for pod in pods_of([service])] == ["head", "gateway", "models", "burst"]


@pytest.mark.parametrize("variant", ["service/dev/serve.yaml", "service/components/gpu/serve.yaml"])
def test_a_variant_is_the_same_application(variant: str) -> None:
    def comparable(path: Path) -> Any:
        config = yaml.safe_load(yaml.safe_load(path.read_text())["spec"]["serveConfigV2"])
        for model in config["applications"][0]["args"]["models"]:
            for name in SIZES & set(model):
                del model[name]
        for name in SIZES & set(config["applications"][0]["args"]):
            del config["applications"][0]["args"][name]
        return config

    assert comparable(K8S / variant) == comparable(ROOT / "rayservice.yaml")


def test_the_operators_rules_are_the_alerts() -> None:
    rules = yaml.safe_load((K8S / "monitoring" / "rules.yaml").read_text())["spec"]
    assert rules == yaml.safe_load((K8S / "monitoring" / "alerts.yaml").read_text())


def test_a_store_outside_gives_every_secret_of_the_list() -> None:
    listed = yaml.safe_load((K8S / "secrets.yaml").read_text())["secrets"]
    made = yaml.safe_load_all((K8S / "components" / "external-secrets" / "secrets.yaml").read_text())
    assert {one["metadata"]["name"] for one in made} == set(listed) - {
        "sem-image-classifier-tls",  # cert-manager's
        "registry",  # of components that few need
        "postgres-ca",
    }


def test_a_quota_binds_and_holds_two_clusters_with_what_is_around(given: dict[str, list[Document]]) -> None:
    documents = given["prod"]
    [quota] = of_kind(documents, "ResourceQuota")
    [service] = of_kind(documents, "RayService")
    for resource in ("cpu", "memory"):
        bound = amount(quota.at("spec", "hard", f"requests.{resource}"))
        needed = float(capacity.needed(documents, service, "requests", resource))
        assert needed <= bound <= 1.3 * needed, "a quota that never binds bounds nothing"


@pytest.mark.parametrize("overlay", ["dev", "stage", "prod"])
def test_the_queue_fits_into_its_redis(overlay: str, given: dict[str, list[Document]]) -> None:
    documents = given[overlay]
    [redis] = [one for one in documents if one.resource == "StatefulSet/redis"]
    [settings] = [one for one in documents if one.resource == "ConfigMap/sem-image-classifier"]
    [box] = redis.items("spec", "template", "spec", "containers")
    maxmemory = next(amount(row["value"]) for row in box["env"] if row["name"] == "MAXMEMORY")
    queue = float(settings.mapping("data").get("QUEUE_MAX_BYTES", Settings().queue_max_bytes))
    assert queue <= maxmemory * Settings().image_store_share
    assert maxmemory <= amount(box["resources"]["limits"]["memory"]) / 2
