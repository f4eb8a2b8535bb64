"""`semapi jobs …`: your own jobs in a running service, as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from serve_app.cli.access import DEFAULT_ISSUER, SERVICE, Issuer, Url, connected
from serve_app.cli.console import give_up
from serve_app.client import ServiceClient
from serve_app.contracts import JobStatus, Json

JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job.")]

T = TypeVar("T")

commands = typer.Typer(help="Your jobs: list, result, image, cancel, retry, delete.", no_args_is_help=True)


@commands.command("list")
def show(
    status: Annotated[JobStatus | None, typer.Option(help="Only jobs with this status.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Most jobs of one page.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="`next_cursor` of the page before.")] = None,
    url: Url = SERVICE,
    issuer: Issuer = DEFAULT_ISSUER,
) -> None:
    """List your jobs, newest first."""
    _print(url, issuer, lambda client: client.jobs(status=status, limit=limit, cursor=cursor))


@commands.command()
def result(job: JobId, url: Url = SERVICE, issuer: Issuer = DEFAULT_ISSUER) -> None:
    """Print the result of a completed job, also of an older one."""
    _print(url, issuer, lambda client: client.result(job))


@commands.command()
def image(
    job: JobId,
    file: Annotated[Path, typer.Option("--output", "-o", dir_okay=False, help="Where to write it.")],
    url: Url = SERVICE,
    issuer: Issuer = DEFAULT_ISSUER,
) -> None:
    """Write a job's image to a file, if the job was submitted with --keep."""
    data = _ask(url, issuer, lambda client: client.image(job))
    try:
        file.write_bytes(data)
    except OSError as error:
        give_up(str(error))


@commands.command()
def cancel(job: JobId, url: Url = SERVICE, issuer: Issuer = DEFAULT_ISSUER) -> None:
    """Cancel a waiting or running job."""
    _print(url, issuer, lambda client: client.cancel(job))


@commands.command()
def retry(job: JobId, url: Url = SERVICE, issuer: Issuer = DEFAULT_ISSUER) -> None:
    """Run a failed job again."""
    _print(url, issuer, lambda client: client.retry(job))


@commands.command()
def delete(job: JobId, url: Url = SERVICE, issuer: Issuer = DEFAULT_ISSUER) -> None:
    """Delete an ended job with its image and results."""
    _print(url, issuer, lambda client: client.remove(job))


def _print(url: str, issuer: str, ask: Callable[[ServiceClient], Json | None]) -> None:
    if (answer := _ask(url, issuer, ask)) is not None:
        typer.echo(json.dumps(answer))


def _ask(url: str, issuer: str, ask: Callable[[ServiceClient], T]) -> T:
    with connected(ServiceClient, url, issuer) as client:
        return ask(client)
