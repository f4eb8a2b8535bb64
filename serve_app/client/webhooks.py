"""The webhooks of the caller, for the command line and for scripts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

from serve_app.client.http import ServiceClient
from serve_app.contracts import Json

PATH: Final = "/api/v1/webhooks"


class WebhookClient(ServiceClient):
    """Registers receivers and looks after them. Errors are those of `ServiceClient`."""

    def webhooks(self) -> list[Json]:
        """All, the newest first."""
        found: list[Json] = self._ask("GET", PATH)["webhooks"]
        return found

    def register(self, url: str, events: Sequence[str] = ()) -> Json:
        """A new webhook with its secret, which is shown this once; without `events` it is told of all."""
        return self._ask("POST", PATH, json={"url": url, **({"events": list(events)} if events else {})})

    def remove(self, webhook_id: str) -> None:
        """Forget it."""
        self._request("DELETE", _path(webhook_id))

    def rotate(self, webhook_id: str) -> Json:
        """The webhook with its new secret."""
        return self._ask("POST", _path(webhook_id, "rotate"))

    def try_out(self, webhook_id: str) -> str:
        """Send a test event; the delivery's id."""
        return str(self._ask("POST", _path(webhook_id, "test"))["delivery_id"])

    def deliveries(self, webhook_id: str) -> list[Json]:
        """What waits, and what ended."""
        found: list[Json] = self._ask("GET", _path(webhook_id, "deliveries"))["deliveries"]
        return found

    def redeliver(self, webhook_id: str, delivery_id: str) -> None:
        """Send it again, now."""
        self._request("POST", _path(webhook_id, "deliveries", delivery_id, "redeliver"))


def _path(*parts: str) -> str:
    return "/".join((PATH, *(quote(part, safe="") for part in parts)))
