"""Shapes of the report's charts: everything is counted, in its place, and inside the drawing."""

import pytest

from serve_app.usage.report import charts


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
