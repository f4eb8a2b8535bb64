"""Knows when this replica is told to go: Serve lets open requests end first, and those that wait would take long."""

from __future__ import annotations

import asyncio
from typing import Final

from serve_app.library_internals import replica_is_leaving

LOOK_S: Final = 0.25


class Departure:
    """Set once. Who keeps a request open for its caller's sake ends it then; the caller comes back elsewhere."""

    def __init__(self) -> None:
        self._told = asyncio.Event()

    async def run(self) -> None:
        """Look for it until cancelled. Serve calls nothing of ours before the requests have ended."""
        while True:
            if replica_is_leaving():
                self.tell()
            await asyncio.sleep(LOOK_S)

    def tell(self) -> None:
        """The replica goes."""
        self._told.set()

    @property
    def is_told(self) -> bool:
        """Whether the replica goes."""
        return self._told.is_set()

    async def told(self) -> None:
        """Return when the replica goes."""
        await self._told.wait()
