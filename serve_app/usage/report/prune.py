"""Retention: old rows are deleted, the hourly sums stay.

Images go with their results. Outcomes keep id and owner, so that an ended job can be told apart from one that never
existed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, LiteralString

import psycopg

from serve_app.usage.report.source import connected
from serve_app.usage.report.window import ReportError, floor_hour

BATCH: Final = 10_000
"""Rows of one transaction: locks are short, and an interrupted run keeps its progress."""
KEPT: Final = timedelta(days=1)
"""Age below which rows are never pruned: an event whose acknowledgement was lost is written again, and must find its
row."""

_COUNT: Final = """
    SELECT (SELECT count(*) FROM api_usage WHERE timestamp < %(before)s),
        (SELECT count(*) FROM job_outcomes WHERE completed_at < %(before)s
            AND (result IS NOT NULL OR detail IS NOT NULL)),
        (SELECT count(*) FROM images WHERE submitted_at < %(before)s)
"""
_DELETE_IMAGES: Final = """
    WITH gone AS (
        DELETE FROM images WHERE id = ANY (ARRAY(
            SELECT id FROM images WHERE id > %(after)s AND submitted_at < %(before)s ORDER BY id LIMIT %(batch)s))
        RETURNING id
    )
    SELECT count(*), max(id) FROM gone
"""
_DELETE_REQUESTS: Final = """
    WITH gone AS (
        DELETE FROM api_usage WHERE id = ANY (ARRAY(
            SELECT id FROM api_usage WHERE id > %(after)s AND timestamp < %(before)s ORDER BY id LIMIT %(batch)s))
        RETURNING id
    )
    SELECT count(*), max(id) FROM gone
"""
_EMPTY_OUTCOMES: Final = """
    WITH emptied AS (
        UPDATE job_outcomes SET result = NULL, detail = NULL WHERE id = ANY (ARRAY(
            SELECT id FROM job_outcomes WHERE id > %(after)s AND completed_at < %(before)s
                AND (result IS NOT NULL OR detail IS NOT NULL) ORDER BY id LIMIT %(batch)s))
        RETURNING id
    )
    SELECT count(*), max(id) FROM emptied
"""


@dataclass(frozen=True, slots=True)
class Old:
    """How many rows a prune affects: requests and images to delete, outcomes to empty."""

    requests: int
    outcomes: int
    images: int


def pruned_before(wanted: datetime, now: datetime) -> datetime:
    """The start of the hour of `wanted`: only whole hours are pruned. Raises `ReportError` within the last day."""
    if wanted > now - KEPT:
        raise ReportError("rows of the last 24 hours are not pruned")
    return floor_hour(wanted)


def count_old(url: str, before: datetime) -> Old:
    """What `prune` would change. Raises `ReportError`."""
    with connected(url) as connection:
        return Old(*(connection.execute(_COUNT, {"before": before}).fetchone() or (0, 0, 0)))


def prune(url: str, before: datetime) -> Old:
    """Delete requests and images and empty outcomes older than `before`; returns how many. Raises `ReportError`.

    Safe to repeat after an interruption.
    """
    with connected(url) as connection:
        images = _in_batches(connection, _DELETE_IMAGES, before)  # first: an image without its result is none
        requests = _in_batches(connection, _DELETE_REQUESTS, before)
        return Old(requests, _in_batches(connection, _EMPTY_OUTCOMES, before), images)


def _in_batches(connection: psycopg.Connection, statement: LiteralString, before: datetime) -> int:
    total, after = 0, 0
    while True:
        row = connection.execute(statement, {"before": before, "after": after, "batch": BATCH}).fetchone()
        if row is None or row[0] == 0:
            return total
        total, after = total + row[0], row[1]
