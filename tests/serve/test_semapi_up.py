"""`semapi up`: a refused sample and a server that dies end nothing, and what was logged can be read afterwards."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import psutil
import pytest
import yaml
from loadtest.service import LAPTOP
from running_service import TESTS, WORDS

BACK_S = 60
MODEL = {"name": WORDS, "implementation": "toy_model:WordStatistics", "num_cpus": 0.1}


def configured(folder: Path) -> Path:
    config = yaml.safe_load(LAPTOP.read_text())
    config["applications"][0]["args"] = {"gateway_replicas": 1, "gateway_cpus": 0.1, "models": [MODEL]}
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + BACK_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.fault(reason="Valkey is killed under a whole run, with a Ray of its own")
def test_a_run_outlives_a_refused_sample_and_a_dead_valkey_and_leaves_its_logs(folder: Path) -> None:
    folder.chmod(0o711)
    state = folder / "state"
    given = {
        "SEMAPI_STATE_DIR": str(state),
        "SEMAPI_TOKEN": "not-ours",
        "PYTHONPATH": os.pathsep.join([*sys.path, str(TESTS)]),
    }
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("REDIS_", "DATABASE_", "OIDC_"))
    }
    ports = ("--port", "0", "--issuer-port", "0", "--dashboard-port", "0")
    command = [sys.executable, "-c", "from serve_app.cli.main import app; app()", "up", *ports]
    run = subprocess.Popen(
        [*command, "--config", str(configured(folder))],
        env={**environment, **given},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert run.stdout
    said: list[str] = []

    def read_to(words: str) -> None:
        assert run.stdout
        for line in run.stdout:
            said.append(line)
            if words in line:
                return
        raise AssertionError("".join(said))

    try:
        read_to("stop: Ctrl-C")
        assert "the sample was not classified" in "".join(said)
        assert "is healthy and goes on" in " ".join("".join(said).split())
        [url] = re.findall(r"API +(http://\S+)", "".join(said))
        [token] = re.findall(r"TOKEN=(\S+)", "".join(said))
        headers = {"Authorization": f"Bearer {token}"}

        def answers() -> bool:
            job = {"model": WORDS, "params": {"text": "one two"}}
            accepted = httpx2.post(f"{url}/api/v1/jobs", json=job, headers={**headers, "Prefer": "wait=10"}, timeout=30)
            return accepted.status_code in (200, 202) and accepted.json().get("status") == "COMPLETED"

        until(answers)
        [valkey] = [one for one in psutil.Process(run.pid).children(recursive=True) if one.name() == "valkey-server"]
        valkey.kill()
        read_to("Valkey ended by itself (killed by signal 9)")
        read_to("Valkey ready on port")
        until(answers)
        family = psutil.Process(run.pid).children(recursive=True)
        run.send_signal(signal.SIGINT)
        read_to("] stopping")
    finally:
        run.send_signal(signal.SIGINT)  # the second one, of somebody who does not want to wait, leaves nothing behind
        rest, _ = run.communicate(timeout=120)
    assert run.returncode == 0, rest
    assert "still stopping" in rest
    assert [one for one in family if one.is_running()] == []
    last = rest.splitlines()[-1]
    assert last.startswith(f"stopped; data stay in {state}, the logs of this run in ")
    logs = Path(last.rpartition(" ")[2])
    kept = {str(path.relative_to(logs)) for path in logs.rglob("*") if path.is_file()}
    assert {"valkey.log", "postgres.log", "issuer.log", "node.log", "application.log"} <= kept
    assert [name for name in kept if name.startswith("ray/serve/replica_")]
