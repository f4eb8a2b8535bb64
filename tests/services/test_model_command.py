"""`semapi model`: a new model runs as it was written, and one that breaks its promises is told which."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from serve_app.cli.main import commands
from serve_app.models.conformance import PROMISES, check
from serve_app.models.registry import ModelConfig, card
from serve_app.settings import Settings
from tests.pictures import encode, gradient

SAMPLE = str(Path(__file__).parents[2] / "serve_app" / "samples" / "fibres.jpg")
BROKEN = """
import scipy
from tests.toy_model import WordStatistics

class Broken(WordStatistics):
    def load(self, settings):
        self.recipe = lambda: None

    def forward(self, items):
        return [(len(items), *output[1:]) for output in super().forward(items)]

    def describe(self):
        return {"device": "cpu", "labels": [], "id": "broken"}
"""


def model(*arguments: str) -> Result:
    return CliRunner().invoke(commands, ["model", *arguments])


def test_a_new_model_runs_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written = model("new", "grain-size")
    assert written.exit_code == 0, written.output
    text = written.stdout
    [block] = yaml.safe_load(text[text.index("        - name:") : text.index("\n\n  PYTHONPATH=. semapi up")])
    config = ModelConfig.model_validate(block)
    assert (config.name, config.implementation, config.min_replicas) == ("grain-size", "grain_size:GrainSize", 0)
    assert "xample" not in (tmp_path / "grain_size.py").read_text()

    monkeypatch.syspath_prepend(tmp_path)
    assert card(config).params_schema["additionalProperties"] is False
    done = model("check", config.implementation, "--images", SAMPLE, "--params", '{"threshold": 90}', "--batch", "4")
    assert done.exit_code == 0, done.output
    assert done.stdout.count("  ok  ") == len(PROMISES) + 1
    for line in ("cold start", "memory", "preprocess", "forward", "an item in a batch of 4"):
        assert line in done.stdout
    done = CliRunner().invoke(commands, ["predict", SAMPLE, "--model", config.implementation])
    assert (done.exit_code, '"id": "grain-size"' in done.stdout) == (0, True)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Grain", "not a name of a model"),
        ("3d", "not a name of a model"),
        ("a--b", "not a name of a model"),
        ("../a", "not a name of a model"),
        ("x" * 64, "not a name of a model"),
        ("json", "already a Python module json"),
        ("taken", "taken.py exists"),
        ("none", "None has another meaning there"),
        ("schema", "Schema has another meaning there"),
    ],
)
def test_a_name_that_cannot_be_a_model_s_is_refused(
    name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.py").touch()
    done = model("new", name)
    assert (done.exit_code, reason in done.stderr) == (1, True)
    assert [file.name for file in tmp_path.iterdir()] == ["taken.py"]


def test_broken_promises_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "promises_broken.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    made = importlib.import_module("promises_broken").Broken()
    made.load(Settings())
    faults = {promise: fault for promise, fault in check(made) if fault}
    assert "lambda" in faults.pop("preprocess, recipe and items can go to another process")
    made.recipe = None
    faults = {promise: fault for promise, fault in check(made) if fault}
    assert faults == {
        "an item has the same result in a batch as alone": "input 1 has another words in a batch than alone",
        "describe() has device, labels, id and revision": "revision missing",
    }


@pytest.mark.slow(reason="the check starts a process, which imports scipy")
def test_a_command_on_a_broken_model_ends_with_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "heavy_words.py").write_text(BROKEN.replace("self.recipe = lambda: None", "pass"))
    monkeypatch.syspath_prepend(tmp_path)
    done = model("check", "heavy_words:Broken")
    assert done.exit_code == 1, done.output
    assert "  broken  the module imports no heavy library: scipy\n" in done.stdout
    picture = tmp_path / "a.png"
    picture.write_bytes(encode(gradient(), "PNG"))
    for arguments, reason in (
        (("nowhere:Nothing",), "No module named 'nowhere'"),
        (("owl",), "there is no model owl"),
        (("dummy-detector", "--images", str(picture), "--params", '{"depth": 1}'), "the parameters do not fit"),
        (("dummy-detector", "--images", __file__), "image 1: The file is of no type known here"),
        (("dummy-detector", "--settings", '{"depth": 1}'), "its settings are not valid: depth"),
        (("dummy-detector", "--params", "["), "--params is not JSON"),
    ):
        done = model("check", *arguments)
        assert (done.exit_code, reason in done.stderr) == (1, True), done.output
