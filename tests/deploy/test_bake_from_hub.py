"""A model is baked from the Hugging Face hub by its own client, here from a hub on loopback, and found without it."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from serve_app.models.snapshot import DEMO_FOLDER

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "k8s" / "image" / "bake_model.py"
SAMPLE = ROOT / "serve_app" / "samples" / "powder.jpg"
COMMIT = "4d00fc90d2127ca2ce683703bfed07b4d8a25bb2"
FILES = {name: (DEMO_FOLDER / name).read_bytes() for name in ("config.json", "preprocessor_config.json")}
FILES |= {"model.safetensors": (DEMO_FOLDER / "model.safetensors").read_bytes(), "pytorch_model.bin": b"pickle"}


class Hub(BaseHTTPRequestHandler):
    """One model of the hub: what a revision means, the list of files of that commit, and each of them."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
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
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def bake(prefix: Path, hub: str, revision: str) -> subprocess.CompletedProcess[str]:
    arguments = {"VERSION": "0.1.0", "COMMIT": "unknown", "BASE": "ray", "ENVIRONMENT": "dev"}
    model = {"MODEL_SOURCE": "hugging_face", "MODEL_ID": "org/name", "MODEL_REVISION": revision}
    environment = {"PREFIX": str(prefix), "HF_ENDPOINT": hub, "HF_HUB_DISABLE_XET": "1"}
    return execute([str(SCRIPT)], {**environment, **arguments, **model, "HOME": str(prefix)})


def execute(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        env={"PATH": os.environ["PATH"], **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize("revision", [COMMIT, "main"])
def test_the_files_of_one_commit_are_baked_and_no_pickle(hub: str, tmp_path: Path, revision: str) -> None:
    done = bake(tmp_path, hub, revision)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "models" / "models--org--name" / "snapshots" / COMMIT
    assert {path.name for path in folder.iterdir()} == FILES.keys() - {"pytorch_model.bin"}
    model = json.loads((tmp_path / "release.json").read_text())["model"]
    assert model["revision"] == COMMIT
    assert model["sha256"] == hashlib.sha256(FILES["model.safetensors"]).hexdigest()


def test_what_was_baked_is_loaded_without_the_hub(hub: str, tmp_path: Path) -> None:
    assert bake(tmp_path, hub, COMMIT).returncode == 0
    of_the_image = {"MODEL_SOURCE": "hugging_face", "MODEL_ID": "org/name", "MODEL_REVISION": COMMIT}
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
