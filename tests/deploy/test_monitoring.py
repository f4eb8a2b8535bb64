"""Dashboard, alerts and page speak of the same metrics, those the code makes; each alert fires on what it is for, alone
and not at once: promtool plays the minutes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest
import yaml
from monitoring import FOLDER, METRIC, dashboard_expressions, family, of_the_cluster, rules

ROOT = Path(__file__).resolve().parents[2]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text("utf-8")
MADE_BY_RAY = re.compile(r'metrics\.(?:Counter|Gauge|Histogram)\(\s*"(\w+)"')
MADE_HERE = re.compile(r'(?:Counter|Gauge)MetricFamily\(\s*"(\w+)"')


def made() -> set[str]:
    sources = [path.read_text("utf-8") for path in (ROOT / "serve_app").rglob("*.py")]
    of_ray = {f"ray_{name}" for source in sources for name in MADE_BY_RAY.findall(source)}
    return of_ray | {name for source in sources for name in MADE_HERE.findall(source)}


def test_every_metric_is_documented_and_every_documented_one_is_made() -> None:
    rows = re.findall(r"^\| (`(?:ray|semapi)_[^|]+) \|", OPERATIONS, re.MULTILINE)
    assert {family(name) for row in rows for name in METRIC.findall(row)} == made()


def test_dashboard_and_alerts_name_only_metrics_that_are_made() -> None:
    expressions = [*dashboard_expressions(), *(rule["expr"] for rule in rules())]
    named = {family(name) for text in expressions for name in METRIC.findall(text)}
    assert named <= made()
    assert len(named) >= 12


def test_every_alert_has_a_row_in_the_runbook() -> None:
    for rule in rules():
        assert f'id="{rule["annotations"]["runbook"].partition("#")[2]}"></a>{rule["alert"]} |' in OPERATIONS


def test_panels_have_titles_units_and_places_of_their_own() -> None:
    panels = json.loads((FOLDER / "dashboard.json").read_text("utf-8"))["panels"]
    assert all(panel["title"] and panel["fieldConfig"]["defaults"]["unit"] for panel in panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)


Series = dict[str, str]

ANSWERS: Final = 'ray_gateway_request_ms_count{route="/api/v1/jobs",status="%d"}'
PROBES: Final = 'ray_gateway_request_ms_count{route="/readyz",status="503"}'
READS: Final = 'ray_gateway_request_ms_bucket{route="/api/v1/jobs/{job_id}",le="%s"}'
OTHERS: Final = 'ray_gateway_request_ms_bucket{route="/api/v1/inference",le="%s"}'
BREAKER: Final = 'ray_gateway_breaker_open{model="m",replica="%d"}'
WAITING: Final = 'semapi_jobs_waiting{model="m"}'
OLDEST: Final = 'semapi_oldest_wait_seconds{model="m"}'
REPLICAS: Final = 'semapi_model_replicas{model="m"}'
DEAD: Final = 'semapi_jobs_total{model="m",event="dead"}'
LATE: Final = "semapi_webhooks_late_seconds"
DIFFERENCE: Final = 'semapi_ledger_difference{model="m"}'
LAG, DROPPED, REFUSED = "semapi_outbox_lag_seconds", "semapi_usage_dropped_total", "semapi_usage_refused_total"
OURS: Final = 'kube_statefulset_created{namespace="n",statefulset="ray-redis"}'
BACKED_UP: Final = 'kube_cronjob_status_last_successful_time{namespace="%s",cronjob="%s-backup"}'
MADE: Final = 'kube_cronjob_created{namespace="n",cronjob="%s-backup"}'
ROOM: Final = 'kubelet_volume_stats_available_bytes{namespace="%s",persistentvolumeclaim="data-redis-0"}'
SIZE: Final = 'kubelet_volume_stats_capacity_bytes{namespace="%s",persistentvolumeclaim="data-redis-0"}'
USED: Final = 'container_memory_working_set_bytes{namespace="%s",pod="head",container="ray-head"}'
LIMIT: Final = 'kube_pod_container_resource_limits{namespace="%s",pod="head",container="ray-head",resource="memory"}'
INFO: Final = 'kuberay_service_info{namespace="n",name="sem-image-classifier"}'
READY: Final = 'kuberay_service_condition_ready{namespace="n",name="sem-image-classifier",condition="%s"}'
UPGRADE: Final = (
    'kuberay_service_condition_upgrade_in_progress{namespace="n",name="sem-image-classifier",condition="true"}'
)

WELL: Final[Series] = {
    **{ANSWERS % 202: "0+600x60", ANSWERS % 503: "0+12x60", PROBES: "0+600x60"},
    **{READS % "2000": "0+600x60", READS % "5000": "0+601x60", READS % "+Inf": "0+601x60"},
    **{OTHERS % "2000": "0x60", OTHERS % "+Inf": "0+600x60"},
    **{BREAKER % 1: "0x60", BREAKER % 2: "0x60", WAITING: "5x60", OLDEST: "200x60", REPLICAS: "1x60", DEAD: "3x60"},
    **{LATE: "50x60", DIFFERENCE: "0x60", LAG: "50x60", DROPPED: "7x60", REFUSED: "7x60"},
    # The clock begins at 0, so these backups were two hours and a day ago, at every minute.
    **{BACKED_UP % ("n", "redis"): "-7200+60x60", BACKED_UP % ("n", "postgres"): "-86400+60x60"},
    **{MADE % "redis": "-9000000x60", MADE % "postgres": "-9000000x60", OURS: "1x60"},
    **{ROOM % "n": "20x60", SIZE % "n": "100x60", USED % "n": "80x60", LIMIT % "n": "100x60"},
    **{INFO: "1x60", READY % "true": "1x60"},
    # What is wrong in somebody else's namespace is no alert of ours.
    **{BACKED_UP % ("other", "redis"): "-9000000x60", ROOM % "other": "1x60", SIZE % "other": "100x60"},
    **{USED % "other": "99x60", LIMIT % "other": "100x60"},
}
"""Series and their values minute by minute: a little wrong everywhere, and nothing that anybody must look at."""
WRONG: Final[list[tuple[str, int, Series]]] = [
    ("MetricsMissing", 2, {name: "_x60" for name in WELL if name.startswith("semapi_")}),
    ("MetricsMissing", 2, {name: "_x60" for name in WELL if name.startswith("ray_")}),
    ("ModelBreakerOpen", 2, {BREAKER % 2: "1x60"}),
    ("ModelWithoutReplicas", 5, {REPLICAS: "0x60"}),
    ("QueueTooOld", 5, {OLDEST: "301x60"}),
    ("AnswersFail", 6, {ANSWERS % 503: "0+60x60"}),
    ("AnswersSlow", 11, {READS % "2000": "0+590x60"}),
    ("JobsDie", 1, {DEAD: "3 4x60"}),
    ("LedgerUnbalanced", 1, {DIFFERENCE: "-1x60"}),
    ("UsageDelayed", 5, {LAG: "61x60"}),
    ("UsageNotStored", 1, {DROPPED: "7 8x60"}),
    ("UsageNotStored", 1, {REFUSED: "7 8x60"}),
    ("WebhooksDelayed", 5, {LATE: "61x60"}),
    ("ClusterMetricsMissing", 10, {OURS: "_x60"}),
    ("ClusterMetricsMissing", 10, {SIZE % "n": "_x60", SIZE % "other": "_x60"}),
    ("ClusterMetricsMissing", 10, {INFO: "_x60"}),
    ("ServiceNotReady", 5, {READY % "true": "_x60", READY % "false": "1x60"}),
    ("UpgradeHangs", 30, {UPGRADE: "1x60"}),
    ("BackupLate", 6, {BACKED_UP % ("n", "redis"): "-10800x60"}),
    ("BackupLate", 6, {BACKED_UP % ("n", "redis"): "_x60", MADE % "redis": "-10800x60"}),
    ("BackupLate", 6, {BACKED_UP % ("n", "postgres"): "-108000x60"}),
    ("BackupLate", 6, {BACKED_UP % ("n", "postgres"): "_x60", MADE % "postgres": "-108000x60"}),
    ("VolumeFull", 10, {ROOM % "n": "14x60"}),
    ("HeadMemory", 10, {USED % "n": "86x60"}),
]
"""What fires, after how many minutes, when these series are other than well."""


def test_every_alert_has_a_case() -> None:
    assert {alert for alert, _, _ in WRONG} == {rule["alert"] for rule in rules()}


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    cases = [case({}, {59: []})]
    cases += [case(series, {minutes - 1: [], minutes: [alert]}) for alert, minutes, series in WRONG]
    path = tmp_path / "alerts_test.yaml"
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(yaml.safe_dump(of_the_cluster()))
    rule_files = [str(FOLDER / "alerts.yaml"), str(cluster)]
    path.write_text(yaml.safe_dump({"rule_files": rule_files, "evaluation_interval": "1m", "tests": cases}))
    done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def case(changes: Series, firing: dict[int, list[str]]) -> dict[str, object]:
    """A test of promtool's: which alerts fire at which minute."""
    expected = [
        {
            "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
            "eval_time": f"{minute}m",
            "exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in alerts],
        }
        for minute, alerts in firing.items()
    ]
    series = [{"series": name, "values": values} for name, values in (WELL | changes).items()]
    return {"name": str(changes), "interval": "1m", "input_series": series, "promql_expr_test": expected}
