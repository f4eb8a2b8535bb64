"""`semapi config` and `semapi migrate`: the settings as this environment resolves them, and the database's tables."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from pydantic import SecretStr, ValidationError
from pydantic_settings import SettingsError
from rich.table import Table

from serve_app.cli.console import errors, explain, give_up, output
from serve_app.settings import Settings, read_settings


def config(as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False) -> None:
    """Show every setting with its value here; secrets are masked."""
    settings = settings_or_give_up()
    values = {name.upper(): _shown(getattr(settings, name)) for name in Settings.model_fields}
    if as_json:
        output.print_json(json.dumps(values))
        return
    table = Table("setting", "value", "default")
    for name, field in Settings.model_fields.items():
        value, default = values[name.upper()], _shown(field.default)
        table.add_row(name.upper(), str(value), "" if value == default else str(default))
    output.print(table)


def migrate(
    wait: Annotated[
        float,
        typer.Option(min=0, max=600, envvar="WAIT_S", help="Seconds to wait for a server that does not answer yet."),
    ] = 0.0,
) -> None:
    """Apply the numbered SQL migrations to DATABASE_URL; safe to repeat and to run concurrently."""
    from serve_app.usage import migrations  # psycopg belongs to the extra [serve]

    url = settings_or_give_up().database_url.get_secret_value()
    if not url:
        give_up("DATABASE_URL is not set; `semapi up` migrates its own database.")
    try:
        applied = migrations.migrate(url, wait_s=wait, say=lambda text: errors.print(text, markup=False))
    except migrations.MigrationError as error:
        give_up(str(error))
    output.print(f"applied: {', '.join(applied)}" if applied else "up to date: nothing to apply")


def settings_or_give_up() -> Settings:
    """The settings of this process. Invalid ones end the command with one line, without values: they may be secrets."""
    try:
        return read_settings()
    except ValidationError as error:
        give_up(explain(error, str.upper))
    except SettingsError as error:
        give_up(f"the settings cannot be read: {error}")


def _shown(value: object) -> object:
    if isinstance(value, SecretStr):
        return "********" if value.get_secret_value() else ""
    if isinstance(value, tuple):
        return ", ".join(value)
    if isinstance(value, dict):
        return (
            json.dumps({name: rule.model_dump(exclude_defaults=True) for name, rule in value.items()}) if value else ""
        )
    return value if isinstance(value, int | float | str) else "" if value is None else str(value)
