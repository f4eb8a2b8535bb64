"""How commands reach a running service: its URL, a token, and one line when it refuses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, TypeVar

import httpx2
import typer

from serve_app.cli.console import give_up
from serve_app.client import ServiceClient
from serve_app.errors import ServiceError
from serve_app.settings import Settings

Client = TypeVar("Client", bound=ServiceClient)

Url = Annotated[str, typer.Option(envvar="SEMAPI_URL", help="The service.")]
Issuer = Annotated[str, typer.Option(help="Development issuer, used when SEMAPI_TOKEN is not set.")]
SERVICE = "http://localhost:8080"
DEFAULT_ISSUER = "http://localhost:18080/default"
ADMIN_ROLE = Settings.model_fields["oidc_admin_role"].default
"""The role of admins of `semapi up` unless OIDC_ADMIN_ROLE names another; the development issuer's scopes are roles."""


@contextmanager
def connected(kind: type[Client], url: str, issuer: str, *, as_admin: bool = False) -> Iterator[Client]:
    """A client with SEMAPI_TOKEN, else a development token. A refusal inside ends the command with one line."""
    try:
        with kind(url, find_token(issuer, scope=f"openid {ADMIN_ROLE}" if as_admin else "openid")) as client:
            yield client
    except (ServiceError, ValueError, OSError) as error:
        give_up(str(error))


def development_token(user: str, issuer: str = DEFAULT_ISSUER, *, scope: str = "openid") -> str:
    """A token for `user`; ends the command with a hint if the issuer does not run."""
    form = {"grant_type": "client_credentials", "client_id": user, "client_secret": "development", "scope": scope}
    try:
        answer = httpx2.post(f"{issuer}/token", data=form, timeout=10, trust_env=False)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        give_up(f"no token from the development issuer at {issuer} ({error}). Is `semapi up` running?")
    try:
        document = answer.json()
        if answer.status_code == 200:
            return str(document["access_token"])
        reason = document["error_description"]
    except (ValueError, KeyError, TypeError):
        reason = f"it answered {answer.status_code}, not as a token issuer does"
    give_up(f"no token from {issuer}: {reason}")


def find_token(issuer: str = DEFAULT_ISSUER, *, scope: str = "openid") -> str:
    """SEMAPI_TOKEN, else a development token for the current account."""
    user = os.environ.get("USER") or "developer"
    return os.environ.get("SEMAPI_TOKEN") or development_token(user, issuer, scope=scope)
