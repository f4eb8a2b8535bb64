"""`semapi dead`: jobs that were given up, looked at, run again or dropped by an admin."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated

import typer
from rich.table import Table

from serve_app.cli.admin.access import DEFAULT_URL, Issuer, Url, as_admin
from serve_app.cli.console import errors, give_up, output
from serve_app.cli.token import DEFAULT_ISSUER
from serve_app.client.admin import AdminClient
from serve_app.errors import ServiceError

commands = typer.Typer(help="Dead jobs: list, show, requeue, drop.", rich_markup_mode=None, no_args_is_help=True)

OfModel = Annotated[str | None, typer.Option(help="Those of this model.")]
JobIds = Annotated[list[str] | None, typer.Argument(help="Ids of dead jobs.")]
All = Annotated[bool, typer.Option("--all", help="All dead jobs.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before --all or --model.")]


@commands.command("list")
def list_(model: OfModel = None, url: Url = DEFAULT_URL, issuer: Issuer = DEFAULT_ISSUER) -> None:
    """List dead jobs, the newest first."""
    shown = Table(box=None, pad_edge=False)
    for heading in ("job", "model", "died", "deliveries", "strikes", "why"):
        shown.add_column(heading, no_wrap=heading != "why")
    with as_admin(url, issuer) as client:
        for job in client.dead_jobs(model):
            counts = (str(job["deliveries"]), str(job["strikes"]))
            shown.add_row(job["job_id"], job["model"], job["died_at"], *counts, job["problem"]["detail"])
    output.print(shown if shown.row_count else "There are no dead jobs.")


@commands.command()
def show(
    job_id: Annotated[str, typer.Argument(help="Id of a dead job.")],
    url: Url = DEFAULT_URL,
    issuer: Issuer = DEFAULT_ISSUER,
) -> None:
    """Show all that is known of a dead job, as JSON."""
    with as_admin(url, issuer) as client:
        typer.echo(json.dumps(client.dead_job(job_id), indent=2))


@commands.command()
def requeue(
    job_ids: JobIds = None,
    model: OfModel = None,
    every: All = False,
    yes: Yes = False,
    url: Url = DEFAULT_URL,
    issuer: Issuer = DEFAULT_ISSUER,
) -> None:
    """Let dead jobs run again. Ends with 1 when one could not be put back."""
    with as_admin(url, issuer) as client:
        _each(_chosen(client, job_ids, model, every, yes, "requeue"), client.requeue, "requeued")


@commands.command()
def drop(
    job_ids: JobIds = None,
    model: OfModel = None,
    every: All = False,
    yes: Yes = False,
    url: Url = DEFAULT_URL,
    issuer: Issuer = DEFAULT_ISSUER,
) -> None:
    """Remove dead jobs and their images for good. Ends with 1 when one could not be removed."""
    with as_admin(url, issuer) as client:
        _each(_chosen(client, job_ids, model, every, yes, "drop"), client.drop, "dropped")


def _chosen(
    client: AdminClient, job_ids: list[str] | None, model: str | None, every: bool, yes: bool, verb: str
) -> list[str]:
    if sum(map(bool, (job_ids, model, every))) != 1:
        give_up("name either job ids, or --model, or --all")
    if job_ids:
        return job_ids
    found = [str(job["job_id"]) for job in client.dead_jobs(model)]
    if found and not yes:
        typer.confirm(f"{verb} {len(found)} dead jobs?", abort=True)
    return found


def _each(job_ids: list[str], change: Callable[[str], None], done: str) -> None:
    refused = 0
    for job_id in job_ids:
        try:
            change(job_id)
        except ServiceError as error:
            refused += 1
            errors.print(f"{job_id}: {error.detail}", style="red", markup=False)
    output.print(f"{len(job_ids) - refused} {done}", markup=False)
    if refused:
        raise typer.Exit(1)
