"""The stores of k8s/ start as their files say: what is configured is in force, no secret is where others can read."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from manifest_redis import ROOT, ManifestRedis
from redis import Redis

from serve_app.local.binaries import find_program
from serve_app.local.postgres import Postgres
from serve_app.local.server import NotReady
from serve_app.local.state import LocalError, give_to_service, make_folder, password, service_account
from serve_app.usage.migrations import migrate

INIT = ROOT / "k8s" / "base" / "postgres" / "init.sh"
IN_FORCE = {
    "redis.conf": {
        "appendonly": "yes",
        "appendfsync": "always",
        "no-appendfsync-on-rewrite": "no",
        "save": "",
        "maxmemory": str(256 * 1024 * 1024),
        "maxmemory-policy": "noeviction",
        "enable-debug-command": "no",
    },
    "ray-redis.conf": {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory": str(256 * 1024 * 1024),
        "maxmemory-policy": "noeviction",
        "enable-debug-command": "no",
    },
}


@pytest.fixture(params=IN_FORCE)
def redis_server(request: pytest.FixtureRequest, folder: Path) -> Iterator[ManifestRedis]:
    server = ManifestRedis(folder / "redis", request.param)
    server.start()
    yield server
    server.stop()


def test_every_setting_of_redis_is_in_force(redis_server: ManifestRedis, request: pytest.FixtureRequest) -> None:
    wanted = IN_FORCE[request.node.callspec.params["redis_server"]]
    with Redis.from_url(redis_server.url, decode_responses=True) as client:
        assert {name: client.config_get(name)[name] for name in wanted} == wanted


def test_the_password_is_needed_and_in_no_command_line(redis_server: ManifestRedis) -> None:
    secret = password(redis_server.folder / "password")
    process = psutil.Process(redis_server.pid)
    assert process.name().startswith("valkey-server")  # the script made way: the server itself gets the pod's SIGTERM
    assert secret not in " ".join(process.cmdline())
    assert secret not in " ".join(process.environ().values())
    with Redis(port=redis_server.port) as client, pytest.raises(Exception, match="authenticated"):
        client.ping()


@pytest.mark.parametrize(("chosen", "said"), [("short", "16 characters"), ("with a blank, and more", "escaped")])
def test_a_weak_or_unusable_password_stops_the_start(folder: Path, chosen: str, said: str) -> None:
    server = ManifestRedis(folder / "redis")
    make_folder(server.folder)
    (server.folder / "password").write_text(chosen)
    with pytest.raises(LocalError, match=said):
        server.start()


class FreshPostgres(Postgres):
    """As the image makes one: administrator `postgres`, a socket inside the pod, passwords for everybody outside."""

    def _make_cluster(self) -> None:
        password(self.folder / "password")
        give_to_service(self.folder / "password")
        self._make_data_folder(self.data)
        command = [str(self._program.path.with_name("initdb")), f"--pgdata={self.data}", "--username=postgres"]
        command += [f"--pwfile={self.folder / 'password'}", "--auth-local=trust", "--auth-host=scram-sha-256"]
        account = service_account()
        user = account.pw_uid if account else None
        subprocess.run(command, check=True, capture_output=True, timeout=60, cwd=self.data, user=user)

    def _command(self) -> list[str]:
        return [*super()._command(), "-c", f"unix_socket_directories={self.data}"]

    def _check(self) -> None:
        try:
            psycopg.connect(self.inside("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError as error:
            raise NotReady from error

    def inside(self, database: str) -> str:
        return f"host={self.data} port={self.port} user=postgres dbname={database}"

    def outside(self, user: str, database: str = "app") -> str:
        return f"postgresql://{user}:{password(self.folder / 'password')}@127.0.0.1:{self.port}/{database}"


@pytest.fixture
def fresh(folder: Path) -> Iterator[FreshPostgres]:
    server = FreshPostgres(folder / "postgres")
    server.start()
    yield server
    server.stop()


def test_the_service_owns_its_database_and_nothing_else(fresh: FreshPostgres) -> None:
    environment = {
        "PATH": os.pathsep.join([str(find_program("postgres").path.parent), os.defpath]),
        "PGHOST": str(fresh.data),
        "PGPORT": str(fresh.port),
        "PASSWORD_FILE": str(fresh.folder / "password"),
    }
    done = subprocess.run(["sh", str(INIT)], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert migrate(fresh.outside("semapi"))  # what the Job does
    with psycopg.connect(fresh.outside("semapi")) as connection:
        rights = "SELECT rolsuper, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname = current_user"
        assert connection.execute(rights).fetchone() == (False, False, False)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(fresh.outside("postgres"))
    psycopg.connect(fresh.inside("app")).close()
