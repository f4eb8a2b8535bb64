"""`make bench`: the cost of the service compared with bare parts, as ratios measured in one run.

Starts a service of its own (HAProxy mode on Linux), measures everything in alternating repetitions, writes every
repetition to build/bench.json and prints one line for each result: `name value target ok|short`. The exit status is 1
when one is short.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path

import psutil
import psycopg

from loadtest.bare import bare_pipeline, bare_routes
from loadtest.client import prepared, send_all
from loadtest.cold_start import cold_starts
from loadtest.results import BUILD, MACHINE, report, results, write_record
from loadtest.service import HAS_HAPROXY, LocalService, temporary_folder, wait_until
from loadtest.workload import RANDOM_MODEL, draw, random_snapshot, small_jpeg

MODE = "HAProxy and throughput switches" if HAS_HAPROXY else "plain proxy (HAProxy needs Linux)"
PICTURES, MODELS = BUILD / "bench" / "micrographs", BUILD / "bench" / "models"
SIZE = (1024, 768)
MODEL, BATCH = "vit-b32", 8
SLEEPER = "sleeper"
UPLOADS = 1000
"""Uploads of one run; the image store holds those of three."""
CALM_READS = 80
"""Reads over two connections with pauses: the latency that a polling user sees."""
PAUSE_S = 0.05
DEADLINE_S = 300.0
COMPLETED = "SELECT count(*) FROM job_outcomes WHERE job_id = ANY(%s) AND status = 'COMPLETED'"


def main() -> int:
    """Measure, write, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--images", type=int, default=200, help="jobs of one burst")
    parser.add_argument("--requests", type=int, default=2000, help="requests of one run of the load client")
    options = parser.parse_args()
    started = time.time()
    files = [path.read_bytes() for path in draw(PICTURES, options.images, SIZE)]
    random_snapshot(MODELS)
    with temporary_folder() as folder, bare_routes() as bare_port, _service(folder) as service:
        print(f"# mode: {MODE}, {MACHINE}", flush=True)
        bench = Bench(service, bare_port, files, options.requests)
        for repetition in range(options.repetitions):
            print(f"# repetition {repetition + 1} of {options.repetitions}", flush=True)
            bench.measure()
    print("# first jobs of sleeping models", flush=True)
    bench.raw |= cold_starts(options.repetitions)
    record = write_record(
        "bench",
        mode=MODE,
        started_at=started,
        seconds=time.time() - started,
        options=vars(options),
        units="ratios, unless the name ends in a unit",
        results=bench.raw,
        details=bench.details,
    )
    return report(results(record["results"], "bench"))


def _service(folder: Path) -> LocalService:
    """The service with a model of random weights, and with one that takes jobs and never ends them."""
    implementation = "serve_app.models.sem_classifier:SemClassifier"
    model = {"name": MODEL, "implementation": implementation, "max_batch_size": BATCH, "num_cpus": 1}
    sleeper = {"name": SLEEPER, "implementation": "loadtest.workload:Sleeper", "num_cpus": 0.1}
    environment = {
        "ENGINE": "torch",  # as in the bare pipeline, whatever the caller's environment says
        "MODEL_SOURCE": "private",
        "MODEL_ID": RANDOM_MODEL,
        "MODEL_CACHE_DIR": str(MODELS),
        "QUEUE_MAX_JOBS": "100000",
        "FORWARD_TIMEOUT_S": "86400",  # the sleeper's forward pass never returns
    }
    return LocalService(folder, [model, sleeper], environment)


class Bench:
    """The measurements. `raw` holds the repetitions of each result, `details` the numbers behind them."""

    def __init__(self, service: LocalService, bare_port: int, files: list[bytes], requests: int) -> None:
        self.raw: dict[str, list[float]] = defaultdict(list)
        self.details: dict[str, list[object]] = defaultdict(list)
        self._service, self._bare_port, self._files, self._requests = service, bare_port, files, requests
        self._port, self._token = service.cluster.api_port, service.token("bench")

    def measure(self) -> None:
        """One repetition of everything; service and bare part take turns."""
        [job_id] = self._submit(self._files[:1])
        self._wait_for_rows([job_id])
        read = prepared("/api/v1/jobs/status", self._token, json={"job_id": job_id})
        self._reads(job_id, read)
        self._uploads()
        self._burst(read)
        replicas = self._service.replicas("gateway")
        sizes = [psutil.Process(pid).memory_full_info().pss / 1e6 for pid in replicas]
        self._add("gateway_pss_mb", max(sizes), replicas_mb=sizes)

    def _add(self, name: str, value: float, **details: object) -> None:
        self.raw[name].append(value)
        self.details[name].append(details)

    def _reads(self, job_id: str, read: bytes) -> None:
        bare = send_all(self._bare_port, [prepared("/nothing", json={"job_id": job_id})] * (4 * self._requests), 200)
        ours = send_all(self._port, [read] * self._requests, 200)
        rates = {"service_per_s": ours.per_second, "bare_per_s": bare.per_second}
        self._add("status_per_bare_route", ours.per_second / bare.per_second, **rates)
        self._add("client_cpu_share", ours.client_cpu_share, bare=bare.client_cpu_share)

    def _uploads(self) -> None:
        image = small_jpeg()
        files = {"image": ("image.jpg", image)}
        bare = send_all(self._bare_port, [prepared("/upload", files=files)] * UPLOADS, 202)
        message = prepared("/api/v1/jobs", self._token, files=files, data={"model": SLEEPER})
        ours = send_all(self._port, [message] * UPLOADS, 202)
        rates = {"service_per_s": ours.per_second, "bare_per_s": bare.per_second}
        details = {**rates, "image_bytes": len(image), "client_cpu_share": ours.client_cpu_share}
        self._add("accepted_per_bare_upload", ours.per_second / bare.per_second, **details)

    def _burst(self, read: bytes) -> None:
        bare = bare_pipeline(random_snapshot(MODELS), PICTURES, BATCH)
        idle_s = self._calm_latency(read)
        batches_before, items_before = self._service.batches(MODEL)
        start = time.monotonic()
        ids = self._submit(self._files)
        saturated_s = self._calm_latency(read)
        self._wait_for_rows(ids)
        rate = len(ids) / (time.monotonic() - start)
        self._add("burst_per_pipeline", rate / bare["pipeline"], service_per_s=rate, **bare)
        self._add("burst_per_forward", rate / bare["forward"], service_per_s=rate, **bare)
        latencies = {"saturated_ms": saturated_s * 1e3, "idle_ms": idle_s * 1e3}
        self._add("status_saturated_per_idle", saturated_s / idle_s, **latencies)
        batches, items = self._service.batches(MODEL, at_least=items_before + len(ids))
        mean = (items - items_before) / (batches - batches_before)
        self._add("mean_batch_per_max", mean / BATCH, batches=batches - batches_before, mean=mean)

    def _calm_latency(self, read: bytes) -> float:
        """Median latency of reads with pauses, in seconds."""
        return statistics.median(
            send_all(self._port, [read] * CALM_READS, 200, connections=2, pause_s=PAUSE_S).latencies
        )

    def _submit(self, files: list[bytes]) -> list[str]:
        messages = [
            prepared("/api/v1/jobs", self._token, files={"image": ("image.jpg", file)}, data={"model": MODEL})
            for file in files
        ]
        accepted = send_all(self._port, messages, 202, connections=8)
        return [json.loads(body)["job_id"] for body in accepted.bodies]

    def _wait_for_rows(self, ids: list[str]) -> None:
        """Return when the outcome of each of these jobs is stored."""
        with psycopg.connect(self._service.database_url, autocommit=True) as connection:
            wait_until(lambda: connection.execute(COMPLETED, (ids,)).fetchone() == (len(ids),), DEADLINE_S)


if __name__ == "__main__":
    sys.exit(main())
