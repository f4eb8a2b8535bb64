"""`semapi migrate`: bring the database to this version's tables."""

from __future__ import annotations

from typing import Annotated

import typer

from serve_app.cli.config import settings_or_give_up
from serve_app.cli.console import errors, give_up, output


def migrate(
    wait: Annotated[
        float,
        typer.Option(min=0, max=600, envvar="WAIT_S", help="Seconds to wait for a server that does not answer yet."),
    ] = 0.0,
) -> None:
    """Apply the numbered SQL migrations to DATABASE_URL; safe to repeat and to run at once from several places."""
    from serve_app.usage import migrations  # psycopg belongs to the extra [serve]

    url = settings_or_give_up().database_url.get_secret_value()
    if not url:
        give_up("DATABASE_URL is not set; `semapi up` migrates its own database.")
    try:
        applied = migrations.migrate(url, wait_s=wait, say=lambda text: errors.print(text, markup=False))
    except migrations.MigrationError as error:
        give_up(str(error))
    output.print(f"applied: {', '.join(applied)}" if applied else "up to date: nothing to apply")
