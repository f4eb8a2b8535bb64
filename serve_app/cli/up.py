"""`semapi up`: the whole service on this machine, from nothing to a classified sample."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError

import serve_app
from serve_app.cli.classify import classify_files
from serve_app.cli.config import explain
from serve_app.cli.console import errors, give_up, output, print_scores
from serve_app.cli.token import development_token
from serve_app.settings import Settings

PACKAGE = Path(serve_app.__file__).parent
SAMPLES = PACKAGE / "samples"
ALIVE_POLL_S = 1.0
ROWS_DEADLINE_S = 15.0


def up(
    once: Annotated[
        bool, typer.Option("--once", help="End after the sample, with status 0 if it was classified.")
    ] = False,
    port: Annotated[int, typer.Option(help="Port of the API, on loopback.")] = 8080,
    issuer_port: Annotated[int, typer.Option(help="Port of the development token issuer.")] = 18080,
    dashboard_port: Annotated[int, typer.Option(help="Port of the Ray dashboard.")] = 8265,
    config: Annotated[Path, typer.Option(help="Serve config of the application.")] = PACKAGE / "serve.yaml",
) -> None:
    """Start everything on this machine, classify a sample, and serve until Ctrl-C.

    REDIS_URL and DATABASE_URL, where set, are used; otherwise an embedded Valkey and PostgreSQL start.
    """
    from serve_app.local.state import LocalError  # the extra [local]

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _run(once, port, issuer_port, dashboard_port, config)
    except LocalError as error:
        give_up(str(error))
    except KeyboardInterrupt:
        output.print("stopped")


def _run(once: bool, port: int, issuer_port: int, dashboard_port: int, config: Path) -> None:
    from serve_app.local.cluster import Cluster
    from serve_app.local.stack import LocalStack
    from serve_app.local.state import state_folder
    from serve_app.usage.migrations import migrate

    started = time.monotonic()
    settings = _read_settings()
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
            job_id = _classify_sample(cluster.url, issuer)
            _show_rows(stack.environment["DATABASE_URL"], job_id)
            if not once:
                _serve(cluster.url, cluster.dashboard_url, cluster.token_file, issuer, cluster.pids())
        finally:
            _say(started, "stopping")
            cluster.stop()
    output.print("stopped; data stay in", str(folder))


def _read_settings() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        give_up(explain(error))


def _classify_sample(url: str, issuer: str) -> str:
    """Send one shipped picture the whole way, as a client does; its job id."""
    sample = SAMPLES / "nanowires.jpg"
    token = os.environ.get("SEMAPI_TOKEN") or development_token("developer", issuer)
    [(_, job)] = classify_files([sample], url, token)
    if job["status"] != "COMPLETED":
        give_up(f"the sample ended {job['status']}: {job['problem']['detail']}")
    output.print(f"\n  {sample.name} is {job['result']['label']}", style="bold")
    print_scores(job["result"])
    if job["result"]["label"].lower() != sample.stem:
        errors.print(f"semapi: expected a picture of {sample.stem}", style="red")
        raise typer.Exit(1)
    return str(job["job_id"])


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


def _serve(url: str, dashboard: str, ray_token: Path, issuer: str, guards: list[int]) -> None:
    output.print(
        f"\n  API            {url}\n"
        f"  Ray dashboard  {dashboard}  (asks for the token in {ray_token})\n"
        f"  tokens         semapi token USER   (development issuer {issuer}, a stand-in)\n\n"
        f'  try: curl -H "Authorization: Bearer $(semapi token alice)" -F image=@FILE {url}/api/v1/inference\n'
        "  stop: Ctrl-C\n"
    )
    ended = threading.Event()
    while not ended.wait(ALIVE_POLL_S):
        for guard in guards:
            try:
                os.kill(guard, 0)
            except ProcessLookupError:
                give_up(f"the service ended by itself; its logs are beside {ray_token}")


def _say(started: float, text: str) -> None:
    output.print(f"[{time.monotonic() - started:5.1f} s] {text}", markup=False)
    sys.stdout.flush()


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt
