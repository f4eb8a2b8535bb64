"""What is generated follows its source: a stale file is named with the command that mends it, and the rest stays."""

from __future__ import annotations

import sys
from pathlib import Path

import generate
import pytest


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page with one generated section, whose source has changed."""

    def renew(text: str, source: str) -> str:
        return generate.section(text, "colours", source, generate.table(("Name", "Colour"), [("sky", "blue")]))

    path = tmp_path / "page.md"
    path.write_text("Before.\n\n<!-- generated: colours. -->\n| old |\n<!-- end: colours -->\n\nAfter.\n")
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    monkeypatch.setattr(generate, "OUTPUTS", (generate.Output("page.md", "colours.py", renew),))
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["generate.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        generate.main()
    return int(ended.value.code or 0)


def test_a_stale_page_is_named_and_left_alone_by_a_check(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = page.read_text()
    assert run(monkeypatch, "--check") == 1
    assert "page.md does not say what colours.py says. Run `make generate`" in capsys.readouterr().out
    assert page.read_text() == before


def test_a_page_is_renewed_between_its_marks_and_then_passes(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch) == 0
    text = page.read_text()
    assert text.startswith("Before.\n\n<!-- generated: colours. Generated from colours.py by `make generate`")
    assert "| Name | Colour |\n|---|---|\n| sky | blue |\n" in text
    assert "| old |" not in text
    assert text.endswith("<!-- end: colours -->\n\nAfter.\n")
    assert run(monkeypatch, "--check") == 0


def test_a_page_without_the_section_is_refused(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page.write_text("Nothing here.\n")
    with pytest.raises(SystemExit, match="A page needs one section 'colours'"):
        generate.section(page.read_text(), "colours", "colours.py", [])


def test_sizes_change_what_they_name_and_nothing_else() -> None:
    config = {"http": {"port": 1, "host": "a"}, "models": [{"name": "m", "cpus": 1}, {"name": "n", "cpus": 1}]}
    changed = generate.changed(config, {"http": {"port": 2}, "models": [{"name": "n", "cpus": 4, "group": "g"}]})
    assert changed == {
        "http": {"port": 2, "host": "a"},
        "models": [{"name": "m", "cpus": 1}, {"name": "n", "cpus": 4, "group": "g"}],
    }


def test_sizes_of_a_model_that_is_not_served_are_refused() -> None:
    with pytest.raises(SystemExit, match="sizes of other"):
        generate.changed([{"name": "m"}], [{"name": "other", "cpus": 4}])
