"""The span of time that a report covers, how finely it is cut, and the clock that its times are shown on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, cast, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

Mode = Literal["summary", "report", "json"]
Bucket = Literal["minute", "hour", "day"]

_RELATIVE: Final = re.compile(r"(\d{1,9})([smhdw])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_MONTH: Final = re.compile(r"(\d{4})-(\d{2})")
_HOUR: Final = timedelta(hours=1)
_INSTANT: Final = timedelta(microseconds=1)
"""PostgreSQL's resolution."""
BUCKETS: Final = {"minute": timedelta(minutes=1), "hour": timedelta(hours=1), "day": timedelta(days=1)}
"""The steps of a timeline."""
_SECOND: Final = timedelta(seconds=1)


class ReportError(Exception):
    """The report cannot be made; the message tells the user why."""


@dataclass(frozen=True, slots=True)
class Window:
    """From `since` (None: from the first row) to `until`, both included."""

    since: datetime | None
    until: datetime
    timezone: str
    bucket: Bucket

    @property
    def whole_hours(self) -> tuple[datetime | None, datetime]:
        """The whole hours inside, the second bound excluded; the rest are the window's edges.

        Without a whole hour it is an empty span at the window's start.
        """
        last = floor_hour(self.until + _INSTANT)
        if self.since is None:
            return None, last
        first = floor_hour(self.since)
        if first < self.since:
            first += _HOUR
        return (first, last) if first <= last else (self.since, self.since)

    @property
    def cut_hours(self) -> tuple[datetime | None, datetime | None]:
        """The hours that the window's two ends fall into; None for an end on the hour."""
        first, last = self.since and floor_hour(self.since), floor_hour(self.until + _INSTANT)
        return (None if first == self.since else first), (None if last == self.until + _INSTANT else last)


def name_window(
    mode: Mode, since: str | None, until: str | None, month: str | None, timezone: str, bucket: str, now: datetime
) -> Window:
    """The window that a user names: a month, or from `since` to `until`. Raises `ReportError`."""
    if month is None:
        return make_window(mode, since, until, timezone, bucket, now)
    if since is not None or until is not None:
        raise ReportError("month cannot be combined with since or until; take one")
    return make_month(month, timezone, bucket)


def make_window(mode: Mode, since: str | None, until: str | None, timezone: str, bucket: str, now: datetime) -> Window:
    """The window that a user names by times. Raises `ReportError` for invalid times."""
    _zone(timezone)
    wanted = since or default_since(mode)
    start = parse_time(wanted, now, "since") if wanted else None
    end = parse_time(until or "now", now, "until")
    if start and start > end:
        raise ReportError(f"the window is empty: since {wanted} is after until {until or 'now'}")
    return Window(start, end, timezone, choose_bucket(mode, wanted, bucket))


def make_month(month: str, timezone: str, bucket: str) -> Window:
    """The window of one calendar month in `timezone`. Raises `ReportError` for an invalid month."""
    zone, named = _zone(timezone), _MONTH.fullmatch(month)
    try:
        if named is None:
            raise ValueError
        start = datetime(int(named[1]), int(named[2]), 1, tzinfo=zone)
        following = (start + timedelta(days=31)).replace(day=1)
        end = following.astimezone(UTC) - _INSTANT
        return Window(start.astimezone(UTC), end, timezone, "day" if bucket == "auto" else _bucket(bucket))
    except (ValueError, OverflowError):
        raise ReportError(f"month is a year and a month, such as 2026-10, not {month!r}") from None


def default_since(mode: Mode) -> str | None:
    """The last day for the terminal and JSON, all rows for the page."""
    return None if mode == "report" else "24h"


def choose_bucket(mode: Mode, since: str | None, bucket: str) -> Bucket:
    """Resolve `auto`: minutes for up to six hours back, hours for up to a week, beyond that by the mode."""
    if bucket != "auto":
        return _bucket(bucket)
    if relative := _RELATIVE.fullmatch((since or "").strip().lower()):
        seconds = int(relative[1]) * _SECONDS[relative[2]]
        if seconds <= 6 * 3600:
            return "minute"
        if seconds <= 7 * 86_400:
            return "hour"
    return "day" if mode == "report" else "hour"


def parse_time(text: str, now: datetime, name: str) -> datetime:
    """`now`, `<N>s|m|h|d|w` before it, or an ISO 8601 time; one without an offset is UTC.

    Raises `ReportError` with the option's `name`.
    """
    word = text.strip().lower()
    if word == "now":
        return now
    try:
        if relative := _RELATIVE.fullmatch(word):
            return now - timedelta(seconds=int(relative[1]) * _SECONDS[relative[2]])
        found = datetime.fromisoformat(text.strip())
        moment = (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
        _ = moment + _HOUR  # raises in the last hour of the calendar
        return moment
    except (ValueError, OverflowError):
        raise ReportError(
            f"{name}: {text!r} is not a time; write 2026-10-01T08:00Z, 2026-10-01, 90m, 24h, 7d, 2w or now"
        ) from None


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ReportError(f"timezone: {name!r} is unknown; write one such as Europe/Rome") from None


def _bucket(word: str) -> Bucket:
    for bucket in get_args(Bucket):
        if word == bucket:
            return cast(Bucket, bucket)
    raise ReportError(f"bucket is auto, minute, hour or day, not {word!r}")


def floor_hour(moment: datetime) -> datetime:
    """The start of the hour of `moment`."""
    return moment.replace(minute=0, second=0, microsecond=0)


class Clock:
    """The clock of one time zone. Times on it are naive; a span is named by its start.

    Clocks set back repeat an hour (Lord Howe Island: half an hour), and the offset from UTC tells the two apart; clocks
    set forward skip one."""

    def __init__(self, timezone: str) -> None:
        self._zone = ZoneInfo(timezone)

    def name(self, start: datetime, offset: timedelta, span: timedelta) -> str:
        """`YYYY-MM-DD HH:MM:SS`, followed by `+HH:MM` if the clock repeats a part of this span.

        Spans longer than an hour contain both and have one name.
        """
        shown = start.isoformat(" ")
        return f"{shown}{_offset_name(offset)}" if span <= _HOUR and self._repeats(start, span) else shown

    def shown(self, time: tuple[str | None, float | None], span: timedelta = _SECOND) -> str | None:
        """`name` of a time as the statements return it; None for no time. Years beyond Python's range stay
        unchanged."""
        text, offset_s = time
        try:
            return text and self.name(datetime.fromisoformat(text), timedelta(seconds=offset_s or 0), span)
        except ValueError:
            return text

    def read(self, name: str, span: timedelta) -> tuple[datetime, timedelta]:
        """The start and offset of the span with this name and length."""
        found = datetime.fromisoformat(name)
        # A span may begin in the skipped hour; its end always exists.
        offset = found.utcoffset() if found.tzinfo else self._offset(found + span - _SECOND)
        return found.replace(tzinfo=None), offset or timedelta()

    def spans(
        self, first: tuple[datetime, timedelta], last: tuple[datetime, timedelta], span: timedelta
    ) -> Iterator[tuple[datetime, timedelta]]:
        """All spans of at most an hour from the first to the last in real time: repeated ones twice, skipped ones not
        at all. Spans are counted from midnight."""
        moment = (first[0] - first[1]).replace(tzinfo=UTC)
        while True:
            here = moment.astimezone(self._zone)
            offset = here.utcoffset() or timedelta()
            start = floor(here.replace(tzinfo=None), span)
            if start - offset > last[0] - last[1]:
                return
            yield start, offset
            moment += span

    def _repeats(self, start: datetime, span: timedelta) -> bool:
        return any(self._offset(edge) > self._offset(edge, fold=1) for edge in (start, start + span - _SECOND))

    def _offset(self, shown: datetime, fold: int = 0) -> timedelta:
        return self._zone.utcoffset(shown.replace(fold=fold)) or timedelta()


def floor(moment: datetime, span: timedelta) -> datetime:
    """Round `moment` down to a whole number of spans after midnight."""
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + (moment - midnight) // span * span


def _offset_name(offset: timedelta) -> str:
    minutes = int(offset.total_seconds()) // 60
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"
