"""`make bench-usage`: the usage report over millions of generated rows, and the cost of the hourly sums in the writer.

Fills a PostgreSQL of its own with a year of requests, makes the report in a process of its own, and stores batches
alternately with and without the triggers. Every repetition goes to build/bench-usage.json; one line is printed for each
result: `name value target ok|short`. The exit status is 1 when one is short.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import time
from collections import defaultdict
from uuid import uuid4

import psycopg

from loadtest.results import BUILD, report, results, write_record
from loadtest.service import SCRIPTS, temporary_folder
from serve_app.local.postgres import Postgres
from serve_app.usage.database import Database, Row
from serve_app.usage.migrations import migrate

CHUNK = 250_000
BATCH = 500
BATCHES = 40
# Twelve of 300 users are active in an hour, some of them far more often than others; every tenth request is a submit.
REQUESTS = """
    INSERT INTO api_usage (event_id, timestamp, username, endpoint_type, status_code, url_path, latency_ms,
        request_bytes, job_id, model, request_id, principal_id, group_name)
    SELECT 'bench-' || n, at, 'user ' || person, kind, CASE WHEN random() < 0.02 THEN 429 ELSE 200 END,
        '/api/v1/' || kind, exp(1.5 + (random() + random() + random() + random() - 2)),
        CASE WHEN kind = 'inference' THEN 65536 ELSE 60 END, 'job-' || n / 10, 'sem-classifier', 'request-' || n,
        'principal-' || person, 'group ' || person %% 15
    FROM (
        SELECT n, at, floor(300 * (hash * hash))::int AS person,
            CASE WHEN n %% 10 = 0 THEN 'inference' WHEN n %% 10 < 8 THEN 'job_status' ELSE 'job_results' END AS kind
        FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n,
            LATERAL (
                SELECT timestamptz '2026-01-01Z' + n::float8 / %(rows)s * 31536000 * interval '1 s' AS at
            ) AS moment,
            LATERAL (SELECT abs(hashtext(date_trunc('hour', at)::text || n / 10 %% 12)::float8) / 2147483648 AS hash)
                AS hashed
    ) AS request
"""
OUTCOMES = """
    INSERT INTO job_outcomes (job_id, run, owner, model, status, dead, deliveries, submitted_at, started_at,
        completed_at)
    SELECT job_id, 1, principal_id, model, CASE WHEN random() < 0.01 THEN 'FAILED' ELSE 'COMPLETED' END, false, 1,
        timestamp, timestamp + interval '20 ms', timestamp + interval '90 ms'
    FROM api_usage WHERE event_id = ANY (SELECT 'bench-' || n FROM generate_series(%(first)s, %(last)s, 10) AS n)
"""


def main() -> int:
    """Fill, measure, write, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    raw: dict[str, list[float]] = defaultdict(list)
    with temporary_folder() as folder:
        server = Postgres(folder / "postgres")
        server.start()
        try:
            migrate(server.url)
            raw["usage_fill_s"].append(_fill(server.url, options.rows))
            for repetition in range(options.repetitions):
                print(f"# repetition {repetition + 1} of {options.repetitions}", flush=True)
                _measure_report(server.url, raw)
                raw["usage_batch_per_plain"].append(asyncio.run(_batch_ratio(server.url)))
        finally:
            server.stop()
    units = "as the name's end says; usage_batch_per_plain is a ratio"
    record = write_record("bench-usage", options=vars(options), units=units, results=raw)
    return report(results(record["results"], "bench-usage"))


def _fill(url: str, rows: int) -> float:
    """Seconds to insert the rows as the writer does, with the sums in the same transactions."""
    started = time.monotonic()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        for first in range(1, rows + 1, CHUNK):
            span = {"first": first, "last": min(first + CHUNK - 1, rows), "rows": rows}
            connection.execute(REQUESTS, span)
            connection.execute(OUTCOMES, {**span, "first": -(-first // 10) * 10})
            print(f"# {span['last']:,} rows after {time.monotonic() - started:.0f} s", flush=True)
        connection.execute("VACUUM ANALYZE")
    return time.monotonic() - started


def _measure_report(url: str, raw: dict[str, list[float]]) -> None:
    """The HTML report of all rows, by the script that users run."""
    BUILD.mkdir(exist_ok=True)
    page = BUILD / "bench-usage.html"
    command = [sys.executable, str(SCRIPTS / "usage_report.py"), "report", "--until", "2027-01-01"]
    started = time.monotonic()
    subprocess.run([*command, "--dsn", url, "--output", str(page)], check=True, timeout=600)
    raw["usage_report_s"].append(time.monotonic() - started)
    raw["usage_report_mb"].append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000)


async def _batch_ratio(url: str) -> float:
    """Seconds for the writer's batches with the sums divided by those without; alternating, under equal conditions."""
    seconds = {"ENABLE": 0.0, "DISABLE": 0.0}
    database = Database(url)
    try:
        connection = await database.open()
        for number in range(BATCHES):
            switch = "ENABLE" if number % 2 else "DISABLE"
            await connection.execute(f"ALTER TABLE api_usage {switch} TRIGGER roll_up".encode())
            rows = {str(index).encode(): _row(index) for index in range(BATCH)}
            started = time.monotonic()
            await database.store(rows)
            seconds[switch] += time.monotonic() - started
        await connection.execute("DELETE FROM api_usage WHERE group_name = 'batch'")
    finally:
        await database.close()
    return seconds["ENABLE"] / seconds["DISABLE"]


def _row(index: int) -> Row:
    values = {"event_id": uuid4().hex, "timestamp": "1798761600000", "username": f"user {index % 12}"}
    values |= {"endpoint_type": "inference", "status_code": "202", "url_path": "/api/v1/jobs"}
    values |= {"latency_ms": str(1 + index % 40), "request_bytes": "65536", "job_id": f"batch-{index}"}
    values |= {"model": "sem", "request_id": f"r{index}", "principal_id": f"p{index % 12}", "group": "batch"}
    return Row("usage", json.dumps(values))


if __name__ == "__main__":
    sys.exit(main())
