"""How long the first job of a sleeping model takes, from its acceptance to its end."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import datetime
from pathlib import Path

import httpx2

from loadtest.service import LocalService, laptop_models, temporary_folder, wait_until
from loadtest.source_rows import coins, page, png

ASLEEP_S = 60.0
STARTED_S = 120.0
DOCUMENTS = ("document", "layout", "ocr", "table")


def cold_starts(repetitions: int) -> dict[str, list[float]]:
    """`cold_start_MODEL_s` of every sleeping model of `make run` that this machine can serve, one after the other.

    The service is that of `make run`, with its proxy and its classifier, but models fall asleep after ten seconds.
    """
    models = laptop_models()
    asleep = [{**model, "downscale_delay_s": 10} for model in models if model.get("min_replicas") == 0]
    awake = [model for model in models if model.get("min_replicas") != 0]
    seconds: dict[str, list[float]] = defaultdict(list)
    with temporary_folder() as folder, _service(folder, [*awake, *asleep]) as service:
        headers = {"Authorization": f"Bearer {service.token('bench')}"}
        with httpx2.Client(base_url=service.cluster.url, headers=headers, timeout=60, trust_env=False) as client:
            listed = {one["name"]: one for one in client.get("/api/v1/models").json()["models"]}
            names = [model["name"] for model in asleep]
            for name in names * repetitions:
                if listed[name].get("state") == "refused":
                    print(f"# {name} skipped: {listed[name].get('reason')}", flush=True)
                    continue
                wait_until(lambda: not any(map(service.replicas, names)), ASLEEP_S)
                seconds[f"cold_start_{name.replace('-', '_')}_s"].append(_first_job(client, name))
    return seconds


def _service(folder: Path, models: list[dict[str, object]]) -> LocalService:
    return LocalService(folder, models, {"MODEL_SOURCE": "demo"}, haproxy=False)


def _first_job(client: httpx2.Client, model: str) -> float:
    """Seconds from the acceptance of a job to its end, by the service's clock."""
    picture = png((page() if model in DOCUMENTS else coins())[0])
    accepted = client.post("/api/v1/jobs", files={"image": ("picture.png", picture)}, data={"model": model})
    accepted.raise_for_status()

    def ended() -> dict[str, object] | None:
        job: dict[str, object] = client.get(accepted.headers["Location"], headers={"Prefer": "wait=30"}).json()
        return job if job["status"] not in ("PENDING", "PROCESSING") else None

    job = wait_until(ended, STARTED_S)
    if job["status"] != "COMPLETED":
        raise RuntimeError(f"{model}: {json.dumps(job)[:500]}")
    return _milliseconds(job["completed_at"], job["submitted_at"]) / 1000


def _milliseconds(end: object, start: object) -> float:
    return (datetime.fromisoformat(str(end)) - datetime.fromisoformat(str(start))).total_seconds() * 1000
