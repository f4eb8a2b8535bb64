"""The SQL of the figures by user, group and model: requests, errors, outcomes, bytes, compute time, latency.

Requests carry a name and a group, outcomes only their owner: an owner's name and group are those of the owner's
latest request up to the window's end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, LiteralString

from psycopg.sql import SQL, Literal

from serve_app.usage.report.statements import CELLS, EXACT_BELOW, LATEST_NAME, OTHERS, PERSON, Scope, write


@dataclass(frozen=True, slots=True)
class Table:
    """What one table counts by: an expression over the columns of requests, and one over those of outcomes."""

    requests: LiteralString
    outcomes: LiteralString
    name: LiteralString
    """How a label is shown."""
    id: LiteralString = "NULL"
    """What tells apart labels that are shown alike."""
    username: LiteralString = "NULL::text"
    """Of the requests of a label: the name that `name` is made of."""


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

# Rows are exact, but only as long as they are few and all there; the sums outlive them. The branch that is not taken
# is never run: PostgreSQL sees its condition before it starts.
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


def by(table: Table, scope: Scope, limit: int) -> str:
    """One table: the `limit` labels with most requests, the rest in one line without latency."""
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
