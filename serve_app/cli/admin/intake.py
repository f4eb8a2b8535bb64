"""`semapi intake`: an admin stops and starts what comes in, or pauses and resumes a model's work."""

from __future__ import annotations

from typing import Annotated

import typer

from serve_app.cli.admin.access import DEFAULT_URL, Issuer, Url, as_admin
from serve_app.cli.console import output
from serve_app.cli.token import DEFAULT_ISSUER

commands = typer.Typer(
    help="Stop and start the intake of jobs; pause and resume a model.", rich_markup_mode=None, no_args_is_help=True
)

OfModel = Annotated[str | None, typer.Option(help="Of this model alone.")]
ModelName = Annotated[str, typer.Argument(help="The model.")]
Message = Annotated[str, typer.Option(help="What people are told who are refused, or who look why jobs wait.")]
RetryAfter = Annotated[int, typer.Option(min=1, max=86_400, help="Seconds after which clients shall try again.")]


@commands.command()
def show(url: Url = DEFAULT_URL, issuer: Issuer = DEFAULT_ISSUER) -> None:
    """Show what is stopped, since when and by whom."""
    with as_admin(url, issuer) as client:
        stops = client.stops()
    for one in stops:
        output.print(f"{one['stop']}  since {one['at']} by {one['by']}: {one['message']}", markup=False)
    if not stops:
        output.print("Nothing is stopped.")


@commands.command()
def stop(
    message: Message,
    model: OfModel = None,
    retry_after: RetryAfter = 300,
    url: Url = DEFAULT_URL,
    issuer: Issuer = DEFAULT_ISSUER,
) -> None:
    """Take no more jobs in. Those that were accepted go on to their end."""
    _stop("intake", model, message, retry_after, url, issuer)


@commands.command()
def start(model: OfModel = None, url: Url = DEFAULT_URL, issuer: Issuer = DEFAULT_ISSUER) -> None:
    """Take jobs in again."""
    _resume(f"intake:{model}" if model else "intake", url, issuer)


@commands.command()
def pause(
    model: ModelName,
    message: Message,
    url: Url = DEFAULT_URL,
    issuer: Issuer = DEFAULT_ISSUER,
) -> None:
    """Begin no more jobs of a model: those that run end, others wait and are still taken in."""
    _stop("work", model, message, 300, url, issuer)


@commands.command()
def resume(model: ModelName, url: Url = DEFAULT_URL, issuer: Issuer = DEFAULT_ISSUER) -> None:
    """Let the model's jobs run again."""
    _resume(f"work:{model}", url, issuer)


def _stop(what: str, model: str | None, message: str, retry_after: int, url: str, issuer: str) -> None:
    with as_admin(url, issuer) as client:
        output.print(f"stopped: {client.stop(what, model, message, retry_after)['stop']}", markup=False)


def _resume(name: str, url: str, issuer: str) -> None:
    with as_admin(url, issuer) as client:
        client.resume(name)
    output.print(f"goes on: {name}", markup=False)
