"""What `semapi` says when something is wrong: one line that tells what to do, never a traceback."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

import jwt
import pytest
import typer
from gateway_parts import listening, running_gateway
from typer.testing import CliRunner

from serve_app.cli.main import commands
from serve_app.cli.up import _try_sample
from serve_app.gateway.tokens import principal_of
from serve_app.local.authority import Authority
from serve_app.local.server import free_port
from serve_app.local.valkey import Valkey
from serve_app.settings import Settings, read_settings

SAMPLE = str(Path(__file__).parents[2] / "serve_app" / "samples" / "fibres.jpg")


@pytest.fixture(autouse=True)
def _fresh_settings(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[None]:
    """Settings are read once per process; here each test is one. Data would go to a folder of the test's own."""
    for name in ("REDIS_URL", "DATABASE_URL", "OIDC_ISSUERS", "SEMAPI_TOKEN", "SECRETS_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SEMAPI_STATE_DIR", str(folder / "state"))
    read_settings.cache_clear()
    yield
    read_settings.cache_clear()


@pytest.fixture
def not_an_issuer() -> Iterator[str]:
    """A web server that answers everything with 200 and a page."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "6")
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def complaint(*arguments: str) -> str:
    """What the command says when it ends with 1; anything but one line is a failure."""
    done = CliRunner().invoke(commands, list(arguments))
    assert done.exit_code == 1, done.output
    assert done.stderr.count("\n") == 1, done.output
    assert done.stderr.startswith("semapi: ")
    return done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("up", "--port", "65536"),
        ("up", "--issuer-port=-1"),
        ("up", "--config", "/nonexistent.yaml"),
        ("classify", "/nonexistent.tif"),
        ("classify", "/"),
        ("predict", "/nonexistent.tif"),
    ],
)
def test_a_wrong_argument_is_usage(arguments: tuple[str, ...]) -> None:
    done = CliRunner().invoke(commands, list(arguments))
    assert done.exit_code == 2
    assert "Invalid value" in done.stderr


@pytest.mark.parametrize("command", [("up",), ("migrate",), ("config",), ("predict", SAMPLE)])
def test_a_wrong_setting_is_named_without_its_value(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOB_TTL", "tomorrow")
    said = complaint(*command)
    assert "JOB_TTL: " in said
    assert "tomorrow" not in said


def test_a_server_of_yours_that_is_away_is_said_at_once_also_when_a_file_names_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "redis_url").write_text(f"redis://:password@127.0.0.1:{free_port()}/0")
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path))
    said = complaint("up")
    assert "REDIS_URL cannot be used" in said
    assert "password" not in said


def test_a_redis_url_that_is_none_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://:pass#word@127.0.0.1:6379/0")
    assert "ass" not in complaint("up").replace("percent", "")


def test_a_database_that_is_away_is_said_at_once(monkeypatch: pytest.MonkeyPatch, valkey: Valkey) -> None:
    monkeypatch.setenv("REDIS_URL", valkey.url)
    monkeypatch.setenv("DATABASE_URL", f"postgresql://u:password@127.0.0.1:{free_port()}/x")
    monkeypatch.setenv("OIDC_ISSUERS", "https://issuer.example.org")
    done = CliRunner().invoke(commands, ["up"])
    assert done.exit_code == 1
    assert "PostgreSQL is not reachable" in done.stderr
    assert "password" not in done.output


def test_the_sample_of_a_foreign_issuer_needs_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OIDC_ISSUERS", "https://issuer.example.org")
    assert "SEMAPI_TOKEN" in complaint("up", "--once")


async def test_a_refused_sample_ends_a_run_with_once_and_no_other(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEMAPI_TOKEN", "of-somebody-else")
    environment = {"OIDC_ISSUERS": authority.url, "DATABASE_URL": ""}
    async with running_gateway(settings, authority) as gateway, listening(gateway.application) as url:
        await asyncio.to_thread(_try_sample, url, environment, once=False)
        assert "The service is healthy and goes on." in capsys.readouterr().err
        with pytest.raises(typer.Exit) as ended:
            await asyncio.to_thread(_try_sample, url, environment, once=True)
    assert ended.value.exit_code == 1
    said = capsys.readouterr().err
    assert said.startswith("semapi: the sample was not classified: ")
    assert "of-somebody-else" not in said


def test_the_version_is_that_of_the_package() -> None:
    done = CliRunner().invoke(commands, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"semapi {version('sem-image-classifier')}\n")


def test_a_state_folder_that_is_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (SAMPLE, f"{SAMPLE}/below"):
        monkeypatch.setenv("SEMAPI_STATE_DIR", path)
        assert "SEMAPI_STATE_DIR" in complaint("up")


def test_a_server_that_is_no_issuer(not_an_issuer: str) -> None:
    assert "no token" in complaint("token", "ada", "--issuer", not_an_issuer)
    assert "semapi up" in complaint("token", "ada", "--issuer", f"http://127.0.0.1:{free_port()}")


def test_a_token_for_an_admin_names_the_role(authority: Authority) -> None:
    for options, admin in (([], False), (["--admin"], True)):
        done = CliRunner().invoke(commands, ["token", "ada", "--issuer", authority.url, *options])
        claims = jwt.decode(done.stdout.strip(), options={"verify_signature": False})
        assert (claims["sub"], principal_of(claims, Settings()).is_admin) == ("ada", admin)


@pytest.mark.parametrize(("url", "token"), [("http://[", "token"), ("http://127.0.0.1", "línea"), ("http://a", "a\nb")])
def test_no_url_and_no_token(url: str, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMAPI_TOKEN", token)
    assert "not " in complaint("classify", SAMPLE, "--url", url)


def test_parameters_that_do_not_fit_the_model() -> None:
    assert "do not fit" in complaint("predict", SAMPLE, "--params", '{"depth": 3}')
    assert "do not fit" in complaint("predict", SAMPLE, "--params", "{")


def test_a_model_that_is_not_there() -> None:
    assert "PYTHONPATH" in complaint("predict", SAMPLE, "--model", "nowhere.model:Model")


def test_the_thin_install_says_what_is_missing() -> None:
    script = "import sys; sys.modules['psutil'] = None; sys.argv = ['semapi', 'up']\n"
    script += "from serve_app.cli.main import app; app()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "semapi: this needs psutil: pip install 'sem-image-classifier[serve,local]'\n"
