"""The development issuer as a server beside the others."""

from __future__ import annotations

import os
import sys
from typing import Any

import httpx2

from serve_app.local.issuer import Issuer
from serve_app.local.keys import SigningKeys
from serve_app.local.server import NotReady, Server

CHECK_TIMEOUT_S = 2.0


class Authority(Server):
    """The development issuer in a process of its own, its keys kept in the data folder."""

    title = "The development issuer"
    process_names = ("python", "Python")
    as_service = False  # `nobody` may be unable to read this interpreter

    @property
    def url(self) -> str:
        """The issuer, as tokens name it."""
        return f"http://localhost:{self.port}/default"

    def mint(self, user: str, **claims: Any) -> str:
        """A token signed with the current key, claims as `Issuer.mint` takes them. Works while the server is down."""
        return Issuer(self.url, SigningKeys(self.data)).mint(user, **claims)

    def _environment(self) -> dict[str, str]:
        return dict(os.environ)  # our own code under our own account: what this interpreter needs, that one needs

    def _prepare(self) -> None:
        self._make_data_folder(self.data)

    def _command(self) -> list[str]:
        options = [f"--port={self.port}", f"--issuer={self.url}", f"--folder={self.data}"]
        return [sys.executable, "-P", "-m", "serve_app.local.issuer", *options]

    def _check(self) -> None:
        address = f"http://127.0.0.1:{self.port}/default/.well-known/openid-configuration"
        try:
            httpx2.get(address, timeout=CHECK_TIMEOUT_S, trust_env=False).raise_for_status()
        except httpx2.HTTPError as error:
            raise NotReady from error
