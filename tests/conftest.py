"""Fixtures that need real servers. They start when a test first asks for one and end with the session."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from leaks import LeakScan, leaks
from object_store import SECRET, SeaweedFS
from pydantic import SecretStr
from redis import Redis as BlockingRedis
from redis.asyncio import Redis
from stray_keys import key_rows, strays

from serve_app.connections import connect_redis
from serve_app.local.issuer import DevIssuerServer
from serve_app.local.postgres import Postgres
from serve_app.local.state import password
from serve_app.local.valkey import Valkey
from serve_app.settings import Settings

# Tests mean the defaults: what the person at the terminal has set for a run of theirs must not bend them.
OTHERS = {"secrets_dir", "semapi_token", "semapi_url", "semapi_state_dir"}
for name in [name for name in os.environ if name.lower() in OTHERS.union(Settings.model_fields)]:
    del os.environ[name]


@pytest.fixture(scope="session", autouse=True)
def leak_scan() -> Iterator[LeakScan]:
    """Sees every record of this process, ours from the level on that the service writes."""
    scan, ours = LeakScan(), logging.getLogger("serve_app")
    logging.getLogger().addHandler(scan)
    ours.setLevel(logging.INFO)
    yield scan
    ours.setLevel(logging.NOTSET)
    logging.getLogger().removeHandler(scan)
    assert scan.take() == []


@pytest.fixture(autouse=True)
def nothing_leaks(leak_scan: LeakScan) -> Iterator[None]:
    """Whatever a test proves, while it does no record may hold a secret, image bytes or the name of a file sent."""
    yield
    assert leak_scan.take() == []


@pytest.fixture
def folder(leak_scan: LeakScan) -> Iterator[Path]:
    """A folder that the account of the servers can reach, unlike pytest's own below a 0700 folder."""
    yield from _folder(leak_scan)


@pytest.fixture(scope="session")
def servers_folder(leak_scan: LeakScan) -> Iterator[Path]:
    yield from _folder(leak_scan)


def _folder(scan: LeakScan) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="semapi-test-"))
    path.chmod(0o711)
    yield path
    found = leaks([path], sorted(scan.words))
    shutil.rmtree(path)
    assert found == []


@pytest.fixture(scope="session")
def valkey(servers_folder: Path, leak_scan: LeakScan) -> Iterator[Valkey]:
    """The job Redis of this test session; `kill()`, `start()` and `pid` are for tests that take it away."""
    server = Valkey(servers_folder / "valkey")
    server.start()
    leak_scan.words.add(password(server.folder / "password"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres(servers_folder: Path, leak_scan: LeakScan) -> Iterator[Postgres]:
    """The PostgreSQL of this test session; `kill()`, `start()` and `pid` are for tests that take it away."""
    server = Postgres(servers_folder / "postgres")
    server.start()
    leak_scan.words.add(password(server.folder / "password"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def object_store(servers_folder: Path, leak_scan: LeakScan) -> Iterator[SeaweedFS]:
    """The S3-compatible server of this test session; `kill()` and `start()` are for tests that take it away."""
    server = SeaweedFS(servers_folder / "seaweedfs")
    server.start()
    server.make_bucket()
    leak_scan.words.add(SECRET)
    yield server
    server.kill()


@pytest.fixture
def in_bucket(object_store: SeaweedFS) -> dict[str, object]:
    """Settings that put images below a prefix that nobody has used."""
    return object_store.settings(uuid.uuid4().hex)


@pytest.fixture(scope="session")
def authority(servers_folder: Path) -> Iterator[DevIssuerServer]:
    """A running development issuer; `mint` also makes the tokens no issuer should."""
    server = DevIssuerServer(servers_folder / "issuer")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    """URL of a fresh, empty database."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield postgres.url.rsplit("/", 1)[0] + "/" + name
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def settings(request: pytest.FixtureRequest, valkey: Valkey) -> Iterator[Settings]:
    """Settings of an empty job Redis; of a fresh database too, for a test that also asks for `database`.

    Whatever a test proves, it may leave no key there that no table has, nor one that stays longer than its row says.
    """
    with BlockingRedis.from_url(valkey.url) as client:
        client.flushall()
    database_url = request.getfixturevalue("database") if "database" in request.fixturenames else ""
    yield Settings(redis_url=SecretStr(valkey.url), database_url=SecretStr(database_url))
    with BlockingRedis.from_url(valkey.url) as client:
        assert strays(client, key_rows()) == []


@pytest.fixture
def own_keys(settings: Settings, valkey: Valkey) -> Iterator[None]:
    """For a test that writes keys of its own: they are gone before it is looked for strays."""
    yield
    with BlockingRedis.from_url(valkey.url) as client:
        client.flushall()


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[Redis]:
    """A client of the empty job Redis, as the service makes it."""
    client = connect_redis(settings)
    yield client
    await client.aclose()
