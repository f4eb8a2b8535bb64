"""Who may compute in a replica: many together, or one suspect alone.

A suspect is a job that was lost before. If the replica dies while it runs alone, the suspect is the cause.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Solitude:
    """A lock with two sides. A waiting suspect holds later others back, so it always gets its turn."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._together = 0
        self._alone = False
        self._suspects_waiting = 0

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        """Run beside others; waits while a suspect runs or waits."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._alone and not self._suspects_waiting)
            self._together += 1
        try:
            yield
        finally:
            self._together -= 1
            await self._announce()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Run with nothing else; waits until everything that runs has ended."""
        self._suspects_waiting += 1
        try:
            async with self._changed:
                await self._changed.wait_for(lambda: not self._alone and not self._together)
                self._alone = True
        finally:
            self._suspects_waiting -= 1
            await self._announce()
        try:
            yield
        finally:
            self._alone = False
            await self._announce()

    async def _announce(self) -> None:
        # Shielded: a caller that is cancelled here must still wake those who wait.
        await asyncio.shield(asyncio.ensure_future(self._notify()))

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()
