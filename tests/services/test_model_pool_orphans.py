"""Decode workers live no longer than their replica, and do not run its main module again."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

REPLICA = """
import asyncio, sys
from serve_app.models.pool import DecodePool
from serve_app.settings import Settings
from tests.services import hostile

with open(sys.argv[2], "a") as file:
    print("main module", file=file)

async def main():
    pool = DecodePool(Settings(decode_timeout_s=600), "tests.services.hostile")
    await pool.start()
    await pool.run(hostile.sleep_long, sys.argv[1])

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_workers_end_with_a_killed_replica(tmp_path: Path):
    marker, runs, script = (tmp_path / name for name in ("pid", "runs", "replica.py"))
    script.write_text(REPLICA)
    command = [sys.executable, str(script), str(marker), str(runs)]
    replica = subprocess.Popen(command, env={"PYTHONPATH": str(Path(__file__).parents[2])})
    try:
        until(lambda: marker.exists() and marker.read_text() != "", 60)
        worker = psutil.Process(int(marker.read_text()))
    finally:
        replica.kill()
        replica.wait()
    until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, 10)
    assert runs.read_text().splitlines() == ["main module"]


def until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
