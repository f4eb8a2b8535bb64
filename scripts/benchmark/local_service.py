"""A whole service on this machine under a Serve config of one's own: what the benchmark measures and the tests ask."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from serve_app.contracts import Json
from serve_app.local.cluster import Cluster
from serve_app.local.stack import LocalStack
from serve_app.settings import Settings
from serve_app.usage.migrations import migrate

UNHURRIED = {
    "RATE_SUBMITS_PER_S": "10000",
    "RATE_READS_PER_S": "10000",
    "RATE_HOUSE_SUBMITS_PER_S": "10000",
    "RATE_HOUSE_READS_PER_S": "10000",
}
"""Limits for one user who is a load client. The limiter works as ever; it only never has to refuse."""


class LocalService:
    """Own servers, own Ray node, one application; it starts as `semapi up` starts it. A context manager.

    `args` are the application's, `options` what the Serve config says beside; `python_path` is for the models.
    """

    def __init__(
        self,
        folder: Path,
        args: Json,
        environment: Mapping[str, str],
        *,
        options: Mapping[str, object],
        python_path: Sequence[Path],
        haproxy: bool,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        # Not read from the environment, in which the caller may have named servers of his own.
        defaults = Settings.model_construct()
        self.folder, self.stack = folder, LocalStack(folder / "state", defaults, issuer_port=0)
        self._args, self._options, self._given = args, options, environment
        self._python_path = os.pathsep.join([*map(str, python_path), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._haproxy, self._progress = haproxy, progress

    def __enter__(self) -> Self:
        self.stack.__enter__()
        try:
            migrate(self.database_url)
            environment = {
                **self.stack.environment,
                "PYTHONPATH": self._python_path,
                "ENVIRONMENT": "local",
                **self._given,
            }
            self.cluster = Cluster(self.folder / "ray", self._config(), environment, haproxy=self._haproxy)
            self.cluster.start(self._progress)
        except BaseException:
            self.stack.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cluster.stop()
        self.stack.__exit__(kind, error, trace)

    @property
    def database_url(self) -> str:
        return self.stack.environment["DATABASE_URL"]

    def token(self, user: str, **claims: Any) -> str:
        """A token of the development issuer, with claims of one's own."""
        return self.stack.authority.mint(user, **claims)

    def _config(self) -> Path:
        application = {
            "name": "sem-image-classifier",
            "route_prefix": "/",
            "import_path": "serve_app.app:build",
            "args": self._args,
        }
        path = self.folder / "serve.yaml"
        path.write_text(yaml.safe_dump({"proxy_location": "HeadOnly", **self._options, "applications": [application]}))
        return path
