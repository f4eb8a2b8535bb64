"""The smoke test of `scripts/cluster` against a running service; only kubectl's way to it is a stand-in."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from running_service import RunningService

from tests.cluster_world import NAME, Machine


def port(url: str) -> int:
    found = urlsplit(url).port
    assert found
    return found


def test_a_service_as_it_runs_passes(service: RunningService, tmp_path: Path) -> None:
    ports = {"dev-issuer": port(service.stack.authority.url), f"{NAME}-serve-svc": port(service.cluster.url)}
    machine = Machine(tmp_path, ports)
    for _ in range(2):  # the second time its user has jobs already
        done = machine.run("smoke")
        assert done.returncode == 0, done.stderr
        assert "nanowires.jpg is Nanowires" in done.stderr
        assert "its outcome is a row in PostgreSQL" in done.stderr
