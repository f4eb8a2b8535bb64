"""`semapi config`: the settings as this environment resolves them."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from pydantic import SecretStr, ValidationError
from rich.table import Table

from serve_app.cli.console import give_up, output
from serve_app.settings import Settings, read_settings


def config(as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False) -> None:
    """Show every setting with its value here; secrets are masked."""
    try:
        settings = read_settings()
    except ValidationError as error:
        give_up(explain(error))
    values = {name.upper(): _shown(getattr(settings, name)) for name in Settings.model_fields}
    if as_json:
        output.print_json(json.dumps(values))
        return
    table = Table("setting", "value", "default")
    for name, field in Settings.model_fields.items():
        value, default = values[name.upper()], _shown(field.default)
        table.add_row(name.upper(), str(value), "" if value == default else str(default))
    output.print(table)


def explain(error: ValidationError) -> str:
    """The faults of the settings in one line, without their values: they may be secrets."""
    faults = [(".".join(map(str, fault["loc"])).upper(), fault["msg"]) for fault in error.errors()]
    return "; ".join(f"{name}: {message}" if name else message for name, message in faults)


def _shown(value: object) -> object:
    if isinstance(value, SecretStr):
        return "********" if value.get_secret_value() else ""
    if isinstance(value, tuple):
        return ", ".join(value)
    return value if isinstance(value, int | float | str) else "" if value is None else str(value)
