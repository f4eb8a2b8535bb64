"""The procedures of disaster recovery name what the manifests have, and the pods that hold backups open fit to it."""

from __future__ import annotations

import re

import pytest
from check_manifests import check_schemas
from manifests.documents import Document, of_kind, pods_of, read
from overlays import ROOT, as_shipped

PAGE = (ROOT / "docs" / "disaster-recovery.md").read_text("utf-8")
STORES = ("redis", "postgres")


@pytest.fixture(scope="module")
def stage() -> list[Document]:
    return as_shipped()["stage"][0]


@pytest.fixture(scope="module")
def shelf() -> list[Document]:
    documents, findings = read((ROOT / "k8s" / "shelf.yaml").read_text("utf-8"), "k8s/shelf.yaml")
    assert findings == []
    return documents


def test_the_pods_that_hold_backups_open_are_let_in_by_the_cluster(shelf: list[Document]) -> None:
    assert list(map(str, check_schemas(shelf))) == []


@pytest.mark.parametrize("store", STORES)
def test_a_backup_that_was_copied_back_is_one_that_the_restore_reads(
    store: str, shelf: list[Document], stage: list[Document]
) -> None:
    [held] = [pod for pod in pods_of(shelf) if pod.document.name == f"{store}-shelf"]
    [restore] = [pod for pod in pods_of(stage) if pod.document.name == f"{store}-restore"]
    [(_, own)], [(_, other)] = held.containers(), restore.containers()
    claims = [one["persistentVolumeClaim"]["claimName"] for one in held.spec["volumes"]]
    assert claims == [f"{store}-backups"]
    assert claims[0] in {one.get("persistentVolumeClaim", {}).get("claimName") for one in restore.spec["volumes"]}
    assert held.spec["securityContext"] == restore.spec["securityContext"]
    assert own["image"] == other["image"]
    assert held.document.mapping("metadata", "labels") == held.labels


def test_no_store_and_no_policy_takes_a_shelf_for_one_of_its_own(shelf: list[Document], stage: list[Document]) -> None:
    known = {pod.labels.get("app.kubernetes.io/component") for pod in pods_of(stage)}
    assert {pod.labels["app.kubernetes.io/component"] for pod in pods_of(shelf)}.isdisjoint(known)


def test_every_object_that_the_procedures_name_is_there(shelf: list[Document], stage: list[Document]) -> None:
    there = {f"{one.kind.lower()}/{one.name}" for one in stage}
    assert {f"cronjob/{name}" for name in re.findall(r"--from=cronjob/(\S+)", PAGE)} <= there
    assert {f"statefulset/{name}" for name in re.findall(r"statefulset (\S+)", PAGE)} <= there
    assert set(re.findall(r"job/(\w+-shelf)", PAGE)) <= {one.name for one in of_kind(shelf, "Job")}


def test_no_procedure_waits_out_its_timeout_on_a_job_that_failed() -> None:
    assert not re.search(r"wait job.*condition=Complete", PAGE)
    jobs = re.findall(r"create job (\S+) --from=cronjob/\S+(?: +#.*)?$", PAGE, re.MULTILINE)
    assert jobs
    assert [job for job in jobs if f"\nended {job} " not in PAGE] == []


def test_a_database_that_is_made_anew_is_made_as_the_first_time() -> None:
    script = (ROOT / "k8s" / "base" / "postgres" / "init.sh").read_text("utf-8")
    statements = re.findall(r"^(.*\bDATABASE app\b.*);$", script, re.MULTILINE)
    assert len(statements) == 2
    commands = re.findall(r"--command='(.+?)'", PAGE)
    assert commands == ["DROP DATABASE app WITH (FORCE)", *statements]
