"""Names that attack a page, a spreadsheet, a terminal or the database do nothing there and stop nothing."""

import csv
import io
import json
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
from redis.asyncio import Redis
from usage_events import end_job, rows, running, until_settled, usage_event
from usage_rows import insert, report

from serve_app.settings import Settings
from serve_app.texts import sanitize_name
from serve_app.usage.outbox import Outbox
from serve_app.usage.report.page import write_page
from serve_app.usage.report.text import write_csv, write_summary

NAMES = {
    "html": "<img src=x onerror=alert(1)>",
    "script": "</style></title><script>alert(1)</script>",
    "attribute": "\" onmouseover=\"alert(1)' autofocus='",
    "template": "{{ 7*7 }}{% raw %}",
    "sql": "'; DROP TABLE api_usage; --",
    "placeholder": "%s %(x)s {} {label} \\",
    "formula": '=HYPERLINK("http://x","y")',
    "plus": "+1+cmd|' /C calc'!A0",
    "minus": "-2+3",
    "at": "@SUM(1)",
    "tab": "\t=1",
    "return": "\r=1",
    "long": "x" * 300,
    "right to left": "\u202eadmin\u05d0\u05d1\u05d2",
    "escape": "\x1b[2J\x1b]0;owned\x07",
    "lines": "one\ntwo\u2028three\u0085four",
    "nul": "nul\0nul",
    "empty": "",
    "blank": " \0",
    "surrogates": "\ud800 lone \udfff",
    "emoji": "👩\u200d🔬🔬" * 100,
}
FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Page(HTMLParser):
    """The elements and the words of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.attributes: set[str] = set()
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("meta", "line", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in ("line", "rect") or self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def assert_harmless(page: str) -> Page:
    parsed = Page(page)
    assert parsed.open == []
    assert not parsed.seen & {"script", "img", "iframe", "link", "object", "form", "a"}
    assert not any(name.startswith("on") or name in ("src", "href", "autofocus") for name in parsed.attributes)
    assert "http" not in page.replace("http-equiv", "").replace(NAMES["formula"].split('"')[1], "")
    return parsed


@pytest.mark.parametrize("kind", [kind for kind in NAMES if kind not in ("nul", "blank", "surrogates")])
def test_a_name_in_the_rows_does_nothing(tables: str, kind: str) -> None:
    """Rows of the source system were never cleaned."""
    name = NAMES[kind]
    kept = name[:250]
    insert(
        tables, [{"username": kept, "group_name": kept, "model": kept, "url_path": name, "endpoint_type": name[:50]}]
    )
    found = report(tables)
    assert found["total"] == 1
    assert found["users"][0]["name"] == (kept or "<unknown>")
    page = assert_harmless(write_page(json.loads(json.dumps(found))))
    assert kept in page.words
    lines = list(csv.reader(io.StringIO(write_csv(found), newline="")))
    assert len(lines) == 4
    assert not any(cell.startswith(FORMULA) for line in lines for cell in line)
    assert not any(char in write_summary(found).replace("\n", "") for char in "\x1b\x07\r\t\u202e\u2028\x85")


async def test_names_in_tokens_get_through_the_outbox(redis: Redis, settings: Settings, tables: str) -> None:
    outbox = Outbox(redis, settings)
    for number, name in enumerate(NAMES.values()):
        event = usage_event(
            event_id=f"e{number}", username=name, group=name, url_path=f"/{name}", principal_id=f"p{number}"
        )
        await outbox.record(event)
        await end_job(redis, f"j{number}", owner=f"p{number}")
    async with running(redis, settings):
        await until_settled(redis)
    stored = dict(rows(tables, "SELECT event_id, username FROM api_usage"))
    assert stored == {f"e{number}": sanitize_name(name) for number, name in enumerate(NAMES.values())}
    assert (await outbox.stats()).refused == 0
    found = report(tables, since=None, until=datetime(2030, 1, 1, tzinfo=UTC))
    assert (found["total"], found["all"]["completed"]) == (len(NAMES), len(NAMES))
    assert all(row["requests"] == row["completed"] == 1 for row in found["users"])
    assert_harmless(write_page(found))
