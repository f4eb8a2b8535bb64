"""Migrations: from nothing, from the source system's table, again, at once, and never halfway."""

import re
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import psycopg
import pytest
from redis.asyncio import Redis
from usage_events import rows, running, until_settled, usage_event

from serve_app.settings import Settings
from serve_app.usage.migrations import MigrationError, migrate, read_migrations
from serve_app.usage.outbox import Outbox

ALL = [migration.name for migration in read_migrations()]
COLUMNS = """
    SELECT table_name, column_name, data_type, character_maximum_length, is_nullable, is_identity
    FROM information_schema.columns WHERE table_schema = 'public' ORDER BY table_name, column_name
"""
SOURCE_TABLE = """
    CREATE TABLE IF NOT EXISTS api_usage (
        id SERIAL PRIMARY KEY, timestamp TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP,
        username VARCHAR(250) NOT NULL, service_name VARCHAR(255) DEFAULT 'sem-image-classifier',
        endpoint_type VARCHAR(50) NOT NULL, status_code INTEGER, url_path TEXT NOT NULL);
    CREATE INDEX idx_api_usage_timestamp ON api_usage(timestamp);
    CREATE INDEX idx_api_usage_username ON api_usage(username);
    INSERT INTO api_usage (timestamp, username, endpoint_type, status_code, url_path)
        SELECT '2026-01-01T00:00:00Z', 'user' || number, 'inference', 200, '/api/v1/inference'
        FROM generate_series(1, 7) AS number;
"""
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "usage.md"


def make_source_table(database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute(SOURCE_TABLE)


def test_again_changes_nothing(database: str) -> None:
    assert migrate(database) == ALL
    assert migrate(database) == []


def test_callers_at_once_apply_each_file_once(database: str) -> None:
    with ThreadPoolExecutor(4) as threads:
        applied = list(threads.map(migrate, [database] * 4))
    assert sorted(applied) == [[], [], [], ALL]


def test_an_edited_file_is_refused(database: str) -> None:
    migrate(database)
    with psycopg.connect(database) as connection:
        connection.execute("UPDATE schema_migrations SET sha256 = 'other' WHERE name = %s", [ALL[0]])
    with pytest.raises(MigrationError, match=f"{ALL[0]} was edited"):
        migrate(database)


def test_a_migration_that_fails_leaves_nothing_behind(database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE usage_gaps (mine INTEGER)")
    before = rows(database, COLUMNS)
    with pytest.raises(MigrationError, match="usage_gaps"):
        migrate(database)
    assert rows(database, COLUMNS) == before


async def test_the_source_systems_table_is_adopted(redis: Redis, settings: Settings, database: str) -> None:
    make_source_table(database)
    before = rows(database, "SELECT id, timestamp, username, service_name, status_code, url_path FROM api_usage")
    assert migrate(database) == ALL
    await Outbox(redis, settings).record(usage_event(event_id="new"))
    async with running(redis, settings):
        await until_settled(redis)
    old = "SELECT id, timestamp, username, service_name, status_code, url_path FROM api_usage WHERE event_id IS NULL"
    assert sorted(rows(database, old)) == sorted(before)
    assert rows(database, "SELECT id, event_id FROM api_usage WHERE event_id IS NOT NULL") == [(8, "new")]


def test_an_adopted_table_is_like_a_new_one(database: str) -> None:
    migrate(database)
    indexes = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"
    fresh, fresh_indexes = rows(database, COLUMNS), rows(database, indexes)
    with psycopg.connect(database) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    make_source_table(database)
    migrate(database)
    assert rows(database, COLUMNS) == fresh
    assert rows(database, indexes) == fresh_indexes


def test_every_table_and_column_is_documented(database: str) -> None:
    migrate(database)
    text = DOCUMENT.read_text("utf-8")
    for table, column, *_ in rows(database, COLUMNS):
        section = text.split(f"### `{table}`", 1)[1].split("\n##", 1)[0]
        assert f"| `{column}` |" in section, f"{table}.{column}"


def test_every_number_is_there_once() -> None:
    names = [migration.name for migration in read_migrations()]
    assert len({name[:4] for name in names}) == len(names)
    assert all(re.fullmatch(r"\d{4}_[a-z_]+\.sql", name) for name in names)


def test_the_hash_is_the_files() -> None:
    for migration in read_migrations():
        assert migration.sha256 == sha256(migration.sql).hexdigest()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "DATABASE_URL"),
        ("postgresql://127.0.0.1:1/app", "not reachable"),
        ("postgresql://u:100%sure@h/app", "percent-encode"),
    ],
)
def test_a_database_that_is_away_is_one_clear_error(url: str, said: str) -> None:
    with pytest.raises(MigrationError, match=said) as raised:
        migrate(url)
    assert "100" not in str(raised.value)
