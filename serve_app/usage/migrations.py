"""Bring a PostgreSQL database to the tables of this version: numbered SQL files, each applied once, in order.

A published file is never edited; a change is the next number. Files only add, so that the previous version still
runs on the result.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import PGconn, Ping

CONNECT_TIMEOUT_S = 10
ASK_AGAIN_S = 0.5
PING_TIMEOUT_S = 3
LOCK_TIMEOUT_MS = 60_000
STATEMENT_TIMEOUT_MS = 600_000
"""A large existing table is rewritten once for 64-bit ids."""

_LOCK = 7_364_201
"""Number of the advisory lock; any value that nothing else in this database uses."""

_HISTORY = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    name       TEXT PRIMARY KEY,
    sha256     TEXT NOT NULL,
    applied_at TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP
)
"""


class MigrationError(Exception):
    """The database could not be migrated; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One SQL file. `name` begins with its number, so that names sort in the order of application."""

    name: str
    sql: bytes

    @property
    def sha256(self) -> str:
        return sha256(self.sql).hexdigest()


def read_migrations() -> list[Migration]:
    """The SQL files of this version, in order."""
    folder = files(__package__).joinpath("sql")
    found = [Migration(file.name, file.read_bytes()) for file in folder.iterdir() if file.name.endswith(".sql")]
    return sorted(found, key=lambda migration: migration.name)


def migrate(database_url: str, *, wait_s: float = 0.0, say: Callable[[str], None] = print) -> list[str]:
    """Apply the missing files, all or none, and return their names.

    Waits up to `wait_s` for a server that does not answer yet, and reports it by `say`.

    Safe to repeat and to call from several processes: an advisory lock admits one at a time.
    Raises `MigrationError` if the database is down or refuses, or if an applied file was edited since.
    """
    try:
        if not conninfo_to_dict(database_url):
            raise MigrationError("DATABASE_URL is not set.")
    except psycopg.ProgrammingError:  # its text would show a part of the password
        raise MigrationError("DATABASE_URL is not a PostgreSQL URL; percent-encode special characters.") from None
    _wait_for_server(database_url, wait_s, say)
    try:
        with psycopg.connect(database_url, connect_timeout=CONNECT_TIMEOUT_S, autocommit=True) as connection:
            return _apply(connection, read_migrations())
    except psycopg.errors.LockNotAvailable as error:
        raise MigrationError("Another session holds the tables or is migrating; nothing was changed.") from error
    except psycopg.OperationalError as error:
        raise MigrationError(f"PostgreSQL is not reachable; check DATABASE_URL. It said: {error}") from error
    except psycopg.Error as error:
        raise MigrationError(f"PostgreSQL refused a migration; nothing was changed: {error}") from error


def _wait_for_server(database_url: str, wait_s: float, say: Callable[[str], None]) -> None:
    """Wait: a new pod's first connections may be refused until the network knows it, and a server may be starting.

    Returns after `wait_s` at the latest: the connection that follows reports the error.
    """
    asked = make_conninfo(database_url, connect_timeout=PING_TIMEOUT_S).encode()
    deadline, waits = time.monotonic() + wait_s, False
    while time.monotonic() < deadline and PGconn.ping(asked) in (Ping.NO_RESPONSE, Ping.REJECT):
        if not waits:
            say(f"waiting up to {wait_s:g} s for PostgreSQL")
        waits = True
        time.sleep(ASK_AGAIN_S)


def _apply(connection: psycopg.Connection, migrations: list[Migration]) -> list[str]:
    with connection.transaction():
        _set_local(connection, "lock_timeout", LOCK_TIMEOUT_MS)
        _set_local(connection, "statement_timeout", STATEMENT_TIMEOUT_MS)
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        connection.execute(_HISTORY)
        applied: dict[str, str] = dict(connection.execute("SELECT name, sha256 FROM schema_migrations").fetchall())
        missing = []
        for migration in migrations:
            if (known := applied.get(migration.name)) is None:
                connection.execute(migration.sql)
                connection.execute(
                    "INSERT INTO schema_migrations (name, sha256) VALUES (%s, %s)", [migration.name, migration.sha256]
                )
                missing.append(migration.name)
            elif known != migration.sha256:
                raise MigrationError(
                    f"{migration.name} was edited after it was applied to this database; "
                    "restore the file and put the change into a new one."
                )
        return missing


def _set_local(connection: psycopg.Connection, name: str, milliseconds: int) -> None:
    """For this transaction only: a pooled connection is returned unchanged."""
    connection.execute("SELECT set_config(%s, %s, true)", [name, str(milliseconds)])
