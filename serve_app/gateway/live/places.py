"""How many requests one gateway replica keeps open at once for those who wait."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

WAITS_MAX: Final = 96
"""Of one replica, which takes 256 requests at once: with the streams a third is left to those who do not wait."""
WAITS_MAX_PER_USER: Final = 32
STREAMS_MAX: Final = 64
STREAMS_MAX_PER_USER: Final = 16


class Places:
    """A bound on the open requests of a kind, all and of one user: they must leave room for the others."""

    def __init__(self, limit: int, limit_per_user: int) -> None:
        self._limit, self._limit_per_user = limit, limit_per_user
        self.taken: Counter[str] = Counter()
        """By principal id."""

    @contextmanager
    def take(self, owner: str) -> Iterator[bool]:
        """Hold a place inside the block; False when there is none, or none for this user."""
        free = self.taken.total() < self._limit and self.taken[owner] < self._limit_per_user
        self.taken[owner] += free
        try:
            yield free
        finally:
            self.taken[owner] -= free
            if not self.taken[owner]:
                del self.taken[owner]
