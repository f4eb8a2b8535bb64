"""The deploy page names every command, option and setting of `scripts/cluster`, and none that there is not."""

from __future__ import annotations

import re
from pathlib import Path

from operations import command_line, target
from operations.delivery import restart
from operations.ground import kuberay, tools
from operations.use import look

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "kubernetes.md").read_text("utf-8")


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
    assert [name for name in restart.COMPONENTS if f"`{name}`" not in told["`restart`"]] == []


def test_the_versions_are_those_that_are_checked() -> None:
    for tool in (tools.KUBECTL, tools.HELM, tools.KIND, tools.PODMAN, tools.DOCKER):
        short = "{}.{}".format(*tool.oldest).removesuffix(".0")
        assert re.search(rf"{tool.name}\]?(\(\S+\))?\s+{re.escape(short)}\b", PAGE), tool.name
    assert "Kubernetes {}.{} or newer".format(*tools.SERVER) in PAGE
    assert f"KubeRay {kuberay.VERSION}" in PAGE
