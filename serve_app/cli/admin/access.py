"""What the commands of admins share: where the service is, whose token, and how a refusal is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from serve_app.cli.console import give_up
from serve_app.cli.token import ADMIN_ROLE, DEFAULT_ISSUER, find_token
from serve_app.client.admin import AdminClient
from serve_app.errors import ServiceError

Url = Annotated[str, typer.Option(envvar="SEMAPI_URL", help="The service.")]
Issuer = Annotated[str, typer.Option(help="Development issuer, used when SEMAPI_TOKEN is not set.")]
DEFAULT_URL = "http://localhost:8080"


@contextmanager
def as_admin(url: str, issuer: str = DEFAULT_ISSUER) -> Iterator[AdminClient]:
    """The service with SEMAPI_TOKEN or a development admin's token; what it refuses ends the command with one line."""
    try:
        with AdminClient(url, find_token(issuer, scope=f"openid {ADMIN_ROLE}")) as client:
            yield client
    except (ServiceError, ValueError) as error:
        give_up(error.detail if isinstance(error, ServiceError) else str(error))
