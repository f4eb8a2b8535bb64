"""Dashboard, alerts and page speak of the same metrics: those the code makes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from monitoring import METRIC, dashboard_expressions, family, rules

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
    panels = json.loads((ROOT / "k8s/monitoring/dashboard.json").read_text("utf-8"))["panels"]
    assert all(panel["title"] and panel["fieldConfig"]["defaults"]["unit"] for panel in panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_promtool_takes_the_rules() -> None:
    path = ROOT / "k8s/monitoring/alerts.yaml"
    assert yaml.safe_load(path.read_text("utf-8"))
    done = subprocess.run(["promtool", "check", "rules", str(path)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
