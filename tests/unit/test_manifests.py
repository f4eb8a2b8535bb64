"""rayservice.yaml and every overlay pass every check; the program says so, and says what does not."""

from __future__ import annotations

import pkgutil
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import manifests
import pytest
from manifests.documents import dotted
from manifests.everything import CHECKS, check_documents
from manifests.render import find_kubectl, rendered

from tests.manifests_given import ENVIRONMENT, ROOT, all_environments, all_variants, given, with_change


@pytest.mark.parametrize("environment", sorted(all_environments()))
def test_what_a_cluster_gets_has_no_fault(environment: str) -> None:
    documents, findings = all_environments()[environment]
    assert [str(finding) for finding in [*findings, *check_documents(documents)]] == []
    assert [one.name for one in documents if one.kind == "RayService"] == ["sem-image-classifier"]


@pytest.mark.parametrize("component", sorted(all_variants()))
def test_a_component_that_no_overlay_uses_has_no_fault(component: str) -> None:
    documents, findings = all_variants()[component]
    assert [str(finding) for finding in [*findings, *check_documents(documents)]] == []


def test_every_component_is_in_an_overlay_or_a_variant() -> None:
    folders = {file.parent.name for file in ROOT.glob("k8s/**/components/*/kustomization.yaml")}
    assert folders - set(all_variants()) == {"dev-issuer", "external-postgres", "external-secrets", "site"}


def test_every_environment_is_checked_and_has_what_stands_around_the_service() -> None:
    assert sorted(all_environments()) == ["dev", "prod", "stage"]
    kinds = {one.kind for one in all_environments()[ENVIRONMENT][0]}
    assert {"StatefulSet", "NetworkPolicy", "Ingress", "Job", "CronJob", "ResourceQuota", "SecretNames"} <= kinds


def test_every_check_of_the_package_is_used() -> None:
    walked = pkgutil.walk_packages(manifests.__path__, "manifests.")
    modules = [module for module in map(pkgutil.resolve_name, (one.name for one in walked)) if hasattr(module, "check")]
    assert {module.check for module in modules} == set(CHECKS)


def test_kubectl_is_the_locked_one() -> None:
    assert find_kubectl() == str(Path(sys.executable).with_name("kubectl"))


def test_an_overlay_that_cannot_be_built_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [missing.yaml]\n")
    documents, [finding] = rendered(tmp_path, ".")
    assert documents == []
    assert "missing.yaml" in finding.sentence


def places(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, part in parts:
        yield (*path, step)
        yield from places(part, (*path, step))


CLUSTER_PLACES = [
    path
    for path in places(next(one for one in given() if one.kind == "RayService").body)
    if path[0] == "spec" and len(path) > 2
]


@pytest.mark.parametrize("path", random.Random(20261121).sample(CLUSTER_PLACES, 10), ids=dotted)
@pytest.mark.parametrize("junk", [[], {"no": "such"}, None], ids=repr)
def test_nonsense_anywhere_is_a_finding_and_breaks_nothing(path: tuple[str | int, ...], junk: object) -> None:
    def change(body: Any) -> None:
        for step in path[:-1]:
            body = body[step]
        body[path[-1]] = junk

    assert check_documents(with_change("RayService", "sem-image-classifier", change))


def checked(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "check_manifests.py"), *arguments]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False, env=environment)


def test_the_program_says_place_and_remedy_and_ends_with_1(tmp_path: Path) -> None:
    text = (ROOT / "rayservice.yaml").read_text().replace("keep_alive_timeout_s", "keep_alive_timeouts_s")
    (tmp_path / "rayservice.yaml").write_text(text)
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s", ignore=shutil.ignore_patterns("dev", "prod"))
    done = checked("--root", str(tmp_path))
    line = text[: text.index("keep_alive_timeouts_s")].count("\n") + 1
    place = (
        f"rayservice.yaml:{line}: RayService/sem-image-classifier spec.serveConfigV2.http_options.keep_alive_timeouts_s"
    )
    assert len([one for one in done.stdout.splitlines() if one.startswith(f"{place}: ")]) == 1
    assert done.returncode == 1


def test_the_program_explains_itself() -> None:
    done = checked("--help")
    assert done.returncode == 0
    assert "exit status" in done.stdout
