"""`semapi dead` and `semapi intake`: what admins do about dead jobs, and how they stop and resume work."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated

import typer
from rich.table import Table

from serve_app.cli.access import DEFAULT_ISSUER, SERVICE, Issuer, Url, connected
from serve_app.cli.console import errors, give_up, output
from serve_app.client import AdminClient
from serve_app.errors import ServiceError

dead = typer.Typer(help="Dead jobs: list, show, requeue, drop.", rich_markup_mode=None, no_args_is_help=True)

OfModel = Annotated[str | None, typer.Option(help="Only dead jobs of this model.")]
JobIds = Annotated[list[str] | None, typer.Argument(help="Ids of dead jobs.")]
All = Annotated[bool, typer.Option("--all", help="All dead jobs.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before --all or --model.")]


@dead.command("list")
def list_dead(model: OfModel = None, url: Url = SERVICE, issuer: Issuer = DEFAULT_ISSUER) -> None:
    """List dead jobs, the newest first."""
    shown = Table(box=None, pad_edge=False)
    for heading in ("job", "model", "died", "deliveries", "strikes", "why"):
        shown.add_column(heading, no_wrap=heading != "why")
    with connected(AdminClient, url, issuer, as_admin=True) as client:
        for job in client.dead_jobs(model):
            counts = (str(job["deliveries"]), str(job["strikes"]))
            shown.add_row(job["job_id"], job["model"], job["died_at"], *counts, job["problem"]["detail"])
    output.print(shown if shown.row_count else "There are no dead jobs.")


@dead.command("show")
def show_dead(
    job_id: Annotated[str, typer.Argument(help="Id of a dead job.")],
    url: Url = SERVICE,
    issuer: Issuer = DEFAULT_ISSUER,
) -> None:
    """Show all data of a dead job, as JSON."""
    with connected(AdminClient, url, issuer, as_admin=True) as client:
        typer.echo(json.dumps(client.dead_job(job_id), indent=2))


@dead.command()
def requeue(
    job_ids: JobIds = None,
    model: OfModel = None,
    every: All = False,
    yes: Yes = False,
    url: Url = SERVICE,
    issuer: Issuer = DEFAULT_ISSUER,
) -> None:
    """Run dead jobs again. Ends with 1 if one could not be requeued."""
    with connected(AdminClient, url, issuer, as_admin=True) as client:
        _each(_chosen(client, job_ids, model, every, yes, "requeue"), client.requeue, "requeued")


@dead.command()
def drop(
    job_ids: JobIds = None,
    model: OfModel = None,
    every: All = False,
    yes: Yes = False,
    url: Url = SERVICE,
    issuer: Issuer = DEFAULT_ISSUER,
) -> None:
    """Delete dead jobs and their images for good. Ends with 1 if one could not be deleted."""
    with connected(AdminClient, url, issuer, as_admin=True) as client:
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


intake = typer.Typer(
    help="Stop and start the intake of jobs; pause and resume a model.", rich_markup_mode=None, no_args_is_help=True
)

IntakeOf = Annotated[str | None, typer.Option(help="Only this model.")]
ModelName = Annotated[str, typer.Argument(help="The model.")]
Message = Annotated[str, typer.Option(help="Shown to refused users, and to users who ask why their jobs wait.")]
RetryAfter = Annotated[int, typer.Option(min=1, max=86_400, help="Seconds after which clients should try again.")]


@intake.command("show")
def show_stops(url: Url = SERVICE, issuer: Issuer = DEFAULT_ISSUER) -> None:
    """Show what is stopped, since when and by whom."""
    with connected(AdminClient, url, issuer, as_admin=True) as client:
        stops = client.stops()
    for one in stops:
        output.print(f"{one['stop']}  since {one['at']} by {one['by']}: {one['message']}", markup=False)
    if not stops:
        output.print("Nothing is stopped.")


@intake.command()
def stop(
    message: Message,
    model: IntakeOf = None,
    retry_after: RetryAfter = 300,
    url: Url = SERVICE,
    issuer: Issuer = DEFAULT_ISSUER,
) -> None:
    """Accept no more jobs. Accepted jobs still run to their end."""
    _stop("intake", model, message, retry_after, url, issuer)


@intake.command()
def start(model: IntakeOf = None, url: Url = SERVICE, issuer: Issuer = DEFAULT_ISSUER) -> None:
    """Accept jobs again."""
    _resume(f"intake:{model}" if model else "intake", url, issuer)


@intake.command()
def pause(
    model: ModelName,
    message: Message,
    url: Url = SERVICE,
    issuer: Issuer = DEFAULT_ISSUER,
) -> None:
    """Start no more jobs of a model: running ones end, new ones are accepted and wait."""
    _stop("work", model, message, 300, url, issuer)


@intake.command()
def resume(model: ModelName, url: Url = SERVICE, issuer: Issuer = DEFAULT_ISSUER) -> None:
    """Run the model's jobs again."""
    _resume(f"work:{model}", url, issuer)


def _stop(what: str, model: str | None, message: str, retry_after: int, url: str, issuer: str) -> None:
    with connected(AdminClient, url, issuer, as_admin=True) as client:
        output.print(f"stopped: {client.stop(what, model, message, retry_after)['stop']}", markup=False)


def _resume(name: str, url: str, issuer: str) -> None:
    with connected(AdminClient, url, issuer, as_admin=True) as client:
        client.resume(name)
    output.print(f"goes on: {name}", markup=False)
