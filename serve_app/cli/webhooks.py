"""`semapi webhooks`: receivers that are notified when your jobs end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from serve_app.cli.access import DEFAULT_ISSUER, SERVICE, Issuer, Url, connected
from serve_app.cli.console import output
from serve_app.client import WebhookClient
from serve_app.contracts import Json

commands = typer.Typer(
    help="Receivers that are notified when your jobs end.", rich_markup_mode=None, no_args_is_help=True
)

Webhook = Annotated[str, typer.Argument(help="Id of the webhook.")]


@commands.command("list")
def show(url: Url = SERVICE, issuer: Issuer = DEFAULT_ISSUER) -> None:
    """List your webhooks."""
    for one in _ask(url, issuer, lambda client: client.webhooks()):
        state = "on" if one["enabled"] else f"OFF: {one['disabled_reason']}"
        output.print(f"{one['webhook_id']}  {one['url']}  {','.join(one['events'])}  {state}", markup=False)


@commands.command()
def add(
    receiver: Annotated[str, typer.Argument(help="URL of the receiver.")],
    event: Annotated[list[str] | None, typer.Option(help="job.completed, job.failed, job.cancelled; all.")] = None,
    url: Url = SERVICE,
    issuer: Issuer = DEFAULT_ISSUER,
) -> None:
    """Register a receiver and print its secret, which is shown only once."""
    _print_secret(_ask(url, issuer, lambda client: client.register(receiver, event or ())))


@commands.command()
def remove(webhook: Webhook, url: Url = SERVICE, issuer: Issuer = DEFAULT_ISSUER) -> None:
    """Delete a webhook."""
    _ask(url, issuer, lambda client: client.remove(webhook))


@commands.command()
def rotate(webhook: Webhook, url: Url = SERVICE, issuer: Issuer = DEFAULT_ISSUER) -> None:
    """Make a new secret; the old one also signs for another day."""
    _print_secret(_ask(url, issuer, lambda client: client.rotate(webhook)))


@commands.command("test")
def send_test(webhook: Webhook, url: Url = SERVICE, issuer: Issuer = DEFAULT_ISSUER) -> None:
    """Send a test event."""
    output.print(_ask(url, issuer, lambda client: client.send_test(webhook)), markup=False)


@commands.command()
def deliveries(webhook: Webhook, url: Url = SERVICE, issuer: Issuer = DEFAULT_ISSUER) -> None:
    """Show waiting and ended deliveries."""
    for one in _ask(url, issuer, lambda client: client.deliveries(webhook)):
        line = f"{one['delivery_id']}  {one['timestamp']}  {one['type']:<13}  {one['status']:<9}"
        if one["attempts"]:
            line += f"  {len(one['attempts'])}: {one['attempts'][-1]['error'] or one['attempts'][-1]['status']}"
        if one["next_attempt_at"]:
            line += f"  next {one['next_attempt_at']}"
        output.print(line, markup=False)


@commands.command()
def redeliver(
    webhook: Webhook,
    delivery: Annotated[str, typer.Argument(help="Id of the delivery.")],
    url: Url = SERVICE,
    issuer: Issuer = DEFAULT_ISSUER,
) -> None:
    """Send a delivery again, now."""
    _ask(url, issuer, lambda client: client.redeliver(webhook, delivery))


def _print_secret(webhook: Json) -> None:
    output.print(f"{webhook['webhook_id']}  {webhook['secret']}", markup=False)


def _ask(url: str, issuer: str, ask: Callable[[WebhookClient], Any]) -> Any:
    with connected(WebhookClient, url, issuer) as client:
        return ask(client)
