"""Who may compute in a replica: many together, or one suspect alone.

A suspect is a job that was lost before. If the replica dies while it runs alone, the suspect is the cause.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Solitude:
    """A lock with two sides, in order of arrival: a suspect waits for all before it and holds all after it back."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[bool, asyncio.Future[None]]] = deque()
        self._inside = 0
        self._alone = False

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        """Run beside others; waits while a suspect runs or waits."""
        async with self._turn(alone=False):
            yield

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Run with nothing else; waits until everything that came before has ended."""
        async with self._turn(alone=True):
            yield

    @asynccontextmanager
    async def _turn(self, *, alone: bool) -> AsyncIterator[None]:
        ticket: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((alone, ticket))
        self._admit()
        try:
            await ticket
            yield
        finally:
            # Nothing is awaited here, so that a cancelled visitor cannot leave without opening the door. One that
            # was admitted but cancelled before it noticed leaves like any other.
            if ticket.cancelled():
                self._waiting.remove((alone, ticket))
            else:
                self._inside -= 1
                self._alone = False
            self._admit()

    def _admit(self) -> None:
        while self._waiting and not self._alone:
            alone, ticket = self._waiting[0]
            if ticket.cancelled():
                return  # its visitor is about to leave the queue and will call this again
            if alone and self._inside:
                return
            self._waiting.popleft()
            self._inside += 1
            self._alone = alone
            ticket.set_result(None)
