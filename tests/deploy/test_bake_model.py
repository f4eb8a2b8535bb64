"""What may be baked into an image, and what may not."""

import shutil
from pathlib import Path

import bake_model
import pytest
from huggingface_hub.errors import HFValidationError

from serve_app.errors import ModelUnready
from serve_app.models.snapshot import DEMO_FOLDER

COMMIT = "4d00fc90d2127ca2ce683703bfed07b4d8a25bb2"
DEMO = {"VERSION": "0.1.0", "COMMIT": "unknown", "BASE": "ray:2", "ENVIRONMENT": "dev", "MODEL_SOURCE": "demo"}
REAL = {**DEMO, "MODEL_SOURCE": "hugging_face", "MODEL_ID": "org/name", "MODEL_REVISION": COMMIT}
PRODUCTION = {**REAL, "ENVIRONMENT": "prod", "COMMIT": COMMIT, "BASE": "ray:2@sha256:" + "0" * 64}


@pytest.fixture(autouse=True)
def version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bake_model, "version", lambda name: "0.1.0")


@pytest.mark.parametrize("arguments", [DEMO, REAL, {**REAL, "MODEL_REVISION": "main"}, PRODUCTION])
def test_these_may_become_an_image(arguments: dict[str, str]) -> None:
    bake_model.check(arguments)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({**DEMO, "VERSION": "0.2.0"}, "the code is version 0.1.0"),
        ({**DEMO, "MODEL_SOURCE": "hub"}, "MODEL_SOURCE is demo, hugging_face or private"),
        ({**DEMO, "MODEL_ID": "org/name"}, "did you mean hugging_face"),
        ({**REAL, "MODEL_REVISION": ""}, "needs a MODEL_REVISION"),
        ({**REAL, "MODEL_REVISION": "../main"}, "needs a MODEL_REVISION"),
        ({**PRODUCTION, "MODEL_REVISION": "main"}, "MODEL_REVISION as a commit of 40 hex digits"),
        ({**PRODUCTION, "COMMIT": "unknown"}, "COMMIT as a commit of 40 hex digits"),
        ({**PRODUCTION, "BASE": "ray:2"}, "BASE with its digest"),
        ({**DEMO, "ENVIRONMENT": "prod"}, "refuses the demo model"),
    ],
)
def test_these_may_not(arguments: dict[str, str], why: str) -> None:
    with pytest.raises(bake_model.Refused, match=why):
        bake_model.check(arguments)


@pytest.mark.parametrize("name", ["", "../name", "a/b/c", "/etc"])
def test_a_name_that_no_model_has_is_refused(name: str) -> None:
    with pytest.raises(HFValidationError):
        bake_model.check({**REAL, "MODEL_ID": name})


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of a model beside the scripts; the demo model stands for any."""
    folder = tmp_path / "model.local"
    shutil.copytree(DEMO_FOLDER, folder)
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    monkeypatch.setattr(bake_model, "PRIVATE", folder)
    monkeypatch.setenv("ENVIRONMENT", "prod")
    return folder


def test_files_of_ones_own_are_baked_as_their_revision(private: Path, tmp_path: Path) -> None:
    arguments = {**REAL, "MODEL_SOURCE": "private"}
    snapshot = bake_model.bake(arguments, tmp_path / "models")
    assert snapshot.folder == tmp_path / "models" / "models--org--name" / "snapshots" / COMMIT
    assert not list(snapshot.folder.glob("*.bin")), "a pickle could run code"
    described = bake_model.release(arguments, snapshot)
    assert described["model"] == {
        "source": "private",
        "id": "org/name",
        "revision": COMMIT,
        "sha256": (private / "model.safetensors.sha256").read_text().split()[0],
    }


def test_half_a_model_is_refused(private: Path, tmp_path: Path) -> None:
    (private / "config.json").unlink()
    with pytest.raises(ModelUnready, match=r"lacks config\.json"):
        bake_model.bake({**REAL, "MODEL_SOURCE": "private"}, tmp_path / "models")


def test_no_files_are_refused(private: Path, tmp_path: Path) -> None:
    shutil.rmtree(private)
    with pytest.raises(bake_model.Refused, match=r"model\.local, which is not there"):
        bake_model.bake({**REAL, "MODEL_SOURCE": "private"}, tmp_path / "models")
