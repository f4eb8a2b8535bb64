"""`semapi top`: waiting, running and ended jobs, live, from GET /metrics."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Annotated, Final

import typer
from prometheus_client.parser import text_string_to_metric_families
from rich.live import Live
from rich.table import Table

from serve_app.cli.access import DEFAULT_ISSUER, SERVICE, Issuer, Url, connected
from serve_app.cli.console import errors, output
from serve_app.client import ServiceClient
from serve_app.errors import CapacityError

INTERVAL_MIN_S: Final = 0.5
ENDS: Final = ("completed", "failed", "cancelled", "dead")
HEADINGS: Final = ("model", "repl", "wait", "oldest", "run", "per s", "done", "fail", "canc", "dead")
"""Short, so that the table fits a terminal of 80 columns."""


@dataclass(frozen=True)
class Scrape:
    """One scrape: the value of each sample by name and labels, and its time."""

    samples: dict[tuple[str, str, str], float]
    at: float

    def of(self, name: str, model: str = "", event: str = "") -> float:
        return self.samples.get((name, model, event), 0.0)

    @property
    def models(self) -> list[str]:
        return sorted({model for name, model, _ in self.samples if name == "semapi_jobs_waiting"})


def top(
    url: Url = SERVICE,
    issuer: Issuer = DEFAULT_ISSUER,
    interval: Annotated[float, typer.Option(min=INTERVAL_MIN_S, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one table and end.")] = False,
) -> None:
    """Show replicas, waiting and running jobs, ended jobs per second, and all outcomes of every model, live.

    SEMAPI_TOKEN is an admin's token or METRICS_TOKEN; without it the development issuer makes an admin's token.
    """
    try:
        with connected(ServiceClient, url, issuer, as_admin=True) as client:
            before = now = scrape(client)
            if once:
                output.print(table(now, now))
                return
            with Live(table(now, now), console=output, auto_refresh=False) as live:
                while True:
                    time.sleep(interval)
                    try:
                        before, now = now, scrape(client)
                    except CapacityError as error:  # a short outage: try again at the next scrape
                        errors.print(f"semapi: {error.detail}", style="red", markup=False)
                    live.update(table(before, now), refresh=True)
    except KeyboardInterrupt:
        return


def scrape(client: ServiceClient) -> Scrape:
    """Scrape once. Raises ServiceError."""
    samples: dict[tuple[str, str, str], float] = defaultdict(float)
    for metric in text_string_to_metric_families(client.metrics()):
        for sample in metric.samples:
            samples[sample.name, sample.labels.get("model", ""), sample.labels.get("event", "")] = sample.value
    return Scrape(dict(samples), time.monotonic())


def table(before: Scrape, now: Scrape) -> Table:
    """One row per model; rates are measured between the two scrapes."""
    seconds = max(now.at - before.at, 1e-9)
    shown = Table(title="jobs", caption=_outbox(now), box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in HEADINGS:
        shown.add_column(heading, justify="left" if heading == "model" else "right", no_wrap=True)
    for model in now.models:
        done = sum(now.of("semapi_jobs_total", model, end) - before.of("semapi_jobs_total", model, end) for end in ENDS)
        shown.add_row(
            model,
            f"{now.of('semapi_model_replicas', model):.0f}",
            f"{now.of('semapi_jobs_waiting', model):.0f}",
            f"{now.of('semapi_oldest_wait_seconds', model):.0f} s",
            f"{now.of('semapi_jobs_running', model):.0f}",
            f"{done / seconds:.1f}" if before is not now else "",
            *(f"{now.of('semapi_jobs_total', model, end):.0f}" for end in ENDS),
        )
        if stopped := [what for what in ("intake", "work") if now.of(f"semapi_{what}_stopped", model)]:
            shown.add_row(f"  {', '.join(stopped)} stopped")
    return shown


def _outbox(now: Scrape) -> str:
    lost = now.of("semapi_usage_dropped_total") + now.of("semapi_usage_refused_total")
    entries, lag = now.of("semapi_outbox_entries"), now.of("semapi_outbox_lag_seconds")
    return f"usage: {entries:.0f} events on their way, the oldest for {lag:.1f} s; {lost:.0f} not stored"
