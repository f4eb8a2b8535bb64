"""The tools around the report: what they say when something is missing, and which results belong to which bench."""

from pathlib import Path

import pytest
import usage_pictures
from loadtest.results import results


def test_pictures_fail_clearly_without_chromium(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CHROMIUM", str(tmp_path / "chromium"))
    monkeypatch.setattr("sys.argv", ["usage_pictures.py"])
    assert usage_pictures.main() == 1
    assert "no Chromium" in capsys.readouterr().err


def test_a_browser_is_found_by_its_name_or_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "google-chrome"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert usage_pictures.find_browser() == str(command)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CHROMIUM", str(command))
    assert usage_pictures.find_browser() == str(command)


def test_each_bench_has_the_figures_that_name_it() -> None:
    usage = ("usage_fill_s", "usage_report_s", "usage_report_mb", "usage_batch_per_plain")
    found = results({name: [1.0] for name in usage}, "bench-usage")
    assert [result.name for result in found] == list(usage)
    with pytest.raises(KeyError):
        results({}, "bench")
