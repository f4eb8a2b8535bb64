"""`semapi classify FILE…`: images to a running service."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from serve_app.cli.access import DEFAULT_ISSUER, SERVICE, Issuer, Url, find_token
from serve_app.cli.console import errors, give_up, print_result
from serve_app.client import ServiceClient
from serve_app.contracts import Json, Priority
from serve_app.errors import ServiceError

AT_ONCE = 8
"""Files processed at the same time: enough to fill a batch, too few to crowd out other users."""


def classify(
    files: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="Images.")],
    url: Url = SERVICE,
    issuer: Issuer = DEFAULT_ISSUER,
    model: Annotated[str | None, typer.Option(help="Name of the model; default: the service's first.")] = None,
    params: Annotated[
        str, typer.Option(help="The model's parameters, as JSON; another page of a file: '{\"page\": 2}'.")
    ] = "{}",
    timeout: Annotated[float, typer.Option(help="Seconds to wait for one file's answer.")] = 300.0,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the images as long as the jobs' records.")] = False,
    priority: Annotated[Priority, typer.Option(help="bulk: after all normal jobs.")] = Priority.NORMAL,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
) -> None:
    """Classify images with a running service; the token is SEMAPI_TOKEN, else one of the development issuer.

    Ends with 1 when a file was not classified.
    """
    try:
        answers = classify_files(
            files,
            url,
            find_token(issuer),
            model=model,
            params=json_object(params),
            keep=keep,
            priority=priority,
            timeout_s=timeout,
        )
    except ValueError as error:
        give_up(str(error))
    for path, job in answers:
        if as_json:
            typer.echo(json.dumps({"file": str(path), **job}))
        elif job["status"] == "COMPLETED":
            print_result(path.name, job["result"])
        else:
            errors.print(f"\n  {path.name}: {job['status']}: {job['problem']['detail']}", style="red", markup=False)
    if any(job["status"] != "COMPLETED" for _, job in answers):
        raise typer.Exit(1)


def json_object(text: str) -> Json:
    """The value of --params. Raises ValueError if it is no JSON object."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"--params is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError("--params must be a JSON object")
    return value


def classify_files(
    files: Sequence[Path],
    url: str,
    token: str,
    *,
    model: str | None = None,
    params: Json | None = None,
    keep: bool = False,
    priority: Priority = Priority.NORMAL,
    timeout_s: float = 300.0,
) -> list[tuple[Path, Json]]:
    """Every file with its ended job, in the given order. A refused file has the status REFUSED and its problem."""
    with (
        ServiceClient(url, token) as client,
        ThreadPoolExecutor(AT_ONCE) as threads,
        Progress(console=errors, transient=True, disable=len(files) < 2) as progress,
    ):
        bar = progress.add_task("classifying", total=len(files))
        submit = partial(client.submit, model=model, params=params, keep=keep, priority=priority)
        waiting = {threads.submit(_classify, client, submit, path, timeout_s): path for path in files}
        try:
            for _ in as_completed(waiting):
                progress.advance(bar)
        except KeyboardInterrupt:
            threads.shutdown(wait=False, cancel_futures=True)
            give_up("interrupted; jobs already sent go on at the service")
        return [(path, future.result()) for future, path in waiting.items()]


def _classify(client: ServiceClient, submit: Callable[[Path], Json], path: Path, timeout_s: float) -> Json:
    try:
        return client.wait(submit(path)["job_id"], timeout_s)
    except (ServiceError, OSError) as error:
        slug = error.slug if isinstance(error, ServiceError) else "file-unreadable"
        detail = error.detail if isinstance(error, ServiceError) else str(error)
        return {"status": "REFUSED", "result": None, "problem": {"type": f"/problems/{slug}", "detail": detail}}
