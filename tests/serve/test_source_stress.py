"""The source system's stress test against the running service; tests/services/test_stress.py holds what it counts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from running_service import RunningService

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "stress_test_api.py"


def test_the_source_systems_stress_test_runs_green(service: RunningService, picture_url: str) -> None:
    """Everything as it is by default, but that every submitted job has to end COMPLETED."""
    where = ("--base-url", service.cluster.url, "--mock-token-url", f"{service.stack.authority.url}/token")
    command = [sys.executable, str(SCRIPT), *where, "--image-url", picture_url, "--poll"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Success                 30\n" in done.stdout
