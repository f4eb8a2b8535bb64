"""prod is refused as long as anything of it is a placeholder, for development, weak, or can be moved by others."""

from __future__ import annotations

import re
from typing import Any

import pytest
from manifests import application
from manifests.documents import Document
from operations import render, target
from overlays import ROOT, put

from serve_app import settings


@pytest.fixture
def whole(filled_in: dict[str, list[Document]]) -> list[Document]:
    """As a site has it."""
    return filled_in["prod"]


def test_a_site_that_filled_everything_in_is_let_through(whole: list[Document]) -> None:
    assert [str(finding) for finding in application.refusals(whole)] == []


def test_the_overlay_as_it_is_in_git_is_refused_for_every_placeholder(shipped: dict[str, list[Document]]) -> None:
    found = [str(finding) for finding in application.refusals(shipped["prod"])]
    for name in ("ConfigMap/sem-image-classifier data.OIDC_ISSUERS", "NetworkPolicy/head", "ExternalSecret/redis"):
        assert any(name in line for line in found), name
    written = sorted((ROOT / "k8s" / "overlays" / "prod").glob("*.*"))
    placeholders = {word for path in written for word in re.findall(r"[=:/ ](\S*REPLACE-ME\S*)", path.read_text())}
    assert len(placeholders) >= 4
    assert [word for word in placeholders if not any(word.split(":")[-1] in line for line in found)] == []


def test_development_is_not_fit_for_production(shipped: dict[str, list[Document]]) -> None:
    found = [finding.sentence for finding in application.refusals(shipped["dev"])]
    assert any("signs for anybody" in sentence for sentence in found)
    assert any("has no digest" in sentence for sentence in found)


SERVICE, SETTINGS, INGRESS = (f"{kind}/sem-image-classifier" for kind in ("RayService", "ConfigMap", "Ingress"))
BOX = "template.spec.containers.0"
CHANGES: list[tuple[str, str, Any, str]] = [
    # the resource, what is put where (None: taken away), and a word
    (INGRESS, "spec.tls", None, "in the clear"),
    (INGRESS, "spec.rules.0.host", "sem.example.com", "`sem.example.com` is a placeholder"),
    ("NetworkPolicy/head", "spec.egress.0.to.0.ipBlock.cidr", "10.0.0.0/8", "wider than one place"),
    ("StatefulSet/redis", f"spec.{BOX}.image", "valkey/valkey:9.1.2", "has no digest"),
    ("StatefulSet/redis", "spec.volumeClaimTemplates", None, "without a volume"),
    ("CronJob/redis-backup", f"spec.jobTemplate.spec.{BOX}.image", "x:latest", "`x:latest` has no digest"),
    (SERVICE, f"spec.rayClusterConfig.workerGroupSpecs.1.{BOX}.image", "x:0.1.0", "`x:0.1.0` has no digest"),
    (SERVICE, f"spec.rayClusterConfig.headGroupSpec.{BOX}.env.0", {"name": "ENVIRONMENT", "value": "dev"}, "wins over"),
    ("ServiceAccount/gateway", "metadata.name", "dev-issuer", "signs for anybody"),
    (SETTINGS, "data.ENVIRONMENT", None, "Only with `prod`"),
    (SETTINGS, "data.ENVIRONMENT", "dev", "Only with `prod`"),
    (SETTINGS, "data.MODEL_SOURCE", "demo", "MODEL_SOURCE=demo is a stand-in"),
    (SETTINGS, "data.MODEL_REVISION", "main", "MODEL_REVISION must be a commit"),
    (SETTINGS, "data.OIDC_ISSUERS", "http://login.facility.org", "is not a public https issuer"),
    (SETTINGS, "data.OIDC_AUDIENCE", "", "OIDC_AUDIENCE must be set"),
    (SETTINGS, "data.OIDC_AUDIENCE", "change-me", "`change-me` is a placeholder"),
    (SETTINGS, "data.WEBHOOK_PRIVATE_HOSTS", "db:80", "WEBHOOK_PRIVATE_HOSTS must be empty"),
    (SETTINGS, "data.JOB_TTL", "soon", "The service refuses this"),
    (SETTINGS, "data.REDIS_URL", "redis://:a-password-of-the-site@redis/0", "REDIS_URL is a secret"),
]


@pytest.mark.parametrize(("resource", "path", "value", "said"), CHANGES)
def test_what_is_weak_is_refused_with_its_place(
    whole: list[Document], resource: str, path: str, value: Any, said: str
) -> None:
    [finding] = application.refusals(put(whole, resource, path, value))
    assert said in finding.sentence
    assert finding.resource.startswith(resource.partition("/")[0])


@pytest.mark.parametrize("line", ["appendonly yes", "appendfsync always", "maxmemory-policy noeviction"])
def test_a_job_redis_that_could_lose_jobs_is_refused(whole: list[Document], line: str) -> None:
    [files] = [one for one in whole if one.kind == "ConfigMap" and re.fullmatch(r"redis-[a-z0-9]{10}", one.name)]
    text = files.mapping("data")["redis.conf"].replace(line, f"# {line}")
    data = {**files.mapping("data"), "redis.conf": text}
    [finding] = application.refusals(put(whole, files.resource, "data", data))
    assert f"`{line}` is missing" in finding.sentence


def test_a_fault_of_the_settings_is_told_at_its_key_whatever_the_shell_says(
    whole: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OIDC_AUDIENCE", "of-the-shell")
    as_named_by_the_program = "sem-image-classifier-1361177da973"
    changed = put(put(whole, SETTINGS, "data.OIDC_AUDIENCE"), SETTINGS, "data.MODEL_SOURCE")
    found = application.refusals(put(changed, SETTINGS, "metadata.name", as_named_by_the_program))
    assert [finding.path for finding in found] == ["data.OIDC_AUDIENCE", "data.MODEL_SOURCE"]


@pytest.mark.parametrize(("kind", "says"), [("Ingress", "Nothing leads in"), ("ConfigMap", "settings are missing")])
def test_without_an_edge_or_settings_it_is_refused(whole: list[Document], kind: str, says: str) -> None:
    less = [one for one in whole if one.kind != kind or one.name.startswith("redis-")]
    assert [says in finding.sentence for finding in application.refusals(less)] == [True]


def test_of_a_file_the_line_is_named() -> None:
    document = Document("x", {"kind": "Thing", "metadata": {"name": "y"}, "spec": {"text": "one\nREPLACE-ME\n"}})
    [finding] = [one for one in application.refusals([document]) if "placeholder" in one.sentence]
    assert (finding.path, finding.sentence.split("`")[1]) == ("spec.text", "REPLACE-ME")


PATTERNS = [settings.PLACEHOLDER, application.PLACEHOLDER, render.PLACEHOLDER]
"""These programs may not import each other."""
PLACEHOLDERS = [
    "REPLACE-ME",
    "replace_me",
    "REPLACEME",
    "REPLACE-WITH-YOUR-OWN",
    "change-me",
    "CHANGE_ME",
    "changeme",
    "https://login.example.com/realms/lab",
    "https://login.example.org/realms/lab",
    "redis://:REPLACE-ME@redis/0",
]
REAL_VALUES = ["https://login.facility.org/realms/lab", "sem-image-classifier", "notanexample.community"]


@pytest.mark.parametrize("pattern", PATTERNS, ids=["service", "manifests", "operations"])
def test_a_placeholder_is_the_same_to_the_service_its_manifests_and_its_operations(pattern: re.Pattern[str]) -> None:
    assert [text for text in PLACEHOLDERS + REAL_VALUES if pattern.search(text)] == PLACEHOLDERS


def test_a_commit_is_the_same_to_the_service_and_to_its_operations() -> None:
    assert target.COMMIT.pattern == settings.COMMIT.pattern
