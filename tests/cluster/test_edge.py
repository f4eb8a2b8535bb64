"""Through an edge of other people's make: a large and slow upload, streams of ten minutes, a release under load."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import traefik
from load import PICTURES, Load
from real_cluster import Json, RealCluster, wait
from record import Record
from traefik import Edge

from serve_app.gateway.live import PING_S, RECONNECT_MS
from serve_app.settings import Settings

STREAM_S: Final = 600.0
VERSIONS: Final = ("--http1.1", "--http2")
RATE: Final = "800k"
UPLOAD_S: Final = 180.0
"""64 MiB at that rate take 84 s: longer than the minute that many an edge gives a request by itself."""
BATCH_S: Final = 60.0
EVENT_S: Final = 10.0
"""A change is told within this, on a busy machine too."""
COMMENT: Final = 65_537
"""Bytes of the largest comment that a JPEG may have, its marker included."""
OUT_OF_TURN: Final = """
import json, os, sys
from redis import Redis
from serve_app.keyspace import JOB, RING
with Redis.from_url(os.environ["REDIS_URL"], decode_responses=True) as redis:
    model, priority, owner = redis.hmget(JOB(id=sys.argv[1]), "model", "priority", "owner")
    print(json.dumps(redis.zrem(RING(model=model, priority=priority), owner)))
"""
"""Takes the owner of a waiting job out of the ring, so that nobody begins it until the owner submits again."""


@pytest.fixture(scope="module")
def program(request: pytest.FixtureRequest) -> Path:
    """Traefik. Its first build takes longer than a run has: it is asked for."""
    if not traefik.built().is_file() and not request.config.getoption("--edge"):
        pytest.skip("Traefik is not built, and --edge did not ask for it")
    return traefik.build()


@pytest.fixture(scope="module")
def edge(program: Path, service: RealCluster) -> Iterator[Edge]:
    """The service behind Traefik."""
    edge = Edge(service)
    with edge.standing(program):
        yield edge


@pytest.fixture(scope="module")
def streams(edge: Edge) -> Iterator[list[Stream]]:
    """Streams of the events of one waiting job, by both versions of HTTP. They last while other tests run."""
    token = edge.token("follower")
    with edge.work_stopped():
        job_id = _submit(edge, token)
        assert edge.in_redis(OUT_OF_TURN, job_id) == 1
    opened = [Stream(edge, version, job_id, token) for version in VERSIONS]
    yield opened
    for stream in opened:
        stream.close()


class Stream:
    """A stream of events as curl follows it, opened again whenever it ends before its job."""

    def __init__(self, edge: Edge, version: str, job_id: str, token: str) -> None:
        self.statuses: list[str] = []
        self.ends: list[int] = []
        """How curl ended each time: 0 after a whole answer."""
        self.silent_s = 0.0
        """The longest time without a line."""
        self.began = self._heard = time.monotonic()
        self._seen = ""
        url = f"{edge.service_url()}/api/v1/jobs/{job_id}/events"
        options = ["--silent", "--no-buffer", "--fail", version, "--header", f"Authorization: Bearer {token}", url]
        self._command = edge.inside("curl", *options)
        self._process = self._opened()
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def lasted(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.began

    def close(self) -> None:
        """Leave the stream, unless it is over."""
        while self._thread.is_alive():
            self._process.terminate()
            self._thread.join(RECONNECT_MS / 1000)

    def _opened(self) -> subprocess.Popen[str]:
        command = [*self._command, "--header", f"Last-Event-ID: {self._seen}"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def _follow(self) -> None:
        """To the end of the job, or to an end that is out of order."""
        while True:
            with self._process as process:
                assert process.stdout is not None
                for line in process.stdout:
                    self._hear(line.strip())
            self.ends.append(process.returncode)
            if process.returncode != 0 or "COMPLETED" in self.statuses:
                return
            time.sleep(RECONNECT_MS / 1000)  # as `retry` asks for
            self._process = self._opened()

    def _hear(self, line: str) -> None:
        now = time.monotonic()
        self.silent_s, self._heard = max(self.silent_s, now - self._heard), now
        name, _, value = line.partition(": ")
        if name == "id":
            self._seen = value
        elif name == "data":
            self.statuses.append(json.loads(value)["status"])


def test_a_slow_upload_of_64_mib(edge: Edge) -> None:
    token, size = edge.token("uploader"), Settings().batch_max_bytes // 2
    picture = edge.folder / "large.jpg"
    picture.write_bytes(_of_size(size))
    form = ["--form", f"image=@{picture}"] * 2
    answer = edge.curl(token, "/api/v1/batches", *form, "--limit-rate", RATE, "--max-time", f"{UPLOAD_S:g}")
    place = json.loads(answer)["links"]["self"]

    def ended() -> Json:
        found = json.loads(edge.curl(token, place))
        assert found["open"] == 0
        return dict(found["counts"])

    assert wait(ended, BATCH_S, "the batch has not ended")["completed"] == 2


def test_release_under_load(edge: Edge, cluster: RealCluster, streams: list[Stream], record: Record) -> None:
    """Beside the streams, which go on at another gateway."""
    before = cluster.active()
    with Load(edge, "release-behind-an-edge") as load:
        cluster.run("restart", "service")
        cluster.wait_until_alone()
    assert cluster.active() != before
    account = record.settled(load, slowest="cluster_slowest_release_s")
    record.measured(cluster_broken_in_order=account.broken)


def test_streams_of_ten_minutes(edge: Edge, streams: list[Stream]) -> None:
    """Each ends only as the service ends it, is never silent for longer than a ping, and tells the end of its job."""
    wait(lambda: all(one.lasted() > STREAM_S or any(one.ends) for one in streams), STREAM_S, "time stands still")
    assert [one.statuses for one in streams] == [["PENDING"]] * len(streams)
    _submit(edge, edge.token("follower"))
    wait(lambda: all("COMPLETED" in one.statuses for one in streams), EVENT_S, "the end of the job is not told")
    for one in streams:
        assert set(one.ends) == {0}
        assert len(one.ends) >= STREAM_S // Settings().stream_max_s
        assert one.silent_s < PING_S + EVENT_S


def _submit(edge: Edge, token: str) -> str:
    picture = min(PICTURES.glob("*.jpg"))
    return str(json.loads(edge.curl(token, "/api/v1/jobs", "--form", f"image=@{picture}"))["job_id"])


def _of_size(size: int) -> bytes:
    """A picture with comments in it up to that size."""
    picture = min(PICTURES.glob("*.jpg")).read_bytes()
    comments = b""
    while missing := size - len(picture) - len(comments):
        length = min(missing, COMMENT)
        comments += b"\xff\xfe" + (length - 2).to_bytes(2) + bytes(length - 4)
    return picture[:2] + comments + picture[2:]
