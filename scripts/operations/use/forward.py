"""Ways from this machine to a Service of the cluster: `kubectl port-forward`, for a moment or until Ctrl-C.

A listener of our own stands before kubectl's. It stays while kubectl, which ends with its pod, is started again; and it
leads into the network namespace of a cluster that has one, where kubectl listens.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import select
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import IO

from operations import runner
from operations.failure import Failed
from operations.work import Work

READY = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")
START_DEADLINE_S = 30.0
LOOK_S = 2.0
CHUNK_BYTES = 64 * 1024
SHOWN_PORT = 8080
CLONE_NEWNET = 0x40000000


class Way:
    """A port of this machine's 127.0.0.1 that leads to a Service for as long as the block lasts.

    Raises Failed where the port is taken, or where kubectl finds no way to the Service.
    """

    def __init__(self, work: Work, service: str, port: int, local: int = 0) -> None:
        self.service = service
        self._work = work
        self._command = work.target.kubectl("port-forward", f"service/{service}", f":{port}")
        try:
            self._listener = socket.create_server(("127.0.0.1", local))
        except OSError as error:
            taken = f"port {local} of this machine is taken ({error.strerror})"
            raise Failed(f"{taken}: by another access or semapi up?") from None
        self.port: int = self._listener.getsockname()[1]
        self._kubectl: subprocess.Popen[str] | None = None
        self._inner = 0
        """The port that kubectl listens on; 0 while it does not."""
        self._said = ""
        """The last thing that kubectl said of itself."""
        self._heard = threading.Event()
        self._is_away = False
        self._loop = asyncio.new_event_loop()
        self._relay = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Way:
        try:
            self._begin()
            self._heard.wait(START_DEADLINE_S)
            if not self._inner:
                raise Failed(f"no way to the Service {self.service}: {self._reason}")
        except BaseException:
            self._end()
            raise
        self._relay.start()
        asyncio.run_coroutine_threadsafe(asyncio.start_server(self._lead, sock=self._listener), self._loop).result()
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def keep(self) -> None:
        """Start kubectl again if it has ended. Each connection makes it notice that its pod is gone, so one is made."""
        if self._kubectl is not None and self._kubectl.poll() is None:
            if self._inner:
                asyncio.run_coroutine_threadsafe(self._knock(), self._loop)
                if self._is_away:
                    self._work.say(f"{self.service} is back")
                self._is_away = False
            return
        if not self._is_away:
            self._work.say(f"{self.service} went away: {self._reason}; trying again")
        self._is_away = True
        self._begin()

    @property
    def _reason(self) -> str:
        return self._said or "kubectl port-forward said nothing"

    def _begin(self) -> None:
        self._heard.clear()
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self._kubectl = runner.started(self._command, stdin=subprocess.DEVNULL, **output)
        threading.Thread(target=self._hear, args=(self._kubectl.stdout,), daemon=True).start()

    def _hear(self, output: IO[str]) -> None:
        """Read what kubectl says until it ends: it tells of every connection, and would wait for a reader."""
        for line in output:
            if found := READY.search(line):
                self._inner = int(found[1])
                self._heard.set()
            elif not line.startswith(("Forwarding from", "Handling connection")):
                self._said = line.strip()
        self._inner = 0
        self._heard.set()

    def _end(self) -> None:
        if self._kubectl is not None:
            runner.end(self._kubectl)
        if self._relay.is_alive():
            asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._relay.join()
        self._loop.close()
        self._listener.close()

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        # Of a cancelled one Python 3.11 would print a trace.
        with closing(writer), suppress(OSError, asyncio.CancelledError):
            inner_reader, inner_writer = await self._connect()
            with closing(inner_writer):
                await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to kubectl's port. A client that comes while kubectl starts again waits for it."""
        deadline = time.monotonic() + START_DEADLINE_S
        while not self._inner and time.monotonic() < deadline:  # noqa: ASYNC110  told by another thread
            await asyncio.sleep(0.05)
        _enter(self._work.target.network_namespace)
        inner = socket.socket()
        inner.setblocking(False)
        try:
            await self._loop.sock_connect(inner, ("127.0.0.1", self._inner))
        except BaseException:
            inner.close()
            raise
        return await asyncio.open_connection(sock=inner)

    async def _knock(self) -> None:
        with suppress(OSError):
            _, writer = await self._connect()
            writer.close()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(CHUNK_BYTES):
            sink.write(data)
            await sink.drain()
        sink.write_eof()


async def _cancel_others() -> None:
    """End every connection."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _enter(namespace: str) -> None:
    """Have the sockets that this thread makes from now on belong to a network namespace, given as a path."""
    if namespace:
        with Path(namespace).open("rb") as file:
            libc = ctypes.CDLL(None, use_errno=True)  # os.setns comes with Python 3.12
            if libc.setns(file.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextmanager
def forwarded(work: Work, service: str, port: int) -> Iterator[int]:
    """A free port of this machine that leads to the Service, as long as the block lasts."""
    if work.run.dry:
        work.run.ask(work.target.kubectl("port-forward", f"service/{service}", f":{port}"))
        yield SHOWN_PORT
        return
    with Way(work, service, port) as way:
        yield way.port


def keep_open(work: Work, ways: Sequence[tuple[int, str, int]]) -> str:
    """Hold ways (local port, Service, its port) open until Ctrl-C, or until nobody reads what is said here any more."""
    if work.run.dry:
        for local, service, port in ways:
            work.run.ask(work.target.kubectl("port-forward", f"service/{service}", f"{local}:{port}"))
        return ""
    with ExitStack() as stack, suppress(KeyboardInterrupt):
        opened = [stack.enter_context(Way(work, service, port, local)) for local, service, port in ways]
        for way in opened:
            work.say(f"{way.service} is at http://127.0.0.1:{way.port}")
        work.say("open until Ctrl-C")
        while not _is_deserted():
            for way in opened:
                way.keep()
            time.sleep(LOOK_S)
    return "closed"


def _is_deserted() -> bool:
    """Whether the terminal, or the reader of a pipe, that this program writes to is gone."""
    poll = select.poll()
    for output in (1, 2):
        poll.register(output, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
