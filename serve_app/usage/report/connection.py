"""A connection for reports and retention: a deadline on everything, and faults in words for the person who asked."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from serve_app.usage.report.window import ReportError

CONNECT_TIMEOUT_S: Final = 10
STATEMENT_TIMEOUT_S: Final = 300
TABLES_MISSING: Final = "the database has not this version's tables; run `semapi migrate`"


class DatabaseAway(ReportError):
    """The database cannot be read now. The text is for operators: it may name hosts and accounts."""


class TooSlow(ReportError):
    """The time was up before the report was ready."""


@contextmanager
def connected(url: str, connect_timeout_s: int = CONNECT_TIMEOUT_S) -> Iterator[psycopg.Connection]:
    """A connection that commits each statement. Whatever PostgreSQL says inside becomes a `ReportError`."""
    try:
        if not conninfo_to_dict(url):
            raise DatabaseAway("no database: set DATABASE_URL, give --dsn, or start `semapi up` here")
    except psycopg.ProgrammingError:  # its text would show a part of the password
        raise DatabaseAway(
            "the database's address is no PostgreSQL URL; percent-encode what is special in it"
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
        raise TooSlow("PostgreSQL needs more time for this than it was given; take less time at once") from error
    except psycopg.OperationalError as error:
        raise DatabaseAway(f"PostgreSQL did not answer: {str(error).strip()}") from error
    except psycopg.DataError as error:  # words of the person's that only PostgreSQL finds wrong
        raise ReportError(_refusal(error)) from error
    except psycopg.Error as error:
        raise DatabaseAway(_refusal(error)) from error


def _refusal(error: psycopg.Error) -> str:
    return f"PostgreSQL refused: {error.diag.message_primary or error}"


@contextmanager
def closed_within(connection: psycopg.Connection, seconds: float) -> Iterator[None]:
    """Close the connection after the block, and cut it inside after `seconds`.

    A server that stands still takes a question and never answers it; TCP sees no fault there, and PostgreSQL's own
    timeouts stand still too.
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
    with suppress(OSError):  # the server was faster
        line.shutdown(socket.SHUT_RDWR)
