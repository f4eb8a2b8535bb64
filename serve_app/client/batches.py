"""Many images at once, for the command line and for scripts."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Literal

from serve_app.client.http import AWAY_S, ServiceClient
from serve_app.contracts import Json
from serve_app.errors import CapacityError, DeadlineExceeded

ITEMS_MAX: Final = 200
BYTES_MAX: Final = 60 * 1024 * 1024
"""Of one batch: what a service takes unless its facility set less."""
POLL_S: Final = 1.0


class BatchClient(ServiceClient):
    """Sends batches and looks after them. Errors are those of `ServiceClient`."""

    def send(self, files: Sequence[Path], *, model: str | None = None) -> Json:
        """Send images as one batch; the accepted batch. A service that is too busy or away is asked again, safely."""
        fields, key = {} if model is None else {"model": model}, str(uuid.uuid4())

        def once() -> Json:
            with ExitStack() as opened:
                parts = [("image", (file.name, opened.enter_context(file.open("rb")))) for file in files]
                return self._ask("POST", "/api/v1/batches", files=parts, data=fields, headers={"Idempotency-Key": key})

        return self._patiently(once, CapacityError)

    def batch(self, batch_id: str) -> Json:
        """The batch as it is now, with its counts and its first items."""
        return self._ask("GET", f"/api/v1/batches/{batch_id}")

    def batch_results(self, batch_id: str, form: Literal["ndjson", "csv"] = "ndjson") -> str:
        """A line for each item. Raises `CapacityError` where the answer broke off."""
        return self._request("GET", f"/api/v1/batches/{batch_id}/results", params={"format": form}).text

    def cancel_batch(self, batch_id: str) -> Json:
        """The batch, whose items have all ended now."""
        return self._ask("POST", f"/api/v1/batches/{batch_id}/cancel")

    def wait_batch(self, batch_id: str, timeout_s: float, tell: Callable[[Json], None]) -> Json:
        """The batch once all its items have ended; `tell` is told of each look. Raises `DeadlineExceeded`."""
        seen = time.monotonic()
        deadline = seen + timeout_s
        while True:
            try:
                batch = self.batch(batch_id)
                seen = time.monotonic()
                tell(batch)
                if batch["completed_at"]:
                    return batch
            except CapacityError:
                if time.monotonic() - seen > AWAY_S:
                    raise
            if time.monotonic() + POLL_S > deadline:
                raise DeadlineExceeded(f"Batch {batch_id} has items that have not ended after {timeout_s:g} seconds.")
            time.sleep(POLL_S)


def split(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Files in their order, in as few batches as a service takes."""
    batch: list[Path] = []
    total = 0
    for file in files:
        size = file.stat().st_size
        if batch and (len(batch) == ITEMS_MAX or total + size > BYTES_MAX):
            yield batch
            batch, total = [], 0
        batch.append(file)
        total += size
    if batch:
        yield batch
