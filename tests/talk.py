"""HTTP byte by byte: what a client library would hide."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


class Talk:
    """One connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def head(self) -> tuple[int, dict[str, str]]:
        async with asyncio.timeout(10):
            text = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = [line.split(": ", 1) for line in text[1:] if line]
        names = [name.lower() for name, _ in fields]
        assert len(set(names)) == len(names), names
        return int(text[0].split()[1]), {name.lower(): value for name, value in fields}

    async def rest(self) -> bytes:
        async with asyncio.timeout(10):
            return await self.reader.read()


@asynccontextmanager
async def talking(url: str, method: str, path: str, *lines: str, version: str = "1.1") -> AsyncIterator[Talk]:
    """A request's head, sent; the rest is the test's."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = "\r\n".join((f"{method} {path} HTTP/{version}", f"Host: {parts.netloc}", *lines, "", ""))
    writer.write(head.encode("latin-1"))
    try:
        yield Talk(reader, writer)
    finally:
        writer.close()
        await writer.wait_closed()
