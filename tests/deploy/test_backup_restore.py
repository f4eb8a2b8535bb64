"""What the backups of k8s/ hold comes back in an empty place: every job, every row, counted before and after."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import psycopg
import pytest
from job_help import MODEL, claimed, submission
from manifest_redis import ROOT, ManifestRedis
from pydantic import SecretStr
from redis import Redis as BlockingRedis
from redis.asyncio import Redis
from typer.testing import CliRunner
from usage_rows import insert

from serve_app.cli.main import commands
from serve_app.connections import connect_redis
from serve_app.contracts import JobInput
from serve_app.jobs.store import JobStore
from serve_app.local.binaries import find_program
from serve_app.local.postgres import ROLE, Postgres
from serve_app.local.state import give_to_service, password
from serve_app.settings import Settings
from serve_app.usage.migrations import migrate

BASE: Final = ROOT / "k8s" / "base"
JOBS: Final = 60
ROWS: Final = 500


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """One of the scripts, with nothing else in its environment than a pod gives it."""
    path = {"PATH": environment.pop("PATH", os.defpath), "LC_ALL": "C.UTF-8"}
    return subprocess.run(command, env=path | environment, capture_output=True, text=True, timeout=60, check=False)


def back_up_redis(server: ManifestRedis, backups: Path, keep: int = 3) -> subprocess.CompletedProcess[str]:
    script = [sys.executable, str(BASE / "redis" / "backup.py")]
    return run(script, REDIS_URL=server.url, DATA=str(server.data), BACKUPS=str(backups), KEEP=str(keep))


def restore_redis(backups: Path, data: Path, which: str = "latest") -> subprocess.CompletedProcess[str]:
    done = run(["sh", str(BASE / "redis" / "restore.sh"), which], BACKUPS=str(backups), DATA=str(data))
    for path in (data, *data.rglob("*")):  # the pod runs as the server does
        give_to_service(path)
    return done


@pytest.fixture
def backups(folder: Path) -> Path:
    path = folder / "backups"
    path.mkdir()
    return path


@pytest.fixture
def primary(folder: Path) -> Iterator[ManifestRedis]:
    server = ManifestRedis(folder / "primary")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def replacement(folder: Path) -> Iterator[ManifestRedis]:
    """A server that has not been started; its data folder is there and empty."""
    server = ManifestRedis(folder / "replacement")
    server.data.mkdir(parents=True)
    server.folder.chmod(0o711)
    password(server.folder / "password")
    yield server
    server.stop()


def everything(server: ManifestRedis) -> dict[bytes, bytes]:
    """Every key with all that it holds, as Redis would write it into a file."""
    with BlockingRedis.from_url(server.url) as client:
        return {name: client.dump(name) or b"" for name in client.scan_iter(count=1000)}


@asynccontextmanager
async def connected(server: ManifestRedis) -> AsyncIterator[tuple[Redis, JobStore]]:
    settings = Settings(redis_url=SecretStr(server.url))
    redis = connect_redis(settings)
    try:
        yield redis, JobStore(redis, settings)
    finally:
        await redis.aclose()


async def work(redis: Redis, job_store: JobStore) -> None:
    """A queue with something of everything: jobs that wait with their images, jobs that run, jobs that ended."""
    for number in range(JOBS):
        await redis.set(f"blob:{number}", os.urandom(2000), ex=900)
        image = JobInput(f"blob:{number}", 2000, 10, "image/png")
        await job_store.submit(submission(f"owner-{number % 7}", stored=image, params={"n": number}))
    ended = await claimed(job_store, JOBS // 3)
    await job_store.complete([(task, {"label": "Tips"}) for task in ended.tasks])
    await claimed(job_store, JOBS // 3)


async def test_every_job_of_the_backup_comes_back_and_runs(
    primary: ManifestRedis, replacement: ManifestRedis, backups: Path
) -> None:
    async with connected(primary) as (redis, job_store):
        await work(redis, job_store)
        before, ledger = everything(primary), await job_store.ledger(MODEL)
    done = back_up_redis(primary, backups)
    assert done.returncode == 0, done.stderr
    primary.kill()

    restored = restore_redis(backups, replacement.data)
    assert restored.returncode == 0, restored.stderr
    replacement.start()
    after = everything(replacement)
    jobs = [name for name in before if name.startswith(b"job:")]
    assert len(jobs) == JOBS
    assert after.keys() == before.keys()
    assert {name: after[name] for name in jobs} == {name: before[name] for name in jobs}

    async with connected(replacement) as (redis, job_store):
        assert await job_store.ledger(MODEL) == ledger
        await redis.zadd(f"lease:{MODEL}", dict.fromkeys(await redis.zrange(f"lease:{MODEL}", 0, -1), 1))  # all lost
        chunk = await claimed(job_store, JOBS)
        assert len(chunk.tasks) == JOBS - JOBS // 3
        assert all(await job_store.complete([(task, {"label": "Tips"}) for task in chunk.tasks]))
        counted = await job_store.ledger(MODEL)
        assert (counted.accepted, counted.completed) == (JOBS, JOBS)
        assert {await redis.hget(name.decode(), "status") for name in jobs} == {b"COMPLETED"}


async def test_what_was_restored_survives_the_next_crash(
    primary: ManifestRedis, replacement: ManifestRedis, backups: Path
) -> None:
    async with connected(primary) as (redis, job_store):
        await work(redis, job_store)
    assert back_up_redis(primary, backups).returncode == 0
    assert restore_redis(backups, replacement.data).returncode == 0
    replacement.start()
    with BlockingRedis.from_url(replacement.url) as client:
        client.set("later", "1")
        keys = client.dbsize()
    replacement.kill()
    replacement.start()
    with BlockingRedis.from_url(replacement.url) as client:
        assert (client.get("later"), client.dbsize()) == (b"1", keys)


def test_what_is_in_the_way_is_moved_aside(primary: ManifestRedis, replacement: ManifestRedis, backups: Path) -> None:
    assert back_up_redis(primary, backups).returncode == 0
    replacement.start()
    with BlockingRedis.from_url(replacement.url) as client:
        client.set("here", "before")
    replacement.stop()
    assert restore_redis(backups, replacement.data).returncode == 0
    [aside] = replacement.data.glob("replaced-*")
    assert (aside / "appendonlydir").is_dir()
    replacement.start()
    with BlockingRedis.from_url(replacement.url) as client:
        assert client.get("here") is None


def test_a_damaged_backup_is_refused_and_touches_nothing(
    primary: ManifestRedis, replacement: ManifestRedis, backups: Path
) -> None:
    assert back_up_redis(primary, backups).returncode == 0
    [backup] = backups.glob("*.rdb")
    backup.write_bytes(backup.read_bytes()[:-1] + b"?")
    done = restore_redis(backups, replacement.data)
    assert (done.returncode, list(replacement.data.iterdir())) == (1, [])
    assert "is damaged" in done.stderr
    assert restore_redis(backups, replacement.data, "redis-of-no-day.rdb").returncode == 1


def leave_unfinished(path: Path) -> None:
    """What a backup leaves that was killed a day ago."""
    path.touch()
    os.utime(path, (time.time() - 86_400,) * 2)


def test_the_newest_backups_stay(primary: ManifestRedis, backups: Path) -> None:
    leave_unfinished(backups / "redis-killed.part")
    made = [back_up_redis(primary, backups, keep=2).stdout.split(":")[0] for _ in range(3)]
    assert sorted(path.name for path in backups.glob("*.rdb")) == made[1:]
    assert {path.stem for path in backups.iterdir()} == {Path(name).stem for name in made[1:]}


def test_a_snapshot_that_cannot_be_written_is_said(primary: ManifestRedis, backups: Path) -> None:
    (primary.data / "dump.rdb").mkdir()  # in the way
    done = back_up_redis(primary, backups)
    assert done.returncode != 0
    assert "could not write its snapshot" in done.stderr
    assert list(backups.iterdir()) == []


class PostgresScripts:
    """The scripts of k8s/base/postgres, with the programs of the wheel, on a database of `server`."""

    def __init__(self, server: Postgres, database: str, backups: Path, **more: str) -> None:
        self._environment = {
            "PATH": os.pathsep.join([str(find_program("postgres").path.parent), os.defpath]),
            "PGHOST": "127.0.0.1",
            "PGPORT": str(server.port),
            "PGUSER": ROLE,
            "PGDATABASE": database,
            "PASSWORD_FILE": str(server.folder / "password"),
            "BACKUPS": str(backups),
            **more,
        }

    def begin_back_up(self) -> subprocess.Popen[str]:
        script = ["sh", str(BASE / "postgres" / "backup.sh")]
        environment = {**self._environment, "KEEP": "3"}
        return subprocess.Popen(script, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def back_up(self, keep: int = 3) -> subprocess.CompletedProcess[str]:
        return run(["sh", str(BASE / "postgres" / "backup.sh")], KEEP=str(keep), **self._environment)

    def restore(self, which: str = "latest") -> subprocess.CompletedProcess[str]:
        return run(["sh", str(BASE / "postgres" / "restore.sh"), which], **self._environment)


@pytest.fixture
def filled(database: str) -> str:
    """URL of a database of this version's tables with rows in them, the hourly sums made by its own triggers."""
    migrate(database)
    changes = [{"username": f"user-{number % 5}", "latency_ms": float(number)} for number in range(ROWS)]
    insert(database, changes, [{"owner": f"id-{number % 5}"} for number in range(ROWS // 2)])
    return database


@pytest.fixture
def second(folder: Path) -> Iterator[Postgres]:
    """Another server, its database empty."""
    server = Postgres(folder / "second")
    server.start()
    yield server
    server.stop()


def rows(url: str) -> dict[str, tuple[int, str]]:
    """For each table how many rows it has, and a digest of all of them."""
    listed = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
    counted = "SELECT count(*), coalesce(md5(string_agg(t::text, '|' ORDER BY t::text)), '') FROM {} t"
    with psycopg.connect(url) as connection:
        names = [name for (name,) in connection.execute(listed)]
        found = {name: connection.execute(counted.format(name).encode()).fetchone() for name in names}
    return {name: (row[0], row[1]) for name, row in found.items() if row}


def test_every_row_of_the_backup_comes_back(postgres: Postgres, filled: str, second: Postgres, backups: Path) -> None:
    before = rows(filled)
    done = PostgresScripts(postgres, filled.rsplit("/", 1)[1], backups).back_up()
    assert done.returncode == 0, done.stderr
    restored = PostgresScripts(second, "app", backups).restore()
    assert restored.returncode == 0, restored.stderr
    assert rows(second.url) == before
    assert (before["api_usage"][0], before["job_outcomes"][0]) == (ROWS, ROWS // 2)
    assert f"api_usage: {ROWS} rows" in restored.stdout
    # The service goes on where it was: nothing to migrate, and the sums grow with the next row.
    assert migrate(second.url) == []
    insert(second.url, [{"username": "late"}])
    assert rows(second.url)["usage_hourly"][0] == before["usage_hourly"][0] + 1


def test_a_database_that_is_not_empty_is_refused(postgres: Postgres, filled: str, backups: Path) -> None:
    scripts = PostgresScripts(postgres, filled.rsplit("/", 1)[1], backups)
    assert scripts.back_up().returncode == 0
    before = rows(filled)
    done = scripts.restore()
    assert (done.returncode, rows(filled)) == (1, before)
    assert "restore into an empty one" in done.stderr


def test_a_damaged_dump_is_refused(postgres: Postgres, filled: str, second: Postgres, backups: Path) -> None:
    assert PostgresScripts(postgres, filled.rsplit("/", 1)[1], backups).back_up().returncode == 0
    [dump] = backups.glob("*.dump")
    dump.write_bytes(dump.read_bytes()[:-1])
    done = PostgresScripts(second, "app", backups).restore()
    assert (done.returncode, rows(second.url)) == (1, {})
    assert "is damaged" in done.stderr


def test_old_dumps_go_and_a_failed_one_leaves_nothing(postgres: Postgres, filled: str, backups: Path) -> None:
    scripts = PostgresScripts(postgres, filled.rsplit("/", 1)[1], backups)
    for day in ("20260101", "20260102"):
        for ending in ("dump", "dump.sha256"):
            (backups / f"app-{day}T000000Z.{ending}").touch()
    leave_unfinished(backups / "app-killed.dump.part")
    assert scripts.back_up(keep=2).returncode == 0
    assert min(path.name for path in backups.glob("*.dump")) == "app-20260102T000000Z.dump"
    assert len(list(backups.iterdir())) == 4
    nowhere = PostgresScripts(postgres, "no_such_database", backups)
    assert nowhere.back_up().returncode != 0
    assert len(list(backups.glob("*.dump"))) == 2


LATE_S: Final = 3.0
NEVER_S: Final = "2"
"""How long the scripts wait in a test whose server never comes."""


def started_late(server: ManifestRedis | Postgres) -> threading.Timer:
    """Start the server after LATE_S, as the network of a new pod begins to let it through."""
    timer = threading.Timer(LATE_S, server.start)
    timer.start()
    return timer


def test_a_redis_that_is_late_is_backed_up(folder: Path, backups: Path) -> None:
    server = ManifestRedis(folder / "late")
    server.start()
    server.stop()
    timer = started_late(server)
    done = back_up_redis(server, backups)
    timer.join()
    server.stop()
    assert done.returncode == 0, done.stderr
    assert "waiting for Redis" in done.stderr
    assert len(list(backups.iterdir())) == 2


def test_a_redis_that_never_comes_ends_the_backup_with_the_reason(folder: Path, backups: Path) -> None:
    url = f"redis://:password@127.0.0.1:{ManifestRedis(folder / 'never').port}/0"
    script = [sys.executable, str(BASE / "redis" / "backup.py")]
    done = run(script, REDIS_URL=url, DATA=str(folder), BACKUPS=str(backups), KEEP="3", WAIT_S=NEVER_S)
    assert done.returncode == 1
    assert f"Redis has not answered within {NEVER_S} s: " in done.stderr
    assert "Connection refused" in done.stderr
    assert list(backups.iterdir()) == []


def test_a_redis_backup_that_is_interrupted_leaves_nothing(primary: ManifestRedis, backups: Path) -> None:
    os.mkfifo(primary.data / "temp-blocks")
    with BlockingRedis.from_url(primary.url) as client:
        client.set("one", "1")
    code = "import runpy, shutil, sys\n"
    code += (
        "def stop(source, target): open(target, 'w').write('half'); print('copying', flush=True); open(sys.argv[2])\n"
    )
    code += "shutil.copyfile = stop\nrunpy.run_path(sys.argv[1], run_name='__main__')\n"
    command = [sys.executable, "-c", code, str(BASE / "redis" / "backup.py"), str(primary.data / "temp-blocks")]
    environment = {"REDIS_URL": primary.url, "DATA": str(primary.data), "BACKUPS": str(backups), "KEEP": "3"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "copying\n"
        process.terminate()
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, list(backups.iterdir())) == (1, [])
    assert "interrupted: no backup was made" in errors


@pytest.fixture
def away(second: Postgres) -> Postgres:
    """A server with an empty database that does not run."""
    second.stop()
    return second


@pytest.mark.slow(reason="PostgreSQL starts late, twice")
def test_a_postgres_that_is_late_is_backed_up_and_restored_into(
    postgres: Postgres, filled: str, away: Postgres, backups: Path
) -> None:
    assert PostgresScripts(postgres, filled.rsplit("/", 1)[1], backups).back_up().returncode == 0
    scripts = PostgresScripts(away, "app", backups)
    for script in (scripts.restore, scripts.back_up):
        timer = started_late(away)
        done = script()
        timer.join()
        away.stop()
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("waiting for PostgreSQL") == 1
    assert {path.suffix for path in backups.iterdir()} == {".dump", ".sha256"}


def test_a_postgres_that_never_comes_ends_the_scripts_with_the_reason(
    postgres: Postgres, filled: str, away: Postgres, backups: Path
) -> None:
    assert PostgresScripts(postgres, filled.rsplit("/", 1)[1], backups).back_up().returncode == 0
    before = sorted(backups.iterdir())
    scripts = PostgresScripts(away, "app", backups, WAIT_S=NEVER_S)
    for script in (scripts.restore, scripts.back_up):
        done = script()
        assert done.returncode == 1
        assert f"PostgreSQL has not answered within {NEVER_S} s: " in done.stderr
        assert "Connection refused" in done.stderr
        assert sorted(backups.iterdir()) == before


def test_a_postgres_backup_that_is_interrupted_leaves_nothing(postgres: Postgres, filled: str, backups: Path) -> None:
    scripts = PostgresScripts(postgres, filled.rsplit("/", 1)[1], backups)
    with psycopg.connect(filled) as holder:  # the dump waits for this lock, its file begun
        holder.execute("LOCK TABLE api_usage IN ACCESS EXCLUSIVE MODE")
        with scripts.begin_back_up() as process:
            while not list(backups.glob("*.part")):
                assert process.poll() is None
                time.sleep(0.05)
            process.terminate()
            _, errors = process.communicate(timeout=30)
    assert (process.returncode, list(backups.iterdir())) == (143, [])
    assert "interrupted" in errors


@pytest.mark.slow(reason="PostgreSQL starts late")
def test_a_migration_waits_for_a_late_postgres_and_not_for_ever(
    away: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", away.url)
    never = CliRunner().invoke(commands, ["migrate", "--wait", NEVER_S])
    assert never.exit_code == 1
    assert f"waiting up to {NEVER_S} s for PostgreSQL" in never.stderr
    assert "PostgreSQL is not reachable" in never.stderr
    timer = started_late(away)
    late = CliRunner().invoke(commands, ["migrate"], env={"WAIT_S": "60"})  # as the Job tells it
    timer.join()
    assert late.exit_code == 0, late.stderr
    assert "applied: " in late.stdout
