"""The measurements of one repetition, service and bare part in turn."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from pathlib import Path

import psycopg

from benchmark import corpus, load
from benchmark.instance import BATCH, MODEL, SLEEPER, USER, Instance
from benchmark.scrape import batches

ROOT = Path(__file__).resolve().parents[2]
UPLOADS = 1000
"""Uploads of one run; three runs stay inside the image store."""
CALM_READS = 80
"""Reads from two connections that pause: their latency shows what a person polling feels."""
PAUSE_S = 0.05
DEADLINE_S = 300.0


def processors() -> int:
    """Processors of this machine."""
    return os.cpu_count() or 1


def script_environment() -> dict[str, str]:
    """Ours, with this folder's packages importable."""
    return {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}


async def wait_for_port(port: int) -> None:
    """Return when somebody listens on `port` of loopback."""
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


class Run:
    """One repetition. Appends to `raw` one value per figure, to `details` what it came from."""

    def __init__(
        self,
        instance: Instance,
        bare_port: int,
        pictures: Path,
        requests: int,
        raw: dict[str, list[float]],
        details: dict[str, list[object]],
    ) -> None:
        self.instance, self.bare_port, self.requests = instance, bare_port, requests
        self.token = instance.token(USER)
        self.files = [path.read_bytes() for path in sorted(pictures.glob("*.jpg"))]
        self.pictures, self.raw, self.details = pictures, raw, details

    async def all(self) -> None:
        job_id = await self._one_completed_job()
        await self._reads(job_id)
        await self._accepting()
        await self._burst(job_id)
        sizes = self.instance.gateway_pss_mb()
        self._note("gateway_pss_mb", max(sizes), {"replicas_mb": sizes})

    def _note(self, figure: str, value: float, detail: object) -> None:
        self.raw[figure].append(value)
        self.details[figure].append(detail)

    def _status_read(self, job_id: str) -> bytes:
        body = json.dumps({"job_id": job_id}).encode()
        path = "/api/v1/jobs/status"
        return load.request("POST", path, token=self.token, body=body, content_type="application/json")

    async def _one_completed_job(self) -> str:
        start = time.monotonic()
        [job_id] = await self._submit(self.files[:1])
        while time.monotonic() - start < DEADLINE_S:
            run = await load.send_all(self.instance.port, [self._status_read(job_id)], connections=1)
            if json.loads(run.bodies[0])["status"] == "COMPLETED":
                return job_id
            await asyncio.sleep(0.05)
        raise TimeoutError("the first job did not complete")

    async def _reads(self, job_id: str) -> None:
        body = json.dumps({"job_id": job_id}).encode()
        nothing = load.request("POST", "/nothing", body=body, content_type="application/json")
        bare = await load.send_all(self.bare_port, [nothing] * (4 * self.requests))
        ours = await load.send_all(self.instance.port, [self._status_read(job_id)] * self.requests)
        _expect(ours, 200)
        self._note(
            "status_per_bare_route",
            ours.per_second / bare.per_second,
            {
                "service_per_s": ours.per_second,
                "bare_per_s": bare.per_second,
                "client_cpu_share": ours.client_cpu_share,
            },
        )
        self._note("client_cpu_share", ours.client_cpu_share, {"bare": bare.client_cpu_share})

    async def _accepting(self) -> None:
        image = corpus.small_jpeg()
        bare = await load.send_all(self.bare_port, [load.upload("/upload", image)] * UPLOADS)
        message = load.upload("/api/v1/jobs", image, token=self.token, model=SLEEPER)
        ours = await load.send_all(self.instance.port, [message] * UPLOADS)
        _expect(bare, 202)
        _expect(ours, 202)
        detail = {"service_per_s": ours.per_second, "bare_per_s": bare.per_second, "image_bytes": len(image)}
        detail["client_cpu_share"] = ours.client_cpu_share
        self._note("accepted_per_bare_upload", ours.per_second / bare.per_second, detail)

    async def _burst(self, job_id: str) -> None:
        bare = await self._bare_pipeline()
        calm = [self._status_read(job_id)] * CALM_READS
        idle = await load.send_all(self.instance.port, calm, connections=2, pause_s=PAUSE_S)
        before = await batches(self.instance.cluster, MODEL)
        start = time.monotonic()
        ids = await self._submit(self.files)
        busy = await load.send_all(self.instance.port, calm, connections=2, pause_s=PAUSE_S)
        _expect(busy, 200)
        await self._wait_for_rows(ids)
        rate = len(ids) / (time.monotonic() - start)
        detail = {"service_per_s": rate, **bare}
        self._note("burst_per_pipeline", rate / bare["pipeline"], detail)
        self._note("burst_per_forward", rate / bare["forward"], detail)
        medians = statistics.median(busy.latencies), statistics.median(idle.latencies)
        detail = {"saturated_ms": medians[0] * 1e3, "idle_ms": medians[1] * 1e3}
        self._note("status_saturated_per_idle", medians[0] / medians[1], detail)
        after = await batches(self.instance.cluster, MODEL, at_least=before.items + len(ids))
        mean = (after.items - before.items) / (after.count - before.count)
        self._note("mean_batch_per_max", mean / BATCH, {"batches": after.count - before.count, "mean": mean})

    async def _submit(self, files: list[bytes]) -> list[str]:
        messages = [load.upload("/api/v1/jobs", file, token=self.token, model=MODEL) for file in files]
        run = await load.send_all(self.instance.port, messages, connections=8)
        _expect(run, 202)
        return [json.loads(body)["job_id"] for body in run.bodies]

    async def _wait_for_rows(self, ids: list[str]) -> None:
        query = "SELECT count(*) FROM job_outcomes WHERE job_id = ANY(%s) AND status = 'COMPLETED'"
        async with (
            asyncio.timeout(DEADLINE_S),
            await psycopg.AsyncConnection.connect(self.instance.database_url, autocommit=True) as connection,
        ):
            while True:
                cursor = await connection.execute(query, (ids,))
                row = await cursor.fetchone()
                if row and row[0] == len(ids):
                    return
                await asyncio.sleep(0.1)

    async def _bare_pipeline(self) -> dict[str, float]:
        snapshot = corpus.snapshot(self.pictures.parent / "models")
        arguments = ["-m", "benchmark.bare", "pipeline", str(snapshot), str(self.pictures), str(BATCH)]
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, env=script_environment(), stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(DEADLINE_S):
            answer, _ = await process.communicate()
        return dict(json.loads(answer.splitlines()[-1]))


def _expect(run: load.Load, status: int) -> None:
    if set(run.statuses) != {status}:
        raise RuntimeError(f"expected only {status}, saw {run.statuses}: {run.bodies[0][:300]!r}")
