"""`semapi token USER`: a token of the development issuer."""

from __future__ import annotations

import os
from typing import Annotated

import httpx2
import typer

from serve_app.cli.console import give_up
from serve_app.settings import Settings

ADMIN_ROLE = Settings.model_fields["oidc_admin_role"].default
"""What `semapi up` takes for an admin unless OIDC_ADMIN_ROLE says otherwise; scopes are roles there."""
DEFAULT_ISSUER = "http://localhost:18080/default"


def token(
    user: Annotated[str, typer.Argument(help="The user's name; it becomes the token's subject.")],
    issuer: Annotated[str, typer.Option(help="The development issuer of `semapi up`.")] = DEFAULT_ISSUER,
    admin: Annotated[bool, typer.Option("--admin", help="An admin's token: this issuer makes one of anybody.")] = False,
) -> None:
    """Print an access token of the local development issuer (a stand-in: it signs for any name)."""
    typer.echo(development_token(user, issuer, scope=f"openid {ADMIN_ROLE}" if admin else "openid"))


def development_token(user: str, issuer: str = DEFAULT_ISSUER, *, scope: str = "openid") -> str:
    """A token for `user`; gives up with a hint when the issuer does not run."""
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
    """SEMAPI_TOKEN, else a development token for the account that runs us."""
    user = os.environ.get("USER") or "developer"
    return os.environ.get("SEMAPI_TOKEN") or development_token(user, issuer, scope=scope)
