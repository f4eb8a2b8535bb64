"""`semapi usage` and scripts/usage_report.py: one report by two doors, three formats, and how they fail."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from click.testing import Result
from psycopg.conninfo import conninfo_to_dict
from typer.testing import CliRunner
from usage_rows import DAY, insert

from serve_app.cli.main import commands
from serve_app.local.binaries import find_program
from serve_app.usage.migrations import migrate

ROOT = Path(__file__).resolve().parents[2]
MONTH = ("--month", "2026-10")


@pytest.fixture
def tables(database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    migrate(database)
    monkeypatch.setenv("DATABASE_URL", database)
    return database


def usage(*arguments: str, answer: str = "") -> Result:
    return CliRunner().invoke(commands, ["usage", *arguments], input=answer)


def script(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "usage_report.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment})


def test_both_doors_give_the_same(tables: str) -> None:
    insert(tables, [{}, {"status_code": 500}], [{}])
    window = ("--since", "2026-10-15", "--until", "2026-10-16T00:00Z", "--bucket", "hour", "--timezone", "Europe/Rome")
    one, other = usage("json", *window), script("json", *window, "--dsn", tables)
    assert (one.exit_code, other.returncode) == (0, 0)
    first, second = json.loads(one.stdout), json.loads(other.stdout)
    first["generated_at_utc"] = second["generated_at_utc"] = ""
    assert first == second
    assert first["time_buckets"] == [{"bucket": "2026-10-15 02:00:00", "n": 2, "errors": 1}]


def test_the_summary_is_the_default_and_has_the_source_systems_sections(tables: str) -> None:
    insert(tables, [{"timestamp": datetime.now(UTC)}, {"timestamp": datetime.now(UTC), "status_code": 404}])
    said = usage().stdout
    for words in (
        *("Model Inference Service API Usage Summary", "Timezone: UTC | Bucket: hour", "Total requests: 2"),
        *("Unique users  : 1", "Errors        : 1 (50.0%)", "Endpoint mix:", "Status health:", "Top users:"),
        *("Recent activity by bucket:", "Recent requests:", "ada", "Outcomes and latency by model:"),
    ):
        assert words in said
    assert "(none)" not in said
    assert "Bucket: minute" in usage("summary", "--window-mins", "5").stdout
    assert usage("summary", "--since", "2020-01-01", "--until", "2020-01-02").stdout.count("(none)") == 8


def test_output_goes_to_a_file(tables: str, tmp_path: Path) -> None:
    target = tmp_path / "usage.json"
    assert usage("json", "--output", str(target), "--recent-limit", "5").stdout == ""
    assert json.loads(target.read_text())["total"] == 0


def test_a_csv_file_begins_as_excel_wants_it_and_stdout_does_not(tables: str, tmp_path: Path) -> None:
    insert(tables, [{"username": "山田\u3000太郎"}])
    plain = usage(*MONTH, "--csv").stdout_bytes
    assert plain.startswith(b"window_start_utc,")
    assert "山田\u3000太郎".encode() in plain
    assert usage(*MONTH, "--csv", "--bom").stdout_bytes == b"\xef\xbb\xbf" + plain
    target = tmp_path / "usage.csv"
    assert usage(*MONTH, "--csv", "--output", str(target)).exit_code == 0
    assert target.read_bytes() == b"\xef\xbb\xbf" + plain
    usage(*MONTH, "--csv", "--output", str(target), "--no-bom")
    assert target.read_bytes() == plain


def test_a_month_as_csv_has_every_user(tables: str) -> None:
    requests = [{"principal_id": f"p{number}", "username": f"user {number}"} for number in range(40)]
    outside = [{"timestamp": datetime(2026, 11, 1, tzinfo=UTC)}, {"timestamp": DAY - timedelta(days=15)}]
    insert(tables, [*requests, *outside], [{"owner": "p7"}])
    lines = list(csv.DictReader(io.StringIO(usage(*MONTH, "--csv").stdout)))
    people = {line["id"]: line for line in lines if line["by"] == "user"}
    assert len(people) == 40
    assert (people["p7"]["requests"], people["p7"]["completed"], people["p7"]["compute_seconds"]) == ("1", "1", "2.0")
    assert {line["by"] for line in lines} == {"user", "group", "model"}
    assert lines[0]["window_start_utc"] == "2026-10-01T00:00:00Z"
    assert lines[0]["window_end_utc"] == "2026-10-31T23:59:59Z"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--since", "yesterday"), "is not a time"),
        (("--timezone", "Mars/Olympus"), "timezone"),
        (("--since", "1h", "--until", "2h"), "empty"),
        (("--month", "October"), "month is"),
        (("--month", "2026-10", "--since", "1h"), "take one"),
        (("--dsn", "postgresql://u:pass%word@h/x"), "percent-encode"),
        (("--dsn", "postgresql://127.0.0.1:1/x"), "did not answer"),
        (("--dsn", "postgresql://127.0.0.1:1/x", "--namespace", "sem"), "take one"),
        (("--namespace", "-x"), "namespace"),
        (("--output", "/nonexistent/x"), "No such file"),
        (("prune",), "--before"),
        (("prune", "--before", "2026-01-01", "--older-than", "90d"), "--before"),
        (("prune", "--older-than", "23h", "--yes"), "last 24 hours"),
    ],
)
def test_a_failure_is_one_line_and_status_1(tables: str, arguments: tuple[str, ...], said: str) -> None:
    done = usage(*arguments)
    assert done.exit_code == 1
    assert done.stderr.startswith("ERROR: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert "word@" not in done.output


@pytest.mark.parametrize("arguments", [("csv",), ("--recent-limit", "0"), ("--bucket", "week"), ("--window-mins", "0")])
def test_a_wrong_argument_is_usage(arguments: tuple[str, ...]) -> None:
    assert usage(*arguments).exit_code == 2


def test_without_a_database_it_says_how_to_name_one() -> None:
    assert "--dsn" in usage().stderr


def test_prune_asks_and_then_empties(tables: str) -> None:
    insert(tables, [{}, {"timestamp": datetime.now(UTC)}], [{}, {"completed_at": datetime.now(UTC)}])

    def rows_and_results() -> tuple[int, int]:
        with psycopg.connect(tables) as connection:
            counted = connection.execute("SELECT (SELECT count(*) FROM api_usage), count(result) FROM job_outcomes")
            return counted.fetchone() or (0, 0)

    refused = usage("prune", "--older-than", "7d", answer="n\n")
    assert "1 requests and 0 images to delete, 1 outcomes to empty" in refused.stdout
    assert rows_and_results() == (2, 2)
    assert usage("prune", "--older-than", "7d", "--yes").exit_code == 0
    assert rows_and_results() == (1, 1)
    assert json.loads(usage("json", "--since", "2026-10-01").stdout)["total"] == 2


@pytest.fixture
def kubectl(tmp_path: Path, tables: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in that records what it is called with and then runs it here, as the pod would."""
    parts = conninfo_to_dict(tables)
    record = tmp_path / "arguments"
    command = tmp_path / "kubectl"
    command.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > {record}\nwhile [ "$1" != -- ]; do shift; done\nshift\nexec "$@"\n'
    )
    command.chmod(0o755)
    programs = find_program("postgres").path.parent
    monkeypatch.setenv("PATH", f"{tmp_path}:{programs}:{os.environ['PATH']}")
    for name, key in (("PGHOST", "host"), ("PGPORT", "port"), ("POSTGRES_USER", "user"), ("POSTGRES_DB", "dbname")):
        monkeypatch.setenv(name, str(parts[key]))
    monkeypatch.setenv("POSTGRES_PASSWORD", str(parts["password"]))
    return record


def test_a_namespace_is_read_by_psql_in_its_pod(tables: str, kubectl: Path) -> None:
    hostile = "x\u2028y\u0085</script>'; DROP TABLE api_usage; --\\"
    insert(tables, [{"username": hostile}, {"status_code": 500}], [{}])
    window = ("json", "--since", "2026-10-15", "--until", "2026-10-16")
    through, direct = (json.loads(usage(*window, *more).stdout) for more in (("--namespace", "sem"), ()))
    through["generated_at_utc"] = direct["generated_at_utc"] = ""
    assert through == direct
    assert through["total"] == 2
    arguments = kubectl.read_text().splitlines()
    assert arguments[:8] == ["exec", "-i", "-n", "sem", "postgresql-0", "--", "bash", "-lc"]
    assert 'psql -U "${POSTGRES_USER:-postgres}" -d "${POSTGRES_DB:-app}"' in arguments[8]


def test_what_psql_says_in_the_pod_is_said(kubectl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_DB", "nowhere")
    done = usage("--namespace", "sem")
    assert done.exit_code == 1
    assert done.stderr.startswith("ERROR: ")
    assert '"nowhere" does not exist' in done.stderr


def test_without_kubectl_it_says_so(tables: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "kubectl is not installed" in usage("--namespace", "sem").stderr
