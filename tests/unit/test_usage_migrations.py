"""The numbered files of the schema."""

import re
from hashlib import sha256

import pytest

from serve_app.usage.migrations import MigrationError, migrate, read_migrations


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
