"""What a report says is what the rows say: any window, any clock, before and after rows were pruned."""

import csv
import io
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from usage_rows import DAY, insert, report

from serve_app.contracts import Json
from serve_app.usage.report.page import write_page
from serve_app.usage.report.prune import prune
from serve_app.usage.report.text import write_csv, write_summary
from serve_app.usage.report.window import ReportError, make_month

SOURCE_KEYS = {
    *("generated_at_utc", "timezone", "bucket", "requested_start_utc", "requested_end_utc", "coverage_start"),
    *("coverage_end", "total", "unique_users", "error_count", "endpoint_counts", "status_counts", "user_counts"),
    *("path_counts", "time_buckets", "hour_heatmap", "recent"),
}
STEP = {"minute": "%Y-%m-%d %H:%M:00", "hour": "%Y-%m-%d %H:00:00", "day": "%Y-%m-%d 00:00:00"}


def some_requests(number: int) -> list[dict[str, Any]]:
    """Requests over three days, a few on the very hour."""
    chance = random.Random(number)
    requests = []
    for _ in range(number):
        second = chance.randrange(3 * 24) * 3600 + chance.choice((0, chance.randrange(3600)))
        person = chance.choice(("ada", "bob", "eve", ""))
        requests.append(
            {
                "timestamp": DAY + timedelta(seconds=second),
                "username": person,
                "principal_id": f"id-{person}" if person else None,
                "status_code": chance.choice((200, 202, 404, 500, None)),
                "latency_ms": chance.lognormvariate(2, 1.5),
                "endpoint_type": chance.choice(("inference", "job_status", "")),
            }
        )
    return requests


def named(rows: list[Json]) -> dict[str, int]:
    return {row["name"]: row["n"] for row in rows}


@pytest.mark.parametrize(
    ("since", "until", "timezone", "bucket"),
    [
        (None, "2026-10-19T00:00", "UTC", "day"),
        ("2026-10-15T00:00", "2026-10-18T00:00", "Europe/Rome", "hour"),
        ("2026-10-15T08:10", "2026-10-16T17:35", "America/New_York", "day"),
        ("2026-10-15T08:10", "2026-10-15T08:50", "UTC", "minute"),
        ("2026-10-15T08:10", "2026-10-17T09:10", "Asia/Kolkata", "hour"),
        ("2026-10-15T07:59:59.999999", "2026-10-15T23:59:59.999999", "Asia/Kathmandu", "day"),
    ],
)
def test_every_figure_is_that_of_the_rows(
    tables: str, since: str | None, until: str, timezone: str, bucket: str
) -> None:
    requests = some_requests(1500)
    insert(tables, requests)
    first = datetime.fromisoformat(since).replace(tzinfo=UTC) if since else None
    last = datetime.fromisoformat(until).replace(tzinfo=UTC)
    found = report(tables, first, last, timezone=timezone, bucket=bucket)

    meant = [one for one in requests if (first is None or one["timestamp"] >= first) and one["timestamp"] <= last]
    failed = [one for one in meant if (one["status_code"] or 0) >= 400]
    assert meant
    assert (found["total"], found["error_count"]) == (len(meant), len(failed))
    users = Counter(one["username"] or "<unknown>" for one in meant)
    assert named(found["user_counts"]) == users
    assert found["unique_users"] == len(users)
    assert named(found["endpoint_counts"]) == Counter(one["endpoint_type"] or "<unknown>" for one in meant)
    statuses = Counter("<null>" if one["status_code"] is None else str(one["status_code"]) for one in meant)
    assert named(found["status_counts"]) == statuses
    here = [one["timestamp"].astimezone(ZoneInfo(timezone)) for one in meant]
    assert {row["bucket"]: row["n"] for row in found["time_buckets"]} == Counter(f"{at:{STEP[bucket]}}" for at in here)
    assert sum(row["errors"] for row in found["time_buckets"]) == len(failed)
    heat = {(row["dow"], row["hour"]): row["n"] for row in found["hour_heatmap"]}
    assert heat == Counter((at.isoweekday(), at.hour) for at in here)
    assert found["coverage_start"] == f"{min(here):%Y-%m-%d %H:%M:%S}"
    assert found["coverage_end"] == f"{max(here):%Y-%m-%d %H:%M:%S}"
    assert found["quality"]["null_status"] == statuses["<null>"]
    assert found["quality"]["unknown_users"] == users["<unknown>"]


@pytest.mark.parametrize(
    ("timezone", "moments", "hours"),
    [
        (
            "Europe/Rome",  # 25 October 2026: 03:00 is 02:00 again
            ["2026-10-24T23:59", "2026-10-25T00:10", "2026-10-25T00:50", "2026-10-25T01:10", "2026-10-25T02:00"],
            {
                "2026-10-25 01:00:00": 1,
                "2026-10-25 02:00:00+02:00": 2,
                "2026-10-25 02:00:00+01:00": 1,
                "2026-10-25 03:00:00": 1,
            },
        ),
        (
            "Australia/Lord_Howe",  # 5 April 2026: 02:00 is 01:30 again
            ["2026-04-04T14:40", "2026-04-04T15:10", "2026-04-04T15:40"],
            {"2026-04-05 01:00:00+11:00": 1, "2026-04-05 01:00:00+10:30": 1, "2026-04-05 02:00:00": 1},
        ),
        (
            "Europe/Rome",  # 29 March 2026: 02:00 is 03:00 at once
            ["2026-03-29T00:59:59", "2026-03-29T01:00"],
            {"2026-03-29 01:00:00": 1, "2026-03-29 03:00:00": 1},
        ),
        (
            "America/Havana",  # 1 November 2026: midnight comes twice
            ["2026-11-01T04:30", "2026-11-01T05:30", "2026-11-01T06:30"],
            {"2026-11-01 00:00:00-04:00": 1, "2026-11-01 00:00:00-05:00": 1, "2026-11-01 01:00:00": 1},
        ),
    ],
)
@pytest.mark.parametrize("edge", [timedelta(), timedelta(minutes=7)])
def test_an_hour_that_the_clock_shows_twice_is_two_buckets_with_their_offsets(
    tables: str, timezone: str, moments: list[str], hours: dict[str, int], edge: timedelta
) -> None:
    times = [datetime.fromisoformat(moment).replace(tzinfo=UTC) for moment in moments]
    insert(tables, [{"timestamp": at, "status_code": 500} for at in times])
    window = (times[0].replace(minute=0, second=0) - edge, times[-1] + timedelta(minutes=1))
    by_hour = report(tables, *window, timezone=timezone)
    assert [(row["bucket"], row["n"], row["errors"]) for row in by_hour["time_buckets"]] == [
        (name, n, n) for name, n in hours.items()
    ]
    by_minute = report(tables, *window, timezone=timezone, bucket="minute")["time_buckets"]
    assert len({row["bucket"] for row in by_minute}) == len(times)
    days = Counter(f"{at.astimezone(ZoneInfo(timezone)):%Y-%m-%d 00:00:00}" for at in times)
    by_day = report(tables, *window, timezone=timezone, bucket="day")
    assert {row["bucket"]: row["n"] for row in by_day["time_buckets"]} == days
    heat = Counter((at.isoweekday(), at.hour) for at in (at.astimezone(ZoneInfo(timezone)) for at in times))
    assert {(row["dow"], row["hour"]): row["n"] for row in by_hour["hour_heatmap"]} == heat
    assert all(title in write_page(by_hour) for title in (f"{name[:16]} {name[19:]}".strip() for name in hours))
    assert all(name in write_summary(by_hour) for name in hours)
    shown = [row["timestamp"] for row in by_hour["recent"]][::-1]
    assert [f"{at[:14]}00:00{at[19:]}" for at in shown] == [name for name, n in hours.items() for _ in range(n)]
    assert (by_hour["coverage_start"], by_hour["coverage_end"]) == (shown[0], shown[-1])


@pytest.mark.parametrize(("timezone", "bucket"), [("Asia/Kolkata", "11:00"), ("Australia/Lord_Howe", "16:00")])
def test_a_window_within_an_hour_is_cut_by_clocks_that_are_half_an_hour_off(
    tables: str, timezone: str, bucket: str
) -> None:
    insert(tables, [{"timestamp": datetime(2026, 7, 1, 5, 40, tzinfo=UTC)}])
    window = (datetime(2026, 7, 1, 5, 35, tzinfo=UTC), datetime(2026, 7, 1, 5, 45, tzinfo=UTC))
    found = report(tables, *window, timezone=timezone)
    assert [row["bucket"] for row in found["time_buckets"]] == [f"2026-07-01 {bucket}:00"]
    assert [row["hour"] for row in found["hour_heatmap"]] == [int(bucket[:2])]


def test_the_month_when_clocks_change_has_all_its_hours(tables: str) -> None:
    month = make_month("2026-10", "Europe/Rome", "day")
    first, last = datetime(2026, 9, 30, 22, tzinfo=UTC), datetime(2026, 10, 31, 23, tzinfo=UTC)
    hours = int((last - first) / timedelta(hours=1))
    insert(tables, [{"timestamp": first + timedelta(hours=hour)} for hour in range(-1, hours + 1)])
    found = report(tables, month.since, month.until, timezone="Europe/Rome", bucket="day")
    days = {row["bucket"][8:10]: row["n"] for row in found["time_buckets"]}
    assert (len(days), days["24"], days["25"], sum(days.values())) == (31, 24, 25, 31 * 24 + 1)


def test_the_keys_of_the_source_system_are_there_also_without_rows(tables: str) -> None:
    found = report(tables)
    assert set(found) >= SOURCE_KEYS
    assert (found["total"], found["coverage_start"], found["recent"], found["users"]) == (0, None, [], [])


def test_recent_requests_are_the_newest_first(tables: str) -> None:
    insert(tables, [{"timestamp": DAY + timedelta(minutes=number)} for number in range(40)])
    found = report(tables, timezone="Europe/Rome", recent_limit=2)["recent"]
    assert [row["timestamp"] for row in found] == ["2026-10-15 02:39:00", "2026-10-15 02:38:00"]
    assert found[0] | {"id": 0, "timestamp": ""} == {
        **{"id": 0, "timestamp": "", "username": "ada", "service_name": "sem-image-classifier"},
        **{"endpoint_type": "inference", "status_code": 202, "url_path": "/api/v1/jobs"},
    }


def test_outcomes_are_counted_for_user_group_and_model(tables: str) -> None:
    bob = {"principal_id": "id-bob", "username": "bob", "group_name": None, "model": None, "status_code": 500}
    ends = [
        {},
        {"status": "FAILED"},
        {"status": "FAILED", "dead": True},
        {"status": "CANCELLED", "started_at": None},
        {"owner": "id-bob", "model": "other"},
        {"owner": "id-of-no-request"},
        {"completed_at": DAY + timedelta(days=2)},
    ]
    insert(tables, [{}, {"request_bytes": None}, bob], ends)
    found = report(tables)
    shown = ("name", "requests", "errors", "completed", "failed", "cancelled", "dead", "bytes", "compute_seconds")

    def lines(table: str) -> list[tuple[Any, ...]]:
        return [tuple(row[key] for key in shown) for row in found[table]]

    assert lines("users") == [
        ("ada", 2, 0, 1, 1, 1, 1, 1000, 6),
        ("bob", 1, 1, 1, 0, 0, 0, 1000, 2),
        ("<unknown>", 0, 0, 1, 0, 0, 0, 0, 2),
    ]
    assert [row["id"] for row in found["users"]] == ["id-ada", "id-bob", "id-of-no-request"]
    assert lines("groups") == [("microscopy", 2, 0, 1, 1, 1, 1, 1000, 6), ("<none>", 1, 1, 2, 0, 0, 0, 1000, 4)]
    assert sorted(lines("models")) == [
        ("<none>", 1, 1, 0, 0, 0, 0, 1000, 0),
        ("other", 0, 0, 1, 0, 0, 0, 0, 2),
        ("sem", 2, 0, 2, 1, 1, 1, 1000, 8),
    ]
    assert (found["all"]["requests"], found["all"]["completed"], found["all"]["compute_seconds"]) == (3, 3, 10)


def test_two_people_of_one_name_are_two_and_the_rest_are_others(tables: str) -> None:
    requests = [{"principal_id": f"p{number}", "username": "ada"} for number in range(5) for _ in range(5 - number)]
    insert(tables, requests)
    whole = report(tables, most_names=3)
    newest = write_summary(whole).partition("Recent requests:\n")[2].partition("\n\n")[0]
    assert len(newest.splitlines()) == len(whole["recent"]) == 15
    found = whole["users"]
    assert [(row["name"], row["id"], row["requests"]) for row in found] == [
        *(("ada", "p0", 5), ("ada", "p1", 4), ("ada", "p2", 3)),
        ("<others>", None, 3),
    ]
    assert found[-1]["latency_p50_ms"] is None


@pytest.mark.parametrize("is_pruned", [False, True])
def test_a_renamed_user_is_one_person_under_the_latest_name_everywhere(tables: str, is_pruned: bool) -> None:
    names = ["Zoe Alt", "Mia Mitte", "Anna Neu", "Anna Neu"]
    requests = [
        {"principal_id": "p1", "username": name, "timestamp": DAY + timedelta(hours=hour)}
        for hour, name in enumerate(names)
    ]
    namesake = {"principal_id": "p2", "username": "Anna Neu", "timestamp": DAY + timedelta(minutes=1)}
    later = {"principal_id": "p1", "username": "Beyond the window", "timestamp": DAY + timedelta(days=1, hours=2)}
    insert(tables, [*requests, namesake, later], [{"owner": "p1"}, {"owner": "p2"}])
    if is_pruned:
        prune(tables, DAY + timedelta(days=2))
    found = report(tables)
    assert found["unique_users"] == 2
    assert found["user_counts"] == [{"name": "Anna Neu", "n": 4}, {"name": "Anna Neu", "n": 1}]
    people = [("Anna Neu", "p1", 4, 1), ("Anna Neu", "p2", 1, 1)]
    assert [(row["name"], row["id"], row["requests"], row["completed"]) for row in found["users"]] == people
    assert {row["username"] for row in found["recent"]} <= {"Anna Neu"}
    sheet = [line for line in csv.DictReader(io.StringIO(write_csv(found))) if line["by"] == "user"]
    assert [(line["name"], line["id"], line["requests"]) for line in sheet] == [
        (name, principal, str(asked)) for name, principal, asked, _ in people
    ]
    for text in (write_page(found), write_summary(found)):
        assert "Anna Neu" in text
        assert not [name for name in ("Zoe", "Mitte", "Beyond") if name in text]
    assert report(tables, principal_id="p1")["unique_users"] == 1
    earlier = report(tables, DAY, DAY + timedelta(hours=2, microseconds=-1))
    assert [(row["name"], row["id"]) for row in earlier["users"]] == [("Mia Mitte", "p1"), ("Anna Neu", "p2")]


def test_rows_of_the_source_system_are_people_by_name(tables: str) -> None:
    insert(tables, [{"principal_id": None, "username": name} for name in ("ada", "ada", "bob", "", "<unknown>")])
    found = report(tables)
    assert found["unique_users"] == len(found["users"]) == 3
    assert named(found["user_counts"]) == {"ada": 2, "bob": 1, "<unknown>": 2}


def test_sums_stay_when_rows_are_pruned_and_percentiles_then_come_within_5_percent(tables: str) -> None:
    requests = some_requests(3000)
    insert(tables, requests, [{"completed_at": DAY + timedelta(hours=number)} for number in range(48)])
    exact, cut = report(tables, None), DAY + timedelta(hours=5)
    assert exact["quality"]["percentiles"] == "exact"
    old = sum(one["timestamp"] < cut for one in requests)
    done = prune(tables, cut)
    assert (done.requests, done.outcomes) == (old, 5)
    kept = report(tables, None)
    assert kept["quality"]["percentiles"] == "histogram"
    for name in ("total", "user_counts", "hour_heatmap", "coverage_start", "endpoint_counts"):
        assert kept[name] == exact[name]
    for before, after in zip([exact["all"], *exact["users"]], [kept["all"], *kept["users"]], strict=True):
        for key in ("latency_p50_ms", "latency_p95_ms", "latency_p99_ms"):
            assert after[key] == pytest.approx(before[key], rel=0.049, abs=0.01)
    elsewhere = report(tables, None, timezone="Asia/Kolkata")
    assert elsewhere["quality"]["requests_not_in_the_timeline"] == old
    assert any("Timeline and heatmap may lack" in note for note in elsewhere["notes"])
    cut_open = report(tables, DAY + timedelta(minutes=30))
    assert cut_open["quality"]["requests_pruned_at_the_edges"] > 0
    assert any("were pruned" in note for note in cut_open["notes"])


def test_pruned_outcomes_keep_id_and_owner(tables: str) -> None:
    insert(tables, [], [{"detail": "why"}])
    prune(tables, DAY + timedelta(days=1))
    with psycopg.connect(tables) as connection:
        found = connection.execute("SELECT job_id, owner, status, result, detail FROM job_outcomes").fetchall()
    assert found == [("job-0", "id-ada", "COMPLETED", None, None)]
    assert prune(tables, DAY + timedelta(days=1)).outcomes == 0


@pytest.mark.parametrize("is_pruned", [False, True])
@pytest.mark.parametrize(
    ("timezone", "bucket", "since"),
    [
        ("UTC", "hour", None),
        ("Asia/Kolkata", "day", None),
        ("Europe/Rome", "minute", DAY + timedelta(hours=7, minutes=5)),
    ],
)
def test_the_report_of_one_principal_is_as_if_there_were_no_others(
    tables: str, timezone: str, bucket: str, since: datetime | None, is_pruned: bool
) -> None:
    cut = DAY + timedelta(hours=8)
    mine = [one | {"username": "ada", "principal_id": "id-ada"} for one in some_requests(300)]
    others = [  # some of them are called ada too
        one | {"principal_id": f"id-{number % 7}", "group_name": f"of {number % 3}", "model": "another"}
        for number, one in enumerate(some_requests(400))
    ]
    ends = [{}, {"status": "FAILED"}, {"status": "CANCELLED"}, {"completed_at": DAY + timedelta(hours=7, minutes=10)}]
    theirs = [end | {"owner": f"id-{number}", "job_id": f"other-{number}"} for number, end in enumerate(ends * 2)]

    def told(principal_id: str | None) -> Json:
        if is_pruned:
            prune(tables, cut)
        until = DAY + timedelta(days=3)
        found = report(tables, since, until, timezone=timezone, bucket=bucket, principal_id=principal_id)
        return found | {"generated_at_utc": ""}

    insert(tables, mine, ends)
    alone = told(None)
    insert(tables, others, theirs)
    assert told(None)["total"] > alone["total"] > 0
    assert alone["quality"]["percentiles"] == ("histogram" if is_pruned and since is None else "exact")
    alone["quality"]["requests_counted_not_stored"] = None
    assert told("id-ada") == alone
    assert told("id-of-nobody")["total"] == 0


def test_one_principal_is_told_of_gaps_without_the_number_of_all(tables: str) -> None:
    with psycopg.connect(tables) as connection:
        span = [DAY, DAY + timedelta(minutes=1)]
        connection.execute("INSERT INTO usage_gaps (event_id, since, until, missing) VALUES ('g', %s, %s, 1234)", span)
    found = report(tables, principal_id="id-ada")
    assert (found["quality"]["gaps"], found["quality"]["requests_counted_not_stored"]) == (1, None)
    said = " ".join(found["notes"])
    assert "Requests in 1 span that touch this window were counted, not stored" in said
    assert "1,234" not in said


def test_a_time_zone_that_the_database_does_not_know_is_refused(tables: str) -> None:
    insert(tables, [{}])
    with pytest.raises(ReportError, match="Mars/Olympus") as refused:
        report(tables, timezone="Mars/Olympus")
    assert refused.type is ReportError  # whoever asked can mend it, the database is there


def test_tables_that_are_missing_are_said(database: str) -> None:
    with pytest.raises(ReportError, match="semapi migrate"):
        report(database)
