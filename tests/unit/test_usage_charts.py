"""Charts of the report: everything is counted, in place and inside the drawing, also when clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from serve_app.usage.report import charts
from serve_app.usage.report.window import BUCKETS, Clock, floor


def bucket(at: str, n: int, errors: int = 0) -> dict[str, object]:
    return {"bucket": at, "n": n, "errors": errors}


@pytest.mark.parametrize(("most", "marks"), [(0, [0, 1]), (1, [0, 1]), (5, [0, 1, 2, 3, 4, 5]), (7, [0, 2, 4, 6, 8])])
def test_an_axis_has_round_numbers_up_to_the_highest(most: int, marks: list[int]) -> None:
    assert charts.axis(most) == marks


def test_time_without_requests_takes_its_place() -> None:
    rows = [bucket("2026-10-15 00:00:00", 10, 1), bucket("2026-10-15 09:00:00", 20)]
    drawn = charts.timeline(rows, "hour", width=340, most=40, ticks=3)
    assert len(drawn.bars) == 10
    assert [bar.height > 0 for bar in drawn.bars] == [True, *[False] * 8, True]
    assert drawn.bars[0].error_height >= 3
    assert drawn.bars[0].title == "2026-10-15 00:00: 10 requests, 1 errors"
    assert drawn.bars[9].height == pytest.approx(2 * drawn.bars[0].height)
    assert drawn.step == "hour"


def test_bars_begin_where_people_count_from() -> None:
    rows = [bucket("2026-10-15 04:00:00", 1), bucket("2026-10-29 09:00:00", 2)]
    drawn = charts.timeline(rows, "hour", width=340, most=40, ticks=3)
    assert drawn.step == "12 hours"
    assert drawn.bars[0].title == "2026-10-15 00:00: 1 requests, 0 errors"
    assert len(drawn.bars) == 29


def test_a_long_time_is_drawn_in_fewer_bars_that_hold_it_all() -> None:
    rows = [bucket(f"2026-{month:02d}-{day:02d} 00:00:00", 1) for month in range(1, 13) for day in range(1, 29)]
    drawn = charts.timeline(rows, "day", width=1060, most=120, ticks=8)
    assert len(drawn.bars) <= 120
    assert drawn.step == "7 days"
    assert sum(int(bar.title.split(": ")[1].split()[0]) for bar in drawn.bars) == len(rows)
    assert all(bar.x >= drawn.left and bar.x + bar.width <= drawn.width and bar.y >= 0 for bar in drawn.bars)
    assert len(drawn.times) <= 8


def test_a_hundred_years_of_minutes_are_a_few_bars() -> None:
    rows = [bucket("1970-01-01 00:00:00", 1), bucket("2070-01-01 00:00:00", 1)]
    assert len(charts.timeline(rows, "minute", width=340, most=40, ticks=3).bars) <= 40


def test_one_bucket_is_one_bar() -> None:
    [bar] = charts.timeline([bucket("2026-10-15 00:00:00", 3, 3)], "day", width=340, most=40, ticks=3).bars
    assert bar.error_height == bar.height


def test_the_heatmap_has_the_whole_week() -> None:
    cells = charts.heatmap([{"dow": 7, "hour": 23, "n": 1500}, {"dow": 1, "hour": 0, "n": 750}])
    assert len(cells) == 168
    assert (cells[0].share, cells[-1].share, cells[-1].text) == (0.5, 1, "1.5k")
    assert cells[-1].title == "Sun 23:00–23:59: 1,500 requests"


def test_what_is_cut_is_others() -> None:
    rows = [{"name": name, "n": n} for name, n in (("a", 50), ("b", 30), ("c", 10))]
    assert [(row.name, row.count, row.percent) for row in charts.bars(rows, 100, 2, "<others>")] == [
        *(("a", 50, 50), ("b", 30, 30), ("<others>", 20, 20)),
    ]
    assert charts.bars([], 0, 2, "<others>") == []


def test_latencies_lie_on_a_scale_of_powers_of_ten() -> None:
    scale = charts.LatencyScale([2.0, 5.0, 350.0])
    assert [tick.text for tick in scale.ticks] == ["1 ms", "10 ms", "100 ms", "1 s"]
    assert scale.at(1) == 0
    assert scale.at(1000) == 100
    assert 0 <= charts.LatencyScale([0.0]).at(0.0) <= 100
    assert len(charts.LatencyScale([]).ticks) == 2


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (charts.compact(0), "0"),
        (charts.compact(999), "999"),
        (charts.compact(1234), "1.23k"),
        (charts.compact(999_999), "1000k"),
        (charts.compact(2_500_000), "2.5M"),
        (charts.milliseconds(None), "–"),
        (charts.milliseconds(4.4567), "4.46 ms"),
        (charts.milliseconds(1530), "1.53 s"),
        (charts.size(999), "999 B"),
        (charts.size(66_076_000_000), "66.1 GB"),
        (charts.duration(6), "6 s"),
        (charts.duration(70_000), "19.4 h"),
    ],
)
def test_numbers_carry_units(shown: str, text: str) -> None:
    assert shown == text


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
