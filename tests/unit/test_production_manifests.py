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


WORKERS, HEAD = ("rayClusterConfig", "workerGroupSpecs"), ("rayClusterConfig", "headGroupSpec")
IS_DEV = {"name": "ENVIRONMENT", "value": "dev"}


def container(*path: str | int, **values: Any) -> Change:
    """Change the first container of the template at this place of the spec."""

    def change(body: dict[str, Any]) -> None:
        template = reduce(getitem, path, body["spec"])["template"]
        template["spec"]["containers"][0].update(values)

    return change


CHANGES: list[tuple[str, str, Change, str]] = [
    ("Ingress", "sem-image-classifier", lambda body: body["spec"].pop("tls"), "in the clear"),
    (
        "Ingress",
        "sem-image-classifier",
        lambda body: body["spec"]["rules"][0].update(host="sem.example.com"),
        "`sem.example.com` is a placeholder",
    ),
    (
        "NetworkPolicy",
        "head",
        lambda body: body["spec"]["egress"][0]["to"][0]["ipBlock"].update(cidr="10.0.0.0/8"),
        "wider than one place",
    ),
    ("StatefulSet", "redis", container(image="valkey/valkey:9.1.2"), "has no digest"),
    ("CronJob", "redis-backup", container("jobTemplate", "spec", image="x:latest"), "`x:latest` has no digest"),
    (
        "RayService",
        "sem-image-classifier",
        container(*WORKERS, 1, image="service:0.1.0"),
        "`service:0.1.0` has no digest",
    ),
    ("StatefulSet", "redis", lambda body: body["spec"].pop("volumeClaimTemplates"), "without a volume"),
    *(
        ("ConfigMap", "sem-image-classifier", lambda body, given=given: body["data"].update(given), said)
        for given, said in (
            ({"ENVIRONMENT": "dev"}, "Only with `prod`"),
            ({"MODEL_SOURCE": "demo"}, "MODEL_SOURCE=demo is a stand-in"),
            ({"MODEL_REVISION": "main"}, "MODEL_REVISION must be a commit"),
            ({"OIDC_ISSUERS": "http://login.facility.org"}, "is not a public https issuer"),
            ({"OIDC_AUDIENCE": ""}, "OIDC_AUDIENCE must be set"),
            ({"OIDC_AUDIENCE": "change-me"}, "`change-me` is a placeholder"),
            ({"WEBHOOK_PRIVATE_HOSTS": "db:80"}, "WEBHOOK_PRIVATE_HOSTS must be empty"),
            ({"JOB_TTL": "soon"}, "The service refuses this"),
            ({"REDIS_URL": "redis://:a-password-of-the-site@redis/0"}, "REDIS_URL is a secret"),
        )
    ),
    ("ConfigMap", "sem-image-classifier", lambda body: body["data"].pop("ENVIRONMENT"), "Only with `prod`"),
    ("RayService", "sem-image-classifier", container(*HEAD, env=[IS_DEV]), "wins over the settings"),
    ("ServiceAccount", "gateway", lambda body: body["metadata"].update(name="dev-issuer"), "signs for anybody"),
]


@pytest.mark.parametrize(("kind", "name", "change", "said"), CHANGES, ids=[f"{c[0]} {c[3]}" for c in CHANGES])
def test_what_is_weak_is_refused_with_its_place(
    whole: list[Document], kind: str, name: str, change: Change, said: str
) -> None:
    changed = [Document(one.file, copy.deepcopy(one.body)) for one in whole]
    [wrong] = [one for one in changed if (one.kind, one.name) == (kind, name)]
    change(wrong.body)
    [finding] = production.refusals(changed)
    assert said in finding.sentence
    assert finding.resource == wrong.resource


@pytest.mark.parametrize("line", ["appendonly yes", "appendfsync always", "maxmemory-policy noeviction"])
def test_a_job_redis_that_could_lose_jobs_is_refused(whole: list[Document], line: str) -> None:
    changed = [Document(one.file, copy.deepcopy(one.body)) for one in whole]
    [files] = [one for one in changed if one.kind == "ConfigMap" and re.fullmatch(r"redis-[a-z0-9]{10}", one.name)]
    files.body["data"]["redis.conf"] = files.body["data"]["redis.conf"].replace(line, f"# {line}")
    [finding] = production.refusals(changed)
    assert f"`{line}` is missing" in finding.sentence


def test_a_fault_of_the_settings_is_told_at_its_key_whatever_the_shell_says(
    whole: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OIDC_AUDIENCE", "of-the-shell")
    changed = [Document(one.file, copy.deepcopy(one.body)) for one in whole]
    [settings] = [one for one in changed if one.resource == "ConfigMap/sem-image-classifier"]
    settings.body["metadata"]["name"] += "-1361177da973"  # as scripts/cluster names it
    del settings.body["data"]["OIDC_AUDIENCE"], settings.body["data"]["MODEL_SOURCE"]
    assert [finding.path for finding in production.refusals(changed)] == ["data.OIDC_AUDIENCE", "data.MODEL_SOURCE"]


def test_without_an_edge_or_settings_it_is_refused(whole: list[Document]) -> None:
    closed = [one for one in whole if one.kind != "Ingress"]
    assert ["Nothing leads in" in finding.sentence for finding in production.refusals(closed)] == [True]
    silent = [one for one in whole if (one.kind, one.name) != ("ConfigMap", "sem-image-classifier")]
    assert ["settings are missing" in finding.sentence for finding in production.refusals(silent)] == [True]


def test_of_a_file_the_line_is_named() -> None:
    document = Document("x", {"kind": "Thing", "metadata": {"name": "y"}, "spec": {"text": "one\nREPLACE-ME\n"}})
    [finding] = [one for one in production.refusals([document]) if "placeholder" in one.sentence]
    assert (finding.path, finding.sentence.split("`")[1]) == ("spec.text", "REPLACE-ME")
