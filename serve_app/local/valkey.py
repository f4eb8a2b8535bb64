"""The embedded job Redis: a Valkey server that loses nothing in a crash (every write is synced)."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Literal

import redis

from serve_app.local.binaries import Program, find_program
from serve_app.local.server import NotReady, Server
from serve_app.local.state import LocalError, give_to_service, password, service_account, write_private

CONFIG = """\
bind 127.0.0.1
port {port}
protected-mode yes
requirepass {password}
dir {data}
appendonly yes
appendfsync {appendfsync}
save ""
rdbcompression no
auto-aof-rewrite-min-size 256mb
maxmemory {maxmemory}
maxmemory-policy noeviction
enable-protected-configs no
enable-debug-command no
enable-module-command no
"""


class Valkey(Server):
    """Valkey in `folder`. `appendfsync` as in its manual; `maxmemory` in its units ("2gb")."""

    title = "Valkey"
    process_names = ("valkey-server", "redis-server")

    def __init__(
        self,
        folder: Path,
        port: int = 0,
        *,
        appendfsync: Literal["always", "everysec", "no"] = "always",
        maxmemory: str = "2gb",
    ) -> None:
        super().__init__(folder, port)
        self._appendfsync = appendfsync
        self._maxmemory = maxmemory

    @property
    def url(self) -> str:
        return f"redis://:{password(self.folder / 'password')}@127.0.0.1:{self.port}/0"

    @cached_property
    def _program(self) -> Program:
        program = find_program("valkey")
        return program.copied_to(self.folder / "program") if service_account() else program

    def _prepare(self) -> None:
        self._make_data_folder(self.data)

    def _command(self) -> list[str]:
        config = self.folder / "valkey.conf"
        text = CONFIG.format(
            port=self.port,
            password=password(self.folder / "password"),
            data=f'"{self.data}"',
            appendfsync=self._appendfsync,
            maxmemory=self._maxmemory,
        )
        write_private(config, text)
        give_to_service(config)
        return [str(self._program.path), str(config)]

    def _check(self) -> None:
        try:
            check_redis(self.url, timeout_s=1)
        except (redis.ConnectionError, redis.TimeoutError) as error:
            raise NotReady from error


def check_redis(url: str, timeout_s: float = 5) -> None:
    """Raises redis-py's errors if the server does not answer, LocalError if it is too old. A server that hides its
    version (managed, or by an ACL) is assumed to be new enough."""
    with redis.Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s) as client:
        client.ping()  # while the data are loaded from disk INFO works, but commands do not
        try:
            version = client.info("server").get("redis_version", "")
        except redis.ResponseError:
            return
    if version and int(version.split(".")[0]) < 7:
        raise LocalError(f"This Redis is {version}; 7.0 or newer is needed. Set REDIS_URL to one.")
