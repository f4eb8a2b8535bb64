"""The scan of the logs finds each thing that no log may hold, and takes nothing else for one."""

from __future__ import annotations

import base64
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from leaks import LeakScan, leaks
from pictures import encode, gradient

from serve_app.local.issuer import Issuer, SigningKeys

TESTS = Path(__file__).resolve().parents[1]
PICTURES = {name: encode(gradient(), name) for name in ("PNG", "JPEG", "TIFF", "GIF", "WEBP")}
FILED = [
    ("pointing at redis://:sesame@127.0.0.1:1/0", "a password in a URL"),
    ("pointing at postgresql://app:sesame@db/app", "a password in a URL"),
    ("Authorization: Bearer a-scraper-of-the-tests", "a bearer's token"),
    ("secret whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "a webhook's secret"),
    ("-----BEGIN RSA PRIVATE KEY-----\nMII", "a private key"),
    *((str(picture[:40]), "an image") for picture in PICTURES.values()),
    *((json.dumps(picture[:40].decode("latin-1")), "an image") for picture in PICTURES.values()),
    *((base64.b64encode(picture).decode()[:60], "an image") for picture in PICTURES.values()),
    ("the password is word-sesame", "a word of 11 letters"),
]
CLEAN = [
    "request 7f9b4a797eb145a184e497fb880931b1 to /api/v1/jobs/{job_id} failed",
    "Send the header Authorization: Bearer with an access token.",
    "http://127.0.0.1:8080/api/v1/jobs, a@b.example, redis://:***@127.0.0.1:1/0",
    "an image of type PNG or JPEG; TIFF II, a.pngs, png",
]


@pytest.fixture
def scan() -> LeakScan:
    scan = LeakScan()
    scan.words.add("word-sesame")
    return scan


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("serve_app.x", logging.INFO, __file__, 1, "met %s", (text,), None)


@pytest.mark.parametrize(("text", "sort"), [*FILED, ("cannot read patient.JPG", "a file name")])
def test_each_is_found_in_a_record(scan: LeakScan, text: str, sort: str) -> None:
    scan.emit(record(text))
    assert scan.take() == [f"serve_app.x logs {sort}"]
    assert scan.take() == []


@pytest.mark.parametrize(("text", "sort"), FILED)
def test_each_is_found_in_a_file(tmp_path: Path, text: str, sort: str) -> None:
    (tmp_path / "a.log").write_text(text)
    assert leaks([tmp_path], ["word-sesame"]) == [f"{tmp_path}/a.log holds {sort}"]


@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES)
def test_image_bytes_are_found_as_they_are(tmp_path: Path, picture: bytes) -> None:
    (tmp_path / "a.out").write_bytes(picture)
    assert leaks([tmp_path], []) == [f"{tmp_path}/a.out holds an image"]


def test_a_token_is_found_and_a_traceback_is_read(scan: LeakScan, tmp_path: Path) -> None:
    token = Issuer("http://localhost:1/issuer", SigningKeys(tmp_path)).mint("ada")
    try:
        raise ValueError(token)
    except ValueError as error:
        met = record("a defect")
        met.exc_info = (type(error), error, error.__traceback__)
    scan.emit(met)
    assert scan.take() == ["serve_app.x logs a token"]


@pytest.mark.parametrize("text", CLEAN)
def test_all_else_is_left_alone(scan: LeakScan, tmp_path: Path, text: str) -> None:
    scan.emit(record(text))
    assert scan.take() == []
    (tmp_path / "a.log").write_text(text)
    assert leaks([tmp_path], ["word-sesame"]) == []


def test_files_are_read_to_their_end(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "replica.log").write_bytes(b"x" * 3_000_000 + b"\xff a word-sesame\n")
    (tmp_path / "replica.log.1").write_text("nothing")
    (tmp_path / "serve.yaml").write_text("word-sesame")
    assert leaks([tmp_path], ["word-sesame", "other"]) == [f"{tmp_path}/deep/replica.log holds a word of 11 letters"]


@pytest.mark.slow(reason="pytest runs in a process of its own")
def test_a_test_that_leaks_fails_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((TESTS / "conftest.py").read_text())
    (tmp_path / "test_x.py").write_text(
        "import logging\n"
        "def test_quiet():\n    logging.getLogger('serve_app.x').info('nothing')\n"
        "def test_leaky():\n    logging.getLogger('serve_app.x').info('cannot read a.png')\n"
    )
    options = ["-o", f"pythonpath={TESTS.parent} {TESTS}", f"--rootdir={tmp_path}"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:schemathesis", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "\nERROR test_x.py::test_leaky" in done.stdout, done.stdout + done.stderr
    assert "AssertionError: assert ['serve_app.x" in done.stdout
    assert "2 passed, 1 error" in done.stdout
