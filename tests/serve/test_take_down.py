"""A run that is killed takes everything it started with it: Ray, replicas, HAProxy, servers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from large_tokens import check_large_tokens

GONE_S = 40
PARTS = ("haproxy", "gcs_server", "raylet", "valkey-server", "postgres", "local.issuer")


@pytest.mark.skipif(sys.platform != "linux", reason="HAProxy mode and child subreapers need Linux")
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
