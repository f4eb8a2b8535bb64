"""`semapi`: the command line of the service. Most commands live in the module of their name."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed_version
from typing import Annotated

import typer

from serve_app.cli import (
    admin,
    batch,
    classify,
    config,
    evaluate,
    jobs,
    model,
    predict,
    token,
    top,
    up,
    usage,
    webhooks,
)
from serve_app.contracts import SERVICE_NAME

EXTRAS = {"scipy": "serve,vision", "cv2": "serve,vision"}
"""The extras that install a missing library, unless it is one of [serve,local]."""


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"semapi {installed_version(SERVICE_NAME)}")
        raise typer.Exit


commands = typer.Typer(
    name="semapi",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (up.up, classify.classify, predict.predict, top.top, config.config, config.migrate):
    commands.command()(command)
commands.add_typer(token.commands, name="token")
commands.add_typer(batch.commands, name="batch")
commands.add_typer(jobs.commands, name="jobs")
commands.add_typer(usage.commands, name="usage")
commands.add_typer(webhooks.commands, name="webhooks")
commands.add_typer(evaluate.commands, name="evaluate")
commands.add_typer(model.commands, name="model")
commands.add_typer(admin.dead, name="dead")
commands.add_typer(admin.intake, name="intake")


@commands.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version and end.")
    ] = False,
) -> None:
    """Asynchronous classification of scanning-electron-microscopy images."""


def app() -> None:
    """Run the command line. If a library of an extra is missing, name it and how to install it."""
    try:
        commands()
    except ModuleNotFoundError as error:
        if (error.name or "serve_app").partition(".")[0] == "serve_app":
            raise
        extra = EXTRAS.get(error.name or "", "serve,local")
        sys.exit(f"semapi: this needs {error.name}: pip install 'sem-image-classifier[{extra}]'")
