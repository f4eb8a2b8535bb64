"""A server on loopback, for webhooks and images: it keeps what came and answers as the test says."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from serve_app.connections import end_tasks

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Message:
    """One request: its head's fields in lower case, and its body."""

    line: str
    headers: dict[str, str]
    body: bytes
    at: float = field(default_factory=time.monotonic)

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


class Receiver:
    """`answers` are given in turn, the last one again and again; a callable may do what it likes."""

    def __init__(self) -> None:
        self.answers: list[int | bytes | Answer] = [204]
        self.got: list[Message] = []
        self.port = 0
        self.connections = 0
        self.serving: set[asyncio.Task[None]] = set()

    @property
    def here(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.here}/hooks?who=me"

    def most_within(self, seconds: float) -> int:
        """The most requests that came within any such time."""
        return max(sum(one.at <= other.at < one.at + seconds for other in self.got) for one in self.got)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._remember()
        try:
            line, *fields = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields if field)}
            self.got.append(Message(line, headers, await reader.readexactly(int(headers.get("content-length", 0)))))
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if isinstance(answer, int):
                answer = b"HTTP/1.1 %d Said\r\nContent-Length: 0\r\n\r\n" % answer
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _remember(self) -> None:
        task = asyncio.current_task()
        assert task
        self.serving.add(task)
        task.add_done_callback(self.serving.discard)


@asynccontextmanager
async def receiving(*answers: int | bytes | Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    receiver.answers = [*answers] or receiver.answers
    listener = await asyncio.start_server(receiver.serve, "127.0.0.1", 0, ssl=tls)
    receiver.port = listener.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        listener.close()
        await end_tasks(receiver.serving)
