"""`semapi batch …`: many images at once to a running service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.progress import Progress

from serve_app.cli.access import DEFAULT_ISSUER, SERVICE, Issuer, Url, connected
from serve_app.cli.console import Bom, bom_for, errors, give_up, output
from serve_app.client import BatchClient, split
from serve_app.contracts import Json
from serve_app.errors import ServiceError

T = TypeVar("T")

BatchId = Annotated[str, typer.Argument(metavar="BATCH", help="Id of the batch.")]

commands = typer.Typer(help="Many images at once: submit, status, results, cancel.", no_args_is_help=True)


@commands.command()
def submit(
    paths: Annotated[list[Path], typer.Argument(exists=True, help="Images, or folders of images.")],
    model: Annotated[str | None, typer.Option(help="Name of the model; default: the service's first.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end of all items.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for one batch.")] = 3600.0,
    url: Url = SERVICE,
    issuer: Issuer = DEFAULT_ISSUER,
) -> None:
    """Send images; prints id and counts of each batch of up to 200.

    With --wait it ends with 1 when one was not classified.
    """
    files = [file for path in paths for file in _files(path)]
    if not files:
        give_up("These folders contain no files.")
    batches = _ask(url, issuer, lambda client: _send(client, files, model, timeout if wait else None))
    for batch in batches:
        _print(batch)
    if wait and any(batch["counts"]["completed"] < batch["size"] for batch in batches):
        raise typer.Exit(1)


@commands.command()
def status(batch: BatchId, url: Url = SERVICE, issuer: Issuer = DEFAULT_ISSUER) -> None:
    """Show how many items have each status."""
    _print(_ask(url, issuer, lambda client: client.batch(batch)))


@commands.command()
def results(
    batch: BatchId,
    as_csv: Annotated[bool, typer.Option("--csv", help="A table instead of one JSON object per line.")] = False,
    target: Annotated[
        Path | None, typer.Option("--output", dir_okay=False, help="File to write instead of the terminal.")
    ] = None,
    bom: Bom = None,
    url: Url = SERVICE,
    issuer: Issuer = DEFAULT_ISSUER,
) -> None:
    """Print a line for each item, with its result or problem."""
    text = _ask(url, issuer, lambda client: client.batch_results(batch, "csv" if as_csv else "ndjson"))
    if as_csv:
        text = bom_for(target, bom) + text
    if target is None:
        typer.echo(text, nl=False)
        return
    try:
        target.write_bytes(text.encode())  # bytes, to keep the service's line ends
    except OSError as error:
        give_up(str(error))


@commands.command()
def cancel(batch: BatchId, url: Url = SERVICE, issuer: Issuer = DEFAULT_ISSUER) -> None:
    """Cancel all items that have not ended."""
    _print(_ask(url, issuer, lambda client: client.cancel_batch(batch)))


def _files(path: Path) -> Sequence[Path]:
    return sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]


def _send(client: BatchClient, files: Sequence[Path], model: str | None, timeout: float | None) -> list[Json]:
    """Send all batches, then wait for them. Batches that were sent are printed even if a later one is refused."""
    sent: list[Json] = []
    with Progress(console=errors, transient=True) as progress:
        bar = progress.add_task("sending", total=len(files))
        for part in split(files):
            try:
                sent.append(client.send(part, model=model))
            except ServiceError:
                for batch in sent:
                    _print(batch)
                raise
            progress.advance(bar, len(part))
        if timeout is None:
            return sent
        ended = 0
        progress.reset(bar, description="classifying", total=len(files))
        for place, batch in enumerate(sent):

            def tell(now: Json, before: int = ended) -> None:
                progress.update(bar, completed=before + now["size"] - now["open"])

            sent[place] = client.wait_batch(batch["batch_id"], timeout, tell)
            ended += batch["size"]
    return sent


def _print(batch: Json) -> None:
    counts = ", ".join(f"{number} {name}" for name, number in batch["counts"].items() if number)
    output.print(f"{batch['batch_id']}  {counts}", markup=False)


def _ask(url: str, issuer: str, ask: Callable[[BatchClient], T]) -> T:
    with connected(BatchClient, url, issuer) as client:
        return ask(client)
