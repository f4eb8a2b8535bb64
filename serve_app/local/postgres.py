"""The embedded PostgreSQL for usage and outcomes."""

from __future__ import annotations

import shutil
import signal
import subprocess
from functools import cached_property
from pathlib import Path

import psutil
import psycopg

from serve_app.local.binaries import Program, find_program
from serve_app.local.server import NotReady, Server
from serve_app.local.state import LocalError, give_to_service, password, service_account

ROLE = "semapi"
DATABASE = "app"
INIT_DEADLINE_S = 120


class Postgres(Server):
    """PostgreSQL in `folder`: TCP on loopback with SCRAM passwords, no Unix socket, and the same sort order on every
    platform."""

    title = "PostgreSQL"
    process_names = ("postgres",)
    end_signal = signal.SIGINT  # fast shutdown: SIGTERM would wait for clients

    @property
    def url(self) -> str:
        return self._url(DATABASE)

    def _url(self, database: str) -> str:
        return f"postgresql://{ROLE}:{password(self.folder / 'password')}@127.0.0.1:{self.port}/{database}"

    @cached_property
    def _program(self) -> Program:
        program = find_program("postgres")
        return program.copied_to(self.folder / "program") if service_account() else program

    def _prepare(self) -> None:
        if not self.data.exists():
            self._make_cluster()
        # Orphans were ended and the folder is locked: the file's pid now belongs to another program.
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def _make_cluster(self) -> None:
        """Create the data folder under another name first, so that an interrupted run does not leave one that looks
        complete."""
        password(self.folder / "password")
        give_to_service(self.folder / "password")
        fresh = self.folder / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        self._make_data_folder(fresh)
        account = service_account()
        command = [
            str(self._program.path.with_name("initdb")),
            f"--pgdata={fresh}",
            f"--username={ROLE}",
            f"--pwfile={self.folder / 'password'}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
        ]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=INIT_DEADLINE_S,
            cwd=fresh,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
        )
        if done.returncode != 0:
            raise LocalError(f"PostgreSQL could not make its data folder {fresh}:\n{done.stderr.strip()}")
        fresh.rename(self.data)

    def _command(self) -> list[str]:
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "shared_buffers": "32MB",
            "max_connections": "60",
            "log_timezone": "UTC",
            "timezone": "UTC",
        }
        flags = [flag for name, value in options.items() for flag in ("-c", f"{name}={value}")]
        return [str(self._program.path), "-D", str(self.data), *flags]

    def _check(self) -> None:
        try:
            with psycopg.connect(self._url("postgres"), connect_timeout=2, autocommit=True) as connection:
                known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
                if not known:
                    connection.execute(f"CREATE DATABASE {DATABASE}")
        except psycopg.OperationalError as error:
            raise NotReady from error


def running_url(state: Path) -> str:
    """The URL of the embedded PostgreSQL running in this state folder; empty if none runs."""
    folder = state / "postgres"
    try:
        lines = (Postgres(folder).data / "postmaster.pid").read_text().splitlines()
        pid, port = int(lines[0]), int(lines[3])
    except (OSError, ValueError, IndexError):
        return ""
    return Postgres(folder, port).url if psutil.pid_exists(pid) else ""
