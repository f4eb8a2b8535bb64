"""Backups of both stores, made by the clock, and restored in a new namespace as docs/disaster-recovery.md says.

The keys of the development issuer stand in for those of a facility's issuer, which outlives the namespace: they are
copied too, so that the new namespace takes the tokens of before.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator

import pytest
from load import Load
from real_cluster import ROOT, Json, RealCluster, wait
from record import Record

STORES = ("redis", "postgres")
EVERY_MINUTE = "* * * * *"
SCHEDULED_S = 150.0
JOB_S = 180.0
FILE = re.compile(r"^[a-z]+-\S+\.(?:rdb|dump)", re.MULTILINE)
SHELF = str(ROOT / "k8s" / "shelf.yaml")
ROWS = """
SELECT (SELECT count(*) FROM job_outcomes),
       (SELECT count(*) FROM api_usage WHERE username LIKE 'backup-%' AND endpoint_type = 'inference')
"""
DAMAGE = 'for file in *.rdb *.dump; do [ ! -f "$file" ] || printf x | dd of="$file" bs=1 seek=60 conv=notrunc; done'
EMPTY = (
    "DROP DATABASE app WITH (FORCE)",
    "CREATE DATABASE app OWNER semapi",
    "REVOKE CONNECT ON DATABASE app FROM PUBLIC",
)


@pytest.fixture
def restored(cluster: RealCluster) -> Iterator[RealCluster]:
    """A new namespace of the same cluster, with one of everything deployed in it."""
    other = cluster.in_namespace("restored")
    other.run("deploy")
    yield other
    other.run("remove", "--yes")


def test_a_new_namespace_gets_the_same_jobs_and_rows_and_no_damaged_backup(
    cluster: RealCluster, restored: RealCluster, record: Record
) -> None:
    with Load(cluster, "backup") as load:
        pass
    record.settled(load, slowest="cluster_slowest_pod_lost_s")
    token = cluster.token(load.user)
    rows, jobs = cluster.sql(ROWS), _jobs(cluster, token)
    files = {store: _made_by_the_clock(cluster, store) for store in STORES}
    copies = {store: _shelved(cluster, store, "tar --create --file=- *.*") for store in STORES}
    for store in STORES:
        _shelved(restored, store, f"tar --extract --no-same-owner --file=- && {DAMAGE}", copies[store])
    restored.sql(*EMPTY, database="postgres")
    _same_keys(cluster, restored)
    for store in STORES:
        assert "damaged" in _restored(restored, store, files[store], "Failed")
        _shelved(restored, store, "tar --extract --no-same-owner --file=-", copies[store])
        _restored(restored, store, files[store], "Complete")
    restored.wait_until_whole()
    assert restored.sql(ROWS) == rows
    assert _jobs(restored, token) == jobs != set()


def _restored(cluster: RealCluster, store: str, file: str, end: str) -> str:
    """What the restore of a backup logs that comes to this end; the volume of the job Redis must be free meanwhile."""
    if store == "postgres":
        return _job(cluster, "postgres-restore", file, end)
    cluster.scale("redis", 0)
    try:
        return _job(cluster, "redis-restore", file, end)
    finally:
        cluster.scale("redis", 1)


def _made_by_the_clock(cluster: RealCluster, store: str) -> str:
    """The file of a backup that the CronJob makes at the next full minute."""
    name = f"{store}-backup"
    schedule = cluster.object("cronjob", name)["spec"]["schedule"]
    before = [job["metadata"]["name"] for job in _ended(cluster, name, "Complete")]
    _reschedule(cluster, name, EVERY_MINUTE)

    def made() -> list[Json]:
        return [job for job in _ended(cluster, name, "Complete") if job["metadata"]["name"] not in before]

    try:
        [job] = wait(made, SCHEDULED_S, f"the clock made no {name}")
    finally:
        _reschedule(cluster, name, schedule)
    made_file = FILE.search(cluster.kubectl("logs", f"job/{job['metadata']['name']}"))
    assert made_file is not None
    return made_file[0]


def _reschedule(cluster: RealCluster, name: str, schedule: str) -> None:
    cluster.kubectl("patch", "cronjob", name, "--patch", json.dumps({"spec": {"schedule": schedule}}))


def _job(cluster: RealCluster, name: str, file: str, end: str) -> str:
    """Run a CronJob's Job by hand, on this file, to the end that is expected; what it logged."""
    now = f"{name}-now"
    create = ("create", "job", now, f"--from=cronjob/{name}", "--dry-run=client", "--output=json")
    job = cluster.kubectl(*create).replace('"latest"', json.dumps(file))
    cluster.kubectl("apply", "--filename", "-", input=job)
    wait(lambda: _ended(cluster, now, end), JOB_S, f"{now} is not {end}")
    said = cluster.kubectl("logs", f"job/{now}")
    cluster.kubectl("delete", "job", now)
    return said


def _ended(cluster: RealCluster, name: str, end: str) -> list[Json]:
    """The Jobs whose name begins with this and that have come to this end."""
    return [
        job
        for job in cluster.objects("jobs")
        if job["metadata"]["name"].startswith(name)
        and any(one["type"] == end and one["status"] == "True" for one in job["status"].get("conditions", []))
    ]


def _shelved(cluster: RealCluster, store: str, script: str, files: bytes = b"") -> bytes:
    """What a script prints that runs in the folder of a store's backups, on the shelf of the runbook."""
    chosen = ("--filename", SHELF, "--selector", f"app.kubernetes.io/component={store}-shelf")
    cluster.kubectl("create", *chosen)
    try:
        cluster.kubectl(
            "wait",
            "pod",
            "--selector",
            f"job-name={store}-shelf",
            "--for=condition=Ready",
            "--timeout=120s",
            timeout_s=150,
        )
        command = cluster.kubectl_command("exec", "--stdin", f"job/{store}-shelf", "--", "sh", "-c", script)
        return subprocess.run(command, input=files, capture_output=True, check=True, timeout=JOB_S).stdout
    finally:
        cluster.kubectl("delete", "--cascade=foreground", "--wait", *chosen)


def _same_keys(cluster: RealCluster, restored: RealCluster) -> None:
    """Give the new namespace's issuer the keys of the old one, which it reads when it starts."""
    inside = ("exec", "--stdin", "deployment/dev-issuer", "--", "sh", "-c")
    files = subprocess.check_output(cluster.kubectl_command(*inside, "cd /keys && tar --create *.pem"), timeout=JOB_S)
    command = restored.kubectl_command(*inside, "cd /keys && tar --extract --no-same-owner --overwrite")
    subprocess.run(command, input=files, check=True, capture_output=True, timeout=JOB_S)
    restored.kubectl("rollout", "restart", "deployment/dev-issuer")
    restored.kubectl("rollout", "status", "deployment/dev-issuer", "--timeout=120s", timeout_s=150)


def _jobs(cluster: RealCluster, token: str) -> set[tuple[str, str]]:
    """Id and status of every job that the service holds for a user; fewer than a page."""
    answer = cluster.ask("GET", "/api/v1/jobs?limit=200", token)
    return {(job["job_id"], job["status"]) for job in json.loads(answer)["data"]}
