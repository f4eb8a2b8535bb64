"""A sample the whole way: token, submit, result, and the row that tells of it."""

from __future__ import annotations

import os
import secrets
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from operations.failure import Failed, Refused
from operations.target import NAME, ROOT
from operations.use.forward import forwarded
from operations.work import Json, Work, parsed

SAMPLE = ROOT / "serve_app" / "samples" / "nanowires.jpg"
"""A drawing that the demo model must know by its name."""
SERVICE, SERVICE_PORT = f"{NAME}-serve-svc", 8000
ISSUER, ISSUER_PORT = "dev-issuer", 18080
ISSUER_PATH = "/default/token"
JOB_DEADLINE_S = 180.0
ROWS_DEADLINE_S = 60.0
POLL_S = 1.0
TIMEOUT_S = 60.0
ANSWER_MAX_BYTES = 4 * 1024 * 1024


def smoke(work: Work) -> str:
    """Classify the sample and see its outcome counted. Raises Failed with what did not come out as it must."""
    token = _token(work)
    with _service(work) as url:
        if work.run.dry:
            sample, report = SAMPLE.relative_to(ROOT), f"{url}/api/v1/usage"
            print(f"# POST {url}/api/v1/jobs with {sample}, GET the job until it has ended, GET {report}")
            return ""
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        began = time.monotonic()
        counted = _completed(url, headers)
        job = _ended(url, headers, _submit(url, headers))
        took = time.monotonic() - began
        label = check(job)
        _wait_for_row(url, headers, counted)
    return f"{SAMPLE.name} is {label}, after {took:.1f} s; its outcome is a row in PostgreSQL"


def _token(work: Work) -> str:
    """SEMAPI_TOKEN, else a token of the development issuer, which is in the cluster of dev alone."""
    given = os.environ.get("SEMAPI_TOKEN", "")
    if not given and work.target.environment != "dev":
        raise Refused(f"{work.target.environment} has no development issuer: set SEMAPI_TOKEN to a token of your own")
    return given or _issued(work, "smoke", "openid")


def show_token(work: Work, user: str, admin: bool) -> str:
    """Print a token of the development issuer for any name."""
    if work.target.environment != "dev":
        raise Refused(
            f"{work.target.environment} has no development issuer: its tokens come from your identity provider"
        )
    if token := _issued(work, user, "openid sem-admin" if admin else "openid"):
        print(token)
    return ""


def _issued(work: Work, user: str, scope: str) -> str:
    fields = {"grant_type": "client_credentials", "client_id": user, "client_secret": "development", "scope": scope}
    with forwarded(work, ISSUER, ISSUER_PORT) as port:
        url = f"http://127.0.0.1:{port}{ISSUER_PATH}"
        if work.run.dry:
            print(f"# POST {url} client_id={user}")
            return ""
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        reply = _ask("POST", url, body=urllib.parse.urlencode(fields).encode(), headers=headers)
    if reply.status != 200:
        raise Failed(f"the development issuer answered {reply.status}: {reply.body.get('error_description')}")
    return str(reply.body["access_token"])


@contextmanager
def _service(work: Work) -> Iterator[str]:
    if work.target.service_url:
        yield work.target.service_url.rstrip("/")
        return
    with forwarded(work, SERVICE, SERVICE_PORT) as port:
        yield f"http://127.0.0.1:{port}"


def _submit(url: str, headers: dict[str, str]) -> str:
    body, kind = _upload(SAMPLE)
    reply = _ask("POST", f"{url}/api/v1/jobs", body=body, headers={**headers, **kind})
    if reply.status != 202:
        raise Failed(f"the sample was not accepted: {_problem(reply)}")
    return str(reply.body["job_id"])


def _ended(url: str, headers: dict[str, str], job_id: str) -> Json:
    deadline = time.monotonic() + JOB_DEADLINE_S
    while time.monotonic() < deadline:
        reply = _ask("GET", f"{url}/api/v1/jobs/{job_id}", headers={**headers, "Prefer": "wait=10"})
        if reply.status not in (200, 503):
            raise Failed(f"job {job_id} cannot be read: {_problem(reply)}")
        if reply.body.get("status") in ("COMPLETED", "FAILED", "CANCELLED"):
            return reply.body
        time.sleep(POLL_S)
    raise Failed(f"job {job_id} has not ended after {JOB_DEADLINE_S:g} s: is the model up? GET {url}/readyz?verbose")


def check(job: Json) -> str:
    """The label of a job that completed. The demo model must know its sample; of another nothing can be expected."""
    if job["status"] != "COMPLETED":
        raise Failed(f"job {job['job_id']} ended {job['status']}: {(job.get('problem') or {}).get('detail')}")
    label, model = str(job["result"]["label"]), job["result"].get("model")
    if isinstance(model, dict) and model.get("demo") and label.lower() != SAMPLE.stem:
        raise Failed(f"job {job['job_id']} says {label}, and the sample shows {SAMPLE.stem}")
    return label


def _completed(url: str, headers: dict[str, str]) -> int:
    """How many of this user's jobs are rows as completed: the report is made from PostgreSQL."""
    reply = _ask("GET", f"{url}/api/v1/usage?since=24h", headers=headers)
    if reply.status != 200:
        raise Failed(f"the usage report was refused: {_problem(reply)}")
    return sum(int(user["completed"]) for user in reply.body.get("users", []))


def _wait_for_row(url: str, headers: dict[str, str], before: int) -> None:
    deadline = time.monotonic() + ROWS_DEADLINE_S
    while _completed(url, headers) <= before:
        if time.monotonic() > deadline:
            raise Failed(f"the job completed and its outcome is no row in PostgreSQL after {ROWS_DEADLINE_S:g} s")
        time.sleep(POLL_S)


def _problem(reply: Reply) -> str:
    return f"{reply.status} {reply.body.get('title', '')}: {reply.body.get('detail', '')}"


@dataclass(frozen=True)
class Reply:
    """An answer with a JSON object, whatever its status."""

    status: int
    body: Json


def _ask(method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Reply:
    """Send a request. Raises Failed where no JSON object comes back."""
    request = urllib.request.Request(url, body, dict(headers or {}), method=method)
    local = urllib.parse.urlsplit(url).hostname in ("127.0.0.1", "localhost")
    opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if local else []))
    try:
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            return Reply(answer.status, parsed(answer.read(ANSWER_MAX_BYTES), url))
    except urllib.error.HTTPError as error:
        with error:
            return Reply(error.code, parsed(error.read(ANSWER_MAX_BYTES), url))
    except (OSError, ValueError) as error:  # URLError, a reset connection, a time-out; a malformed address
        raise Failed(f"{method} {url}: {getattr(error, 'reason', None) or error}") from None


def _upload(file: Path) -> tuple[bytes, dict[str, str]]:
    """One file as the field `image` of a multipart form."""
    boundary = secrets.token_hex(16)
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{file.name}"\r\n'
    body = f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + file.read_bytes()
    body += f"\r\n--{boundary}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}
