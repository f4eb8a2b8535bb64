"""Rows of usage that the tests of reports share, and reports over them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from serve_app.contracts import Json
from serve_app.usage.report.compute import make_report
from serve_app.usage.report.source import UrlSource
from serve_app.usage.report.window import Window

DAY = datetime(2026, 10, 15, tzinfo=UTC)

REQUEST = {
    "timestamp": DAY,
    "username": "ada",
    "endpoint_type": "inference",
    "status_code": 202,
    "url_path": "/api/v1/jobs",
    "latency_ms": 10.0,
    "request_bytes": 1000,
    "model": "sem",
    "principal_id": "id-ada",
    "group_name": "microscopy",
}
OUTCOME = {
    "run": 1,
    "owner": "id-ada",
    "model": "sem",
    "status": "COMPLETED",
    "dead": False,
    "detail": None,
    "result": '{"label": "Tips"}',
    "deliveries": 1,
    "submitted_at": DAY,
    "started_at": DAY,
    "completed_at": DAY + timedelta(seconds=2),
}


def insert(database: str, requests: list[dict[str, Any]], outcomes: list[dict[str, Any]] | None = None) -> None:
    """Insert rows that differ from the usual ones in what is given."""
    jobs = [{"job_id": f"job-{number}", **OUTCOME, **change} for number, change in enumerate(outcomes or [])]
    with psycopg.connect(database) as connection, connection.cursor() as cursor:
        for table, rows in (("api_usage", [REQUEST | change for change in requests]), ("job_outcomes", jobs)):
            for row in rows:
                columns, values = ", ".join(row), ", ".join(f"%({name})s" for name in row)
                cursor.execute(f"INSERT INTO {table} ({columns}) VALUES ({values})".encode(), row)  # noqa: S608  our own


def report(
    database: str,
    since: datetime | None = DAY,
    until: datetime = DAY + timedelta(days=1),
    *,
    timezone: str = "UTC",
    bucket: Any = "hour",
    **options: Any,
) -> Json:
    return make_report(UrlSource(database), Window(since, until, timezone, bucket), **options)
