"""`make chaos`: kills, freezes, fills and stops one part after the other under load, and checks that nothing is lost.

Starts a service of its own. Every answer, row and sample of the queue goes to build/chaos.json; from that record one
line is printed for each result: `name value target ok|short`. The exit status is 1 when one is short.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import SecretStr

from loadtest import verdict
from loadtest.bare import answers_one_at_a_time
from loadtest.client import PersistentUser
from loadtest.faults import FAULTS, Environment
from loadtest.results import report, write_record
from loadtest.service import LocalService, temporary_folder, wait_until
from loadtest.workload import draw
from serve_app.client import ServiceClient
from serve_app.connections import connect_redis
from serve_app.contracts import Json
from serve_app.errors import CapacityError
from serve_app.jobs.store import JobStore
from serve_app.keyspace import OUTBOX
from serve_app.settings import Settings

MODEL = "sem-classifier"
WEIGHTS = {"MODEL_SOURCE": "demo", "ENGINE": "torch"}
PICTURES = 60
SIZE = (384, 288)
SETTLED_S = 900.0
SAMPLE_EVERY_S = 1.0
OUTCOMES = """
    SELECT job_id, run, status, dead, deliveries, extract(epoch FROM submitted_at)::float8,
        extract(epoch FROM started_at)::float8, extract(epoch FROM completed_at)::float8
    FROM job_outcomes WHERE owner IN (SELECT owner FROM job_outcomes WHERE job_id = ANY(%s))
"""
USAGE = "SELECT job_id FROM api_usage WHERE username = %s AND endpoint_type = 'inference' AND status_code = 202"


def main() -> int:
    """Strike, write, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=5000, help="jobs of the whole run, at least")
    parser.add_argument("--seconds", type=float, default=30, help="how long the load of one fault lasts, at least")
    parser.add_argument(
        "--faults", nargs="+", choices=FAULTS, default=list(FAULTS), metavar="NAME", help=" ".join(FAULTS)
    )
    parser.add_argument("--seed", type=int, default=1, help="of the pictures and their order")
    parser.add_argument("--page", type=Path, help="also write the table between the marks of this page")
    options = parser.parse_args()
    plan = Plan(-(-options.jobs // len(options.faults)), options.seconds, options.seed)
    started, trials = time.time(), list[Json]()
    with temporary_folder() as folder:
        print("# drawing pictures", flush=True)
        paths = draw(folder / "pictures", PICTURES, SIZE, options.seed)
        answers = answers_one_at_a_time(folder / "pictures", WEIGHTS)
        with _service(folder) as service:
            pictures = [*map(Picture, paths, answers)]
            try:
                for fault in options.faults:
                    print(f"# {fault}: {FAULTS[fault].title}", flush=True)
                    trials.append(run_trial(service, MODEL, pictures, plan, fault))
                    _show(trials[-1])
            finally:
                record = write_record(
                    "chaos",
                    units="times in seconds since 1970 or as durations, the rest are counts",
                    options=asdict(plan),
                    started_at=started,
                    seconds=time.time() - started,
                    trials=trials,
                )
    if options.page:
        verdict.write_page(options.page, record)
    return report(verdict.measured(record["trials"]))


def _service(folder: Path) -> LocalService:
    """Two gateways, two model replicas, the demo weights, and nearly everything else by default."""
    implementation = "loadtest.workload:ActingClassifier"
    model = {"name": MODEL, "implementation": implementation, "min_replicas": 2, "max_replicas": 2, "num_cpus": 0.1}
    environment = {
        **WEIGHTS,
        "INFERENCE_THREADS": "1",  # two replicas share the processors
        "FORWARD_TIMEOUT_S": "20",  # shortens only the fault `hang`
    }
    return LocalService(folder, [model], environment)


def _show(trial: Json) -> None:
    for strike in trial["strikes"]:
        print(f"#   {strike['evidence']}; it held {len(strike['held'])} jobs")
    print(f"#   {verdict.summarise(trial)}", flush=True)


@dataclass(frozen=True)
class Plan:
    """The load of each fault: at least `jobs` jobs, spread over `seconds`."""

    jobs: int
    seconds: float
    seed: int


@dataclass(frozen=True)
class Picture:
    """A file, and the result that each of its jobs must have."""

    path: Path
    reference: Json


def run_trial(service: LocalService, model: str, pictures: Sequence[Picture], plan: Plan, fault: str) -> Json:
    """Load by a new user, with the fault in the middle; returns the record of all that it left, as JSON."""
    name = f"chaos-{fault}-{uuid.uuid4().hex[:8]}"
    replicas = {deployment: len(service.replicas(deployment)) for deployment in ("gateway", model)}
    before = service.ledger(model)
    with _watched(service, model) as samples, ServiceClient(service.cluster.url, service.token(name)) as client:
        user = PersistentUser(client, model, [picture.path for picture in pictures])
        environment = Environment(service, model, user, replicas)
        with user.submitting(plan.jobs, plan.jobs / plan.seconds, plan.seed):
            wait_until(lambda: len(user.accepted) >= plan.jobs // 3, SETTLED_S)
            strikes = FAULTS[fault].strike(environment)
        _settle(service, model)
        ids = [job_id for job_id, _, _ in user.accepted]
        jobs = user.read_all(ids)
    sent = [pictures[picture] for _, picture, _ in user.accepted]
    record = {
        "fault": fault,
        "user": name,
        "strikes": [asdict(strike) for strike in strikes],
        "accepted": user.accepted,
        "failed": Counter(user.failures),
        "hostile": environment.hostile,
        "jobs": [_kept(job, picture) for job, picture in zip(jobs, sent, strict=True)],
        "ledger_before": before,
        "ledger_after": service.ledger(model),
        "samples": samples,
        "outcomes": service.rows(OUTCOMES, ids + environment.hostile),
        "usage": [job_id for (job_id,) in service.rows(USAGE, name)],
    }
    trial: Json = json.loads(json.dumps(record))
    return trial


def _settle(service: LocalService, model: str) -> None:
    """Return when no job is in flight and every event is a row; after SETTLED_S the verdict shows what is missing."""
    with suppress(TimeoutError), service.redis() as redis:
        wait_until(lambda: service.in_flight(model) == 0, SETTLED_S)
        wait_until(lambda: redis.xlen(OUTBOX()) == 0, SETTLED_S)


def _kept(job: Json, picture: Picture) -> Json:
    """The part of a job that the verdict needs, with the difference of its scores from those of its picture alone."""
    kept = {name: job.get(name) for name in ("job_id", "status", "deliveries")}
    if result := job.get("result"):
        expected = picture.reference["all_scores"]
        difference = max(abs(result["all_scores"][label] - expected[label]) for label in expected)
        kept |= {"label": result["label"], "expected": picture.reference["label"], "difference": difference}
    return kept


@contextmanager
def _watched(service: LocalService, model: str) -> Iterator[list[Json]]:
    """Samples of the model's queue, each atomic, one a second; `unavailable` where Redis did not answer."""
    samples: list[Json] = []
    over = threading.Event()
    settings = Settings.model_construct(redis_url=SecretStr(service.stack.environment["REDIS_URL"]))

    async def watch() -> None:
        async with connect_redis(settings) as redis:
            store = JobStore(redis, settings)
            while not over.is_set():
                began = time.monotonic()
                samples.append(await _sample(store, model))
                await asyncio.sleep(began + SAMPLE_EVERY_S - time.monotonic())

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(asyncio.run, watch())
        try:
            yield samples
        finally:
            over.set()
    watching.result()


async def _sample(store: JobStore, model: str) -> Json:
    try:
        queue = await store.queue_state(model)
    except CapacityError as error:
        return {"at": time.time(), "unavailable": type(error.__cause__ or error).__name__}
    return {"at": time.time(), "waiting": queue.waiting, "leased": queue.leased, "ledger": asdict(queue.ledger)}


if __name__ == "__main__":
    sys.exit(main())
