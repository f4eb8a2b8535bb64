"""Every route has a section with its problems on the page of routes, and the README names every command."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from serve_app.cli import main
from serve_app.errors import ServiceError
from serve_app.gateway.routes.table import EVERY_AUTHENTICATED_ROUTE, EVERY_ROUTE, ROUTES

ROOT = Path(__file__).resolve().parents[2]
API = (ROOT / "docs" / "api.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")


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
