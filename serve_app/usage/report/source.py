"""The two ways to the tables: a PostgreSQL URL, or `psql` in the database's pod through `kubectl exec`.

Everything has a deadline, and faults become sentences for the person who asked for the report."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, Protocol

import psycopg
from psycopg.conninfo import conninfo_to_dict

from serve_app.usage.report.statements import PREPARE, STATEMENT_TIMEOUT_S
from serve_app.usage.report.window import ReportError

READ_TIMEOUT_S: Final = 600
"""Deadline of a whole report from the command line, by either way."""
CUT_S: Final = 0.5
"""PostgreSQL itself ends the last statement this long before the connection is cut; else it would go on unseen."""
POD: Final = "postgresql-0"
PSQL: Final = (
    'PGPASSWORD="$POSTGRES_PASSWORD" PGCLIENTENCODING=UTF8 '
    'exec psql -U "${POSTGRES_USER:-postgres}" -d "${POSTGRES_DB:-app}" -X -q -t -A -v ON_ERROR_STOP=1'
)
_NAMESPACE: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
CONNECT_TIMEOUT_S: Final = 10
TABLES_MISSING: Final = "the database lacks tables of this version; run `semapi migrate`"


class Source(Protocol):
    """Where a report reads its data."""

    def read(self, statements: Sequence[str]) -> list[Any]:
        """One JSON value per statement, all from one snapshot. Raises `ReportError`."""
        ...


class UrlSource:
    """A PostgreSQL URL."""

    def __init__(self, url: str, within_s: float = READ_TIMEOUT_S) -> None:
        """`within_s` bounds every read; at most a third of it is spent on connecting (at least 2 s)."""
        self._url = url
        self._within_s = within_s

    def read(self, statements: Sequence[str]) -> list[Any]:
        """As `Source.read`. Raises `DatabaseAway` or `TooSlow` if the time is up."""
        deadline = time.monotonic() + self._within_s
        connect_timeout_s = max(2, min(CONNECT_TIMEOUT_S, int(self._within_s / 3)))
        with (
            connected(self._url, connect_timeout_s) as connection,
            closed_within(connection, deadline - time.monotonic()),
        ):
            for statement in PREPARE:
                connection.execute(statement.encode())
            return [_only_value(connection, statement, deadline - CUT_S) for statement in statements]


def _only_value(connection: psycopg.Connection, statement: str, deadline: float) -> Any:
    left_ms = int((deadline - time.monotonic()) * 1000)
    if left_ms <= 0:
        raise TooSlow("the report did not finish in time; choose a shorter window")
    timeout_ms = min(left_ms, STATEMENT_TIMEOUT_S * 1000)
    connection.execute("SELECT set_config('statement_timeout', %s, true)", [str(timeout_ms)])
    row = connection.execute(statement.encode()).fetchone()
    return row[0] if row else None


class PodSource:
    """The database's pod in a namespace; account, database and password come from the pod."""

    def __init__(self, namespace: str) -> None:
        if not _NAMESPACE.fullmatch(namespace):
            raise ReportError(f"{namespace!r} is not a namespace name")
        self.command = ["kubectl", "exec", "-i", "-n", namespace, POD, "--", "bash", "-lc", PSQL]

    def read(self, statements: Sequence[str]) -> list[Any]:
        """As `Source.read`."""
        script = "".join(f"{statement};\n" for statement in (*PREPARE, *statements))
        try:
            done = subprocess.run(
                self.command, input=script, encoding="utf-8", capture_output=True, timeout=READ_TIMEOUT_S
            )
        except FileNotFoundError:
            raise ReportError("kubectl is not installed; --dsn reads a database by its URL") from None
        except subprocess.TimeoutExpired:
            raise ReportError(f"kubectl exec gave no answer for {READ_TIMEOUT_S} s") from None
        if done.returncode != 0:
            said = done.stderr.strip() or done.stdout.strip() or f"kubectl ended with {done.returncode}"
            raise ReportError(TABLES_MISSING if 'usage_hourly" does not exist' in said else said)
        lines = [line for line in done.stdout.split("\n") if line]  # splitlines would split names too
        try:
            values = [json.loads(line) for line in lines]
        except ValueError as error:
            raise ReportError("psql in the pod did not answer with JSON") from error
        if len(values) != len(statements):
            raise ReportError(f"psql in the pod gave {len(values)} answers to {len(statements)} questions")
        return values


class DatabaseAway(ReportError):
    """The database cannot be read now. The message is for operators: it may name hosts and accounts."""


class TooSlow(ReportError):
    """The time was up before the report was ready."""


@contextmanager
def connected(url: str, connect_timeout_s: int = CONNECT_TIMEOUT_S) -> Iterator[psycopg.Connection]:
    """An autocommit connection. PostgreSQL's errors inside the block become `ReportError`s."""
    try:
        if not conninfo_to_dict(url):
            raise DatabaseAway("no database: set DATABASE_URL, give --dsn, or start `semapi up` here")
    except psycopg.ProgrammingError:  # its message would show a part of the password
        raise DatabaseAway(
            "the database's address is not a PostgreSQL URL; percent-encode special characters"
        ) from None
    try:
        with psycopg.connect(
            url, connect_timeout=connect_timeout_s, autocommit=True, tcp_user_timeout=STATEMENT_TIMEOUT_S * 1000
        ) as connection:
            connection.execute("SELECT set_config('statement_timeout', %s, false)", [f"{STATEMENT_TIMEOUT_S}s"])
            yield connection
    except psycopg.errors.UndefinedTable:
        raise DatabaseAway(TABLES_MISSING) from None
    except psycopg.errors.QueryCanceled as error:
        raise TooSlow("PostgreSQL did not finish in time; choose a shorter window") from error
    except psycopg.OperationalError as error:
        raise DatabaseAway(f"PostgreSQL did not answer: {str(error).strip()}") from error
    except psycopg.DataError as error:  # invalid input that only PostgreSQL detects
        raise ReportError(_refusal(error)) from error
    except psycopg.Error as error:
        raise DatabaseAway(_refusal(error)) from error


def _refusal(error: psycopg.Error) -> str:
    return f"PostgreSQL refused: {error.diag.message_primary or error}"


@contextmanager
def closed_within(connection: psycopg.Connection, seconds: float) -> Iterator[None]:
    """Close the connection after the block, and cut it off after `seconds` even inside.

    A frozen server accepts a query and never replies; TCP does not notice, and PostgreSQL's own timeouts are frozen
    too.
    """
    line = socket.socket(fileno=os.dup(connection.fileno()))
    timer = threading.Timer(seconds, _cut, (line,))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        connection.close()
        line.close()


def _cut(line: socket.socket) -> None:
    with suppress(OSError):  # the server has closed it already
        line.shutdown(socket.SHUT_RDWR)
