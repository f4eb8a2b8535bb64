"""The writer's PostgreSQL connection: a deadline on everything, one transaction per batch, refused rows found alone."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from serve_app.usage.entries import INSERTS, Row, as_parameter

CONNECT_TIMEOUT_S: Final = 5
STATEMENT_TIMEOUT_MS: Final = 10_000
TRANSACTION_TIMEOUT_S: Final = 15.0


class Database:
    """One connection, opened when needed and again after a failure."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: psycopg.AsyncConnection | None = None

    async def open(self) -> psycopg.AsyncConnection:
        """The connection, made unless it is there. Raises `psycopg.Error`."""
        if self._connection is None or self._connection.closed:
            self._connection = await self._connect()
        return self._connection

    async def _connect(self) -> psycopg.AsyncConnection:
        try:
            if not conninfo_to_dict(self._url):
                raise psycopg.InterfaceError("DATABASE_URL is not set")
        except psycopg.ProgrammingError:  # its text would show a part of the password
            raise psycopg.InterfaceError("DATABASE_URL is no PostgreSQL URL") from None
        return await psycopg.AsyncConnection.connect(
            self._url,
            autocommit=True,
            prepare_threshold=None,  # a pooler in between may not keep prepared statements
            connect_timeout=CONNECT_TIMEOUT_S,
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
            tcp_user_timeout=int(TRANSACTION_TIMEOUT_S * 1000),
        )

    async def close(self) -> None:
        """Let the connection go; `open` makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def store(self, rows: Mapping[bytes, Row]) -> dict[bytes, str]:
        """Commit all rows but those PostgreSQL can never take; these come back with the reason.

        Rows that are there already are left as they are. Raises `psycopg.Error` or `TimeoutError` when the fault is
        not the rows': then some of them may have been committed, and storing all again is right.
        """
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


def _is_refusal(error: psycopg.Error) -> bool:
    """True when the rows are at fault, so that trying again cannot help. Class 54: a value beyond a limit of the
    server's, such as JSON nested too deep; psycopg counts it among the operational errors."""
    return isinstance(error, psycopg.DataError | psycopg.IntegrityError) or (error.sqlstate or "").startswith("54")


def _reason(error: psycopg.Error) -> str:
    return f"{error.sqlstate or 'client'}: {error.diag.message_primary or error}"
