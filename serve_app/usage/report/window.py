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
"""What PostgreSQL tells apart at least."""


class ReportError(Exception):
    """The report cannot be made; the text says why, to the person who asked for it."""


@dataclass(frozen=True, slots=True)
class Window:
    """From `since` (None: the first row there is) to `until`, both included."""

    since: datetime | None
    until: datetime
    timezone: str
    bucket: Bucket

    @property
    def whole_hours(self) -> tuple[datetime | None, datetime]:
        """The hours that lie inside from end to end, the second bound excluded; the rest is the window's edges.

        A window without a whole hour gives an empty span at its start.
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
        """The hours that the window's two ends cut through; None for an end between two hours."""
        first, last = self.since and floor_hour(self.since), floor_hour(self.until + _INSTANT)
        return (None if first == self.since else first), (None if last == self.until + _INSTANT else last)


def name_window(
    mode: Mode, since: str | None, until: str | None, month: str | None, timezone: str, bucket: str, now: datetime
) -> Window:
    """The window that a person's words name: a month, or from `since` to `until`. Raises `ReportError`."""
    if month is None:
        return make_window(mode, since, until, timezone, bucket, now)
    if since is not None or until is not None:
        raise ReportError("month is a window of its own, since and until name another; take one")
    return make_month(month, timezone, bucket)


def make_window(mode: Mode, since: str | None, until: str | None, timezone: str, bucket: str, now: datetime) -> Window:
    """The window that a person's words name. Raises `ReportError` for words that name none."""
    _zone(timezone)
    wanted = since or default_since(mode)
    start = parse_time(wanted, now, "since") if wanted else None
    end = parse_time(until or "now", now, "until")
    if start and start > end:
        raise ReportError(f"the window is empty: since {wanted} is after until {until or 'now'}")
    return Window(start, end, timezone, choose_bucket(mode, wanted, bucket))


def make_month(month: str, timezone: str, bucket: str) -> Window:
    """The window of one calendar month, as the clocks of `timezone` show it. Raises `ReportError` for no month."""
    zone, named = _zone(timezone), _MONTH.fullmatch(month)
    try:
        if named is None:
            raise ValueError
        start = datetime(int(named[1]), int(named[2]), 1, tzinfo=zone)
        following = (start + timedelta(days=31)).replace(day=1)
        end = following.astimezone(UTC) - _INSTANT
        return Window(start.astimezone(UTC), end, timezone, "day" if bucket == "auto" else _bucket(bucket))
    except (ValueError, OverflowError):
        raise ReportError(f"month is a year and a month, as 2026-10, not {month!r}") from None


def default_since(mode: Mode) -> str | None:
    """The last day for the terminal and for JSON, all there is for the page."""
    return None if mode == "report" else "24h"


def choose_bucket(mode: Mode, since: str | None, bucket: str) -> Bucket:
    """What `auto` stands for: minutes up to six hours back, hours up to a week, beyond that what suits the mode."""
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
    """`now`, `<N>s|m|h|d|w` before it, or a time in ISO 8601; one without an offset is UTC.

    Raises `ReportError`, with the `name` under which a person gave it.
    """
    word = text.strip().lower()
    if word == "now":
        return now
    try:
        if relative := _RELATIVE.fullmatch(word):
            return now - timedelta(seconds=int(relative[1]) * _SECONDS[relative[2]])
        found = datetime.fromisoformat(text.strip())
        moment = (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
        _ = moment + _HOUR  # the last hour there is has no end
        return moment
    except (ValueError, OverflowError):
        raise ReportError(
            f"{name}: {text!r} is no time; write 2026-10-01T08:00Z, 2026-10-01, 90m, 24h, 7d, 2w or now"
        ) from None


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ReportError(f"timezone: none is called {name!r}; write one as Europe/Rome") from None


def _bucket(word: str) -> Bucket:
    for bucket in get_args(Bucket):
        if word == bucket:
            return cast(Bucket, bucket)
    raise ReportError(f"bucket is auto, minute, hour or day, not {word!r}")


def floor_hour(moment: datetime) -> datetime:
    """The start of the hour that `moment` lies in."""
    return moment.replace(minute=0, second=0, microsecond=0)


BUCKETS: Final = {"minute": timedelta(minutes=1), "hour": timedelta(hours=1), "day": timedelta(days=1)}
"""The spans that a timeline is cut into."""
_SECOND: Final = timedelta(seconds=1)


class Clock:
    """The clock of one time zone. Times on it are naive; a span of time is named by where it begins."""

    def __init__(self, timezone: str) -> None:
        self._zone = ZoneInfo(timezone)

    def name(self, start: datetime, offset: timedelta, span: timedelta) -> str:
        """`YYYY-MM-DD HH:MM:SS`, and `+HH:MM` behind it where the clock shows a part of this span twice.

        Days and spans beyond an hour hold both times and have one name.
        """
        shown = start.isoformat(" ")
        return f"{shown}{_offset_name(offset)}" if span <= _HOUR and self._repeats(start, span) else shown

    def shown(self, time: tuple[str | None, float | None], span: timedelta = _SECOND) -> str | None:
        """`name` of a time as the statements tell it; None for no time, years beyond Python's as they are."""
        text, offset_s = time
        try:
            return text and self.name(datetime.fromisoformat(text), timedelta(seconds=offset_s or 0), span)
        except ValueError:
            return text

    def read(self, name: str, span: timedelta) -> tuple[datetime, timedelta]:
        """The start and the offset of the span of this length that has this name."""
        found = datetime.fromisoformat(name)
        # A span may begin inside the hour that the clock leaves out; its end is always shown.
        offset = found.utcoffset() if found.tzinfo else self._offset(found + span - _SECOND)
        return found.replace(tzinfo=None), offset or timedelta()

    def spans(
        self, first: tuple[datetime, timedelta], last: tuple[datetime, timedelta], span: timedelta
    ) -> Iterator[tuple[datetime, timedelta]]:
        """All spans of at most an hour from the first to the last, as time passes: repeated ones twice, none left out
        that the clock shows. Spans are counted from midnight."""
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
    """The last whole number of spans after midnight that is not after `moment`."""
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + (moment - midnight) // span * span


def _offset_name(offset: timedelta) -> str:
    minutes = int(offset.total_seconds()) // 60
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"
