"""`semapi`: the command line of the service. Each command lives in the module of its name."""

from __future__ import annotations

import typer

from serve_app.cli import classify, config, migrate, predict, token, up

app = typer.Typer(
    name="semapi",
    help="Asynchronous classification of scanning-electron-microscopy images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for module in (up, token, classify, predict, config, migrate):
    app.command()(getattr(module, module.__name__.rpartition(".")[2]))
