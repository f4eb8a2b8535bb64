"""`semapi up`: starts the whole service on this machine and classifies a sample."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

import serve_app
from serve_app.cli.access import DEFAULT_ISSUER, development_token
from serve_app.cli.classify import classify_files
from serve_app.cli.config import settings_or_give_up
from serve_app.cli.console import errors, give_up, output, print_result
from serve_app.client import ServiceClient
from serve_app.contracts import Json
from serve_app.errors import ServiceError
from serve_app.settings import Settings

if TYPE_CHECKING:
    from serve_app.local.cluster import Cluster
    from serve_app.local.stack import LocalStack

PACKAGE = Path(serve_app.__file__).parent
SAMPLES = PACKAGE / "samples"
ALIVE_POLL_S = 1.0
HIGHEST_PORT = 65_535
ROWS_DEADLINE_S = 15.0
INTERRUPTED = 130
"""The shells' status for SIGINT, for `--once` without a classified sample."""


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
    with _interrupted_by_signals():
        _run(once, port, issuer_port, dashboard_port, config)


def _run(once: bool, port: int, issuer_port: int, dashboard_port: int, config: Path) -> None:
    from serve_app.local.stack import LocalStack  # the extra [local]
    from serve_app.local.state import LocalError, state_folder
    from serve_app.usage.migrations import MigrationError

    settings = settings_or_give_up()
    if once and not _can_sample(settings):
        give_up("OIDC_ISSUERS names another issuer: set SEMAPI_TOKEN to one of its tokens for the sample")
    try:
        folder = state_folder()
    except LocalError as error:
        give_up(str(error))
    stack, status = LocalStack(folder, settings, issuer_port=issuer_port), 0
    try:
        with stack:
            _run_on(stack, once, port, dashboard_port, config)
    except (LocalError, MigrationError) as error:
        _complain(str(error))
        status = 1
    except KeyboardInterrupt:
        status = INTERRUPTED if once else 0
    except typer.Exit as ended:
        status = ended.exit_code
    if stack.logs:  # else nothing was started
        output.print(f"stopped; data stay in {folder}, the logs of this run in {stack.logs}", markup=False)
    raise typer.Exit(status)


def _run_on(stack: LocalStack, once: bool, port: int, dashboard_port: int, config: Path) -> None:
    """The run between start and stop of the servers."""
    from serve_app.local.cluster import Cluster
    from serve_app.usage.migrations import migrate

    started = time.monotonic()

    def say(text: str) -> None:
        output.print(f"[{time.monotonic() - started:5.1f} s] {text}", markup=False)
        sys.stdout.flush()

    for server in stack.servers:
        say(f"{server.title} ready on port {server.port}")
    if applied := migrate(stack.environment["DATABASE_URL"]):
        say(f"database migrated: {', '.join(applied)}")
    cluster = Cluster(
        stack.folder / "ray",
        config,
        stack.environment,
        api_port=port,
        dashboard_port=dashboard_port,
        logs=stack.logs,
    )
    try:
        cluster.start(say, lambda: stack.revive(say))
        say("healthy")
        if _can_sample(stack.settings):
            _try_sample(cluster.url, stack.environment, once)
        if not once:
            _serve(cluster, stack, say)
    finally:
        _ignore_further_signals()
        say("stopping")
        cluster.stop()


def _can_sample(settings: Settings) -> bool:
    return _has_own_issuer(settings) or bool(os.environ.get("SEMAPI_TOKEN"))


def _has_own_issuer(settings: Settings) -> bool:
    """Whether this run has its own token issuer."""
    return "oidc_issuers" not in settings.model_fields_set


def _try_sample(url: str, environment: Mapping[str, str], once: bool) -> None:
    """Classify the sample. A failure ends a run with `--once`; otherwise the healthy service keeps running, because
    other tokens or images may work."""
    try:
        if job_id := _classify_sample(url, environment["OIDC_ISSUERS"].split(",")[0]):
            _show_rows(environment["DATABASE_URL"], job_id)
    except (SampleFailed, ServiceError, ValueError) as error:
        if once:
            give_up(f"the sample was not classified: {error}")
        _complain(f"the sample was not classified: {error}\n        The service is healthy and goes on.")


class SampleFailed(Exception):
    """Why the sample was not classified."""


def _classify_sample(url: str, issuer: str) -> str | None:
    """Classify one shipped picture as a client does; returns its job id, or None if the model takes no images.

    Raises `SampleFailed`, and the errors of `ServiceClient`.
    """
    sample = SAMPLES / "nanowires.jpg"
    try:
        token = os.environ.get("SEMAPI_TOKEN") or development_token("developer", issuer)
    except typer.Exit:  # its reason is already printed
        raise SampleFailed("there was no token for it") from None
    with ServiceClient(url, token) as client:
        served = client.models()
    if next(model["input"] for model in served["models"] if model["name"] == served["default"]) != "image":
        output.print(f"\n  the default model, {served['default']}, takes no images: no sample was sent", markup=False)
        return None
    [(_, job)] = classify_files([sample], url, token)
    if job["status"] != "COMPLETED":
        raise SampleFailed(f"it ended {job['status']}, {job['problem']['detail']}")
    print_result(sample.name, job["result"])
    _check_demo(job["result"], sample.stem)
    return str(job["job_id"])


def _check_demo(result: Json, wanted: str) -> None:
    """Check that the demo model knows its sample, a drawing; of other models nothing can be expected."""
    model = result.get("model")
    if isinstance(model, dict) and model.get("demo") and result["label"].lower() != wanted:
        raise SampleFailed(f"it is a picture of {wanted}, not of {result['label']}")


def _show_rows(database_url: str, job_id: str) -> None:
    """Wait until the sample's outcome and requests are rows in PostgreSQL, and print their number."""
    import psycopg

    counting = (
        "SELECT (SELECT count(*) FROM job_outcomes WHERE job_id = %(id)s), "
        "(SELECT count(*) FROM api_usage WHERE job_id = %(id)s)"
    )
    deadline = time.monotonic() + ROWS_DEADLINE_S
    try:
        with psycopg.connect(database_url, autocommit=True, connect_timeout=5) as connection:
            while time.monotonic() < deadline:
                outcomes, requests = connection.execute(counting, {"id": job_id}).fetchone() or (0, 0)
                if outcomes and requests:
                    output.print("    in PostgreSQL: the outcome and the first requests of this job")
                    return
                time.sleep(0.1)
    except psycopg.Error as error:
        raise SampleFailed(f"its rows cannot be read: {error}") from error
    raise SampleFailed(f"job {job_id} has no rows in PostgreSQL after {ROWS_DEADLINE_S:g} s")


def _serve(cluster: Cluster, stack: LocalStack, say: Callable[[str], None]) -> None:
    """Print how to use the service, then supervise it until it is stopped."""
    stack.revive(say)
    output.print(
        f"\n  API            {cluster.url}  (its routes: {cluster.url}/docs)\n"
        f"  Ray dashboard  {cluster.dashboard_url}  (asks for the token in {cluster.token_file})",
        markup=False,
    )
    if _has_own_issuer(stack.settings):
        _show_token(stack.environment["OIDC_ISSUERS"])
    output.print(
        f'\n  try:  curl -H "Authorization: Bearer $TOKEN" -F image=@FILE {cluster.url}/api/v1/jobs\n  stop: Ctrl-C\n',
        markup=False,
    )
    sys.stdout.flush()
    ended = threading.Event()
    while not ended.wait(ALIVE_POLL_S):
        if not cluster.runs():
            give_up("the service ended by itself")
        stack.revive(say)


def _show_token(issuer: str) -> None:
    """Print a token that is ready to use, and the command for others."""
    command = "semapi" if shutil.which("semapi") else os.path.relpath(sys.argv[0])
    elsewhere = "" if issuer == DEFAULT_ISSUER else f" --issuer {issuer}"
    output.print(
        f"  token          of user developer, for an hour, by a development issuer that signs for any name:\n"
        f"\n  TOKEN={development_token('developer', issuer)}\n"
        f"\n  another:       {command} token USER{elsewhere}, an admin's with --admin",
        markup=False,
    )


def _complain(text: str) -> None:
    errors.print(f"semapi: {text}", style="red", markup=False)


@contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """SIGTERM and SIGINT raise KeyboardInterrupt inside the block, also where SIGINT was ignored, as in a script's
    background job."""
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: object) -> NoReturn:
    _ignore_further_signals()
    raise KeyboardInterrupt


def _ignore_further_signals() -> None:
    """Answer further signals with a line only: one that cut the stop short would leave Ray's processes behind."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _say_still_stopping)


def _say_still_stopping(number: int, frame: object) -> None:
    os.write(2, b"semapi: still stopping; this takes seconds, at most a minute and a half\n")
