"""The page of routes is the route table, the README names every command, and operators find every key of the config."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from serve_app.app import ApplicationArgs
from serve_app.cli import main
from serve_app.errors import ServiceError
from serve_app.gateway.routes.table import EVERY_AUTHENTICATED_ROUTE, EVERY_ROUTE, ROUTES
from serve_app.models.registry import ModelConfig

ROOT = Path(__file__).resolve().parents[2]
API = (ROOT / "docs" / "api.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
OPERATIONS = (ROOT / "docs" / "operations.md").read_text("utf-8")
ROW = re.compile(r"^\| `([A-Z]+)` \| `(\S+)` \| (yes|no) \| (submit|read) \| (?:`(\w+)`|not counted) \|$", re.MULTILINE)


def slugs(problems: Iterable[type[ServiceError]]) -> set[str]:
    return {problem.slug for problem in problems}


def linked(text: str) -> set[str]:
    """The problems that a piece of the page links."""
    return set(re.findall(r"\]\(problems\.md#([a-z-]+)\)", text))


def paragraph(beginning: str) -> str:
    """From these words to the next empty line."""
    _, found, rest = API.partition(beginning)
    assert found, beginning
    return rest.partition("\n\n")[0]


def test_the_table_of_routes_is_the_route_table() -> None:
    rows = [(method, path, token == "yes", deadline, kind) for method, path, token, deadline, kind in ROW.findall(API)]
    assert rows == [(one.method, one.path, one.tracked is not None, one.deadline, one.tracked or "") for one in ROUTES]


def test_every_route_has_a_section_with_its_own_problems() -> None:
    sections = dict(re.findall(r"^### (.+)\n\n((?:(?!^#).*\n)*)", API, re.MULTILINE))
    assert sorted(sections) == sorted(f"{route.method} {route.path}" for route in ROUTES)
    for route in ROUTES:
        assert linked(sections[f"{route.method} {route.path}"]) == slugs(route.problems), route.path


def test_problems_of_many_routes_are_named_once() -> None:
    assert linked(paragraph("Every route may answer:")) == slugs(EVERY_ROUTE)
    assert linked(paragraph("Every route with a token may answer:")) == slugs(EVERY_AUTHENTICATED_ROUTE)


def test_every_command_is_a_row_of_the_readme() -> None:
    commands = [command.callback.__name__ for command in main.commands.registered_commands if command.callback]
    commands += [str(group.name) for group in main.commands.registered_groups]
    assert re.findall(r"^\| `semapi (\w+)", README, re.MULTILINE) == commands


def documented(kind: type[BaseModel]) -> list[tuple[str, str]]:
    """A config's keys with their defaults, as operators write them."""
    required = (PydanticUndefined, None)
    fields = kind.model_fields.items()
    return [
        (name, "needed" if field.default in required else str(field.default).removesuffix(".0") or "empty")
        for name, field in fields
    ]


def test_every_key_of_the_config_is_a_row_with_its_default() -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \| `?(needed|empty|[\d.]+|\{\})`? \|", OPERATIONS, re.MULTILINE)
    assert rows == documented(ApplicationArgs) + documented(ModelConfig)
