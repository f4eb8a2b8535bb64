"""What tests ask of the servers: quick ones, copies of a database, an empty job Redis."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg
from pydantic import SecretStr
from redis import Redis as BlockingRedis
from stray_keys import strays

from serve_app.local.postgres import Postgres
from serve_app.local.valkey import Valkey
from serve_app.settings import Settings
from serve_app.usage.migrations import migrate

TEMPLATE: Final = "migrated"


class QuickPostgres(Postgres):
    """Its data outlive its process, but not the machine."""

    def _command(self) -> list[str]:
        return [*super()._command(), "-c", "fsync=off", "-c", "full_page_writes=off"]


def make_template(postgres: Postgres) -> str:
    """Make a database that has its tables, to be copied; returns its name."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {TEMPLATE}")
    migrate(_url(postgres, TEMPLATE))
    return TEMPLATE


@contextmanager
def copied_database(postgres: Postgres, template: str) -> Iterator[str]:
    """URL of a copy of a database that nobody is connected to."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
    yield _url(postgres, name)
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def empty_redis(valkey: Valkey, database_url: str = "") -> Iterator[Settings]:
    """Settings of an empty job Redis. In the end it holds no key that no table has, nor one against its row, and is
    configured as before."""
    with BlockingRedis.from_url(valkey.url) as client:
        client.flushall()
        before = client.config_get("*")
    yield Settings(redis_url=SecretStr(valkey.url), database_url=SecretStr(database_url))
    with BlockingRedis.from_url(valkey.url) as client:
        assert strays(client) == []
        assert client.config_get("*") == before


def _url(postgres: Postgres, database: str) -> str:
    return f"{postgres.url.rsplit('/', 1)[0]}/{database}"
