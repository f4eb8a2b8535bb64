"""`semapi up`: the whole service on this machine, from nothing to a classified sample."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

import serve_app
from serve_app.cli.classify import classify_files
from serve_app.cli.config import settings_or_give_up
from serve_app.cli.console import errors, give_up, output, print_result
from serve_app.cli.token import DEFAULT_ISSUER, development_token
from serve_app.client.http import ServiceClient
from serve_app.contracts import Json

if TYPE_CHECKING:
    from serve_app.local.cluster import Cluster

PACKAGE = Path(serve_app.__file__).parent
SAMPLES = PACKAGE / "samples"
ALIVE_POLL_S = 1.0
HIGHEST_PORT = 65_535
ROWS_DEADLINE_S = 15.0
INTERRUPTED = 130
"""What shells report for SIGINT: `--once` did not get to its sample."""


def up(
    once: Annotated[
        bool, typer.Option("--once", help="End after the sample, with status 0 if it was classified.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=HIGHEST_PORT, help="Port of the API; 0: a free one.")] = 8080,
    issuer_port: Annotated[
        int, typer.Option(min=0, max=HIGHEST_PORT, help="Port of the development token issuer; 0: a free one.")
    ] = 18080,
    dashboard_port: Annotated[
        int, typer.Option(min=0, max=HIGHEST_PORT, help="Port of the Ray dashboard; 0: a free one.")
    ] = 8265,
    config: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="Serve config of the application.")
    ] = PACKAGE / "serve.yaml",
) -> None:
    """Start everything on this machine, classify a sample, and serve until Ctrl-C.

    REDIS_URL and DATABASE_URL, where set, are used; otherwise an embedded Valkey and PostgreSQL start. Everything
    listens on loopback. With OIDC_ISSUERS set, the sample needs a token of yours in SEMAPI_TOKEN.
    """
    from serve_app.local.state import LocalError, state_folder  # the extra [local]
    from serve_app.usage.migrations import MigrationError

    for number in (signal.SIGTERM, signal.SIGINT):  # a script's background job starts with SIGINT ignored
        signal.signal(number, _interrupt)
    try:
        _run(once, port, issuer_port, dashboard_port, config)
    except (LocalError, MigrationError) as error:
        give_up(str(error))
    except KeyboardInterrupt:
        output.print("stopped; data stay in", str(state_folder()))
        raise typer.Exit(INTERRUPTED if once else 0) from None


def _run(once: bool, port: int, issuer_port: int, dashboard_port: int, config: Path) -> None:
    from serve_app.local.cluster import Cluster
    from serve_app.local.stack import LocalStack
    from serve_app.local.state import state_folder
    from serve_app.usage.migrations import migrate

    started = time.monotonic()
    settings = settings_or_give_up()
    own_issuer = "oidc_issuers" not in settings.model_fields_set
    can_sample = own_issuer or bool(os.environ.get("SEMAPI_TOKEN"))
    if once and not can_sample:
        give_up("OIDC_ISSUERS names an issuer of yours: set SEMAPI_TOKEN to a token of it for the sample")
    folder = state_folder()
    with LocalStack(folder, settings, issuer_port=issuer_port) as stack:
        for server in stack.servers:
            _say(started, f"{server.title} ready on port {server.port}")
        if applied := migrate(stack.environment["DATABASE_URL"]):
            _say(started, f"database migrated: {', '.join(applied)}")
        issuer = stack.environment["OIDC_ISSUERS"].split(",")[0]
        cluster = Cluster(folder / "ray", config, stack.environment, api_port=port, dashboard_port=dashboard_port)
        try:
            cluster.start(lambda step: _say(started, step))
            _say(started, "healthy")
            if can_sample and (job_id := _classify_sample(cluster.url, issuer)):
                _show_rows(stack.environment["DATABASE_URL"], job_id)
            if not once:
                _serve(cluster, issuer if own_issuer else None)
        finally:
            _say(started, "stopping")
            cluster.stop()
    output.print("stopped; data stay in", str(folder))


def _classify_sample(url: str, issuer: str) -> str | None:
    """Send one shipped picture the whole way, as a client does; its job id. None when the model wants no pictures."""
    sample = SAMPLES / "nanowires.jpg"
    token = os.environ.get("SEMAPI_TOKEN") or development_token("developer", issuer)
    with ServiceClient(url, token) as client:
        served = client.models()
    if next(model["input"] for model in served["models"] if model["name"] == served["default"]) != "image":
        output.print(f"\n  the default model, {served['default']}, takes no images: no sample was sent", markup=False)
        return None
    [(_, job)] = classify_files([sample], url, token)
    if job["status"] != "COMPLETED":
        give_up(f"the sample ended {job['status']}: {job['problem']['detail']}")
    print_result(sample.name, job["result"])
    _check_demo(job["result"], sample.stem)
    return str(job["job_id"])


def _check_demo(result: Json, wanted: str) -> None:
    """The sample is a drawing that the demo model must know; of another model nothing can be expected."""
    model = result.get("model")
    if isinstance(model, dict) and model.get("demo") and result["label"].lower() != wanted:
        errors.print(f"semapi: expected a picture of {wanted}", style="red")
        raise typer.Exit(1)


def _show_rows(database_url: str, job_id: str) -> None:
    """Wait until the sample's outcome and its requests are rows in PostgreSQL, and say so."""
    import psycopg

    counting = (
        "SELECT (SELECT count(*) FROM job_outcomes WHERE job_id = %(id)s), "
        "(SELECT count(*) FROM api_usage WHERE job_id = %(id)s)"
    )
    deadline = time.monotonic() + ROWS_DEADLINE_S
    with psycopg.connect(database_url, autocommit=True, connect_timeout=5) as connection:
        while time.monotonic() < deadline:
            outcomes, requests = connection.execute(counting, {"id": job_id}).fetchone() or (0, 0)
            if outcomes and requests:
                output.print(f"    in PostgreSQL: {outcomes} outcome, {requests} requests of this job")
                return
            time.sleep(0.1)
    give_up(f"job {job_id} has no rows in PostgreSQL after {ROWS_DEADLINE_S:g} s")


def _serve(cluster: Cluster, issuer: str | None) -> None:
    """Say how to use the service, then wait. `issuer`: the development issuer, where it is the one in use."""
    output.print(
        f"\n  API            {cluster.url}\n"
        f"  Ray dashboard  {cluster.dashboard_url}  (asks for the token in {cluster.token_file})",
        markup=False,
    )
    if issuer:
        _show_token(issuer)
    output.print(
        f'\n  try:  curl -H "Authorization: Bearer $TOKEN" -F image=@FILE {cluster.url}/api/v1/jobs\n  stop: Ctrl-C\n',
        markup=False,
    )
    sys.stdout.flush()
    ended = threading.Event()
    while not ended.wait(ALIVE_POLL_S):
        if not cluster.runs():
            give_up(f"the service ended by itself; its logs are in {cluster.folder}")


def _show_token(issuer: str) -> None:
    """A token that is ready to use, and the command that makes others, as it can be typed here."""
    command = "semapi" if shutil.which("semapi") else os.path.relpath(sys.argv[0])
    elsewhere = "" if issuer == DEFAULT_ISSUER else f" --issuer {issuer}"
    output.print(
        f"  token          of user developer, for an hour, by a development issuer that signs for any name:\n"
        f"\n  TOKEN={development_token('developer', issuer)}\n"
        f"\n  another:       {command} token USER{elsewhere}, an admin's with --admin",
        markup=False,
    )


def _say(started: float, text: str) -> None:
    output.print(f"[{time.monotonic() - started:5.1f} s] {text}", markup=False)
    sys.stdout.flush()


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt
