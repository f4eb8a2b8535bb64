"""The whole service under test: own servers, own Ray node, own Serve config; started once, as `make run` starts it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import yaml
from leaks import log_files
from loadtest.service import LocalService, script_path

from serve_app.contracts import Json
from serve_app.local.state import password

TESTS = Path(__file__).resolve().parents[1]
MODEL = "sem-classifier"
WORDS = "words"
PACED = "paced-words"
HELD = "held-words"
BATCH = 8
GATEWAYS = 2
METRICS_TOKEN = "a-scraper-of-the-tests"
ENVIRONMENT = {
    "OIDC_AUDIENCE": "sem-image-classifier",
    "METRICS_TOKEN": METRICS_TOKEN,
    "LEASE_SECONDS": "6",
    "DECODE_TIMEOUT_S": "60",  # a decode worker that a test freezes must not be replaced meanwhile
    "RAY_metrics_report_interval_ms": "2000",
    "PYTHONPATH": script_path(TESTS, TESTS / "serve"),
}


class RunningService(LocalService):
    """A context manager; `models` are the blocks of its Serve config, `environment` what its replicas see beside."""

    def __init__(
        self,
        folder: Path,
        models: Sequence[Json],
        environment: Json,
        *,
        gateways: int = GATEWAYS,
        haproxy: bool = False,
    ) -> None:
        super().__init__(folder, models, {**ENVIRONMENT, **environment}, gateways=gateways, haproxy=haproxy)
        self.tokens: list[str] = []
        """Every token that was made for a test: no log may hold one."""

    def token(self, user: str, **claims: Any) -> str:
        self.tokens.append(super().token(user, **claims))
        return self.tokens[-1]

    def request_lines(self) -> dict[str, list[Json]]:
        """The lines of answered requests, by the file of the gateway replica that answered."""
        files = [path for path in log_files([self.cluster.ray_folder]) if path.name.endswith("_requests.log")]
        return {path.name: [json.loads(line) for line in path.read_text().splitlines()] for path in files}

    def deploy_again(self, **args: Any) -> None:
        """Hand Serve the config that runs with other arguments, as `kubectl apply` of a changed RayService does."""
        config = yaml.safe_load((self.cluster.folder / "serve.yaml").read_text())
        config["applications"][0]["args"] |= args
        answer = httpx2.put(
            f"{self.cluster.dashboard_url}/api/serve/applications/",
            json=config,
            headers={"Authorization": f"Bearer {password(self.cluster.token_file)}"},
            timeout=30,
            trust_env=False,
        )
        assert answer.status_code == 200, answer.text
