"""What is taken down: a killed run leaves no process behind, and a replaced gateway waits for no stream."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from large_tokens import check_large_tokens
from running_service import WORDS, RunningService
from service_client import connected, until

GONE_S = 40
REPLACED_S = 60
DRAIN_S = 20
"""What Serve gives a gateway's open requests before it kills them."""
PARTS = ("haproxy", "gcs_server", "raylet", "valkey-server", "postgres", "local.issuer")


@pytest.mark.skipif(sys.platform != "linux", reason="HAProxy mode and child subreapers need Linux")
@pytest.mark.fault(reason="a whole run with a Ray of its own")
def test_haproxy_lets_the_largest_token_through_and_a_killed_run_leaves_no_process_behind(folder: Path) -> None:
    script = Path(__file__).with_name("short_run.py")
    path = os.pathsep.join(map(str, (script.parent, script.parents[1], script.parents[2] / "scripts")))
    environment = {**os.environ, "PYTHONPATH": path}
    with subprocess.Popen([sys.executable, str(script), str(folder)], env=environment, stdout=subprocess.PIPE) as run:
        try:
            assert run.stdout
            started = json.loads(run.stdout.readline())
            processes = psutil.Process(run.pid).children(recursive=True)
            assert len(started["replicas"]) == 2
            assert set(started["replicas"]) <= {process.pid for process in processes}
            commands = [" ".join(process.cmdline()) for process in processes]
            assert [part for part in PARTS if not any(part in command for command in commands)] == []
            check_large_tokens(started["url"], started["tokens"])
        finally:
            run.kill()
        _, alive = psutil.wait_procs(processes, timeout=GONE_S)
        assert [process.cmdline() for process in alive] == []
    shutil.rmtree(started["ray_folder"])


@pytest.mark.fault(reason="a service of its own")
async def test_streams_do_not_hold_up_a_gateway_that_is_replaced(servers_folder: Path) -> None:
    homeless = {"name": WORDS, "implementation": "toy_model:WordStatistics", "min_replicas": 0, "num_cpus": 1000}
    folder = servers_folder / "leaving"
    folder.mkdir(mode=0o711)
    with RunningService(folder, [homeless], {}, gateways=1) as service:
        old = service.replicas("gateway")
        async with connected(service, "ada") as client:
            events = client.events(await client.submit_text("it has to wait", WORDS))
            assert (await anext(events))["status"] == "PENDING"
            await asyncio.to_thread(service.deploy_again, models=[{**homeless, "chunks_per_replica": 2}])
            await until(lambda: service.replicas("gateway") - old, REPLACED_S)
            begun = time.monotonic()
            assert [job async for job in events] == []
            assert time.monotonic() - begun < DRAIN_S / 2
            await until(lambda: not any(map(psutil.pid_exists, old)), DRAIN_S / 2)
