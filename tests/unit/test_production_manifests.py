"""prod is refused as long as anything of it is a placeholder, for development, weak, or can be moved by others."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from functools import reduce
from operator import getitem
from typing import Any

import pytest
from manifests import production
from manifests.documents import Document
from manifests.render import environments
from overlays import ROOT, prod_for_a_site

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def shipped() -> list[Document]:
    return environments(ROOT)["prod"][0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[Document]:
    return environments(prod_for_a_site(tmp_path_factory.mktemp("site")))["prod"][0]


def test_a_site_that_filled_everything_in_is_let_through(whole: list[Document]) -> None:
    assert [str(finding) for finding in production.refusals(whole)] == []


def test_the_overlay_as_it_is_in_git_is_refused_for_every_placeholder(shipped: list[Document]) -> None:
    found = [str(finding) for finding in production.refusals(shipped)]
    for name in ("ConfigMap/sem-image-classifier data.OIDC_ISSUERS", "NetworkPolicy/head", "ExternalSecret/redis"):
        assert any(name in line for line in found), name
    written = sorted((ROOT / "k8s" / "overlays" / "prod").glob("*.*"))
    placeholders = {word for path in written for word in re.findall(r"[=:/ ](\S*REPLACE-ME\S*)", path.read_text())}
    assert len(placeholders) >= 4
    assert [word for word in placeholders if not any(word.split(":")[-1] in line for line in found)] == []


def test_development_is_not_fit_for_production() -> None:
    found = [finding.sentence for finding in production.refusals(environments(ROOT)["dev"][0])]
    assert any("signs for anybody" in sentence for sentence in found)
    assert any("has no digest" in sentence for sentence in found)


WORKER, HEAD = ("rayClusterConfig", "workerGroupSpecs", 1), ("rayClusterConfig", "headGroupSpec")
IS_DEV = {"name": "ENVIRONMENT", "value": "dev"}


def container(*path: str | int, **values: Any) -> Change:
    """Change the first container of the template at this place of the spec."""

    def change(body: dict[str, Any]) -> None:
        template = reduce(getitem, path, body["spec"])["template"]
        template["spec"]["containers"][0].update(values)

    return change


def setting(**values: str) -> Change:
    return lambda body: body["data"].update(values)


def without(*path: str) -> Change:
    return lambda body: reduce(getitem, path[:-1], body).pop(path[-1])


def forgetting(line: str) -> Change:
    return lambda body: setting(**{"redis.conf": body["data"]["redis.conf"].replace(line, f"# {line}")})(body)


def at_host(body: dict[str, Any]) -> None:
    body["spec"]["rules"][0]["host"] = "sem.example.com"


def anywhere(body: dict[str, Any]) -> None:
    body["spec"]["egress"][0]["to"][0]["ipBlock"]["cidr"] = "10.0.0.0/8"


NAME = "sem-image-classifier"
CHANGES: list[tuple[str, str, Change, str]] = [
    ("Ingress", NAME, without("spec", "tls"), "in the clear"),
    ("Ingress", NAME, at_host, "`sem.example.com` is a placeholder"),
    ("NetworkPolicy", "head", anywhere, "wider than one place"),
    ("StatefulSet", "redis", container(image="valkey/valkey:9.1.2"), "has no digest"),
    ("CronJob", "redis-backup", container("jobTemplate", "spec", image="x:latest"), "`x:latest` has no digest"),
    ("RayService", NAME, container(*WORKER, image="service:0.1.0"), "`service:0.1.0` has no digest"),
    ("RayService", NAME, container(*HEAD, env=[IS_DEV]), "wins over the settings"),
    ("StatefulSet", "redis", without("spec", "volumeClaimTemplates"), "without a volume"),
    ("ServiceAccount", "gateway", lambda body: body["metadata"].update(name="dev-issuer"), "signs for anybody"),
    *(
        ("ConfigMap", r"redis-[a-z0-9]{10}", forgetting(line), f"`{line}` is missing")
        for line in ("appendonly yes", "appendfsync always", "maxmemory-policy noeviction")
    ),
    ("ConfigMap", NAME, without("data", "ENVIRONMENT"), "Only with `prod`"),
    ("ConfigMap", NAME, setting(ENVIRONMENT="dev"), "Only with `prod`"),
    ("ConfigMap", NAME, setting(MODEL_SOURCE="demo"), "MODEL_SOURCE=demo is a stand-in"),
    ("ConfigMap", NAME, setting(MODEL_REVISION="main"), "MODEL_REVISION must be a commit"),
    ("ConfigMap", NAME, setting(OIDC_ISSUERS="http://login.facility.org"), "is not a public https issuer"),
    ("ConfigMap", NAME, setting(OIDC_AUDIENCE=""), "OIDC_AUDIENCE must be set"),
    ("ConfigMap", NAME, setting(OIDC_AUDIENCE="change-me"), "`change-me` is a placeholder"),
    ("ConfigMap", NAME, setting(WEBHOOK_PRIVATE_HOSTS="db:80"), "WEBHOOK_PRIVATE_HOSTS must be empty"),
    ("ConfigMap", NAME, setting(JOB_TTL="soon"), "The service refuses this"),
    ("ConfigMap", NAME, setting(REDIS_URL="redis://:a-password-of-the-site@redis/0"), "REDIS_URL is a secret"),
]


def changed(whole: list[Document], kind: str, name: str, change: Change) -> list[Document]:
    """The manifests with one resource changed."""
    documents = [Document(one.file, copy.deepcopy(one.body)) for one in whole]
    [wrong] = [one for one in documents if one.kind == kind and re.fullmatch(name, one.name)]
    change(wrong.body)
    return documents


@pytest.mark.parametrize(("kind", "name", "change", "said"), CHANGES, ids=[f"{c[0]} {c[3]}" for c in CHANGES])
def test_what_is_weak_is_refused_with_its_place(
    whole: list[Document], kind: str, name: str, change: Change, said: str
) -> None:
    [finding] = production.refusals(changed(whole, kind, name, change))
    assert said in finding.sentence
    assert finding.resource.startswith(f"{kind}/")


def test_a_fault_of_the_settings_is_told_at_its_key_whatever_the_shell_says(
    whole: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(body: dict[str, Any]) -> None:
        body["metadata"]["name"] += "-1361177da973"  # as scripts/cluster names it
        del body["data"]["OIDC_AUDIENCE"], body["data"]["MODEL_SOURCE"]

    monkeypatch.setenv("OIDC_AUDIENCE", "of-the-shell")
    found = production.refusals(changed(whole, "ConfigMap", NAME, change))
    assert [finding.path for finding in found] == ["data.OIDC_AUDIENCE", "data.MODEL_SOURCE"]


@pytest.mark.parametrize(("kind", "says"), [("Ingress", "Nothing leads in"), ("ConfigMap", "settings are missing")])
def test_without_an_edge_or_settings_it_is_refused(whole: list[Document], kind: str, says: str) -> None:
    less = [one for one in whole if one.kind != kind or one.name.startswith("redis-")]
    assert [says in finding.sentence for finding in production.refusals(less)] == [True]


def test_of_a_file_the_line_is_named() -> None:
    document = Document("x", {"kind": "Thing", "metadata": {"name": "y"}, "spec": {"text": "one\nREPLACE-ME\n"}})
    [finding] = [one for one in production.refusals([document]) if "placeholder" in one.sentence]
    assert (finding.path, finding.sentence.split("`")[1]) == ("spec.text", "REPLACE-ME")
