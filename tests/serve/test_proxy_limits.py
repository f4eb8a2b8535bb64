"""What is too large, too slow or too long is refused through Serve's own proxy as it is in process, and in time."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx2
import psycopg
import pytest
from running_service import WORDS, RunningService

from serve_app.contracts import Json
from serve_app.settings import MIB

WORK_S = 2.0
"""The deadline of a submit, and with it the time before a body's rate counts."""
ANSWERED_S = 15.0
MODEL = {"name": WORDS, "implementation": "toy_model:WordStatistics", "num_cpus": 0.1}
LIMITS = {
    "IMAGE_MAX_BYTES": str(MIB),
    "BATCH_MAX_BYTES": str(2 * MIB),
    "SUBMIT_TIMEOUT_S": f"{WORK_S:g}",
    "READ_TIMEOUT_S": f"{WORK_S:g}",
}
FORM = "multipart/form-data; boundary=b0und"
HEAD = b'--b0und\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'


@pytest.fixture(scope="module")
def service(servers_folder: Path) -> Iterator[RunningService]:
    """A small service of its own: its limits would disturb the others' tests."""
    with RunningService(servers_folder / "limits", [MODEL], LIMITS, gateways=1) as running:
        running.wait_until_whole("gateway", replicas=1)
        running.wait_until_whole(WORDS, replicas=1)
        yield running


class Request:
    """One request on a connection of its own, whose body is sent as a test likes."""

    def __init__(self, service: RunningService, path: str, kind: str, framing: str) -> None:
        self._socket = socket.create_connection(("localhost", service.cluster.api_port), ANSWERED_S)
        self.began = time.monotonic()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {service.token('ada')}\r\n"
        self._socket.sendall(f"{head}Content-Type: {kind}\r\n{framing}\r\nConnection: close\r\n\r\n".encode())

    def send(self, piece: bytes) -> bool:
        """False once the service takes no more."""
        try:
            self._socket.sendall(piece)
        except OSError:
            return False
        return True

    def is_answered(self, within_s: float) -> bool:
        self._socket.settimeout(within_s)
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK))
        except TimeoutError:
            return False
        finally:
            self._socket.settimeout(ANSWERED_S)

    def answer(self) -> tuple[int, Json, float]:
        """Status, document, and the seconds since the request began."""
        received = b""
        # Who refuses a body closes without reading the rest: a reset may stand behind the whole answer (RFC 9112, 9.6).
        with self._socket, suppress(ConnectionResetError):
            while piece := self._socket.recv(65536):
                received += piece
        head, _, body = received.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body), time.monotonic() - self.began


def problem(request: Request) -> tuple[int, str, str, float]:
    status, document, seconds = request.answer()
    return status, document["type"], document["detail"], seconds


@pytest.mark.parametrize(
    ("path", "kind", "size"),
    [
        ("/api/v1/jobs", FORM, 3 * MIB),
        ("/api/v1/inference", FORM, 3 * MIB),
        ("/api/v1/batches", FORM, 8 * MIB),
        ("/api/v1/jobs/status", "application/json", MIB),
    ],
)
def test_a_body_that_is_declared_too_large_is_413_before_it_is_sent(
    service: RunningService, path: str, kind: str, size: int
) -> None:
    request = Request(service, path, kind, f"Content-Length: {size}")
    status, slug, detail, seconds = problem(request)
    assert (status, slug) == (413, "/problems/body-too-large")
    assert "at most" in detail
    assert seconds < ANSWERED_S


def test_a_body_of_undeclared_length_is_413_once_it_is_too_large(service: RunningService) -> None:
    request = Request(service, "/api/v1/jobs", FORM, "Transfer-Encoding: chunked")
    request.send(b"%x\r\n%s\r\n" % (len(HEAD), HEAD))
    chunk = b"%x\r\n%s\r\n" % (65536, b"x" * 65536)
    sent = 0
    # Beyond the limit the answer gets time to come: a client on this machine can send 8 MiB before anybody looks.
    while sent < 8 * MIB and not request.is_answered(0.1 if sent > MIB else 0.001) and request.send(chunk):
        sent += 65536
    status, slug, _, _ = problem(request)
    assert (status, slug) == (413, "/problems/body-too-large")
    assert sent < 8 * MIB


def test_a_body_that_trickles_is_504_in_time_and_holds_up_nobody(service: RunningService) -> None:
    request = Request(service, "/api/v1/jobs", FORM, f"Content-Length: {MIB}")
    request.send(HEAD)
    slowest = 0.0
    while not request.is_answered(0.2):
        assert time.monotonic() - request.began < ANSWERED_S
        request.send(b"x")
        other = Request(service, "/api/v1/jobs/status", "application/json", "Content-Length: 17")
        other.send(b'{"job_id": "abc"}')
        status, _, seconds = other.answer()
        assert status == 200
        slowest = max(slowest, seconds)
    status, slug, _, seconds = problem(request)
    assert (status, slug) == (504, "/problems/deadline-exceeded")
    assert WORK_S <= seconds < WORK_S + 3
    assert slowest < WORK_S


def test_a_steady_body_may_take_longer_than_the_work(service: RunningService) -> None:
    """40 kB at 12 kB/s: within the first seconds and the least rate for what has come. Blanks are lawful JSON."""
    body = json.dumps({"model": WORDS, "params": {"text": "one two"}}).encode() + b" " * 40_000
    request = Request(service, "/api/v1/jobs", "application/json", f"Content-Length: {len(body)}")
    for start in range(0, len(body), 4000):
        request.send(body[start : start + 4000])
        assert not request.is_answered(0.3) or start + 4000 >= len(body)
    status, job, seconds = request.answer()
    assert (status, job["status"]) == (202, "PENDING")
    assert seconds > WORK_S


def test_an_answer_that_takes_too_long_is_504(service: RunningService) -> None:
    with psycopg.connect(service.database_url) as other:
        other.execute("LOCK TABLE api_usage IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        headers = {"Authorization": f"Bearer {service.token('ada')}"}
        answer = httpx2.get(f"{service.cluster.url}/api/v1/usage", headers=headers, timeout=ANSWERED_S, trust_env=False)
        seconds = time.monotonic() - began
        other.rollback()
    assert (answer.status_code, answer.json()["type"]) == (504, "/problems/deadline-exceeded")
    assert answer.headers["retry-after"]
    assert seconds < WORK_S + 3
