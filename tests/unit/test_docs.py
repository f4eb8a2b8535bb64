"""Links between pages lead somewhere, and the pages name the bounds that the code has."""

import re
from pathlib import Path

import pytest

from serve_app.jobs import limits as jobs
from serve_app.webhooks import limits as webhooks

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
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
        ("operations.md", "| delivery of a webhook that waits |", (webhooks.QUEUE_MAX, webhooks.WAITING_MAX)),
        ("webhooks.md", "For one webhook", (webhooks.QUEUE_MAX, webhooks.WAITING_MAX)),
    ],
)
def test_bounds_stand_where_they_are_told(page: str, row: str, numbers: tuple[int, ...]) -> None:
    [line] = [line for line in (DOCS / page).read_text("utf-8").splitlines() if row in line]
    assert [number for number in numbers if f"{number:,}" not in line] == []
