"""Using the service from this machine: a port that leads to it, a token of the development issuer, the smoke test.

A listener of our own stands before `kubectl port-forward`. It stays open while kubectl, which ends with its pod, is
started again, and it connects into the network namespace of a cluster made with --here, where kubectl listens.
"""

from __future__ import annotations

import ctypes
import os
import re
import secrets
import select
import socket
import socketserver
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

from operations import runner
from operations.runner import Json, Runner, parsed
from operations.steps import Aborted, StepFailed
from operations.target import NAME, ROOT

READY = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")
START_DEADLINE_S = 30.0
LOOK_S = 2.0
CHUNK_BYTES = 64 * 1024
SHOWN_PORT = 8080
CLONE_NEWNET = 0x40000000
SAMPLE = ROOT / "serve_app" / "samples" / "nanowires.jpg"
"""A drawing that the demo model must classify as what its file is called."""
SERVICE, SERVICE_PORT = f"{NAME}-serve-svc", 8000
ISSUER, ISSUER_PORT = "dev-issuer", 18080
ISSUER_PATH = "/default/token"
JOB_DEADLINE_S = 180.0
ROWS_DEADLINE_S = 60.0
POLL_S = 1.0
TIMEOUT_S = 60.0
ANSWER_MAX_BYTES = 4 * 1024 * 1024


class Tunnel(socketserver.ThreadingTCPServer):
    """A port of 127.0.0.1 that leads to a Service within the block.

    Raises StepFailed if the port is taken or if kubectl cannot reach the Service.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, run: Runner, service: str, port: int, local: int = 0) -> None:
        self.service = service
        self._run = run
        self._command = run.kubectl("port-forward", f"service/{service}", f":{port}")
        try:
            super().__init__(("127.0.0.1", local), _Connection)
        except OSError as error:
            taken = f"port {local} of this machine is taken ({error.strerror})"
            raise StepFailed(f"{taken}: by another access or semapi up?") from None
        self.port = int(self.server_address[1])
        self._kubectl: subprocess.Popen[str] | None = None
        self._inner = 0
        """The port that kubectl listens on; 0 while it does not."""
        self._reason = "kubectl port-forward printed nothing"
        """The last message of kubectl."""
        self._settled = threading.Event()
        """Set when kubectl listens or has ended."""
        self._is_lost = False

    def __enter__(self) -> Tunnel:
        try:
            self._begin()
            self._settled.wait(START_DEADLINE_S)
            if not self._inner:
                raise StepFailed(f"no way to the Service {self.service}: {self._reason}")
            threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self._end()

    def keep(self) -> None:
        """Start kubectl again if it has ended. It notices that its pod is gone at the next connection: make one."""
        if self._kubectl is not None and self._kubectl.poll() is None:
            if self._inner:
                threading.Thread(target=self._probe, daemon=True).start()
                if self._is_lost:
                    self._run.say(f"{self.service} is back")
                self._is_lost = False
            return
        if not self._is_lost:
            self._run.say(f"{self.service} went away: {self._reason}; trying again")
        self._is_lost = True
        self._begin()

    def connect(self) -> socket.socket:
        """A connection to kubectl's port. A client that comes while kubectl starts again waits for it.

        To be called in a thread that makes no other sockets: the thread enters the cluster's network namespace.
        """
        deadline = time.monotonic() + START_DEADLINE_S
        while not self._inner and time.monotonic() < deadline:
            time.sleep(0.05)
        if namespace := self._run.target.network_namespace:
            with Path(namespace).open("rb") as file:
                libc = ctypes.CDLL(None, use_errno=True)  # os.setns comes with Python 3.12
                if libc.setns(file.fileno(), CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return socket.create_connection(("127.0.0.1", self._inner))

    def _probe(self) -> None:
        with suppress(OSError):
            self.connect().close()

    def _begin(self) -> None:
        self._settled.clear()
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self._kubectl = runner.started(self._command, stdin=subprocess.DEVNULL, **output)
        threading.Thread(target=self._read, args=(self._kubectl.stdout,), daemon=True).start()

    def _read(self, output: IO[str]) -> None:
        """Read kubectl's output until it ends: it prints a line for each connection and would block on a full pipe."""
        for line in output:
            if found := READY.search(line):
                self._inner = int(found[1])
                self._settled.set()
            elif not line.startswith(("Forwarding from", "Handling connection")):
                self._reason = line.strip()
        self._inner = 0
        self._settled.set()

    def _end(self) -> None:
        if self._kubectl is not None:
            runner.end(self._kubectl)
        self.server_close()


class _Connection(socketserver.BaseRequestHandler):
    """One client, in a thread of its own."""

    server: Tunnel

    def handle(self) -> None:
        with suppress(OSError), self.server.connect() as inner:
            back = threading.Thread(target=_copy, args=(inner, self.request), daemon=True)
            back.start()
            _copy(self.request, inner)
            back.join()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(CHUNK_BYTES):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def forwarded(run: Runner, service: str, port: int) -> Iterator[int]:
    """A free port of this machine that leads to the Service within the block."""
    if run.dry:
        run.ask(run.kubectl("port-forward", f"service/{service}", f":{port}"))
        yield SHOWN_PORT
        return
    with Tunnel(run, service, port) as tunnel:
        yield tunnel.port


def access(run: Runner, port: int, *, dashboard: bool) -> str:
    """Keep the service open on a port of this machine, in dev the issuer too, until Ctrl-C or until the reader of this
    program's output is gone."""
    tunnels = [(port, SERVICE, SERVICE_PORT)]
    tunnels += [(ISSUER_PORT, ISSUER, ISSUER_PORT)] if run.target.environment == "dev" else []
    tunnels += [(8265, f"{NAME}-head-svc", 8265)] if dashboard else []
    if run.dry:
        for local, service, inner in tunnels:
            run.ask(run.kubectl("port-forward", f"service/{service}", f"{local}:{inner}"))
        return ""
    with ExitStack() as stack, suppress(KeyboardInterrupt):
        opened = [stack.enter_context(Tunnel(run, service, inner, local)) for local, service, inner in tunnels]
        for tunnel in opened:
            run.say(f"{tunnel.service} is at http://127.0.0.1:{tunnel.port}")
        run.say("open until Ctrl-C")
        while not _is_deserted():
            for tunnel in opened:
                tunnel.keep()
            time.sleep(LOOK_S)
    return "closed"


def _is_deserted() -> bool:
    """Whether the terminal, or the reader of the pipe, that this program writes to is gone."""
    poll = select.poll()
    for output in (1, 2):
        poll.register(output, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def show_token(run: Runner, user: str, admin: bool) -> str:
    """Print a token of the development issuer for any name."""
    if run.target.environment != "dev":
        raise Aborted(
            f"{run.target.environment} has no development issuer: its tokens come from your identity provider"
        )
    if token := _issued(run, user, "openid sem-admin" if admin else "openid"):
        print(token)
    return ""


def _issued(run: Runner, user: str, scope: str) -> str:
    fields = {"grant_type": "client_credentials", "client_id": user, "client_secret": "development", "scope": scope}
    with forwarded(run, ISSUER, ISSUER_PORT) as port:
        url = f"http://127.0.0.1:{port}{ISSUER_PATH}"
        if run.dry:
            print(f"# POST {url} client_id={user}")
            return ""
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        reply = _request("POST", url, headers, urllib.parse.urlencode(fields).encode())
    if reply.status != 200:
        raise StepFailed(f"the development issuer answered {reply.status}: {reply.body.get('error_description')}")
    return str(reply.body["access_token"])


def smoke(run: Runner) -> str:
    """Classify the sample and see that its outcome is counted. Raises StepFailed with what went wrong."""
    token = os.environ.get("SEMAPI_TOKEN", "")
    if not token and run.target.environment != "dev":
        raise Aborted(f"{run.target.environment} has no development issuer: set SEMAPI_TOKEN to a token of your own")
    token = token or _issued(run, "smoke", "openid")
    with _service_url(run) as url:
        if run.dry:
            sample, report = SAMPLE.relative_to(ROOT), f"{url}/api/v1/usage"
            print(f"# POST {url}/api/v1/jobs with {sample}, GET the job until it has ended, GET {report}")
            return ""
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        began = time.monotonic()
        counted = _completed_jobs(url, headers)
        job = _wait_for_end(url, headers, _submit(url, headers))
        took = time.monotonic() - began
        label = check(job)
        _wait_for_row(url, headers, counted)
    return f"{SAMPLE.name} is {label}, after {took:.1f} s; its outcome is a row in PostgreSQL"


@contextmanager
def _service_url(run: Runner) -> Iterator[str]:
    if run.target.service_url:
        yield run.target.service_url.rstrip("/")
        return
    with forwarded(run, SERVICE, SERVICE_PORT) as port:
        yield f"http://127.0.0.1:{port}"


def _submit(url: str, headers: Mapping[str, str]) -> str:
    """Send the sample as the field `image` of a multipart form; the job's id."""
    boundary = secrets.token_hex(16)
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{SAMPLE.name}"\r\n'
    body = f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + SAMPLE.read_bytes()
    body += f"\r\n--{boundary}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    reply = _request("POST", f"{url}/api/v1/jobs", {**headers, **kind}, body)
    if reply.status != 202:
        raise StepFailed(f"the sample was not accepted: {reply}")
    return str(reply.body["job_id"])


def _wait_for_end(url: str, headers: Mapping[str, str], job_id: str) -> Json:
    deadline = time.monotonic() + JOB_DEADLINE_S
    while time.monotonic() < deadline:
        reply = _request("GET", f"{url}/api/v1/jobs/{job_id}", {**headers, "Prefer": "wait=10"})
        if reply.status not in (200, 503):
            raise StepFailed(f"job {job_id} cannot be read: {reply}")
        if reply.body.get("status") in ("COMPLETED", "FAILED", "CANCELLED"):
            return reply.body
        time.sleep(POLL_S)
    raise StepFailed(
        f"job {job_id} has not ended after {JOB_DEADLINE_S:g} s: is the model up? GET {url}/readyz?verbose"
    )


def check(job: Json) -> str:
    """The label of a completed job. The demo model must recognise its sample; other models may answer anything."""
    if job["status"] != "COMPLETED":
        raise StepFailed(f"job {job['job_id']} ended {job['status']}: {(job.get('problem') or {}).get('detail')}")
    label, model = str(job["result"]["label"]), job["result"].get("model")
    if isinstance(model, dict) and model.get("demo") and label.lower() != SAMPLE.stem:
        raise StepFailed(f"job {job['job_id']} says {label}, and the sample shows {SAMPLE.stem}")
    return label


def _completed_jobs(url: str, headers: Mapping[str, str]) -> int:
    """How many completed jobs of this user are in PostgreSQL, from which the usage report is made."""
    reply = _request("GET", f"{url}/api/v1/usage?since=24h", headers)
    if reply.status != 200:
        raise StepFailed(f"the usage report was refused: {reply}")
    return sum(int(user["completed"]) for user in reply.body.get("users", []))


def _wait_for_row(url: str, headers: Mapping[str, str], before: int) -> None:
    deadline = time.monotonic() + ROWS_DEADLINE_S
    while _completed_jobs(url, headers) <= before:
        if time.monotonic() > deadline:
            raise StepFailed(f"the job completed, but its outcome is not in PostgreSQL after {ROWS_DEADLINE_S:g} s")
        time.sleep(POLL_S)


class Reply(NamedTuple):
    """An HTTP answer with a JSON object, whatever its status."""

    status: int
    body: Json

    def __str__(self) -> str:
        return f"{self.status} {self.body.get('title', '')}: {self.body.get('detail', '')}"


def _request(method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> Reply:
    """Send a request. Raises StepFailed unless a JSON object comes back."""
    request = urllib.request.Request(url, body, dict(headers), method=method)
    local = urllib.parse.urlsplit(url).hostname in ("127.0.0.1", "localhost")
    opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if local else []))
    try:
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            return Reply(answer.status, parsed(answer.read(ANSWER_MAX_BYTES), url))
    except urllib.error.HTTPError as error:
        with error:
            return Reply(error.code, parsed(error.read(ANSWER_MAX_BYTES), url))
    except (OSError, ValueError) as error:  # URLError, a reset connection, a time-out; a malformed address
        raise StepFailed(f"{method} {url}: {getattr(error, 'reason', None) or error}") from None
