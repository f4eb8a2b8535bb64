"""`semapi usage`: usage reports, and pruning of old rows. scripts/usage_report.py runs the same commands."""

from __future__ import annotations

import json
import tempfile
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from serve_app.cli.config import settings_or_give_up
from serve_app.cli.console import Bom, bom_for, errors

if TYPE_CHECKING:
    from serve_app.contracts import Json
    from serve_app.usage.report.source import Source
    from serve_app.usage.report.window import Window


class Mode(StrEnum):
    """Format of a report."""

    summary = "summary"
    report = "report"
    json = "json"


class BucketChoice(StrEnum):
    """Step of the timeline."""

    auto = "auto"
    minute = "minute"
    hour = "hour"
    day = "day"


class _ShowFirst(TyperGroup):
    """`show` is the default: `semapi usage json --since 7d` means `semapi usage show json --since 7d`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in (*self.commands, "--help"):
            args = ["show", *args]
        return super().parse_args(ctx, args)


commands = typer.Typer(cls=_ShowFirst, help="Usage reports, and how long usage is kept.", rich_markup_mode=None)

Dsn = Annotated[
    str, typer.Option(help="PostgreSQL URL. Default: DATABASE_URL, else `semapi up`'s.", show_default=False)
]


@commands.command()
def show(
    mode: Annotated[Mode, typer.Argument(help="Text, an HTML page, or JSON.")] = Mode.summary,
    since: Annotated[str | None, typer.Option(help="ISO time or <N>s|m|h|d|w ago. Default: 24h; report: all.")] = None,
    until: Annotated[str | None, typer.Option(help="ISO time, <N>s|m|h|d|w ago, or now.")] = None,
    window_mins: Annotated[int | None, typer.Option(min=1, help="The last N minutes: --since Nm.")] = None,
    month: Annotated[str | None, typer.Option(help="One calendar month, as 2026-10.")] = None,
    timezone: Annotated[str, typer.Option(help="Clock of timeline, heatmap and --month.")] = "UTC",
    bucket: Annotated[BucketChoice, typer.Option(help="Step of the timeline.")] = BucketChoice.auto,
    recent_limit: Annotated[int, typer.Option(min=1, max=1000, help="Newest requests listed.")] = 25,
    output: Annotated[Path | None, typer.Option(dir_okay=False, help="File to write instead of the terminal.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV by user, group and model, all of them.")] = False,
    bom: Bom = None,
    dsn: Dsn = "",
    namespace: Annotated[str, typer.Option(help="Read by psql in this Kubernetes namespace's postgresql-0.")] = "",
) -> None:
    """Who used the service, for what, and how it went: everybody, read from PostgreSQL itself.

    For operators; users read their own usage at GET /api/v1/usage.
    """
    from serve_app.usage.report import statements  # psycopg belongs to the extra [serve]
    from serve_app.usage.report.compute import make_report
    from serve_app.usage.report.window import ReportError

    try:
        window = _window(mode, since, until, window_mins, month, timezone, bucket)
        most_names = statements.MOST_NAMES if as_csv else statements.TOP
        report = make_report(_source(dsn, namespace), window, recent_limit=recent_limit, most_names=most_names)
        _deliver(report, mode, output, as_csv, bom)
    except (ReportError, OSError) as error:
        _fail(str(error))


@commands.command()
def prune(
    before: Annotated[str | None, typer.Option(help="ISO time: what is older goes.")] = None,
    older_than: Annotated[str | None, typer.Option(help="Age as <N>d or <N>w: what is older goes.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dsn: Dsn = "",
) -> None:
    """Delete old requests and images and empty old outcomes; sums, job ids and owners stay."""
    from serve_app.usage.report import prune as retention  # psycopg belongs to the extra [serve]
    from serve_app.usage.report.window import ReportError, parse_time

    try:
        if (before is None) == (older_than is None):
            raise ReportError("say either --before TIME or --older-than AGE")
        now = datetime.now(UTC)
        name = "before" if older_than is None else "older-than"
        cut = retention.pruned_before(parse_time(before or older_than or "", now, name), now)
        url = dsn or _configured()
        old = retention.count_old(url, cut)
        typer.echo(
            f"before {cut:%Y-%m-%d %H:%M} UTC: {old.requests} requests and {old.images} images to delete, "
            f"{old.outcomes} outcomes to empty"
        )
        if old == retention.Old(0, 0, 0) or not (yes or typer.confirm("Go on?")):
            return
        done = retention.prune(url, cut)
        typer.echo(
            f"deleted {done.requests} requests and {done.images} images, emptied {done.outcomes} outcomes; "
            "the hourly sums are kept"
        )
    except ReportError as error:
        _fail(str(error))


def _window(
    mode: Mode,
    since: str | None,
    until: str | None,
    window_mins: int | None,
    month: str | None,
    timezone: str,
    bucket: BucketChoice,
) -> Window:
    from serve_app.usage.report.window import ReportError, name_window

    if since is not None and window_mins is not None:
        raise ReportError("--since and --window-mins both set the start of the window; use one of them")
    start = f"{window_mins}m" if window_mins else since
    return name_window(mode.value, start, until, month, timezone, bucket.value, datetime.now(UTC))


def _source(dsn: str, namespace: str) -> Source:
    from serve_app.usage.report.source import PodSource, UrlSource
    from serve_app.usage.report.window import ReportError

    if dsn and namespace:
        raise ReportError("--dsn and --namespace are two ways to one database; take one")
    return PodSource(namespace) if namespace else UrlSource(dsn or _configured())


def _configured() -> str:
    """DATABASE_URL; if it is not set, the database that `semapi up` runs on this machine."""
    if url := settings_or_give_up().database_url.get_secret_value():
        return url
    try:
        from serve_app.local.postgres import running_url
        from serve_app.local.state import state_folder
    except ModuleNotFoundError:  # without the extra [local] no local database can run
        return ""
    return running_url(state_folder())


def _deliver(report: Json, mode: Mode, output: Path | None, as_csv: bool, bom: bool | None) -> None:
    from serve_app.usage.report.page import write_page
    from serve_app.usage.report.text import write_csv, write_summary

    if as_csv:
        text = bom_for(output, bom) + write_csv(report).removesuffix("\n")
    elif mode is Mode.report:
        text = write_page(report)
        output = output or _new_page_file()
    else:
        text = json.dumps(report, indent=2) if mode is Mode.json else write_summary(report)
    if output is None:
        typer.echo(text)
        return
    output.write_text(f"{text}\n", encoding="utf-8")
    if mode is Mode.report and not as_csv:
        typer.echo(f"HTML report: {output}")


def _new_page_file() -> Path:
    """The source system's location. Others may write there too, so an existing file or link of this name is refused."""
    path = Path(tempfile.gettempdir()) / f"sem-usage-report-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.html"
    path.touch(exist_ok=False)
    return path


def _fail(message: str) -> NoReturn:
    """End with an error in the source system's form: its callers look for the word ERROR."""
    errors.print(f"ERROR: {' '.join(message.split())}", markup=False)
    raise typer.Exit(1)
