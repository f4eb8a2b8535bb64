"""The pages for operators say of manifests and of `scripts/cluster` what is so: every command, component, parameter,
Secret, object of a procedure and size, and none that there is not."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from check_manifests import check_schemas
from manifests.documents import Document, Pod, of_kind, pods_of, read
from operations import command_line, deploy, kuberay, status, target, tools
from overlays import ROOT, amount

K8S = ROOT / "k8s"
OVERLAYS = ("dev", "stage", "prod")
KUBERNETES, MANIFESTS, RECOVERY = (
    (ROOT / "docs" / f"{name}.md").read_text("utf-8") for name in ("kubernetes", "manifests", "disaster-recovery")
)


def rows(heading: str) -> list[list[str]]:
    """The cells of each row of the table of `scripts/cluster` with this heading."""
    found = re.search(rf"^ *\| {heading} \|.*\n *\|---.*\n((?: *\|.*\n)+)", KUBERNETES, re.MULTILINE)
    assert found, heading
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in found[1].splitlines()]


def secrets() -> dict[str, Any]:
    return dict(yaml.safe_load((K8S / "secrets.yaml").read_text("utf-8"))["secrets"])


@pytest.mark.parametrize(
    ("heading", "known"),
    [
        ("Command", command_line.COMMANDS),
        ("Option", re.findall(r"(--[a-z-]+)", command_line.common_options().format_usage())),
        ("Setting", [*target.SETTINGS, *(f"BUILD_{name}" for name in target.BUILD)]),
    ],
)
def test_every_command_option_and_setting_is_a_row(heading: str, known: list[str]) -> None:
    assert sorted(name for row in rows(heading) for name in re.findall(r"`(.+?)`", row[0])) == sorted(known)


def test_the_row_of_a_command_tells_its_options_and_components() -> None:
    told = {row[0]: str(row) for row in rows("Command")}
    options = "release", "rebuild", "lines", "follow", "port", "dashboard", "admin", "manifests"
    assert [name for name in options if f"`--{name}" not in str(told)] == []
    assert [name for name in status.COMPONENTS if f"`{name}`" not in told["`logs`"]] == []
    assert [name for name in deploy.COMPONENTS if f"`{name}`" not in told["`restart`"]] == []


def test_the_versions_are_those_that_are_checked() -> None:
    for tool in (tools.KUBECTL, tools.HELM, tools.KIND, tools.PODMAN, tools.DOCKER):
        short = "{}.{}".format(*tool.oldest).removesuffix(".0")
        assert re.search(rf"{tool.name}\]?(\(\S+\))?\s+{re.escape(short)}\b", KUBERNETES), tool.name
    assert "Kubernetes {}.{} or newer".format(*tools.SERVER) in KUBERNETES
    assert f"KubeRay {kuberay.VERSION}" in KUBERNETES


def test_every_operator_that_an_overlay_needs_is_a_row_that_says_so(shipped: dict[str, list[Document]]) -> None:
    needed = {
        overlay: {str(one.at("apiVersion")).rpartition("/")[0] for one in documents} & set(tools.COMES_FROM)
        for overlay, documents in shipped.items()
    }
    told: dict[str, set[str]] = {overlay: set() for overlay in OVERLAYS}
    for what, *wanted in rows("What"):
        groups = {group for group in tools.COMES_FROM if f"`{group}`" in what}
        for overlay, cell in zip(("stage", "prod"), wanted, strict=False):
            told[overlay] |= groups if cell == "yes" else set()
    assert told == needed


def test_the_steps_make_each_secret_of_the_list() -> None:
    steps = KUBERNETES.partition("### The steps")[2].partition("## The commands")[0]
    made = set(re.findall(r"vault kv put \$prefix/(\S+)", steps)) | set(re.findall(r"create secret \S+ (\S+)", steps))
    assert made == set(secrets())
    entries = "\n".join(line for line in steps.splitlines() if re.search(r'": "|\\"|--from-file', line))
    for name, keys in secrets().items():
        for key, row in keys.items():
            assert row.get("optional") == "without the component object-storage" or key in entries or "tls" in name, key


def test_a_key_that_prometheus_scrapes_with_is_called_needed_where_it_scrapes() -> None:
    scrapes = yaml.safe_load_all((K8S / "monitoring" / "scrapes.yaml").read_text("utf-8"))
    endpoints = [one for scrape in scrapes for one in scrape["spec"]["podMetricsEndpoints"]]
    [token] = [one["authorization"]["credentials"] for one in endpoints if "authorization" in one]
    assert secrets()[token["name"]][token["key"]]["optional"] == "without the component monitoring"


def components_of(overlay: str) -> set[Path]:
    folder = K8S / "overlays" / overlay
    return {
        (folder / path).resolve() for path in yaml.safe_load((folder / "kustomization.yaml").read_text())["components"]
    }


def test_every_component_of_the_manifests_is_a_row_with_its_overlays() -> None:
    found = {path.parent for path in K8S.rglob("kustomization.yaml") if "kind: Component" in path.read_text()}
    table = MANIFESTS.partition("## Components")[2]
    expected = {
        str(folder.relative_to(K8S)): ", ".join(name for name in OVERLAYS if folder.resolve() in components_of(name))
        for folder in found
    }
    assert dict(re.findall(r"^\| `([a-z/-]+)` \| .+ \| ?([a-z, ]*?) ?\|$", table, re.MULTILINE)) == expected


def test_every_parameter_of_a_site_is_a_row() -> None:
    read_by = {
        name for path in K8S.rglob("kustomization.yaml") for name in re.findall(r"data\.([A-Z_]+)", path.read_text())
    }
    table = MANIFESTS.partition("## The site")[2].partition("## ")[0]
    assert set(re.findall(r"^\| `([A-Z_]+)` \|", table, re.MULTILINE)) == read_by
    for overlay in OVERLAYS:
        text = (K8S / "overlays" / overlay / "site.env").read_text()
        assert set(re.findall(r"^([^#=\n]+)=", text, re.MULTILINE)) <= read_by


@pytest.fixture
def stage(shipped: dict[str, list[Document]]) -> list[Document]:
    return shipped["stage"]


@pytest.fixture(scope="module")
def shelf() -> list[Document]:
    documents, findings = read((K8S / "shelf.yaml").read_text("utf-8"), "k8s/shelf.yaml")
    assert findings == []
    return documents


def test_the_pods_that_hold_backups_open_are_let_in_by_the_cluster(shelf: list[Document]) -> None:
    assert list(map(str, check_schemas(shelf))) == []


@pytest.mark.parametrize("store", ["redis", "postgres"])
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
    assert {f"cronjob/{name}" for name in re.findall(r"--from=cronjob/(\S+)", RECOVERY)} <= there
    assert {f"statefulset/{name}" for name in re.findall(r"statefulset (\S+)", RECOVERY)} <= there
    assert set(re.findall(r"job/(\w+-shelf)", RECOVERY)) <= {one.name for one in of_kind(shelf, "Job")}


def test_no_procedure_waits_out_its_timeout_on_a_job_that_failed() -> None:
    assert not re.search(r"wait job.*condition=Complete", RECOVERY)
    jobs = re.findall(r"create job (\S+) --from=cronjob/\S+(?: +#.*)?$", RECOVERY, re.MULTILINE)
    assert jobs
    assert [job for job in jobs if f"\nended {job} " not in RECOVERY] == []


def test_a_database_that_is_made_anew_is_made_as_the_first_time() -> None:
    script = (K8S / "base" / "postgres" / "init.sh").read_text("utf-8")
    statements = re.findall(r"^(.*\bDATABASE app\b.*);$", script, re.MULTILINE)
    assert len(statements) == 2
    commands = re.findall(r"--command='(.+?)'", RECOVERY)
    assert commands == ["DROP DATABASE app WITH (FORCE)", *statements]


GIB = 2**30
OPERATOR = (0.1, 0.5)
"""KubeRay's, by the values of its chart; its 512 MiB in GiB."""
KIND = (0.95, 0.3)
"""What kind's own pods ask for: API server 0.25, controller manager 0.2, etcd, scheduler, network 0.1 each, DNS 0.2."""
Need = tuple[float, float]
"""Processors and GiB."""


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
    found = re.search(rf"^\| \**{re.escape(row)}.*\| ([\d.]+) \| ([\d.]+) GiB \|$", KUBERNETES, re.MULTILINE)
    assert found, row
    return float(found[1]), float(found[2])


def test_every_row_is_the_sum_of_its_manifests(filled_in: dict[str, list[Document]]) -> None:
    dev, stage, prod = map(filled_in.__getitem__, OVERLAYS)
    cluster, stores = ray(prod, "minReplicas"), around(prod, "StatefulSet", "Deployment")
    ours = around(stage, "StatefulSet", "Deployment")
    assert set(ours) - set(stores) == {"postgresql"}
    small, beside = ray(dev, "minReplicas"), plus(*around(dev, "StatefulSet", "Deployment").values())
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
        "dev at rest": plus(small, beside),
        "dev during an upgrade": plus(times(2, small), beside),
    }
    assert {row: shown(row) for row in expected} == {
        row: pytest.approx(need, abs=0.06) for row, need in expected.items()
    }
    small_sizes = (K8S / "service" / "dev" / "small.yaml").read_text("utf-8")
    assert f"takes {small[0]:g} processors and {small[1]:g} GiB" in small_sizes


def test_a_machine_of_the_size_that_the_page_asks_for_has_room(filled_in: dict[str, list[Document]]) -> None:
    """kind's node is as large as the machine: what does not fit stays Pending, the Job of a backup too."""
    jobs = around(filled_in["dev"], "Job", "CronJob").values()
    job = max(need[0] for need in jobs), max(need[1] for need in jobs)
    fixed = plus(OPERATOR, KIND, job)
    sizes = re.findall(r"(\d+) processors\s+and\s+(\d+) GiB", KUBERNETES.partition("## On a cluster of yours")[0])
    assert len(sizes) == 2, sizes
    for row, (processors, memory) in zip(("dev at rest", "dev during an upgrade"), sizes, strict=True):
        needed = plus(shown(row), fixed)
        assert int(processors) == math.ceil(needed[0]), (row, needed)
        assert needed[1] <= int(memory) <= needed[1] + 2, (row, needed)
