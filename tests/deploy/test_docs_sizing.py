"""The page's figures of sizing are those of the manifests, added up."""

from __future__ import annotations

import math
import re

import pytest
from manifests.documents import Document, Pod, of_kind, pods_of
from overlays import ROOT, amount, as_filled_in

PAGE = (ROOT / "docs" / "kubernetes.md").read_text("utf-8")
SMALL = (ROOT / "k8s" / "service" / "dev" / "small.yaml").read_text("utf-8")
GIB = 2**30
OPERATOR = (0.1, 0.5)
"""KubeRay's, by the values of its chart; its 512 MiB in GiB."""
KIND = (0.95, 0.3)
"""What kind's own pods ask for: API server 0.25, controller manager 0.2, etcd, scheduler, network 0.1 each, DNS 0.2."""
Need = tuple[float, float]
"""Processors and GiB."""


@pytest.fixture(scope="module")
def given() -> dict[str, list[Document]]:
    return {name: documents for name, (documents, _) in as_filled_in().items()}


def plus(*needs: Need) -> Need:
    return sum(one[0] for one in needs), sum(one[1] for one in needs)


def times(count: int, need: Need) -> Need:
    return count * need[0], count * need[1]


def need_of(pod: Pod) -> Need:
    requests = [box["resources"]["requests"] for _, box in pod.containers()]
    return plus(*((amount(one["cpu"]), amount(one["memory"]) / GIB) for one in requests))


def ray(documents: list[Document], field: str) -> Need:
    """One Ray cluster with as many workers as a field of its groups says."""
    [service] = of_kind(documents, "RayService")
    counts = {
        group["groupName"]: group[field] for group in service.items("spec", "rayClusterConfig", "workerGroupSpecs")
    }
    return plus(*(times(counts.get(pod.group, 1), need_of(pod)) for pod in pods_of([service])))


def around(documents: list[Document], *kinds: str) -> dict[str, Need]:
    return {pod.document.name: need_of(pod) for kind in kinds for pod in pods_of(list(of_kind(documents, kind)))}


def shown(row: str) -> Need:
    found = re.search(rf"^\| \**{re.escape(row)}.*\| ([\d.]+) \| ([\d.]+) GiB \|$", PAGE, re.MULTILINE)
    assert found, row
    return float(found[1]), float(found[2])


def test_every_row_is_the_sum_of_its_manifests(given: dict[str, list[Document]]) -> None:
    prod, stage = given["prod"], given["stage"]
    cluster, stores = ray(prod, "minReplicas"), around(prod, "StatefulSet", "Deployment")
    ours = around(stage, "StatefulSet", "Deployment")
    assert set(ours) - set(stores) == {"postgresql"}
    dev = plus(*around(given["dev"], "StatefulSet", "Deployment").values())
    small = ray(given["dev"], "minReplicas")
    expected = {
        "one Ray cluster at rest": cluster,
        "the same with every worker": ray(prod, "maxReplicas"),
        "job Redis, Ray's Redis": plus(*stores.values()),
        "PostgreSQL": ours["postgresql"],
        "prod at rest": plus(cluster, *stores.values()),
        "prod during an upgrade": plus(times(2, cluster), *stores.values()),
        "stage at rest": plus(cluster, *ours.values()),
        "stage during an upgrade": plus(times(2, cluster), *ours.values()),
        "one Ray cluster of dev": small,
        "dev at rest": plus(small, dev),
        "dev during an upgrade": plus(times(2, small), dev),
    }
    assert {row: shown(row) for row in expected} == {
        row: pytest.approx(need, abs=0.06) for row, need in expected.items()
    }
    assert f"takes {small[0]:g} processors and {small[1]:g} GiB" in SMALL


def test_a_machine_of_the_size_that_the_page_asks_for_has_room(given: dict[str, list[Document]]) -> None:
    """kind's node is as large as the machine: what does not fit stays Pending, the Job of a backup too."""
    jobs = around(given["dev"], "Job", "CronJob").values()
    job = max(need[0] for need in jobs), max(need[1] for need in jobs)
    fixed = plus(OPERATOR, KIND, job)
    sizes = re.findall(r"(\d+) processors\s+and\s+(\d+) GiB", PAGE.partition("## On a cluster of yours")[0])
    assert len(sizes) == 2, sizes
    for row, (processors, memory) in zip(("dev at rest", "dev during an upgrade"), sizes, strict=True):
        needed = plus(shown(row), fixed)
        assert int(processors) == math.ceil(needed[0]), (row, needed)
        assert needed[1] <= int(memory) <= needed[1] + 2, (row, needed)
