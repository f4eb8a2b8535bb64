"""Releases in the cluster: the settings that belong to each, the way back to an earlier one, what is dropped."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import cluster_world
from tests.cluster_world import IMAGE, IMAGE_ID, NAME, Machine, entry, items, ray_service, rule


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with cluster_world.machine(tmp_path) as made:
        yield made


@pytest.mark.parametrize(
    ("running", "wanted", "chosen"),
    [("ccc", "", "bbb"), ("failed", "", "ccc"), ("ccc", "aaa", "aaa")],
)
def test_a_rollback_applies_what_served_before(machine: Machine, running: str, wanted: str, chosen: str) -> None:
    entries = [entry("aaa", "1", IMAGE), entry("ccc", "3", IMAGE), entry("bbb", "2", IMAGE)]
    machine.first(rule("get configmaps", items(*entries)), rule("get rayservice", ray_service(mark=running)))
    done = machine.run(*["rollback", wanted][: 2 if wanted else 1])
    assert done.returncode == 0, done.stderr
    applied, recorded = [one["stdin"] for one in machine.asked if " apply " in one["line"]]
    assert applied == f"manifests of {chosen}\n"
    assert json.loads(recorded)["metadata"]["name"] == f"{NAME}-release-{chosen}"


def test_a_rollback_to_nowhere_changes_nothing(machine: Machine) -> None:
    machine.first(
        rule("get configmaps", items(entry("aaa", "1", IMAGE))), rule("get rayservice", ray_service(mark="aaa"))
    )
    assert "there is no earlier release in the cluster; there are: aaa" in machine.run("rollback").stderr
    assert "there is no release zzz in the cluster" in machine.run("rollback", "zzz").stderr
    assert machine.changes == []


def test_a_rollback_that_failed_is_repeated_to_the_same_release(machine: Machine) -> None:
    machine.first(
        rule("get configmaps", items(entry("bbb", "2", IMAGE), entry("aaa", "1", IMAGE))),
        rule("get rayservice", ray_service(mark="bbb"), before="apply"),
        rule("get rayservice", ray_service(mark="aaa", ready=False)),
    )
    done = machine.run("rollback", "--timeout", "1")
    assert "error: readiness: not ready after 1 s" in done.stderr
    [said] = [line.removeprefix("next:     ") for line in done.stderr.splitlines() if line.startswith("next:")]
    assert said == "scripts/cluster rollback aaa, then scripts/cluster smoke"
    machine.run(*shlex.split(said.split(", then ")[0])[1:], "--timeout", "1")
    applied = [one["stdin"] for one in machine.asked if " apply " in one["line"]]
    assert applied == ["manifests of aaa\n"] * 2


def test_old_entries_leave_the_cluster_with_settings_that_nobody_reads(machine: Machine) -> None:
    kept, oldest, serving, failed = (f"{NAME}-{mark * 12}" for mark in "abcd")
    entries = [entry(f"{n:02}", f"{n:02}", IMAGE) for n in range(12)]
    for old, settings in ((entries[11], kept), (entries[0], oldest)):
        old["data"]["manifests.yaml"] += f"- configMapRef:\n    name: {settings}\n"
    too_late = {"spec": {"envFrom": [{"configMapRef": {"name": serving}}]}}
    by_hand = NAME
    there = [{"metadata": {"name": name}} for name in (kept, oldest, serving, failed, by_hand)]
    machine.first(
        rule("get configmaps .*component=settings", items(*there)),
        rule("get configmaps .*component=release", items(*entries)),
        rule("get rayclusters", items(too_late)),
    )
    machine.run("all")
    gone = [line.rpartition("delete configmap ")[2] for line in machine.changes if "delete configmap" in line]
    dropped = (f"{NAME}-release-01", f"{NAME}-release-00", oldest, failed)
    assert gone == [f"{name} --ignore-not-found" for name in dropped]


def test_an_upgrade_that_fails_touches_no_settings_that_are_there(machine: Machine) -> None:
    machine.first(rule("get rayservice", ray_service(), before="podman build"))
    machine.first(rule("get rayservice", ray_service(ready=False), after="podman build"))
    done = machine.run("upgrade", "--timeout", "1")
    assert done.returncode == 1
    assert not any("delete configmap" in line for line in machine.changes)
    applied = [one["stdin"] for one in machine.asked if " apply " in one["line"] and "dry-run" not in one["line"]]
    assert [cluster_world.SETTINGS in text for text in applied] == [False, True]  # with the service that reads them


def test_a_release_of_the_cluster_is_deployed_where_no_file_is(machine: Machine) -> None:
    mark = "0123456789ab"
    machine.first(rule("get configmaps .*component=release", items(entry(mark, "1", IMAGE))))
    missing = machine.run("deploy")
    assert "there is no release of dev on this machine yet: scripts/cluster image" in missing.stderr
    assert "scripts/cluster deploy --release MARK" in missing.stderr
    done = machine.run("deploy", "--release", mark)
    assert done.returncode == 0, done.stderr
    written = machine.tree / "build" / "cluster" / "dev" / "service" / "kustomization.yaml"
    assert f"newTag: {IMAGE_ID[:12]}" in written.read_text()
    assert machine.run("deploy", "--release", mark, "--dry-run").returncode == 0
    unknown = machine.run("deploy", "--release", "ba9876543210")
    assert f"there is no release ba9876543210 in the cluster; there are: {mark}" in unknown.stderr


def test_a_release_of_another_model_than_the_settings_name_is_refused(machine: Machine) -> None:
    machine.run("image")
    machine.settings("dev", "ENVIRONMENT=dev\nMODEL_SOURCE=private\nMODEL_ID=lab/other\n")
    machine.forget()
    done = machine.run("deploy")
    assert done.returncode == 2
    names = "holds the model demo, and k8s/overlays/dev/settings.env names private lab/other"
    assert f"{IMAGE} {names}" in done.stderr
    assert machine.lines == []
