"""What may be baked into an image and what may not; a model of the Hugging Face hub is baked by the hub's own client,
here from a hub on loopback, and found without it."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import bake_model
import pytest
from containerfile import ROOT
from huggingface_hub.errors import HFValidationError
from web_server import Handler, web_server

from serve_app.errors import ModelUnready
from serve_app.models.snapshot import DEMO_FOLDER

COMMIT = "4d00fc90d2127ca2ce683703bfed07b4d8a25bb2"
DEMO = {"VERSION": "0.1.0", "COMMIT": "unknown", "BASE": "ray:2", "ENVIRONMENT": "dev", "MODEL_SOURCE": "demo"}
REAL = {**DEMO, "MODEL_SOURCE": "hugging_face", "MODEL_ID": "org/name", "MODEL_REVISION": COMMIT}
PRODUCTION = {**REAL, "ENVIRONMENT": "prod", "COMMIT": COMMIT, "BASE": "ray:2@sha256:" + "0" * 64}


FILES = {name: (DEMO_FOLDER / name).read_bytes() for name in ("config.json", "preprocessor_config.json")}
FILES |= {"model.safetensors": (DEMO_FOLDER / "model.safetensors").read_bytes(), "pytorch_model.bin": b"pickle"}
SAMPLE = ROOT / "serve_app" / "samples" / "powder.jpg"


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


def test_half_a_model_and_none_are_refused(private: Path, tmp_path: Path) -> None:
    arguments = {**REAL, "MODEL_SOURCE": "private"}
    (private / "config.json").unlink()
    with pytest.raises(ModelUnready, match=r"lacks config\.json"):
        bake_model.bake(arguments, tmp_path / "models")
    shutil.rmtree(private)
    with pytest.raises(bake_model.Refused, match=r"model\.local, which is not there"):
        bake_model.bake(arguments, tmp_path / "models")


class Hub(Handler):
    """One model of the hub: what a revision means, the list of files of that commit, and each of them."""

    def reply(self) -> None:
        if self.path.startswith(("/api/models/org/name/revision/main", f"/api/models/org/name/revision/{COMMIT}")):
            self._send(json.dumps({"id": "org/name", "sha": COMMIT}).encode())
        elif self.path.startswith(f"/api/models/org/name/tree/{COMMIT}"):
            files = [{"type": "file", "path": name, "size": len(FILES[name]), "oid": name} for name in FILES]
            self._send(json.dumps(files).encode())
        elif (name := self.path.removeprefix(f"/org/name/resolve/{COMMIT}/")) in FILES:
            self._send(FILES[name])
        else:
            self.send_error(404)

    def _send(self, body: bytes) -> None:
        self.answer(body, ETag=f'"{hashlib.sha256(body).hexdigest()}"', X_Repo_Commit=COMMIT)


@pytest.fixture
def hub() -> Iterator[str]:
    with web_server(Hub) as url:
        yield url


def bake(prefix: Path, hub: str, revision: str) -> subprocess.CompletedProcess[str]:
    environment = {"PREFIX": str(prefix), "HF_ENDPOINT": hub, "HF_HUB_DISABLE_XET": "1", "HOME": str(prefix)}
    return execute([str(ROOT / "k8s" / "image" / "bake_model.py")], {**REAL, **environment, "MODEL_REVISION": revision})


def execute(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    whole = {"PATH": os.environ["PATH"], **environment}
    command = [sys.executable, *command]
    return subprocess.run(command, env=whole, cwd=ROOT, capture_output=True, text=True, timeout=140, check=False)


@pytest.mark.slow(reason="torch is loaded twice, by programs of their own")
@pytest.mark.parametrize("revision", [COMMIT, "main"])
def test_the_files_of_one_commit_are_baked_without_a_pickle_and_loaded_without_the_hub(
    hub: str, tmp_path: Path, revision: str
) -> None:
    done = bake(tmp_path, hub, revision)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "models" / "models--org--name" / "snapshots" / COMMIT
    assert {path.name for path in folder.iterdir()} == FILES.keys() - {"pytorch_model.bin"}
    model = json.loads((tmp_path / "release.json").read_text())["model"]
    assert model["revision"] == COMMIT
    assert model["sha256"] == hashlib.sha256(FILES["model.safetensors"]).hexdigest()

    of_the_image = {name: REAL[name] for name in ("MODEL_SOURCE", "MODEL_ID", "MODEL_REVISION")}
    of_the_image |= {
        "HF_HUB_CACHE": str(tmp_path / "models"),
        "HF_HUB_OFFLINE": "1",
        "HF_ENDPOINT": "http://127.0.0.1:1",
    }
    predict = ["-c", "from serve_app.cli.main import app; app()", "predict", "--json", str(SAMPLE)]
    done = execute(predict, of_the_image)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["label"], answer["model"]["revision"]) == ("Powder", COMMIT)


def test_a_revision_that_is_not_there_ends_the_build(hub: str, tmp_path: Path) -> None:
    done = bake(tmp_path, hub, "0" * 40)
    assert done.returncode != 0
    assert "bake: " in done.stderr
    assert not (tmp_path / "release.json").exists()
