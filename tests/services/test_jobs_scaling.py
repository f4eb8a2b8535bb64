"""The scaling policy as Ray Serve's controller makes and calls it: sent by value, called in the event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from job_help import MODEL, claimed, submission
from ray.serve._private.autoscaling_state import _resolve_policy_callable
from ray.serve._private.common import DeploymentID
from ray.serve.autoscaling_policy import _apply_autoscaling_config
from ray.serve.config import AutoscalingConfig, AutoscalingContext
from waiting import until

from serve_app.jobs.store import JobStore
from serve_app.local.valkey import Valkey

CONFIG: dict[str, Any] = {
    "min_replicas": 0,
    "max_replicas": 4,
    "upscale_delay_s": 0,
    "downscale_delay_s": 0,
    "policy": {
        "policy_function": "serve_app.jobs.scaling:BacklogPolicy",
        "policy_kwargs": {"model": MODEL, "jobs_per_replica": 4},
    },
}


@pytest.fixture
def decide(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], int]:
    """What Serve decides for a deployment of that many replicas."""
    monkeypatch.setenv("REDIS_URL", valkey.url)
    config = AutoscalingConfig(**CONFIG)
    policy = _apply_autoscaling_config(_resolve_policy_callable(config.policy))

    def decide(replicas: int) -> int:
        context = AutoscalingContext(
            deployment_id=DeploymentID("model"),
            deployment_name="model",
            app_name="app",
            current_num_replicas=replicas,
            target_num_replicas=replicas,
            running_replicas=[],
            total_num_requests=0,
            total_queued_requests=0,
            aggregated_metrics=None,
            raw_metrics=None,
            capacity_adjusted_min_replicas=0,
            capacity_adjusted_max_replicas=4,
            policy_state={},
            last_scale_up_time=None,
            last_scale_down_time=None,
            current_time=None,
            config=config,
        )
        return policy(context)[0]

    return decide


async def test_replicas_follow_the_jobs_that_wait_and_run(job_store: JobStore, decide: Callable[[int], int]) -> None:
    async def decided(replicas: int, wanted: int) -> None:
        await until(lambda: decide(replicas) == wanted)

    await job_store.submit(submission())
    await decided(0, 1)
    for _ in range(5):
        await job_store.submit(submission())
    await decided(1, 2)
    tasks = (await claimed(job_store)).tasks
    assert decide(1) == 2
    await job_store.complete([(task, {}) for task in tasks[1:]])
    await decided(2, 1)
    assert decide(1) == 1
    await job_store.complete([(tasks[0], {})])
    await decided(1, 0)
    assert decide(0) == 0


async def test_nothing_changes_while_the_backlog_is_not_known(
    decide: Callable[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    assert [decide(replicas) for replicas in (0, 1, 3)] == [0, 1, 3]
