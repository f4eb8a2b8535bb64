"""Connections to PostgreSQL, and what each kind of outbox entry becomes in its tables.

Values stay what they are in the stream. PostgreSQL converts them, so only PostgreSQL decides what can be
stored, and every entry that it refuses is found in the same way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, LiteralString

import psycopg
from psycopg.conninfo import conninfo_to_dict

from serve_app.connections import end_tasks
from serve_app.texts import sanitize_text

CONNECT_TIMEOUT_S: Final = 5
STATEMENT_TIMEOUT_MS: Final = 10_000
TRANSACTION_TIMEOUT_S: Final = 15.0
_DETAIL_LIMIT: Final = 4000
_SHOWN_LIMIT: Final = 2000
Fields = Mapping[bytes, bytes]
Parameters = Sequence[Any] | Mapping[str, Any]


class Database:
    """One connection, opened when needed and reopened after a failure."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: psycopg.AsyncConnection | None = None

    async def open(self) -> psycopg.AsyncConnection:
        """The connection, opened if necessary. Raises `psycopg.Error`."""
        if self._connection is None or self._connection.closed:
            self._connection = await self._connect()
        return self._connection

    async def _connect(self) -> psycopg.AsyncConnection:
        try:
            if not conninfo_to_dict(self._url):
                raise psycopg.InterfaceError("DATABASE_URL is not set")
        except psycopg.ProgrammingError:  # its text would show a part of the password
            raise psycopg.InterfaceError("DATABASE_URL is not a PostgreSQL URL") from None
        return await psycopg.AsyncConnection.connect(
            self._url,
            autocommit=True,
            prepare_threshold=None,  # a connection pooler may not keep prepared statements
            connect_timeout=CONNECT_TIMEOUT_S,
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
            tcp_user_timeout=int(TRANSACTION_TIMEOUT_S * 1000),
        )

    async def close(self) -> None:
        """Close the connection; `open` makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def store(self, rows: Mapping[bytes, Row]) -> dict[bytes, str]:
        """Commit all rows except those that PostgreSQL refuses; returns these with the reason.

        Existing rows stay unchanged. Raises `psycopg.Error` or `TimeoutError` if the fault is not in the rows: then
        some may have been committed, and the caller may store all again."""
        try:
            await self._insert(list(rows.values()))
        except psycopg.Error as error:
            if not _is_refusal(error):
                raise
            if len(rows) == 1:
                return dict.fromkeys(rows, _reason(error))
        else:
            return {}
        pairs = list(rows.items())
        middle = len(pairs) // 2
        return await self.store(dict(pairs[:middle])) | await self.store(dict(pairs[middle:]))

    async def _insert(self, rows: Sequence[Row]) -> None:
        connection = await self.open()
        async with asyncio.timeout(TRANSACTION_TIMEOUT_S), connection.transaction():
            await connection.execute("SELECT set_config('statement_timeout', %s, true)", [str(STATEMENT_TIMEOUT_MS)])
            for kind, insert in INSERTS.items():
                if group := [row for row in rows if row.kind == kind]:
                    await connection.execute(insert, [as_parameter(group)])


class Queries:
    """Asks one query at a time, over one connection that is opened when needed."""

    def __init__(self, url: str) -> None:
        self._database = Database(url)
        self._turn = asyncio.Lock()

    async def fetch(self, statement: LiteralString, parameters: Parameters, within_s: float) -> list[Any]:
        """The rows of a statement that reads, within so many seconds, including the wait for its turn.

        Raises `psycopg.Error`, `TimeoutError` or `OSError`.
        """
        return await self._in_turn(partial(_read, statement, parameters), within_s)

    async def change(self, statement: LiteralString, parameters: Parameters, within_s: float) -> list[Any]:
        """The rows of a statement that writes, once they are committed. Otherwise as `fetch`.

        In a transaction: a server that hangs before the commit has changed nothing when it continues.
        """
        return await self._in_turn(partial(_write, statement, parameters), within_s)

    async def close(self) -> None:
        """Close the connection."""
        await self._database.close()

    async def _in_turn(
        self, ask: Callable[[psycopg.AsyncConnection], Awaitable[list[Any]]], within_s: float
    ) -> list[Any]:
        async with asyncio.timeout(within_s), self._turn:
            asking = asyncio.create_task(self._ask(ask))
            try:
                return await asyncio.shield(asking)
            finally:  # else psycopg waits ten seconds for a silent server to cancel the query
                await end_tasks([asking])

    async def _ask(self, ask: Callable[[psycopg.AsyncConnection], Awaitable[list[Any]]]) -> list[Any]:
        try:
            return await ask(await self._database.open())
        except BaseException:  # also on cancellation: the connection may be in the middle of a query
            await self._database.close()
            raise


async def _read(statement: LiteralString, parameters: Parameters, connection: psycopg.AsyncConnection) -> list[Any]:
    return await (await connection.execute(statement, parameters)).fetchall()


async def _write(statement: LiteralString, parameters: Parameters, connection: psycopg.AsyncConnection) -> list[Any]:
    await connection.execute("BEGIN")
    rows = await _read(statement, parameters, connection)
    await connection.execute("COMMIT")
    return rows


def _is_refusal(error: psycopg.Error) -> bool:
    """True if the rows are at fault, so that a retry cannot help. Class 54: a value exceeds a limit of the server, such
    as too deeply nested JSON; psycopg classifies it as an operational error."""
    return isinstance(error, psycopg.DataError | psycopg.IntegrityError) or (error.sqlstate or "").startswith("54")


def _reason(error: psycopg.Error) -> str:
    return f"{error.sqlstate or 'client'}: {error.diag.message_primary or error}"


INSERTS: Final[Mapping[str, LiteralString]] = {
    "usage": """
        INSERT INTO api_usage (event_id, timestamp, username, endpoint_type, status_code, url_path, latency_ms,
            request_bytes, job_id, model, request_id, principal_id, group_name)
        SELECT event_id, to_timestamp(timestamp / 1000.0), username, endpoint_type, status_code, url_path, latency_ms,
            request_bytes, NULLIF(job_id, ''), NULLIF(model, ''), request_id, principal_id, NULLIF("group", '')
        FROM json_to_recordset(%s::json) AS event (event_id text, timestamp bigint, username text, endpoint_type text,
            status_code integer, url_path text, latency_ms double precision, request_bytes bigint, job_id text,
            model text, request_id text, principal_id text, "group" text)
        ON CONFLICT (event_id) DO NOTHING
    """,
    "outcome": """
        INSERT INTO job_outcomes (job_id, run, owner, model, status, dead, slug, detail, result, deliveries,
            submitted_at, started_at, completed_at)
        SELECT job_id, run, owner, model, status, dead, NULLIF(slug, ''), NULLIF(detail, ''),
            NULLIF(result, '')::jsonb, deliveries, to_timestamp(submitted_at / 1000.0),
            to_timestamp(NULLIF(NULLIF(started_at, ''), '0')::bigint / 1000.0), to_timestamp(completed_at / 1000.0)
        FROM json_to_recordset(%s::json) AS event (job_id text, run integer, owner text, model text, status text,
            dead boolean, slug text, detail text, result text, deliveries integer, submitted_at bigint,
            started_at text, completed_at bigint)
        ON CONFLICT (job_id, run) DO NOTHING
    """,
    # Another writer may store it before the outcome; then the outcome finds its row and changes nothing.
    "removal": """
        WITH removed AS (
            SELECT job_id, run, owner, model, status, dead, deliveries,
                to_timestamp(submitted_at / 1000.0) AS submitted,
                to_timestamp(NULLIF(NULLIF(started_at, ''), '0')::bigint / 1000.0) AS started,
                to_timestamp(completed_at / 1000.0) AS completed, to_timestamp(removed_at / 1000.0) AS removed
            FROM json_to_recordset(%s::json) AS event (job_id text, run integer, owner text, model text, status text,
                dead boolean, deliveries integer, submitted_at bigint, started_at text, completed_at bigint,
                removed_at bigint)
        ), earlier_runs AS (
            UPDATE job_outcomes AS outcome SET result = NULL, detail = NULL, removed_at = removed.removed FROM removed
            WHERE outcome.job_id = removed.job_id AND outcome.run < removed.run
        )
        INSERT INTO job_outcomes (job_id, run, owner, model, status, dead, deliveries, submitted_at, started_at,
            completed_at, removed_at)
        SELECT * FROM removed
        ON CONFLICT (job_id, run) DO UPDATE SET result = NULL, detail = NULL, removed_at = EXCLUDED.removed_at
    """,
    "audit": """
        INSERT INTO admin_audit (event_id, timestamp, principal_id, username, action, target, detail, address,
            request_id)
        SELECT event_id, to_timestamp(timestamp / 1000.0), principal_id, username, action, target,
            NULLIF(detail, '')::jsonb, address, request_id
        FROM json_to_recordset(%s::json) AS event (event_id text, timestamp bigint, principal_id text, username text,
            action text, target text, detail text, address text, request_id text)
        ON CONFLICT (event_id) DO NOTHING
    """,
    "gap": """
        INSERT INTO usage_gaps (event_id, since, until, missing)
        SELECT event_id, to_timestamp(since / 1000.0), to_timestamp(until / 1000.0), missing
        FROM json_to_recordset(%s::json) AS event (event_id text, since bigint, until bigint, missing bigint)
        ON CONFLICT (event_id) DO NOTHING
    """,
}


def is_foreign(fields: Fields) -> bool:
    """Whether this release does not know the kind of the entry: a newer release may have written it."""
    return bool(fields) and fields.get(b"kind", b"").decode(errors="replace") not in INSERTS


class Malformed(ValueError):
    """The entry is not a valid event."""


@dataclass(frozen=True, slots=True)
class Row:
    """One entry on its way to a table."""

    kind: str
    values: str
    """A JSON object, as PostgreSQL reads it."""


def read_row(fields: Fields) -> Row:
    """The row of one entry. Raises `Malformed` for text that is not UTF-8 and for an unknown kind."""
    try:
        kind = fields.get(b"kind", b"").decode()
        if kind == "usage":  # by far the most: gateways write it as one JSON text, which is passed on unchanged
            event = fields.get(b"event", b"").decode()
            values = json.loads(event)
        else:
            values = {name.decode(): value.decode() for name, value in fields.items() if name != b"kind"}
    except (ValueError, RecursionError) as error:
        raise Malformed("the entry is not UTF-8 text, or not JSON") from error
    if kind not in INSERTS:
        raise Malformed(f"no table takes entries of the kind {kind!r}")
    if kind in ("usage", "audit") and not (isinstance(values, dict) and values.get("event_id")):
        raise Malformed("an event without its id could be counted twice")
    if kind == "usage":
        return Row(kind, event)
    if detail := values.get("detail"):
        values["detail"] = sanitize_text(detail, _DETAIL_LIMIT)
    return Row(kind, json.dumps(values, ensure_ascii=False))


def as_parameter(rows: Sequence[Row]) -> str:
    """The parameter of a statement of `INSERTS`."""
    return f"[{','.join(row.values for row in rows)}]"


def as_refused(entry_id: bytes, fields: Fields, reason: str) -> str:
    """A refused entry in readable form: JSON with the reason, every value cut to a readable length."""
    shown = {_show(name): _show(value) for name, value in fields.items()}
    return json.dumps({"entry": entry_id.decode(), "reason": sanitize_text(reason, _SHOWN_LIMIT), "fields": shown})


def _show(raw: bytes) -> str:
    return raw[:_SHOWN_LIMIT].decode(errors="backslashreplace")
