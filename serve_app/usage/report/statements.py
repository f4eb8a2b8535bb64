"""The report's SQL: every statement returns one JSON value, so that psycopg and psql read the same text.

Whole hours come from the hourly sums, the window's edges from rows. Statements are finished text, parameters written
into them as literals by psycopg, because `kubectl exec` has no other way to carry them.

Requests carry a name and a group, outcomes only their owner: an owner's name and group are those of the owner's latest
request up to the window's end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, LiteralString

from psycopg.sql import SQL, Composable, Identifier, Literal

from serve_app.usage.report.window import Window

STATEMENT_TIMEOUT_S: Final = 300
EXACT_BELOW: Final = 1_000_000
"""From this number of requests in the window, percentiles come from histograms instead of rows."""
MOST_BUCKETS: Final = 50_000
"""Most entries of a timeline; one more is requested, to notice a longer one."""
TOP: Final = 25
MANY: Final = 1000
MOST_NAMES: Final = 10_000
"""Most rows of a table by user, group or model in a CSV."""
OTHERS: Final = "<others>"
WHOSE: Final[Mapping[str, str]] = {
    "api_usage": "principal_id",
    "usage_hourly": "principal_id",
    "job_outcomes": "owner",
    "outcomes_hourly": "owner",
}
"""The tables with users' rows, and the column of their owner. Statements name them only in braces: `write` inserts the
table, or one principal's part of it."""

PREPARE: Final = (
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",  # all values from one snapshot
    f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT_S}s'",
    "SET LOCAL lock_timeout = '30s'",
    "SET LOCAL work_mem = '64MB'",
    "SET LOCAL jit = off",  # compilation costs seconds here and saves none
)

CELLS: Final = """
    WITH cells AS (
        SELECT hour, key, principal_id, username, group_name, endpoint_type, status_code, url_path, model, requests,
            request_bytes, first_at, last_at
        FROM {usage_hourly} WHERE hour >= {first} AND hour < {last}
        UNION ALL
        SELECT date_trunc('hour', timestamp, 'UTC'), NULL, principal_id, username, group_name, endpoint_type,
            status_code, url_path, model, count(*), coalesce(sum(request_bytes), 0), min(timestamp), max(timestamp)
        FROM {api_usage} WHERE {edges} GROUP BY 1, 3, 4, 5, 6, 7, 8, 9
    )
"""
_EDGES: Final = "(timestamp >= {since} AND timestamp < {first} OR timestamp >= {last} AND timestamp <= {until})"
_OUTCOME_EDGES: Final = (
    "(completed_at >= {since} AND completed_at < {first} OR completed_at >= {last} AND completed_at <= {until})"
)

# Some time zones are half an hour off the hourly sums; for them, and for minutes, rows are counted.
_MOMENTS: Final = """,
    zone AS MATERIALIZED (
        SELECT coalesce(bool_and(extract(minute FROM hour AT TIME ZONE {timezone}) = 0), true) AS has_our_hours
        FROM (
            SELECT DISTINCT hour FROM {usage_hourly} WHERE hour >= {first} AND hour < {last}
            UNION SELECT date_trunc('hour', timestamp, 'UTC') FROM {api_usage} WHERE {edges}
        ) AS hours
    ),
    moments AS (
        SELECT hour AS at, status_code, requests FROM cells
        WHERE (SELECT has_our_hours FROM zone) AND {unit} <> 'minute'
        UNION ALL
        SELECT timestamp, status_code, 1 FROM {api_usage}
        WHERE NOT ((SELECT has_our_hours FROM zone) AND {unit} <> 'minute')
            AND timestamp >= {since} AND timestamp <= {until}
    )
"""

_OVERVIEW: Final = """
    SELECT jsonb_build_object(
        'total', coalesce(sum(requests), 0),
        'unique_users', count(DISTINCT {person}),
        'error_count', coalesce(sum(requests) FILTER (WHERE status_code >= 400), 0),
        'null_status', coalesce(sum(requests) FILTER (WHERE status_code IS NULL), 0),
        'unknown_users', coalesce(sum(requests) FILTER (WHERE coalesce(username, '') IN ('', '<unknown>')), 0),
        'pruned_edge', coalesce((SELECT sum(requests) FROM {usage_hourly}
            WHERE hour IN ({first_edge}, {last_edge}) AND NOT EXISTS (SELECT 1 FROM {api_usage}
                WHERE timestamp >= hour AND timestamp < hour + interval '1 hour')), 0),
        'coverage_start', {coverage_start}, 'coverage_end', {coverage_end})
    FROM cells
"""

_COUNTS: Final = """
    SELECT coalesce(jsonb_agg(jsonb_build_object('name', name, 'n', n) ORDER BY place), '[]') FROM (
        SELECT *, row_number() OVER (ORDER BY {order}) AS place FROM (
            SELECT {name} AS name, sum(requests) AS n FROM cells GROUP BY {label}
        ) AS counted ORDER BY {order} LIMIT {limit}
    ) AS first
"""

_TIMELINE: Final = """
    SELECT coalesce(jsonb_agg(jsonb_build_object(
        'bucket', jsonb_build_array(to_char(bucket_at, 'YYYY-MM-DD HH24:MI:SS'), extract(epoch FROM utc_offset)),
        'n', n, 'errors', errors) ORDER BY bucket_at - utc_offset), '[]')
    FROM (
        SELECT date_trunc({unit}, at AT TIME ZONE {timezone}) AS bucket_at,
            CASE WHEN {unit} = 'day' THEN interval '0' -- a day has one name, also when the clock changes in it
            ELSE (at AT TIME ZONE {timezone}) - (at AT TIME ZONE 'UTC') END AS utc_offset, sum(requests) AS n,
            coalesce(sum(requests) FILTER (WHERE status_code >= 400), 0) AS errors
        FROM moments GROUP BY 1, 2 ORDER BY 1, 2 LIMIT {limit}
    ) AS buckets
"""

_HEATMAP: Final = """
    SELECT coalesce(jsonb_agg(jsonb_build_object('dow', dow, 'hour', hour, 'n', n) ORDER BY dow, hour), '[]')
    FROM (
        SELECT extract(isodow FROM at AT TIME ZONE {timezone})::int AS dow,
            extract(hour FROM at AT TIME ZONE {timezone})::int AS hour, sum(requests) AS n
        FROM moments GROUP BY 1, 2
    ) AS hours
"""

_RECENT: Final = """
    SELECT coalesce(jsonb_agg(jsonb_build_object(
        'id', id, 'timestamp', {row_time},
        'username', coalesce((SELECT NULLIF(username, '') FROM {usage_hourly}
            WHERE principal_id = newest.principal_id AND hour <= {until} AND first_at <= {until}
            ORDER BY hour DESC, last_at DESC LIMIT 1),
            NULLIF(username, ''), '<unknown>'),
        'service_name', coalesce(NULLIF(service_name, ''), '<unknown>'),
        'endpoint_type', coalesce(NULLIF(endpoint_type, ''), '<unknown>'),
        'status_code', status_code, 'url_path', url_path) ORDER BY timestamp DESC, id DESC), '[]')
    FROM (
        SELECT * FROM {api_usage} WHERE timestamp >= {since} AND timestamp <= {until}
        ORDER BY timestamp DESC, id DESC LIMIT {limit}
    ) AS newest
"""

_GAPS: Final = """
    SELECT jsonb_build_object('spans', count(*), 'missing', coalesce(sum(missing), 0))
    FROM usage_gaps WHERE until >= {since} AND since <= {until}
"""


PERSON: Final = "coalesce('id:' || principal_id, 'name:' || coalesce(NULLIF(username, ''), '<unknown>'))"
"""The user of a request: the principal, whatever its name; the name in rows of the source system, which lack it."""
LATEST_NAME: Final = "(array_agg(username ORDER BY last_at DESC, username))[1]"
"""The name in the user's latest request in a group of `cells`."""
_CLOCK_TIME: Final = """jsonb_build_array(to_char({moment} AT TIME ZONE {timezone}, 'YYYY-MM-DD HH24:MI:SS'),
            extract(epoch FROM ({moment} AT TIME ZONE {timezone}) - ({moment} AT TIME ZONE 'UTC')))"""
"""A time on the report's clock, with its offset from UTC in seconds, for `Clock.shown`."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What a report covers: a window, and everyone's usage or one principal's."""

    window: Window
    principal_id: str | None = None


def overview(scope: Scope) -> str:
    """Totals, coverage, and the input of the data-quality notes."""
    first, last = scope.window.cut_hours
    return write(
        CELLS + _OVERVIEW,
        scope,
        first_edge=Literal(first),
        last_edge=Literal(last),
        person=SQL(PERSON),
        coverage_start=_clock_time("min(first_at)", scope),
        coverage_end=_clock_time("max(last_at)", scope),
    )


def counts(scope: Scope, name: LiteralString, limit: int, *, by_name: bool = False) -> str:
    """Requests by one expression over the columns of the hourly sums, largest first."""
    order = SQL("name") if by_name else SQL("n DESC, name")
    return write(CELLS + _COUNTS, scope, name=SQL(name), label=SQL(name), order=order, limit=Literal(limit))


def users(scope: Scope, limit: int) -> str:
    """Requests by user under the latest name, largest first; users who share a name stay apart."""
    name = SQL("coalesce(NULLIF({}, ''), '<unknown>')").format(SQL(LATEST_NAME))
    order = SQL("n DESC, name")
    return write(CELLS + _COUNTS, scope, name=name, label=SQL(PERSON), order=order, limit=Literal(limit))


def timeline(scope: Scope) -> str:
    """Requests and errors by the window's bucket, without empty buckets. An hour or minute that the clock repeats is
    two buckets, told apart by the offset from UTC."""
    text = CELLS + _MOMENTS + _TIMELINE
    return write(text, scope, unit=Literal(scope.window.bucket), limit=Literal(MOST_BUCKETS + 1))


def heatmap(scope: Scope) -> str:
    """Requests by weekday and hour of the day."""
    return write(CELLS + _MOMENTS + _HEATMAP, scope, unit=Literal("hour"))


def recent(scope: Scope, limit: int) -> str:
    """The newest rows."""
    return write(_RECENT, scope, limit=Literal(limit), row_time=_clock_time("timestamp", scope))


def gaps(scope: Scope) -> str:
    """Spans of time in the window in which requests were counted instead of stored."""
    return write(_GAPS, scope)


def write(text: LiteralString, scope: Scope, **parts: Composable) -> str:
    """A statement as text, with the tables, the window's bounds and `parts` filled in."""
    window = scope.window
    first, last = window.whole_hours
    bounds = {
        "since": _moment(window.since),
        "until": _moment(window.until),
        "first": _moment(first),
        "last": _moment(last),
        "timezone": Literal(window.timezone),
    }
    edges = {"edges": SQL(_EDGES).format(**bounds), "outcome_edges": SQL(_OUTCOME_EDGES).format(**bounds)}
    tables = {table: _rows(table, column, scope.principal_id) for table, column in WHOSE.items()}
    return SQL(text).format(**bounds, **edges, **tables, **parts).as_string()


def _clock_time(moment: LiteralString, scope: Scope) -> Composable:
    return SQL(_CLOCK_TIME).format(moment=SQL(moment), timezone=Literal(scope.window.timezone))


def _rows(table: str, column: str, principal_id: str | None) -> Composable:
    """A table, or one principal's rows under the table's name."""
    name = Identifier(table)
    if principal_id is None:
        return name
    whose = {"table": name, "column": Identifier(column), "id": Literal(principal_id)}
    return SQL("(SELECT * FROM {table} WHERE {column} = {id}) AS {table}").format(**whose)


def _moment(moment: datetime | None) -> Composable:
    return Literal(moment) if moment else SQL("'-infinity'::timestamptz")


@dataclass(frozen=True, slots=True)
class Table:
    """What a table groups by: an expression over the columns of requests, and one over those of outcomes."""

    requests: LiteralString
    outcomes: LiteralString
    name: LiteralString
    """How a label is shown."""
    id: LiteralString = "NULL"
    """The id that tells apart labels with the same name."""
    username: LiteralString = "NULL::text"
    """The user name of a label's requests, which `name` is made of."""


USERS: Final = Table(
    PERSON,
    "'id:' || owner",
    "coalesce(NULLIF(max(username), ''), '<unknown>')",
    "CASE WHEN max(label) LIKE 'id:%' THEN substr(max(label), 4) END",
    LATEST_NAME,
)
GROUPS: Final = Table(
    "coalesce(group_name, '')", "coalesce(group_name, '')", "coalesce(NULLIF(max(label), ''), '<none>')"
)
MODELS: Final = Table("coalesce(model, '')", "model", "coalesce(NULLIF(max(label), ''), '<none>')")
ALL: Final = Table("'all'", "'all'", "'all'")

_OUTCOMES: Final = """,
    outcome_cells AS (
        SELECT owner, model, status, dead, runs, compute_ms
        FROM {outcomes_hourly} WHERE hour >= {first} AND hour < {last}
        UNION ALL
        SELECT owner, model, status, dead, count(*),
            coalesce(sum(greatest(extract(epoch FROM completed_at - started_at) * 1000, 0)), 0)
        FROM {job_outcomes} WHERE {outcome_edges} GROUP BY 1, 2, 3, 4
    ),
    owners AS MATERIALIZED (
        SELECT owner, username, group_name FROM (SELECT DISTINCT owner FROM outcome_cells) AS known
        LEFT JOIN LATERAL (
            SELECT username, group_name FROM {usage_hourly}
            WHERE principal_id = owner AND hour <= {until} AND first_at <= {until}
            ORDER BY hour DESC, last_at DESC LIMIT 1
        ) AS latest ON true
    )
"""

# Rows are exact, but are used only if they are few and complete; the sums outlive them. PostgreSQL checks the
# condition first and never runs the other branch.
_LATENCY: Final = """,
    size AS MATERIALIZED (
        SELECT CASE WHEN (SELECT coalesce(sum(requests), 0) FROM cells) < {exact_below} THEN
            (SELECT coalesce(sum(requests), 0) FROM cells)
            = (SELECT count(*) FROM {api_usage} WHERE timestamp >= {since} AND timestamp <= {until})
        ELSE false END AS is_exact
    ),
    buckets AS (
        SELECT label, bucket, sum(requests) AS requests FROM (
            SELECT {label} AS label, bucket, latency.requests
            FROM usage_latency_hourly AS latency JOIN cells USING (hour, key)
            UNION ALL
            SELECT {label}, usage_latency_bucket(latency_ms), 1 FROM {api_usage}
            WHERE {edges} AND latency_ms IS NOT NULL
        ) AS timed
        WHERE NOT (SELECT is_exact FROM size) GROUP BY 1, 2
    ),
    latency AS (
        SELECT label, percentile_disc(0.5) WITHIN GROUP (ORDER BY latency_ms) AS p50,
            percentile_disc(0.95) WITHIN GROUP (ORDER BY latency_ms) AS p95,
            percentile_disc(0.99) WITHIN GROUP (ORDER BY latency_ms) AS p99
        FROM (
            SELECT {label} AS label, latency_ms FROM {api_usage}
            WHERE timestamp >= {since} AND timestamp <= {until} AND latency_ms IS NOT NULL
                AND (SELECT is_exact FROM size)
        ) AS timed
        GROUP BY 1
        UNION ALL
        SELECT label, 1.1 ^ (min(bucket) FILTER (WHERE upto >= 0.5 * total) + 0.5),
            1.1 ^ (min(bucket) FILTER (WHERE upto >= 0.95 * total) + 0.5),
            1.1 ^ (min(bucket) FILTER (WHERE upto >= 0.99 * total) + 0.5)
        FROM (
            SELECT label, bucket, sum(requests) OVER (PARTITION BY label ORDER BY bucket) AS upto,
                sum(requests) OVER (PARTITION BY label) AS total
            FROM buckets
        ) AS cumulated
        GROUP BY 1
    )
"""

_JOINED: Final = """,
    asked AS (
        SELECT {label} AS label, {username} AS username, sum(requests) AS requests,
            sum(requests) FILTER (WHERE status_code >= 400) AS errors, sum(request_bytes) AS bytes
        FROM cells GROUP BY 1
    ),
    ended AS (
        SELECT {owner_label} AS label, max(username) AS username,
            sum(runs) FILTER (WHERE status = 'COMPLETED') AS completed,
            sum(runs) FILTER (WHERE status = 'FAILED' AND NOT dead) AS failed,
            sum(runs) FILTER (WHERE status = 'CANCELLED') AS cancelled,
            sum(runs) FILTER (WHERE dead) AS dead, sum(compute_ms) AS compute_ms
        FROM outcome_cells LEFT JOIN owners USING (owner) GROUP BY 1
    ),
    ranked AS (
        SELECT *, coalesce(asked.username, ended.username) AS shown,
            least(row_number() OVER (ORDER BY coalesce(requests, 0) DESC, label), {limit} + 1) AS place
        FROM asked FULL JOIN ended USING (label) LEFT JOIN latency USING (label)
    )
    SELECT jsonb_build_object('is_exact', (SELECT is_exact FROM size),
        'rows', coalesce(jsonb_agg(to_jsonb(line) - 'place' ORDER BY place), '[]'))
    FROM (
        SELECT place, CASE WHEN place > {limit} THEN {others} ELSE {name} END AS name,
            CASE WHEN place <= {limit} THEN {id} END AS id,
            coalesce(sum(requests), 0) AS requests, coalesce(sum(errors), 0) AS errors,
            coalesce(sum(completed), 0) AS completed, coalesce(sum(failed), 0) AS failed,
            coalesce(sum(cancelled), 0) AS cancelled, coalesce(sum(dead), 0) AS dead,
            CASE WHEN place <= {limit} THEN round(max(p50)::numeric, 2) END AS latency_p50_ms,
            CASE WHEN place <= {limit} THEN round(max(p95)::numeric, 2) END AS latency_p95_ms,
            CASE WHEN place <= {limit} THEN round(max(p99)::numeric, 2) END AS latency_p99_ms,
            coalesce(sum(bytes), 0) AS bytes, round(coalesce(sum(compute_ms), 0) / 1000, 3) AS compute_seconds
        FROM (SELECT place, label, shown AS username, requests, errors, bytes, completed, failed, cancelled, dead,
            compute_ms, p50, p95, p99 FROM ranked) AS placed
        GROUP BY place
    ) AS line
"""


def table_by(table: Table, scope: Scope, limit: int) -> str:
    """One table: the `limit` labels with most requests, and the rest in one row without latency."""
    return write(
        CELLS + _OUTCOMES + _LATENCY + _JOINED,
        scope,
        label=SQL(table.requests),
        owner_label=SQL(table.outcomes),
        name=SQL(table.name),
        id=SQL(table.id),
        username=SQL(table.username),
        limit=Literal(limit),
        others=Literal(OTHERS),
        exact_below=Literal(EXACT_BELOW),
    )
