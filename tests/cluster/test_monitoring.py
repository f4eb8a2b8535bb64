"""The shipped dashboard and alerts on a real cluster: every metric is there, and each alert fires in its scenario.

The alerts are played without their patience (`observed.py`): what is silent here is silent with it. Not played are
alerts that take hours or a disk (BackupLate, VolumeFull, HeadMemory), UpgradeHangs, ModelBreakerOpen, WebhooksDelayed,
which needs every gateway's sender stuck, and AnswersSlow, because a gateway whose Redis hangs answers 503 at once:
`promtool` plays them with made-up figures (tests/deploy/test_monitoring.py).
"""

from __future__ import annotations

import base64
import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from load import Load
from monitoring import METRIC, dashboard_expressions, rules
from observed import Observed, observed
from real_cluster import MODEL, Json, RealCluster, wait

from serve_app.gateway.auth import principal_of
from serve_app.settings import Settings

FIRES_S = 90.0
SILENT_S = 10.0
OF_OTHERS = {
    "kubelet_volume_stats_available_bytes",
    "kubelet_volume_stats_capacity_bytes",
    "container_memory_working_set_bytes",
    "kuberay_service_info",
    "kuberay_service_condition_ready",
    "kuberay_service_condition_upgrade_in_progress",
}
"""What the rules ask of the kubelet and the operator. kube-state-metrics, which has the rest, does not run here."""


@pytest.fixture(scope="module")
def prometheus(service: RealCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    with observed(service, tmp_path_factory.mktemp("prometheus")) as found:
        wait(
            lambda: {"semapi_jobs_waiting", "ray_gateway_breaker_open"} <= found.names(), FIRES_S, "nothing is scraped"
        )
        yield found


def test_the_shipped_monitors_find_every_pod(prometheus: Observed, service: RealCluster) -> None:
    def all_well() -> bool:
        return bool(prometheus.targets()) and all(one["health"] == "up" for one in prometheus.targets())

    wait(all_well, FIRES_S, "not every target answers")
    scraped = {one["labels"].get("pod") for one in prometheus.targets()}
    ray = service.objects("pods", "--selector", "ray.io/is-ray-node=yes", "--field-selector", "status.phase=Running")
    assert {pod["metadata"]["name"] for pod in ray} <= scraped


def test_every_metric_that_a_rule_or_a_panel_names_is_there(prometheus: Observed, service: RealCluster) -> None:
    expressions = [*dashboard_expressions(), *(rule["expr"] for rule in rules())]
    named = {name for text in expressions for name in METRIC.findall(text)} | OF_OTHERS
    with Load(service, "observed"):
        _meet_the_limiter(service)
        deadline = time.monotonic() + FIRES_S
        while missing := named - prometheus.names():
            assert time.monotonic() < deadline, f"not scraped: {sorted(missing)}"
            time.sleep(1)  # between two looks


def test_a_steady_service_is_silent(prometheus: Observed, service: RealCluster) -> None:
    with Load(service, "silent"):
        until = time.monotonic() + SILENT_S
        while time.monotonic() < until:
            assert prometheus.firing() <= {"ClusterMetricsMissing"}, "kube-state-metrics alone is missing here"
            time.sleep(1)  # between two looks at a promise that holds all the time


def test_no_model_that_works(prometheus: Observed, cluster: RealCluster) -> None:
    pods = cluster.pods("models")
    with Load(cluster, "no-model"), _frozen(cluster, pods):
        _fires(prometheus, "ModelWithoutReplicas")
        _fires(prometheus, "QueueTooOld")
    _silent(prometheus, "ModelWithoutReplicas", "QueueTooOld")


def test_no_database(prometheus: Observed, cluster: RealCluster) -> None:
    with Load(cluster, "no-database"), _frozen(cluster, [cluster.server("postgres")]):
        _fires(prometheus, "UsageDelayed")
    _silent(prometheus, "UsageDelayed")


def test_no_redis(prometheus: Observed, cluster: RealCluster) -> None:
    with Load(cluster, "no-redis"), _frozen(cluster, [cluster.server("redis")]):
        _fires(prometheus, "AnswersFail")


def test_rows_that_postgresql_can_never_take(prometheus: Observed, cluster: RealCluster) -> None:
    _redis(cluster, "XADD", "outbox", "*", "kind", "usage", "event", "{}")
    _fires(prometheus, "UsageNotStored")


def test_a_ledger_that_does_not_add_up(prometheus: Observed, cluster: RealCluster) -> None:
    """The counter of dead jobs is turned by hand, which both alerts are about."""
    _redis(cluster, "HINCRBY", f"ledger:{MODEL}", "dead", "1")
    try:
        _fires(prometheus, "LedgerUnbalanced")
        _fires(prometheus, "JobsDie")
    finally:
        _redis(cluster, "HINCRBY", f"ledger:{MODEL}", "dead", "-1")
    _silent(prometheus, "LedgerUnbalanced")


def test_no_worker(prometheus: Observed, cluster: RealCluster) -> None:
    for pod in [*cluster.pods("gateway"), *cluster.pods("models")]:
        cluster.delete(pod, force=True)
    _fires(prometheus, "ServiceNotReady")
    _fires(prometheus, "MetricsMissing")
    cluster.wait_until_whole()
    _silent(prometheus, "ServiceNotReady", "MetricsMissing")


def _fires(prometheus: Observed, alert: str) -> None:
    wait(lambda: alert in prometheus.firing(), FIRES_S, f"{alert} does not fire")


def _silent(prometheus: Observed, *alerts: str) -> None:
    wait(lambda: not prometheus.firing() & set(alerts), FIRES_S, f"{', '.join(alerts)} still fire")


@contextmanager
def _frozen(cluster: RealCluster, pods: list[Json]) -> Iterator[None]:
    try:
        for pod in pods:
            cluster.signal(pod, signal.SIGSTOP)
        yield
    finally:
        for pod in pods:
            cluster.signal(pod, signal.SIGCONT)


def _redis(cluster: RealCluster, *words: str) -> None:
    """A command of valkey-cli in the job Redis's own pod, with the password that lies there."""
    login = 'REDISCLI_AUTH="$(cat "$PASSWORD_FILE")" exec valkey-cli "$@"'
    cluster.kubectl("exec", "redis-0", "--container", "redis", "--", "sh", "-c", login, "valkey-cli", *words)


def _meet_the_limiter(cluster: RealCluster) -> None:
    """One request of somebody who is blocked."""
    admin, blocked = cluster.token("observed-admin", "--admin"), cluster.token("observed-blocked")
    claims = json.loads(base64.urlsafe_b64decode(blocked.split(".")[1] + "=="))
    block = {"principal_id": principal_of(claims, Settings()).id, "reason": "A test."}
    cluster.ask("POST", "/api/v1/admin/blocks", admin, json.dumps(block))
    with pytest.raises(AssertionError, match="403"):
        cluster.ask("GET", "/api/v1/models", blocked)
