"""A connection for reports and retention: a deadline on everything, and faults in words for the person who asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from serve_app.usage.report.window import ReportError

CONNECT_TIMEOUT_S: Final = 10
STATEMENT_TIMEOUT_S: Final = 300
TABLES_MISSING: Final = "the database has not this version's tables; run `semapi migrate`"


@contextmanager
def connected(url: str) -> Iterator[psycopg.Connection]:
    """A connection that commits each statement. Whatever PostgreSQL says inside becomes a `ReportError`."""
    try:
        if not conninfo_to_dict(url):
            raise ReportError("no database: set DATABASE_URL, give --dsn, or start `semapi up` here")
    except psycopg.ProgrammingError:  # its text would show a part of the password
        raise ReportError("the database's address is no PostgreSQL URL; percent-encode what is special in it") from None
    try:
        with psycopg.connect(
            url, connect_timeout=CONNECT_TIMEOUT_S, autocommit=True, tcp_user_timeout=STATEMENT_TIMEOUT_S * 1000
        ) as connection:
            connection.execute("SELECT set_config('statement_timeout', %s, false)", [f"{STATEMENT_TIMEOUT_S}s"])
            yield connection
    except psycopg.errors.UndefinedTable:
        raise ReportError(TABLES_MISSING) from None
    except psycopg.OperationalError as error:
        raise ReportError(f"PostgreSQL did not answer: {str(error).strip()}") from error
    except psycopg.Error as error:
        raise ReportError(f"PostgreSQL refused: {error.diag.message_primary or error}") from error
