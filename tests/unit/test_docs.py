"""Links between pages lead somewhere, and the pages name what the code has: bounds, routes, problems, commands."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from serve_app.cli import main
from serve_app.contracts import JobStatus
from serve_app.errors import ServiceError
from serve_app.gateway.routes.table import EVERY_AUTHENTICATED_ROUTE, EVERY_ROUTE, ROUTES
from serve_app.jobs import limits as jobs
from serve_app.webhooks import limits as webhooks

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
API = (DOCS / "api.md").read_text("utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])


def headings(page: Path) -> set[str]:
    """The anchors of a page, made from its headings as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        linked = (page.parent / path) if path else page
        if not linked.exists() or (anchor and linked.suffix == ".md" and anchor not in headings(linked)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize(
    ("page", "row", "numbers"),
    [
        ("api.md", "For 24 hours, or until", (jobs.IDEMPOTENCY_MAX,)),
        ("operations.md", "| `Idempotency-Key` of a submit |", (jobs.IDEMPOTENCY_MAX,)),
        ("problems.md", "You sent this key before", (jobs.IDEMPOTENCY_MAX,)),
        ("operations.md", "| delivery of a webhook that waits |", (webhooks.QUEUE_MAX, webhooks.HOUSE_MAX)),
        ("webhooks.md", "For one webhook", (webhooks.QUEUE_MAX, webhooks.HOUSE_MAX)),
    ],
)
def test_bounds_stand_where_they_are_told(page: str, row: str, numbers: tuple[int, ...]) -> None:
    [line] = [line for line in (DOCS / page).read_text("utf-8").splitlines() if row in line]
    assert [number for number in numbers if f"{number:,}" not in line] == []


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
    assert re.findall(r"^\| `semapi (\w+)", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE) == commands


def test_every_status_word_of_the_thumbnail_service_is_mapped() -> None:
    rows = re.findall(r"^\| `([a-z]+)` \| `([A-Z_]+)`", (DOCS / "scope.md").read_text("utf-8"), re.MULTILINE)
    words = {here: there for there, here in rows}
    assert words == {
        JobStatus.PENDING: "pending",
        JobStatus.PROCESSING: "processing",
        JobStatus.COMPLETED: "succeeded",
        JobStatus.FAILED: "failed",
        JobStatus.CANCELLED: "failed",
        "NOT_FOUND": "null",
    }
