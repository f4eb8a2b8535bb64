"""How many request bytes one gateway replica holds at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from serve_app.errors import StoreFull

RETRY_AFTER_S = 2


class UploadBudget:
    """A bound on the bytes of all requests in flight, so that many large uploads cannot take the replica's memory."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.held = 0

    @contextmanager
    def share(self) -> Iterator[UploadShare]:
        """What one request holds of the budget; given back at the end of the block."""
        share = UploadShare(self)
        try:
            yield share
        finally:
            self.held -= share.held

    def take(self, size: int) -> None:
        """Raises `StoreFull` when `size` more bytes do not fit."""
        if self.held + size > self._limit:
            raise StoreFull("Too many uploads are under way. Try again in a moment.", retry_after=RETRY_AFTER_S)
        self.held += size


class UploadShare:
    """The part of the budget that one request holds."""

    def __init__(self, budget: UploadBudget) -> None:
        self._budget = budget
        self.held = 0

    def reach(self, total: int) -> None:
        """Hold at least `total` bytes. Raises `StoreFull`."""
        if total > self.held:
            self._budget.take(total - self.held)
            self.held = total
