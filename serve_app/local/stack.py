"""The servers that the application needs on one machine: job Redis, PostgreSQL and a token issuer."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

from serve_app.local.issuer import DevIssuerServer
from serve_app.local.postgres import Postgres
from serve_app.local.server import Server
from serve_app.local.state import LocalError, lock_folder, make_folder, new_run
from serve_app.local.valkey import Valkey, check_redis
from serve_app.settings import Settings

ISSUER_PORT = 18080
RESTARTS_MAX = 3
RESTARTS_WITHIN_S = 600.0


class LocalStack:
    """Starts the servers that `settings` do not name; a server named by its setting is used instead.

    As a context manager it starts servers in order and stops them in reverse; one run at a time per folder. Port 0
    picks a free port. Raises LocalError."""

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        *,
        redis_port: int = 0,
        database_port: int = 0,
        issuer_port: int = ISSUER_PORT,
    ) -> None:
        self.folder = folder.absolute()
        self.settings = settings
        self.valkey = Valkey(self.folder / "valkey", redis_port)
        self.postgres = Postgres(self.folder / "postgres", database_port)
        self.issuer = DevIssuerServer(self.folder / "issuer", issuer_port)
        self.logs: Path | None = None
        """The folder of this run's logs, once it has begun."""
        self._restarts: deque[float] = deque(maxlen=RESTARTS_MAX)
        self._running = ExitStack()

    @property
    def servers(self) -> list[Server]:
        """The servers that this stack runs itself."""
        own: list[Server] = []
        if not self.settings.redis_url.get_secret_value():
            own.append(self.valkey)
        if not self.settings.database_url.get_secret_value():
            own.append(self.postgres)
        if "oidc_issuers" not in self.settings.model_fields_set:
            own.append(self.issuer)
        return own

    @property
    def environment(self) -> dict[str, str]:
        """The application's environment; contains secrets."""
        own = self.servers
        given = self.settings
        return {
            "REDIS_URL": self.valkey.url if self.valkey in own else given.redis_url.get_secret_value(),
            "DATABASE_URL": self.postgres.url if self.postgres in own else given.database_url.get_secret_value(),
            "OIDC_ISSUERS": self.issuer.url if self.issuer in own else ",".join(given.oidc_issuers),
        }

    def __enter__(self) -> Self:
        with ExitStack() as starting:
            make_folder(self.folder)
            self._check_given_redis()
            starting.enter_context(lock_folder(self.folder))
            self.logs = new_run(self.folder)
            for server in self.servers:
                server.log = self.logs / f"{server.folder.name}.log"
                server.start()
                starting.callback(server.stop)
            self._running = starting.pop_all()
        return self

    def revive(self, tell: Callable[[str], None]) -> None:
        """Restart servers of this stack that ended by themselves, on their data, and report each to `tell`.

        Raises LocalError if one does not start, or after `RESTARTS_MAX` restarts in `RESTARTS_WITHIN_S`: then the cause
        is something that a restart cannot fix, such as a full disk."""
        for server in self.servers:
            if not (how := server.ended()):
                continue
            now = time.monotonic()
            if len(self._restarts) == RESTARTS_MAX and now - self._restarts[0] < RESTARTS_WITHIN_S:
                raise LocalError(f"{server.title} ended by itself again ({how}); its log is {server.log}.")
            self._restarts.append(now)
            tell(f"{server.title} ended by itself ({how}); starting it again on its data")
            server.restart()
            tell(f"{server.title} ready on port {server.port}")

    def _check_given_redis(self) -> None:
        """Report an unusable REDIS_URL at once, instead of after minutes of waiting for the application."""
        try:
            if url := self.settings.redis_url.get_secret_value():
                check_redis(url)
        except redis.RedisError as error:
            raise LocalError(f"The server of REDIS_URL cannot be used: {error}") from error
        except ValueError:  # its message would show a part of the password
            raise LocalError("REDIS_URL is not a Redis URL; percent-encode special characters.") from None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()
