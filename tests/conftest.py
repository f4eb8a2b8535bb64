"""Fixtures that need real servers. They start when a test first asks for one and end with the session."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import hypothesis.core
import pytest
from leaks import LeakScan, leaks
from object_store import SECRET, SeaweedFS
from redis import Redis as BlockingRedis
from redis.asyncio import Redis
from schedule import MARKS, SLOW_S, ByFile, faults, give_time, in_order, unmarked
from servers import QuickPostgres, copied_database, empty_redis, make_template

from serve_app.connections import connect_redis
from serve_app.local.issuer import DevIssuerServer
from serve_app.local.postgres import Postgres
from serve_app.local.state import password
from serve_app.local.valkey import Valkey
from serve_app.settings import Settings, read_settings

# Tests mean the defaults: what the person at the terminal has set for a run of theirs must not bend them.
OTHERS = {"columns", "secrets_dir", "semapi_token", "semapi_url", "semapi_state_dir"}
for name in [name for name in os.environ if name.lower() in OTHERS.union(Settings.model_fields)]:
    del os.environ[name]

LEFT = pytest.StashKey[int]()
"""How many tests with the mark `fault` were deselected."""


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """One seed, printed at the head of a run, for the order of the tests and for what hypothesis makes up."""
    for name, meaning in MARKS.items():
        config.addinivalue_line("markers", f"{name}(reason): {meaning}")
    if config.getoption("--hypothesis-seed") is None and config.pluginmanager.hasplugin("randomly"):
        hypothesis.core.global_force_seed = config.getoption("randomly_seed")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


def pytest_collection(session: pytest.Session) -> None:
    gc.disable()  # imports make millions of objects that stay


def pytest_collection_finish(session: pytest.Session) -> None:
    gc.enable()
    gc.freeze()  # later collections need not look at them


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        give_time(item)
    items[:] = in_order(items, parallel=hasattr(config, "workerinput"))


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Count the tests that are left to `make test-faults`; a worker passes the count to the process that reports."""
    if items:
        stash = items[0].config.stash
        stash[LEFT] = stash.get(LEFT, 0) + faults(items)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[LEFT] = getattr(node, "workeroutput", {}).get("left", 0)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left"] = session.config.stash.get(LEFT, 0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if left := terminalreporter.config.stash.get(LEFT, 0):
        terminalreporter.write_line(f"{left} with the mark `fault` did not run: make test-faults, or make test-all")
    if found := unmarked(terminalreporter.stats.get("passed", [])):
        terminalreporter.section(f"more than {SLOW_S:.0f} s without the mark `slow` or `fault`")
        terminalreporter.write("".join(f"{line}\n" for line in found))


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


@pytest.fixture(autouse=True)
def settings_are_read_anew() -> None:
    """A process reads its settings once; each test here has an environment of its own."""
    read_settings.cache_clear()


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
    """The job Redis of this test session; `kill()`, `start()` and `pid` are for tests that take it away.

    It writes every change to its file before it answers, so that its data outlive its process, but not the machine.
    """
    server = Valkey(servers_folder / "valkey", appendfsync="no")
    server.start()
    leak_scan.words.add(password(server.folder / "password"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres(servers_folder: Path, leak_scan: LeakScan) -> Iterator[Postgres]:
    """The PostgreSQL of this test session; `kill()`, `start()` and `pid` are for tests that take it away."""
    server = QuickPostgres(servers_folder / "postgres")
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


@pytest.fixture(scope="session")
def template(postgres: Postgres) -> str:
    """A database that has its tables, to be copied."""
    return make_template(postgres)


@pytest.fixture
def database(request: pytest.FixtureRequest, postgres: Postgres) -> Iterator[str]:
    """URL of a fresh database: an empty one, or one that has its tables for a test that asks for `tables`."""
    wants_tables = "tables" in request.fixturenames
    with copied_database(postgres, request.getfixturevalue("template") if wants_tables else "template1") as url:
        yield url


@pytest.fixture
def tables(database: str) -> str:
    """URL of a fresh database that has its tables."""
    return database


@pytest.fixture
def settings(request: pytest.FixtureRequest, valkey: Valkey) -> Iterator[Settings]:
    """Settings of an empty job Redis; of a fresh database too, for a test that also asks for `database`.

    Whatever a test proves, it may leave no key there that no table has, nor one that stays longer than its row says.
    """
    database_url = request.getfixturevalue("database") if "database" in request.fixturenames else ""
    with empty_redis(valkey, database_url) as found:
        yield found


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
