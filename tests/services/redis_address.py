"""An address of the job Redis that a test leads elsewhere, or whose connections it cuts off from their other end."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class Address:
    """A name of the job Redis: new connections lead to whichever server is behind it now, old ones stay."""

    def __init__(self, port: int) -> None:
        self.target = port

    async def __aenter__(self) -> Address:
        self._server = await asyncio.start_server(self._lead, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self._tasks: set[asyncio.Task[None]] = set()
        self._silent: set[asyncio.Task[None]] = set()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # transports close in the loop's next turn

    def silence(self) -> None:
        """What comes on the connections that there are goes nowhere from now on, as with packets that are dropped."""
        self._silent |= self._tasks

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", self.target)
        for source, sink in ((reader, there[1]), (there[0], writer)):
            self._tasks.add(asyncio.create_task(self._copy(source, sink)))

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError):
                while data := await source.read(65536):
                    if asyncio.current_task() not in self._silent:
                        sink.write(data)
                        await sink.drain()
        finally:
            sink.close()
