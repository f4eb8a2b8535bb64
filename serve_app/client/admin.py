"""What admins do over HTTP, for the command line and for scripts."""

from __future__ import annotations

from collections.abc import Iterator

from serve_app.client.http import ServiceClient
from serve_app.contracts import Json


class AdminClient(ServiceClient):
    """The service with an admin's token. What it refuses raises as in `ServiceClient`."""

    def dead_jobs(self, model: str | None = None) -> Iterator[Json]:
        """Dead jobs of one model or of all, the newest first, page by page."""
        query = {} if model is None else {"model": model}
        while True:
            page = self._ask("GET", "/api/v1/admin/dead", params=query)
            yield from page["data"]
            if not page["next_cursor"]:
                return
            query["cursor"] = page["next_cursor"]

    def dead_job(self, job_id: str) -> Json:
        """All that is known of a dead job but its image."""
        return self._ask("GET", f"/api/v1/admin/dead/{job_id}")

    def requeue(self, job_id: str) -> None:
        """Let a dead job run again."""
        self._ask("POST", f"/api/v1/admin/dead/{job_id}/requeue")

    def drop(self, job_id: str) -> None:
        """Remove a dead job and its image."""
        self._request("DELETE", f"/api/v1/admin/dead/{job_id}")

    def stops(self) -> list[Json]:
        """What admins have stopped."""
        stops: list[Json] = self._ask("GET", "/api/v1/admin/stops")["stops"]
        return stops

    def stop(self, what: str, model: str | None, message: str, retry_after_s: int) -> Json:
        """Stop `intake`, of one model or of all, or a model's `work`."""
        said = {"what": what, "model": model, "message": message, "retry_after_s": retry_after_s}
        return self._ask("POST", "/api/v1/admin/stops", json=said)

    def resume(self, stop: str) -> None:
        """Take a stop back, by its name."""
        self._request("DELETE", f"/api/v1/admin/stops/{stop}")
