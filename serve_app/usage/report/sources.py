"""The two ways to the tables: a PostgreSQL URL, or `psql` in the database's pod through `kubectl exec`."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Sequence
from typing import Any, Final, Protocol

import psycopg

from serve_app.usage.report.connection import (
    CONNECT_TIMEOUT_S,
    STATEMENT_TIMEOUT_S,
    TABLES_MISSING,
    TooSlow,
    closed_within,
    connected,
)
from serve_app.usage.report.statements import PREPARE
from serve_app.usage.report.window import ReportError

READ_TIMEOUT_S: Final = 600
"""Deadline of a whole report from the command line, whichever way it is read."""
CUT_S: Final = 0.5
"""So long before a read is cut off, PostgreSQL ends its last statement itself: else it would go on for nobody."""
POD: Final = "postgresql-0"
PSQL: Final = (
    'PGPASSWORD="$POSTGRES_PASSWORD" PGCLIENTENCODING=UTF8 '
    'exec psql -U "${POSTGRES_USER:-postgres}" -d "${POSTGRES_DB:-app}" -X -q -t -A -v ON_ERROR_STOP=1'
)
_NAMESPACE: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class Source(Protocol):
    """Where a report reads."""

    def read(self, statements: Sequence[str]) -> list[Any]:
        """The one JSON value of each statement, all of the same moment. Raises `ReportError`."""
        ...


class Database:
    """A PostgreSQL URL."""

    def __init__(self, url: str, within_s: float = READ_TIMEOUT_S) -> None:
        """`within_s`: every read has ended by then, a third of it at most spent on connecting (2 s at least)."""
        self._url = url
        self._within_s = within_s

    def read(self, statements: Sequence[str]) -> list[Any]:
        """As `Source.read`. Raises `DatabaseAway` or `TooSlow` where the time is up."""
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
        raise TooSlow("the time for the report is up; take less time at once")
    timeout_ms = min(left_ms, STATEMENT_TIMEOUT_S * 1000)
    connection.execute("SELECT set_config('statement_timeout', %s, true)", [str(timeout_ms)])
    row = connection.execute(statement.encode()).fetchone()
    return row[0] if row else None


class Pod:
    """The database's pod in a namespace; the account, the database and the password are the pod's own."""

    def __init__(self, namespace: str) -> None:
        if not _NAMESPACE.fullmatch(namespace):
            raise ReportError(f"{namespace!r} is no namespace's name")
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
        lines = [line for line in done.stdout.split("\n") if line]  # names may hold what splitlines cuts at
        try:
            values = [json.loads(line) for line in lines]
        except ValueError as error:
            raise ReportError("psql in the pod answered something that is not JSON") from error
        if len(values) != len(statements):
            raise ReportError(f"psql in the pod gave {len(values)} answers to {len(statements)} questions")
        return values
