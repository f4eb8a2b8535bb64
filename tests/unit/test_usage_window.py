"""What a person's words for a span of time mean."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from serve_app.usage.report.window import (
    Mode,
    ReportError,
    Window,
    choose_bucket,
    default_since,
    make_month,
    make_window,
    parse_time,
)

NOW = datetime(2026, 10, 15, 12, 34, 56, tzinfo=UTC)


@pytest.mark.parametrize(("mode", "since"), [("summary", "24h"), ("json", "24h"), ("report", None)])
def test_the_default_window_is_a_day_or_everything(mode: Mode, since: str | None) -> None:
    assert default_since(mode) == since
    window = make_window(mode, None, None, "UTC", "auto", NOW)
    assert window.since == (NOW - timedelta(days=1) if since else None)
    assert window.until == NOW


@pytest.mark.parametrize(
    ("mode", "since", "bucket", "chosen"),
    [
        ("report", None, "auto", "day"),
        ("summary", "24h", "auto", "hour"),
        ("json", "6h", "auto", "minute"),
        ("json", "360m", "auto", "minute"),
        ("json", "361m", "auto", "hour"),
        ("report", "7d", "auto", "hour"),
        ("report", "1w", "auto", "hour"),
        ("report", "8d", "auto", "day"),
        ("json", "8d", "auto", "hour"),
        ("report", "2026-10-01", "auto", "day"),
        ("summary", "2026-10-01", "auto", "hour"),
        ("summary", "90d", "minute", "minute"),
        ("json", " 2H ", "auto", "minute"),
    ],
)
def test_the_automatic_bucket(mode: Mode, since: str | None, bucket: str, chosen: str) -> None:
    assert choose_bucket(mode, since, bucket) == chosen


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("now", NOW),
        ("90s", NOW - timedelta(seconds=90)),
        ("5m", NOW - timedelta(minutes=5)),
        ("24h", NOW - timedelta(days=1)),
        ("7d", NOW - timedelta(days=7)),
        ("2W", NOW - timedelta(weeks=2)),
        ("2026-10-01", datetime(2026, 10, 1, tzinfo=UTC)),
        ("2026-10-01T08:00Z", datetime(2026, 10, 1, 8, tzinfo=UTC)),
        ("2026-10-01 08:00:00+02:00", datetime(2026, 10, 1, 6, tzinfo=UTC)),
    ],
)
def test_times(text: str, meant: datetime) -> None:
    assert parse_time(text, NOW, "since") == meant


@pytest.mark.parametrize(
    "text",
    [
        *("", "yesterday", "24", "h", "-5m", "999999999w", "'; DROP"),
        *("0001-01-01T00:00+14:00", "9999-12-31T23:30"),  # before the first hour, and in the last
    ],
)
def test_words_that_are_no_time_are_refused(text: str) -> None:
    with pytest.raises(ReportError, match=r"^since: .* is not a time"):
        parse_time(text, NOW, "since")


@pytest.mark.parametrize(
    ("month", "zone", "since", "end"),
    [
        ("2026-10", "UTC", "2026-10-01T00:00", "2026-11-01T00:00"),
        ("2026-12", "UTC", "2026-12-01T00:00", "2027-01-01T00:00"),
        ("2028-02", "UTC", "2028-02-01T00:00", "2028-03-01T00:00"),
        ("2026-10", "Europe/Rome", "2026-09-30T22:00", "2026-10-31T23:00"),
    ],
)
def test_a_month_is_the_one_of_the_clocks_there(month: str, zone: str, since: str, end: str) -> None:
    window = make_month(month, zone, "auto")
    assert window.since == datetime.fromisoformat(since).replace(tzinfo=UTC)
    assert window.until == datetime.fromisoformat(end).replace(tzinfo=UTC) - timedelta(microseconds=1)
    assert window.whole_hours == (window.since, window.until + timedelta(microseconds=1))
    assert window.cut_hours == (None, None)


MONTHS = ("2026", "2026-13", "2026-1", "0000-01", "9999-12", "October")
ZONES = ("Mars/Olympus", "../etc/passwd", "", "Europe", "UTC\0", "'; DROP TABLE api_usage")


@pytest.mark.parametrize(
    ("words", "make"),
    [
        ("empty", partial(make_window, "json", "1h", "2h", "UTC", "auto", NOW)),
        ("bucket is", partial(make_window, "json", "1h", None, "UTC", "week", NOW)),
        *[("month is", partial(make_month, month, "UTC", "auto")) for month in MONTHS],
        *[("timezone", partial(make_month, "2026-10", zone, "auto")) for zone in ZONES],
        *[("timezone", partial(make_window, "json", "1h", None, zone, "auto", NOW)) for zone in ZONES],
    ],
)
def test_a_window_that_is_none_is_refused_by_the_part_that_is_wrong(words: str, make: Callable[[], Window]) -> None:
    with pytest.raises(ReportError, match=words):
        make()


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-10-15T{text}").replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("since", "until", "whole"),
    [
        ("08:00", "12:00", ("08:00", "12:00")),
        ("08:00:00.000001", "12:59", ("09:00", "12:00")),
        ("08:10", "08:50", ("08:10", "08:10")),
        ("08:10", "09:10", ("09:00", "09:00")),
    ],
)
def test_whole_hours_and_edges(since: str, until: str, whole: tuple[str, str]) -> None:
    assert Window(at(since), at(until), "UTC", "hour").whole_hours == (at(whole[0]), at(whole[1]))
