"""What a user meets is documented: every setting with its default, every problem with its status and title."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from serve_app import errors
from serve_app.jobs import limits as jobs
from serve_app.settings import Settings
from serve_app.webhooks import limits as webhooks

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
SETTING_ROW = re.compile(r"^\| `([A-Z0-9_]+)` \| (.+?) \| (.+) \|$", re.MULTILINE)
PROBLEM = re.compile(r"^### ([a-z-]+)\n\n\*\*(.+?)\*\* · (.+)\n\n", re.MULTILINE)
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])


def written(default: object) -> str:
    """A default as it stands in the table: what one would write into the environment."""
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    if isinstance(default, tuple):
        default = ",".join(default)
    if isinstance(default, float) and default.is_integer():
        default = int(default)
    return "empty" if default in (None, "") else f"`{default}`"


def kinds(base: type[errors.ServiceError] = errors.ServiceError) -> Iterator[type[errors.ServiceError]]:
    """The errors that are raised: the leaves of the tree. Ray derives classes of its own from them as it goes."""
    children = [child for child in base.__subclasses__() if child.__module__ == errors.__name__]
    for child in children:
        yield from kinds(child)
    if not children:
        yield base


def status(kind: type[errors.ServiceError]) -> str:
    if issubclass(kind, errors.JobError):
        return "Job FAILED"
    return "Not shown" if kind in (errors.ModelUnready, errors.ReplicaLost) else str(kind.status)


def test_every_setting_is_a_row_with_its_default() -> None:
    rows = {name: default for name, default, _ in SETTING_ROW.findall((DOCS / "settings.md").read_text("utf-8"))}
    assert rows == {name.upper(): written(field.default) for name, field in Settings.model_fields.items()}


def test_every_problem_is_a_heading_with_status_and_title() -> None:
    found = PROBLEM.findall((DOCS / "problems.md").read_text("utf-8"))
    assert sorted(found) == sorted((kind.slug, status(kind), kind.title) for kind in kinds())


def test_the_error_tree_is_drawn_as_it_is() -> None:
    drawn = re.findall(r"── (\w+)(?: +(\d{3}))? +([a-z]+(?:-[a-z]+)+)$", errors.__doc__ or "", re.MULTILINE)
    shown = [kind for kind in kinds() if status(kind) != "Not shown"]
    assert sorted(drawn) == sorted(
        (kind.__name__, status(kind) if status(kind).isdigit() else "", kind.slug) for kind in shown
    )


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
