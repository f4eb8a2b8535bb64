"""Times of a report as its clock shows them; where it shows a time twice, the offset from UTC tells which.

Clocks that go back repeat an hour (Lord Howe Island: half an hour), clocks that go forward leave one out.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

BUCKETS: Final = {"minute": timedelta(minutes=1), "hour": timedelta(hours=1), "day": timedelta(days=1)}
"""The spans that a timeline is cut into."""
_SECOND: Final = timedelta(seconds=1)
_HOUR: Final = timedelta(hours=1)


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
