"""GET /api/v1/usage: who is told of whom, in which words one may ask, and what a PostgreSQL that is away does to it."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import logging
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from gateway_parts import Running, as_admin, audit_lines, id_of, running_gateway, until
from pydantic import SecretStr
from typer.testing import CliRunner
from usage_events import rows, until_settled
from usage_rows import insert

from serve_app.cli.main import commands
from serve_app.contracts import Json
from serve_app.gateway.routes.usage import Reports
from serve_app.local.issuer import DevIssuerServer
from serve_app.local.postgres import Postgres
from serve_app.settings import Settings
from serve_app.usage.migrations import migrate
from serve_app.usage.report.window import Window

START = datetime(2020, 1, 1, tzinfo=UTC)
USAGE = "/api/v1/usage"
WINDOW = "since=2020-01-01&until=2020-01-03"
STRANGER = "f" * 32
HOSTILE = "'; DROP TABLE api_usage; --{label}%s\n=1+1<script>\u202e"
READ_S = 4.0


@pytest.fixture
async def gateway(tables: str, gateway: Running) -> Running:
    return gateway


@pytest.fixture
async def hasty(settings: Settings, authority: DevIssuerServer, tables: str) -> AsyncIterator[Running]:
    """A gateway that gives up soon."""
    async with running_gateway(settings, authority, read_timeout_s=READ_S) as running:
        yield running


def fill(gateway: Running, database: str) -> None:
    """Three people, two of them called ada, with requests and jobs that tell them apart."""
    requests: list[dict[str, Any]] = []
    outcomes: list[dict[str, Any]] = []
    for number, user in enumerate(("ada", "other-ada", "eve")):
        name = "ada" if "ada" in user else HOSTILE
        person = {"principal_id": id_of(gateway, user), "username": name, "group_name": f"group of {user}"}
        for step in range(10 * (number + 1)):
            at = START + timedelta(minutes=37 * step)
            requests.append(
                {**person, "timestamp": at, "latency_ms": 10.0**number, "status_code": 200 + 300 * (step % 2)}
            )
        ended = START + timedelta(hours=number, seconds=2)
        outcomes += [{"owner": person["principal_id"], "completed_at": ended, "started_at": START}] * (number + 1)
    insert(database, requests, outcomes)


def problem(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].removeprefix("/problems/")


async def test_admins_read_of_everyone_what_the_command_line_reads(gateway: Running, tables: str) -> None:
    fill(gateway, tables)
    asked = {"since": "2020-01-01T05:10", "until": "2020-01-02", "timezone": "Europe/Rome", "bucket": "day"}
    for words in (asked, {"month": "2020-01", "timezone": "Asia/Kolkata"}):
        answer = await as_admin(gateway, "GET", USAGE, params=words)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        options = [part for name, word in words.items() for part in (f"--{name}", word)]
        done = await asyncio.to_thread(CliRunner().invoke, commands, ["usage", "json", *options, "--dsn", tables])
        assert answer.json() | {"generated_at_utc": ""} == json.loads(done.stdout) | {"generated_at_utc": ""}
        assert len(answer.json()["users"]) == 3
        sheet = await as_admin(gateway, "GET", USAGE, params=words | {"format": "csv"})
        assert sheet.headers["content-type"] == "text/csv; charset=utf-8"
        done = await asyncio.to_thread(CliRunner().invoke, commands, ["usage", "--csv", *options, "--dsn", tables])
        assert sheet.text == done.stdout
        for_excel = await as_admin(gateway, "GET", USAGE, params=words | {"format": "csv", "bom": "true"})
        assert for_excel.content == b"\xef\xbb\xbf" + sheet.content


async def test_a_user_reads_of_nobody_else_also_under_the_same_name(gateway: Running, tables: str) -> None:
    fill(gateway, tables)
    for number, user in enumerate(("ada", "other-ada", "eve")):
        asked = 10 * (number + 1)
        own = (await gateway.get(f"{USAGE}?{WINDOW}", user)).json()
        by_id = (await gateway.get(f"{USAGE}?{WINDOW}&principal_id={id_of(gateway, user)}", user)).json()
        by_admin = (await as_admin(gateway, "GET", f"{USAGE}?{WINDOW}&principal_id={id_of(gateway, user)}")).json()
        for one in (by_id, by_admin):
            assert one | {"generated_at_utc": ""} == own | {"generated_at_utc": ""}
        name = HOSTILE if user == "eve" else "ada"
        assert own["user_counts"] == [{"name": name, "n": asked}]
        assert (own["total"], own["unique_users"], own["error_count"]) == (asked, 1, asked // 2)
        assert len(own["recent"]) == min(asked, 25)
        assert sum(row["n"] for row in own["hour_heatmap"]) == sum(row["n"] for row in own["time_buckets"]) == asked
        assert [row["name"] for row in own["groups"]] == [f"group of {user}"]
        sheet = csv.DictReader(io.StringIO((await gateway.get(f"{USAGE}?{WINDOW}&format=csv", user)).text))
        assert [line["id"] for line in sheet if line["by"] == "user"] == [id_of(gateway, user)]
        [line] = own["users"]
        assert (line["id"], line["requests"], line["completed"]) == (id_of(gateway, user), asked, number + 1)
        assert line["latency_p50_ms"] == line["latency_p99_ms"] == own["all"]["latency_p99_ms"] == 10.0**number
    nothing = (await gateway.get(f"{USAGE}?{WINDOW}", "newcomer")).json()
    assert (nothing["total"], nothing["users"], nothing["recent"], nothing["all"]) == (0, [], [], None)


async def test_another_s_usage_is_for_admins_and_reading_it_is_in_the_audit_log(
    gateway: Running, tables: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "serve_app.audit")
    root = id_of(gateway, "root")
    assert problem(await gateway.get(f"{USAGE}?principal_id={STRANGER}")) == (403, "admin-required")
    assert (await gateway.get(USAGE)).status_code == 200
    for words in (f"principal_id={root}", "", f"principal_id={STRANGER}", "since=yesterday"):
        await as_admin(gateway, "GET", f"{USAGE}?{words}")
    shown = [(one["event"], one["what"], one["target"], one["outcome"]) for one in audit_lines(caplog)]
    assert shown == [
        ("refused", f"GET {USAGE}", STRANGER, "admin-required"),
        ("acted", f"GET {USAGE}", "", "done"),
        ("acted", f"GET {USAGE}", STRANGER, "done"),
        ("acted", f"GET {USAGE}", "", "query-invalid"),
    ]
    assert (await gateway.client.get(USAGE)).status_code == 401
    await until_settled(gateway.redis)
    counted = Counter(rows(tables, "SELECT username, endpoint_type, status_code FROM api_usage"))
    assert counted == {
        ("ada", "usage", 403): 1,
        ("ada", "usage", 200): 1,
        ("root", "usage", 200): 3,
        ("root", "usage", 400): 1,
    }


async def test_what_was_just_asked_is_in_the_report_a_moment_later(
    gateway: Running,
) -> None:
    headers = gateway.bearer("eve", preferred_username=HOSTILE, groups=["=cmd()"])
    await gateway.client.get("/api/v1/models", headers=headers)
    await until_settled(gateway.redis)
    told = (await gateway.client.get(USAGE, headers=headers)).json()
    name = HOSTILE.replace("\n", "").replace("\u202e", "")
    assert told["user_counts"] == [{"name": name, "n": 1}]
    assert (told["endpoint_counts"], told["bucket"]) == ([{"name": "models", "n": 1}], "hour")
    assert [row["username"] for row in told["recent"]] == [name]


async def test_a_name_is_whole_in_the_sheet_and_no_formula(gateway: Running) -> None:
    names = ["山田\u3000太郎", "علی\u200cرضا", "👩\u200d🔬 Marie", "Jean\u00a0Dupont", "Ada;=1+1", "＝1"]
    for number, name in enumerate(names):
        await gateway.client.get(USAGE, headers=gateway.bearer(f"u{number}", preferred_username=name, groups=[name]))
    await until_settled(gateway.redis)
    answer = await as_admin(gateway, "GET", f"{USAGE}?since=10m&format=csv")
    for by in ("user", "group"):
        shown = {line["name"] for line in csv.DictReader(io.StringIO(answer.text)) if line["by"] == by}
        assert shown >= {*names[:4], "Ada;'=1+1", "'＝1"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("since=yesterday", "since: 'yesterday' is not a time"),
        ("since=", "since: "),
        ("until=9999-12-31T23:59:59.999999", "until: "),
        ("since=%00", "since: "),
        ("since=1h&until=2h", "since 1h is after until 2h"),
        ("since=" + "9" * 200 + "s", "since: "),
        ("timezone=Mars/Olympus", "timezone: "),
        ("timezone=../../etc/passwd", "timezone: "),
        ("timezone=UTC%00", "timezone: "),
        ("bucket=week", "bucket is auto, minute, hour or day"),
        ("month=October", "month is a year and a month"),
        ("month=2020-01&since=1h", "month cannot be combined with since or until"),
        ("month=2020-01&until=now", "month cannot be combined with since or until"),
        ("principal_id=ada", "principal_id: "),
        ("principal_id=" + "g" * 32, "principal_id: "),
        (f"principal_id={STRANGER}%0A", "principal_id: "),
        ("format=html", "format: "),
        (
            "window_mins=5",
            "'window_mins' here; there are since, until, month, timezone, bucket, principal_id, format, bom",
        ),
        ("bom=true", "bom: only a CSV may begin with a byte order mark"),
        ("format=csv&bom=maybe", "bom: "),
        ("since=1h&since=2h", "sent twice"),
    ],
)
async def test_words_that_do_not_fit_are_named(gateway: Running, words: str, said: str) -> None:
    answer = await gateway.get(f"{USAGE}?{words}")
    assert problem(answer) == (400, "query-invalid")
    assert said in answer.json()["detail"]
    assert "--" not in answer.json()["detail"]


async def test_a_timeline_without_end_is_the_caller_s_to_mend_too(gateway: Running, tables: str) -> None:
    with psycopg.connect(tables) as connection:
        connection.execute(
            "INSERT INTO api_usage (timestamp, username, principal_id, endpoint_type, url_path) SELECT timestamptz "
            "'2020-01-01Z' + n * interval '1 minute', 'ada', %s, 'other', '/' FROM generate_series(0, 50000) AS n",
            [id_of(gateway, "ada")],
        )
    answer = await gateway.get(f"{USAGE}?since=2020-01-01&bucket=minute")
    assert problem(answer) == (400, "query-invalid")
    assert "take a larger bucket" in answer.json()["detail"]
    assert (await gateway.get(f"{USAGE}?since=2020-01-01&until=2021-01-01&bucket=day")).json()["total"] == 50_001


@pytest.mark.parametrize("address", ["", "postgresql://u:s3cret%word@h/x", "postgresql://u:s3cret@127.0.0.1:1/x"])
async def test_without_a_database_usage_alone_is_unavailable(
    settings: Settings, authority: DevIssuerServer, address: str
) -> None:
    async with running_gateway(settings, authority, database_url=SecretStr(address)) as gateway:
        answer = await gateway.get(USAGE)
        assert problem(answer) == (503, "usage-unavailable")
        assert int(answer.headers["retry-after"]) > 0
        assert not any(word in answer.text for word in ("s3cret", "127.0.0.1", "DATABASE_URL"))
        assert (await gateway.get("/api/v1/models")).status_code == 200


async def test_tables_that_come_later_are_found(settings: Settings, authority: DevIssuerServer, database: str) -> None:
    async with running_gateway(settings, authority) as gateway:
        assert problem(await gateway.get(USAGE)) == (503, "usage-unavailable")
        migrate(database)
        assert (await gateway.get(USAGE)).status_code == 200


async def others_answer_until(gateway: Running, report: asyncio.Task[Any]) -> float:
    """The longest that another request took while the report was on its way."""
    slowest = 0.0
    while not report.done():
        began = time.monotonic()
        assert (await gateway.get("/api/v1/models", "bob")).status_code == 200
        slowest = max(slowest, time.monotonic() - began)
        await asyncio.sleep(0.05)
    return slowest


async def test_a_postgresql_that_stands_still_is_told_in_time_and_holds_nobody_else(
    hasty: Running, postgres: Postgres
) -> None:
    assert (await hasty.get(USAGE)).status_code == 200
    os.kill(postgres.pid, signal.SIGSTOP)
    try:
        report = asyncio.create_task(hasty.get(USAGE))
        assert await others_answer_until(hasty, report) < 1
        assert problem(report.result()) == (503, "usage-unavailable")
        assert int(report.result().headers["retry-after"]) > 0
    finally:
        os.kill(postgres.pid, signal.SIGCONT)
    assert (await hasty.get(USAGE)).status_code == 200


def waiting_reports(database: str) -> list[int]:
    """The server processes of reports that wait for a lock; the writer waits for one of another kind."""
    query = "SELECT pid FROM pg_locks WHERE NOT granted AND mode = 'AccessShareLock'"
    return [pid for (pid,) in rows(database, query)]


async def a_waiting_report(database: str) -> int:
    [process] = await until(lambda: asyncio.to_thread(waiting_reports, database))
    return int(process)


async def test_a_server_that_stops_in_the_middle_is_cut_off(hasty: Running, tables: str) -> None:
    with psycopg.connect(tables) as other:
        other.execute("LOCK TABLE api_usage IN ACCESS EXCLUSIVE MODE")
        report = asyncio.create_task(hasty.get(USAGE))
        process = await a_waiting_report(tables)
        os.kill(process, signal.SIGSTOP)
        try:
            assert await others_answer_until(hasty, report) < 1
            # The cut comes a tenth of the deadline before it; on a busy machine the deadline may be noticed first.
            assert problem(report.result()) in ((503, "usage-unavailable"), (504, "deadline-exceeded"))
            other.rollback()
            assert (await hasty.get(USAGE)).status_code == 200
        finally:
            os.kill(process, signal.SIGCONT)


async def test_a_report_that_takes_too_long_is_ended_and_there_is_one_at_a_time(hasty: Running, tables: str) -> None:
    with psycopg.connect(tables) as other:
        other.execute("LOCK TABLE api_usage IN ACCESS EXCLUSIVE MODE")
        left = asyncio.create_task(hasty.get(USAGE))
        await a_waiting_report(tables)
        left.cancel()  # its report is under way all the same
        waiting = [asyncio.create_task(hasty.get(USAGE, user)) for user in ("ada", "bob")]
        most = 0
        while not all(task.done() for task in waiting):
            most = max(most, len(await asyncio.to_thread(waiting_reports, tables)))
        assert most == 1
        for task in waiting:
            assert problem(task.result()) == (504, "deadline-exceeded")
            assert task.result().headers["retry-after"]
        await until(
            lambda: asyncio.to_thread(waiting_reports, tables), fits=lambda found: found == []
        )  # PostgreSQL does not go on for nobody
    assert (await hasty.get(USAGE)).status_code == 200


async def test_who_comes_while_a_report_is_made_waits_for_it(gateway: Running, tables: str) -> None:
    fill(gateway, tables)
    with psycopg.connect(tables) as other:
        other.execute("LOCK TABLE api_usage IN ACCESS EXCLUSIVE MODE")
        users = ("ada", "other-ada", "eve")
        reports = [asyncio.create_task(gateway.get(f"{USAGE}?{WINDOW}", user)) for user in users]
        await a_waiting_report(tables)
        other.rollback()
        answers: list[Json] = [answer.json() for answer in await asyncio.gather(*reports)]
    assert [answer["total"] for answer in answers] == [10, 20, 30]


async def test_users_take_turns(settings: Settings, tables: str) -> None:
    reports, window = Reports(settings), Window(START, START + timedelta(days=1), "UTC", "hour")
    order: list[str] = []

    async def ask(user: str) -> None:
        await reports.answer(user, window, user, "json")
        order.append(user)

    await asyncio.gather(*(ask(user) for user in ("flood", "flood", "flood", "flood", "ada", "eve")))
    reports.close()
    assert order == ["flood", "ada", "eve", "flood", "flood", "flood"]
