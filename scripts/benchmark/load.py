"""A lean HTTP load client: prepared requests over kept-alive connections, bounded in count, loopback only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

DEADLINE_S = 120.0
CONNECTIONS = 32
"""At once in a rate's measurement, of the service and of what it is held against: enough that commands of concurrent
requests share writes and syncs, as they do under any load worth measuring, few enough for a client of one processor."""


@dataclass
class Load:
    """What one run of requests showed. Latencies in seconds, in the order the answers came."""

    seconds: float = 0.0
    client_cpu_seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    bodies: list[bytes] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds

    @property
    def client_cpu_share(self) -> float:
        return self.client_cpu_seconds / self.seconds


def request(method: str, path: str, *, token: str = "", body: bytes = b"", content_type: str = "") -> bytes:
    """The bytes of one HTTP/1.1 request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    if body:
        lines += [f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def upload(path: str, image: bytes, *, token: str = "", model: str = "") -> bytes:
    """The bytes of a multipart upload of one image."""
    boundary = "bench-boundary-7d1f"
    fields = f'--{boundary}\r\nContent-Disposition: form-data; name="model"\r\n\r\n{model}\r\n' if model else ""
    head = fields + (
        f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="image.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    body = head.encode() + image + f"\r\n--{boundary}--\r\n".encode()
    return request("POST", path, token=token, body=body, content_type=f"multipart/form-data; boundary={boundary}")


async def send_all(
    port: int, requests: Sequence[bytes], *, connections: int = CONNECTIONS, pause_s: float = 0.0
) -> Load:
    """Send every request once over `connections` connections; with `pause_s` each waits so long between two."""
    load, waiting = Load(), list(reversed(requests))
    cpu, start = time.process_time(), time.perf_counter()
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*(_connection(port, waiting, load, pause_s) for _ in range(connections)))
    load.seconds = time.perf_counter() - start
    load.client_cpu_seconds = time.process_time() - cpu
    return load


async def _connection(port: int, waiting: list[bytes], load: Load, pause_s: float) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while waiting:
            message, start = waiting.pop(), time.perf_counter()
            writer.write(message)
            status, body = await _answer(reader)
            load.latencies.append(time.perf_counter() - start)
            load.statuses[status] = load.statuses.get(status, 0) + 1
            load.bodies.append(body)
            if pause_s:
                await asyncio.sleep(pause_s)
    finally:
        writer.close()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    lower = head.lower()
    at = lower.index(b"content-length:") + 15
    length = int(lower[at : lower.index(b"\r\n", at)])
    return int(head[9:12]), await reader.readexactly(length)
