"""What the embedded servers promise: data stay, nothing outlives its owner, nobody else gets in."""

import json
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest
from pydantic import SecretStr
from redis import AuthenticationError, Redis

from serve_app.local import state
from serve_app.local.binaries import find_program
from serve_app.local.issuer import DevIssuerServer
from serve_app.local.postgres import Postgres, running_url
from serve_app.local.server import Server, free_port
from serve_app.local.stack import LocalStack
from serve_app.local.state import RUNS_KEPT, LocalError, new_run
from serve_app.local.valkey import Valkey
from serve_app.settings import Settings

AS_ROOT = os.geteuid() == 0
DEADLINE_S = 30

# Starts a stack, tells the processes' ids, and stays until it is ended. Given an account, it becomes that one after
# its imports and supervises the servers with the interpreter named: ours may lie where that account cannot go.
OWNER = """
import encodings.idna, json, os, sys
from pathlib import Path
from serve_app.local.stack import LocalStack
from serve_app.local.state import LocalError
from serve_app.settings import Settings
folder = Path(sys.argv[1])
if len(sys.argv) > 2:
    account, sys.executable = int(sys.argv[2]), sys.argv[3]
    os.setgroups([]); os.setgid(account); os.setuid(account)
settings = Settings(oidc_issuers=("http://localhost:1/none",))
try:
    with LocalStack(folder, settings) as stack:
        print(json.dumps([server.pid for server in stack.servers]), flush=True)
        sys.stdin.read()
except LocalError as error:
    print(json.dumps(str(error)), flush=True)
"""


@pytest.fixture(scope="module")
def kept_folder(servers_folder: Path) -> Path:
    """One state folder for many tests, as for many runs: it saves making a PostgreSQL cluster for each."""
    return servers_folder / "kept"


@contextmanager
def owner(folder: Path, *account: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder), *account],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.communicate(timeout=DEADLINE_S)


def said(process: subprocess.Popen[str]) -> object:
    assert process.stdout
    return json.loads(process.stdout.readline())


def family(pid: int) -> list[psutil.Process]:
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


def assert_gone(processes: list[psutil.Process]) -> None:
    assert psutil.wait_procs(processes, timeout=DEADLINE_S)[1] == []


def put(valkey: Valkey, postgres: Postgres, number: int) -> None:
    with Redis.from_url(valkey.url) as client:
        client.rpush("numbers", number)
    with psycopg.connect(postgres.url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS numbers (number int)")
        connection.execute("INSERT INTO numbers VALUES (%s)", (number,))


def kept(valkey: Valkey, postgres: Postgres) -> list[list[int]]:
    with Redis.from_url(valkey.url) as client, psycopg.connect(postgres.url) as connection:
        rows = connection.execute("SELECT number FROM numbers ORDER BY number").fetchall()
        return [[int(item) for item in client.lrange("numbers", 0, -1)], [row[0] for row in rows]]


def test_data_outlive_a_stop_and_a_crash(folder: Path) -> None:
    valkey, postgres = Valkey(folder / "valkey"), Postgres(folder / "postgres")
    with ExitStack() as cleanup:
        for server in (valkey, postgres):
            server.start()
            cleanup.callback(server.stop)
        put(valkey, postgres, 1)
        for server in (valkey, postgres):
            server.stop()
            server.start()
        put(valkey, postgres, 2)
        for server in (valkey, postgres):
            crashed = family(server.pid)
            server.kill()
            assert_gone(crashed)
            server.start()
        assert kept(valkey, postgres) == [[1, 2], [1, 2]]


def test_a_start_waits_until_the_data_are_read(folder: Path) -> None:
    server = Valkey(folder / "valkey", appendfsync="no")
    server.start()
    with Redis.from_url(server.url) as redis:
        redis.eval("for key = 1, 400000 do redis.call('SET', key, key) end", 0)
    server.kill()
    server.start()
    try:
        with Redis.from_url(server.url) as redis:
            assert redis.get("400000") == b"400000"
    finally:
        server.stop()


def test_a_new_start_ends_orphans_and_a_stale_pid_file(kept_folder: Path) -> None:
    postgres = Postgres(kept_folder / "postgres")
    postgres.start()
    with ExitStack() as cleanup:
        cleanup.callback(postgres.stop)
        supervisor = psutil.Process(postgres.pid).parent()
        postgres.stop()
        assert supervisor is not None
        command = [str(postgres._program.path), "-D", str(postgres.data), "-c", f"port={free_port()}"]
        command += ["-c", "unix_socket_directories="]
        orphan = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=postgres.data,
            user="nobody" if AS_ROOT else None,
        )
        cleanup.callback(orphan.wait)
        postgres.start()
        assert orphan.wait(DEADLINE_S) == 0
        postgres.stop()
        # A reused process id: PostgreSQL alone would refuse to start beside it.
        (postgres.data / "postmaster.pid").write_text(f"{os.getppid()}\n{postgres.data}\n")
        postgres.start()


@pytest.mark.slow(reason="every server starts twice")
def test_a_killed_owner_takes_everything_with_it_and_the_next_one_starts(kept_folder: Path) -> None:
    with owner(kept_folder) as first:
        pids = said(first)
        assert isinstance(pids, list), pids
        everything = [member for pid in pids for member in family(pid)]
        everything += [found for pid in pids if (found := psutil.Process(pid).parent())]
        assert len(everything) > 6
        first.send_signal(signal.SIGKILL)
        assert_gone(everything)
    with owner(kept_folder) as second:
        assert isinstance(said(second), list)


def test_a_killed_guard_takes_its_server_with_it(folder: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("needs the parent-death signal")
    valkey = Valkey(folder)
    valkey.start()
    server = psutil.Process(valkey.pid)
    supervisor = server.parent()
    assert supervisor is not None
    supervisor.kill()
    assert_gone([server])
    valkey.stop()


def test_a_second_start_is_refused_and_names_the_first(kept_folder: Path) -> None:
    with owner(kept_folder) as first:
        assert isinstance(said(first), list)
        with owner(kept_folder) as second:
            refusal = said(second)
        assert isinstance(refusal, str)
        assert f"in use by process {first.pid}" in refusal
        assert "\n" not in refusal
        assert first.poll() is None


def test_a_taken_port_is_one_clear_line(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LocalError, match=f"Port {port} is in use by another program"):
            Valkey(folder, port).start()


def test_a_server_that_fails_shows_the_end_of_its_log(folder: Path) -> None:
    broken = Valkey(folder, maxmemory="plenty")
    with pytest.raises(LocalError, match="maxmemory"):
        broken.start()


def test_only_loopback_listens_and_passwords_are_needed(
    valkey: Valkey, postgres: Postgres, authority: DevIssuerServer
) -> None:
    for server in (valkey, postgres, authority):
        listening = [
            found.laddr
            for member in family(server.pid)
            for found in member.net_connections()
            if found.status == psutil.CONN_LISTEN
        ]
        assert {(address.ip, address.port) for address in listening} == {("127.0.0.1", server.port)}
    with Redis(port=valkey.port) as stranger, pytest.raises(AuthenticationError):
        stranger.ping()
    for wrong in ("", "wrong"):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(host="127.0.0.1", port=postgres.port, user="semapi", password=wrong, dbname="app")
    secret = [valkey.folder / "password", valkey.folder / "valkey.conf", postgres.folder / "password"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}
    assert {stat.S_IMODE(server.data.stat().st_mode) for server in (valkey, postgres, authority)} == {0o700}


def test_the_servers_are_set_as_the_service_needs_them(own_valkey: Valkey, postgres: Postgres) -> None:
    with Redis.from_url(own_valkey.url, decode_responses=True) as client:
        wanted = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "save": ""}
        assert {name: client.config_get(name)[name] for name in wanted} == wanted
    with psycopg.connect(postgres.url) as connection:
        found = connection.execute(
            "SELECT datlocprovider, datlocale, pg_encoding_to_char(encoding) FROM pg_database WHERE datname = 'app'"
        ).fetchone()
    assert found == ("b", "C.UTF-8", "UTF8")


@pytest.mark.skipif(not AS_ROOT, reason="only root has another account for the servers")
def test_as_root_the_servers_are_nobody_with_nothing_of_our_environment(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", "a secret of ours")
    valkey = Valkey(folder)
    valkey.start()
    try:
        assert psutil.Process(valkey.pid).username() == "nobody"
        supervisor = psutil.Process(valkey.pid).parent()
        assert supervisor is not None
        assert set(supervisor.environ()) == {"PATH", "LC_ALL"}
    finally:
        valkey.stop()


@pytest.mark.skipif(not AS_ROOT, reason="an ordinary user runs every other test here as itself")
def test_an_ordinary_user_can_run_the_servers(folder: Path) -> None:
    nobody = pwd.getpwnam("nobody").pw_uid
    candidates = [sys.executable, shutil.which("python3", path="/usr/bin")]
    usable = [found for found in candidates if found and is_open(Path(found).resolve())]
    if not usable or not is_open(find_program("postgres").path):
        pytest.skip("no interpreter or server programs that are open to ordinary users")
    os.chown(folder, nobody, nobody)
    with owner(folder, str(nobody), usable[0]) as process:
        pids = said(process)
        assert isinstance(pids, list), pids
        assert {psutil.Process(pid).username() for pid in pids} == {"nobody"}


def is_open(path: Path) -> bool:
    return all(step.stat().st_mode & 0o001 for step in (path, *path.parents))


def test_servers_of_yours_win(folder: Path, valkey: Valkey) -> None:
    given = Settings(
        redis_url=SecretStr(valkey.url),
        database_url=SecretStr("postgresql://example/app"),
        oidc_issuers=("https://issuer.example/one", "https://issuer.example/two"),
    )
    with LocalStack(folder, given) as stack:
        assert stack.servers == []
        assert stack.environment == {
            "REDIS_URL": valkey.url,
            "DATABASE_URL": "postgresql://example/app",
            "OIDC_ISSUERS": "https://issuer.example/one,https://issuer.example/two",
        }


def test_a_stack_that_cannot_start_leaves_nothing_running(kept_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        stack = LocalStack(kept_folder, Settings(), issuer_port=taken.getsockname()[1])
        with pytest.raises(LocalError, match="is in use"), stack:
            pytest.fail("the issuer's port was taken")
    assert [server.pid for server in stack.servers] == [0, 0, 0]
    with LocalStack(kept_folder, Settings(), issuer_port=free_port()) as second:
        assert all(server.pid for server in second.servers)
        assert second.environment["OIDC_ISSUERS"] == second.issuer.url


def test_a_server_that_dies_is_started_again_on_its_data_and_said(kept_folder: Path) -> None:
    told: list[str] = []
    with LocalStack(kept_folder, Settings(oidc_issuers=("http://localhost:1/none",))) as stack:
        stack.revive(told.append)
        assert told == []
        put(stack.valkey, stack.postgres, 7)
        before, environment = kept(stack.valkey, stack.postgres), stack.environment
        for server in (stack.valkey, stack.postgres):
            end_by_itself(server)
            stack.revive(told.append)
            assert server.ended() == ""
        assert told == [
            "Valkey ended by itself (killed by signal 9); starting it again on its data",
            f"Valkey ready on port {stack.valkey.port}",
            "PostgreSQL ended by itself (killed by signal 9); starting it again on its data",
            f"PostgreSQL ready on port {stack.postgres.port}",
        ]
        assert (kept(stack.valkey, stack.postgres), stack.environment) == (before, environment)
        end_by_itself(stack.valkey)
        stack.revive(told.append)
        end_by_itself(stack.valkey)
        with pytest.raises(LocalError, match="Valkey ended by itself again") as ended:
            stack.revive(told.append)
        assert stack.logs is not None
        assert str(stack.logs / "valkey.log") in str(ended.value)


def end_by_itself(server: Server) -> None:
    """As the kernel ends a process when memory runs out."""
    process = psutil.Process(server.pid)
    process.kill()
    process.wait(DEADLINE_S)
    deadline = time.monotonic() + DEADLINE_S
    while not server.ended():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_logs_of_the_last_runs_stay_when_they_have_ended(folder: Path) -> None:
    runs = []
    for _ in range(RUNS_KEPT + 2):
        runs.append(new_run(folder))
        (runs[-1] / "valkey.log").write_text("said")
    assert sorted((folder / "logs").iterdir()) == runs[-RUNS_KEPT:]
    settings = Settings(database_url=SecretStr("postgresql://example/app"))
    with LocalStack(folder, settings, issuer_port=0) as stack:  # a service may run beside the tests
        pass
    assert stack.logs is not None
    assert {log.name: log.stat().st_size > 0 for log in stack.logs.iterdir()}["valkey.log"]
    assert len(list((folder / "logs").iterdir())) == RUNS_KEPT
    with owner(folder) as running:
        said(running)
        during = sorted((folder / "logs").iterdir())
        with pytest.raises(LocalError, match="in use"), LocalStack(folder, Settings()):
            pytest.fail("another run holds the folder")
        assert sorted((folder / "logs").iterdir()) == during  # a run that is refused takes nobody's logs


def test_of_large_logs_the_newest_are_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "KEPT_MAX_BYTES", 250)
    source = folder / "session"
    (source / "serve").mkdir(parents=True)
    for number in range(5):
        file = source / "serve" / f"{number}.log"
        file.write_text("x" * 100)
        os.utime(file, (number, number))
    (source / "link").symlink_to("/etc/passwd")
    state.keep(source, folder / "kept")
    assert sorted(path.name for path in (folder / "kept").rglob("*") if path.is_file()) == ["3.log", "4.log"]
    state.keep(folder / "nothing", folder / "none")


def test_a_report_finds_the_database_that_runs_here(folder: Path) -> None:
    server = Postgres(folder / "postgres")
    assert running_url(folder) == ""
    server.start()
    try:
        assert running_url(folder) == server.url
        with psycopg.connect(running_url(folder)) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        server.stop()
    assert running_url(folder) == ""
