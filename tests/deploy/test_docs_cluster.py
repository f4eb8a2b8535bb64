"""The deploy page names every command, option and setting of `scripts/cluster`, and none that there is not."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from operations import command_line, deploy, kuberay, look, target, tools
from overlays import as_shipped

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "kubernetes.md").read_text("utf-8")


def rows(heading: str) -> str:
    """The rows of the table with this heading."""
    return re.search(rf"^ *\| {heading} \|.*\n *\|---.*\n((?: *\|.*\n)+)", PAGE, re.MULTILINE)[1]  # type: ignore[index]


def first_cells(heading: str) -> list[str]:
    return [name for row in rows(heading).splitlines() for name in re.findall(r"`(.+?)`", row.split("|")[1])]


def test_every_command_is_a_row() -> None:
    assert sorted(first_cells("Command")) == sorted(command_line.COMMANDS)


def test_every_option_of_all_commands_is_a_row() -> None:
    common = re.findall(r"(--[a-z-]+)", command_line.common_options().format_usage())
    assert sorted(first_cells("Option")) == sorted(common)


def test_every_option_of_one_command_is_told() -> None:
    told = rows("Command")
    for option in ("--release", "--rebuild", "--lines", "--follow", "--port", "--dashboard", "--admin", "--manifests"):
        assert f"`{option}" in told, option


def test_every_setting_of_the_local_file_is_a_row() -> None:
    known = [*target.SETTINGS, *(f"BUILD_{name}" for name in target.BUILD)]
    assert sorted(first_cells("Setting")) == sorted(known)


def test_every_component_is_told() -> None:
    told = {row.split("|")[1].strip(): row for row in rows("Command").splitlines()}
    assert [name for name in look.COMPONENTS if f"`{name}`" not in told["`logs`"]] == []
    assert [name for name in deploy.COMPONENTS if f"`{name}`" not in told["`restart`"]] == []


def test_the_versions_are_those_that_are_checked() -> None:
    for tool in (tools.KUBECTL, tools.HELM, tools.KIND, tools.PODMAN, tools.DOCKER):
        short = "{}.{}".format(*tool.oldest).removesuffix(".0")
        assert re.search(rf"{tool.name}\]?(\(\S+\))?\s+{re.escape(short)}\b", PAGE), tool.name
    assert "Kubernetes {}.{} or newer".format(*tools.SERVER) in PAGE
    assert f"KubeRay {kuberay.VERSION}" in PAGE


def test_every_operator_that_an_overlay_needs_is_a_row_that_says_so() -> None:
    needed = {
        overlay: {str(one.at("apiVersion")).rpartition("/")[0] for one in documents} & set(tools.COMES_FROM)
        for overlay, (documents, _) in as_shipped().items()
    }
    told: dict[str, set[str]] = {"dev": set(), "stage": set(), "prod": set()}
    for row in rows("What").splitlines():
        what, stage, prod = (cell.strip() for cell in row.split("|")[1:4])
        for overlay, cell in (("stage", stage), ("prod", prod)):
            told[overlay] |= {group for group in tools.COMES_FROM if f"`{group}`" in what and cell == "yes"}
    assert told == needed


def test_the_page_tells_how_each_secret_of_the_list_is_made() -> None:
    listed = yaml.safe_load((ROOT / "k8s" / "secrets.yaml").read_text("utf-8"))["secrets"]
    steps = PAGE.partition("### The steps")[2].partition("## The commands")[0]
    made = set(re.findall(r"vault kv put \$prefix/(\S+)", steps)) | set(re.findall(r"create secret \S+ (\S+)", steps))
    assert made == set(listed)
    entries = "\n".join(line for line in steps.splitlines() if re.search(r'": "|\\"|--from-file', line))
    for name, keys in listed.items():
        for key, row in keys.items():
            assert row.get("optional") == "without the component object-storage" or key in entries or "tls" in name, key


def test_a_key_that_prometheus_scrapes_with_is_called_needed_where_it_scrapes() -> None:
    listed = yaml.safe_load((ROOT / "k8s" / "secrets.yaml").read_text("utf-8"))["secrets"]
    scrapes = yaml.safe_load_all((ROOT / "k8s" / "monitoring" / "scrapes.yaml").read_text("utf-8"))
    endpoints = [one for scrape in scrapes for one in scrape["spec"]["podMetricsEndpoints"]]
    [token] = [one["authorization"]["credentials"] for one in endpoints if "authorization" in one]
    assert listed[token["name"]][token["key"]]["optional"] == "without the component monitoring"
