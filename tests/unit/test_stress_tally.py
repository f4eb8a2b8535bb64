"""The summary of a stress run, and the command lines that ask for one."""

from __future__ import annotations

from pathlib import Path

import pytest
from loadtest.results import percentile
from loadtest.stress import FAILURES_SHOWN, SAMPLES, Tally, read_plan

from serve_app.contracts import Json


def test_percentiles_are_by_nearest_rank() -> None:
    hundred = [float(number) for number in range(1, 101)]
    assert [percentile(hundred, percent) for percent in (50, 95, 99, 100)] == [50, 95, 99, 100]
    assert [percentile([7.0], percent) for percent in (50, 99)] == [7, 7]
    assert percentile([1.0, 2.0, 3.0], 50) == 2


def test_the_summary_has_every_section() -> None:
    tally = Tally(seconds=2.0)
    for number in range(10):
        tally.add("inference", "alice", "200", (number + 1) / 1000)
        tally.add_job("COMPLETED", 1.5)
    tally.add("status", "bob", "503", 0.5, "503 queue-full")
    assert tally.report() == "\n".join(
        [
            "Stress test complete",
            "Total requests          11",
            "Success                 10",
            "Failed                   1",
            "Elapsed/s            2.000",
            "Throughput req/s       5.5",
            "Latency min/s        0.001",
            "Latency p50/s        0.006",
            "Latency p95/s        0.500",
            "Latency p99/s        0.500",
            "Latency max/s        0.500",
            "Job min/s            1.500",
            "Job p50/s            1.500",
            "Job p95/s            1.500",
            "Job p99/s            1.500",
            "Job max/s            1.500",
            "",
            "By endpoint",
            "  inference             10",
            "  status                 1",
            "",
            "By status",
            "  200                   10",
            "  503                    1",
            "",
            "By user",
            "  alice                 10",
            "  bob                    1",
            "",
            "By job status",
            "  COMPLETED             10",
            "",
            "Sample failures (1 of 1)",
            "  status by bob: 503 queue-full",
        ]
    )


def test_only_the_first_failures_are_kept() -> None:
    tally = Tally(seconds=1.0)
    for number in range(100):
        tally.add("status", "bob", "500", 0.1, str(number))
    assert (tally.failed, len(tally.failures)) == (100, FAILURES_SHOWN)
    assert "Sample failures (8 of 100)" in tally.report()


def test_without_options_the_plan_is_the_source_systems() -> None:
    plan = read_plan([])
    assert (plan.base_url, plan.token_url) == ("http://localhost:8080", "http://localhost:18080/default/token")
    assert (plan.users, plan.requests, plan.concurrency) == (["alice", "bob", "charlie"], 30, 5)
    assert (plan.mode, plan.poll, plan.timeout) == ("mixed", False, 30.0)
    assert plan.bodies == [upload(path) for path in sorted(SAMPLES.glob("*.jpg"))]


def test_files_and_addresses_are_used_in_turns() -> None:
    file = str(SAMPLES / "tips.jpg")
    plan = read_plan(["--image", file, "--image-url", "http://x/a", "--image", file, "--image-url", "http://x/b"])
    urls = [{"json": {"image_url": url}} for url in ("http://x/a", "http://x/b")]
    assert plan.bodies == [upload(SAMPLES / "tips.jpg")] * 2 + urls


def upload(path: Path) -> Json:
    return {"files": {"image": (path.name, path.read_bytes())}}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--requests", "0"], "must be 1 to 1000000"),
        (["--requests", "many"], "invalid int value: 'many'"),
        (["--concurrency", "1001"], "must be 1 to 1000"),
        (["--timeout", "nan"], "must be 0.001 to 600.0"),
        (["--users", " , "], "--users names nobody"),
        (["--image", "nowhere.png"], "nowhere.png cannot be read: No such file"),
        (["--mode", "chaos"], "invalid choice"),
    ],
)
def test_what_cannot_be_asked_for_is_said(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        read_plan(arguments)
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err
