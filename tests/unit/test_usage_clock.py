"""The hour when clocks go back is two, the one they leave out is none, in every zone and at every step."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from serve_app.usage.report import charts
from serve_app.usage.report.window import BUCKETS, Clock, floor

CHANGES = [
    ("Europe/Rome", datetime(2026, 10, 25, 1, tzinfo=UTC)),
    ("Europe/Rome", datetime(2026, 3, 29, 1, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 11, 1, 6, tzinfo=UTC)),
    ("America/St_Johns", datetime(2026, 11, 1, 4, 30, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 4, 4, 15, tzinfo=UTC)),  # half an hour back
    ("Australia/Lord_Howe", datetime(2026, 10, 3, 15, 30, tzinfo=UTC)),  # half an hour on
    ("America/Havana", datetime(2026, 11, 1, 5, tzinfo=UTC)),  # midnight comes twice
    ("Africa/Cairo", datetime(2026, 4, 23, 22, tzinfo=UTC)),  # midnight never comes
    ("Asia/Kolkata", datetime(2026, 10, 25, 1, tzinfo=UTC)),
    ("UTC", datetime(2026, 10, 25, 1, tzinfo=UTC)),
]


def bucket_of(moment: datetime, zone: ZoneInfo, bucket: str) -> tuple[datetime, timedelta]:
    here = moment.astimezone(zone)
    offset = timedelta() if bucket == "day" else here.utcoffset() or timedelta()
    return floor(here.replace(tzinfo=None), BUCKETS[bucket]), offset


@pytest.mark.parametrize(("timezone", "change"), CHANGES)
@pytest.mark.parametrize("bucket", ["minute", "hour", "day"])
def test_names_tell_all_buckets_apart_and_read_back(timezone: str, change: datetime, bucket: str) -> None:
    clock, zone = Clock(timezone), ZoneInfo(timezone)
    places = {bucket_of(change + timedelta(minutes=minute), zone, bucket): None for minute in range(-180, 180)}
    names = [clock.name(*place, BUCKETS[bucket]) for place in places]
    assert len(set(names)) == len(names)
    if bucket != "day":
        assert [clock.read(name, BUCKETS[bucket]) for name in names] == list(places)


@pytest.mark.parametrize(("timezone", "change"), CHANGES)
@pytest.mark.parametrize(
    ("bucket", "minutes", "most"),
    [("minute", 5, 700), ("minute", 1, 200), ("minute", 7, 60), ("hour", 60, 60), ("hour", 60, 20)],
)
def test_every_request_is_drawn_once_in_the_order_of_time(
    timezone: str, change: datetime, bucket: str, minutes: int, most: int
) -> None:
    clock, zone = Clock(timezone), ZoneInfo(timezone)
    counts: dict[tuple[datetime, timedelta], int] = {}
    reach = 180 if minutes == 1 else 1200
    for minute in range(-reach, reach, minutes):
        place = bucket_of(change + timedelta(minutes=minute), zone, bucket)
        counts[place] = counts.get(place, 0) + 1
    rows = [{"bucket": clock.name(*place, BUCKETS[bucket]), "n": n, "errors": 0} for place, n in counts.items()]
    drawn = charts.timeline(rows, bucket, width=1060, most=most, ticks=8, timezone=timezone)
    titles = [bar.title for bar in drawn.bars]
    assert len(set(titles)) == len(titles) <= most
    assert sum(int(title.split(": ")[1].split()[0]) for title in titles) == sum(counts.values())
    if drawn.step in ("minute", "hour"):
        assert all(bar.height > 0 for bar in drawn.bars)  # no bar for an hour that never was
        shown = [
            row["bucket"].replace(":00+", " +")[:16] if drawn.step == "hour" else row["bucket"][:16] for row in rows
        ]
        assert [title[:16] for title in titles] == [name[:16] for name in shown]


def test_the_chart_names_the_repeated_hour_with_its_offsets() -> None:
    names = ["2026-10-25 01:00:00", "2026-10-25 02:00:00+02:00", "2026-10-25 02:00:00+01:00", "2026-10-25 03:00:00"]
    rows = [{"bucket": name, "n": 1 + place, "errors": 0} for place, name in enumerate(names)]
    drawn = charts.timeline(rows, "hour", width=1060, most=120, ticks=8, timezone="Europe/Rome")
    assert [bar.title.partition(", ")[0] for bar in drawn.bars] == [
        "2026-10-25 01:00: 1 requests",
        "2026-10-25 02:00 +02:00: 2 requests",
        "2026-10-25 02:00 +01:00: 3 requests",
        "2026-10-25 03:00: 4 requests",
    ]
    assert [tick.text for tick in drawn.times][1:3] == ["25 Oct 02:00+02:00", "25 Oct 02:00+01:00"]
