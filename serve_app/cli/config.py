"""`semapi config`: the settings as this environment resolves them."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from pydantic import SecretStr, ValidationError
from pydantic_settings import SettingsError
from rich.table import Table

from serve_app.cli.console import explain, give_up, output
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


def settings_or_give_up() -> Settings:
    """The settings of this process; a fault in them ends it in one line, without values: they may be secrets."""
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
