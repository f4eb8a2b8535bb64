"""What `semapi` says when something is wrong: one line that tells what to do, never a traceback."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jwt
import pytest
import typer
from gateway_parts import listening, running_gateway
from typer.testing import CliRunner

from serve_app.cli.main import commands
from serve_app.cli.up import _try_sample
from serve_app.gateway.auth import principal_of
from serve_app.local.issuer import DevIssuerServer
from serve_app.local.server import free_port
from serve_app.local.valkey import Valkey
from serve_app.settings import Settings

SAMPLE = str(Path(__file__).parents[2] / "serve_app" / "samples" / "fibres.jpg")


@pytest.fixture(autouse=True)
def _fresh_settings(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Settings are read once per process; here each test is one. Data would go to a folder of the test's own."""
    for name in (
        "REDIS_URL",
        "DATABASE_URL",
        "OIDC_ISSUERS",
        "OIDC_AUDIENCE",
        "OIDC_ISSUER_RULES",
        "SEMAPI_TOKEN",
        "SECRETS_DIR",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SEMAPI_STATE_DIR", str(folder / "state"))


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


AWAY = f"127.0.0.1:{free_port()}"
FOREIGN = {"OIDC_ISSUERS": "https://issuer.example.org"}
COMPLAINTS: dict[str, tuple[dict[str, str], tuple[str, ...], str]] = {
    "a server of yours is away, by a file": ({"SECRETS_DIR": "{folder}"}, ("up",), "REDIS_URL cannot be used"),
    "a Redis URL that is none": ({"REDIS_URL": "redis://:pass#word@127.0.0.1:6379/0"}, ("up",), "percent"),
    "the sample of a foreign issuer needs its token": (FOREIGN, ("up", "--once"), "SEMAPI_TOKEN"),
    "the state folder is a file": ({"SEMAPI_STATE_DIR": SAMPLE}, ("up",), "SEMAPI_STATE_DIR"),
    "the state folder is below a file": ({"SEMAPI_STATE_DIR": f"{SAMPLE}/below"}, ("up",), "SEMAPI_STATE_DIR"),
    "no issuer answers": ({}, ("token", "ada", "--issuer", f"http://{AWAY}"), "semapi up"),
    "no URL": ({"SEMAPI_TOKEN": "token"}, ("classify", SAMPLE, "--url", "http://["), "not "),
    "a token in no ASCII": ({"SEMAPI_TOKEN": "línea"}, ("classify", SAMPLE, "--url", "http://127.0.0.1"), "not "),
    "a token of two lines": ({"SEMAPI_TOKEN": "a\nb"}, ("classify", SAMPLE, "--url", "http://a"), "not "),
    "parameters that the model does not have": ({}, ("predict", SAMPLE, "--params", '{"depth": 3}'), "do not fit"),
    "parameters that are no JSON": ({}, ("predict", SAMPLE, "--params", "{"), "do not fit"),
    "a model that is not there": ({}, ("predict", SAMPLE, "--model", "nowhere.model:Model"), "PYTHONPATH"),
}


@pytest.mark.parametrize("name", COMPLAINTS)
def test_what_is_wrong_is_said_in_one_line_without_a_password(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment, arguments, words = COMPLAINTS[name]
    (tmp_path / "redis_url").write_text(f"redis://:password@{AWAY}/0")
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value.replace("{folder}", str(tmp_path)))
    said = complaint(*arguments)
    assert words in said
    assert "ass" not in said.lower().replace("class", "")


def test_a_database_that_is_away_is_said_at_once(monkeypatch: pytest.MonkeyPatch, valkey: Valkey) -> None:
    monkeypatch.setenv("REDIS_URL", valkey.url)
    monkeypatch.setenv("DATABASE_URL", f"postgresql://u:password@127.0.0.1:{free_port()}/x")
    monkeypatch.setenv("OIDC_ISSUERS", "https://issuer.example.org")
    before = signal.getsignal(signal.SIGTERM)
    done = CliRunner().invoke(commands, ["up"])
    assert done.exit_code == 1
    assert "PostgreSQL is not reachable" in done.stderr
    assert "password" not in done.output
    assert signal.getsignal(signal.SIGTERM) is before


async def test_a_refused_sample_ends_a_run_with_once_and_no_other(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, authority: DevIssuerServer, capsys: pytest.CaptureFixture[str]
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


def test_a_server_that_is_no_issuer(not_an_issuer: str) -> None:
    assert "no token" in complaint("token", "ada", "--issuer", not_an_issuer)


def test_a_token_for_an_admin_names_the_role(authority: DevIssuerServer) -> None:
    for options, admin in (([], False), (["--admin"], True)):
        done = CliRunner().invoke(commands, ["token", "ada", "--issuer", authority.url, *options])
        claims = jwt.decode(done.stdout.strip(), options={"verify_signature": False})
        assert (claims["sub"], principal_of(claims, Settings()).is_admin) == ("ada", admin)


@pytest.mark.parametrize("by_name", [["token", "ada"], ["token", "for", "ada"], ["token", "for", "check"]])
def test_a_user_may_have_the_name_of_a_command(by_name: list[str], authority: DevIssuerServer) -> None:
    done = CliRunner().invoke(commands, [*by_name, "--issuer", authority.url])
    assert jwt.decode(done.stdout.strip(), options={"verify_signature": False})["sub"] == by_name[-1]


def examined(
    token: str, monkeypatch: pytest.MonkeyPatch, *, typed: bool = False, **environment: str
) -> tuple[int, dict[str, str]]:
    """The status of `semapi token check` and its lines by name; neither token nor signature is among them."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    given = (["token", "check", token], "") if typed else (["token", "check", "-"], f"Bearer {token}\n")
    done = CliRunner().invoke(commands, given[0], input=given[1])
    *_, body, signature = token.split(".")
    assert not [part for part in (body, signature) if len(part) > 20 and part[-20:] in done.output]
    return done.exit_code, {line[:10].strip(": "): line[11:] for line in done.stdout.splitlines()}


def test_an_accepted_token_is_explained_check_by_check(
    authority: DevIssuerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = authority.mint("ada", scope="openid sem-admin", groups=["em"], name="Ada Lovelace")
    rules = json.dumps({authority.url: {"audience": ["else", "sem-image-classifier"]}})
    where = {"OIDC_ISSUERS": authority.url, "OIDC_AUDIENCE": "api://ours", "OIDC_ISSUER_RULES": rules}
    for typed in (True, False):
        status, lines = examined(token, monkeypatch, typed=typed, **where)
        assert status == 0
        assert lines["issuer"] == authority.url
        assert lines["audience"] == "aud holds sem-image-classifier"
        assert lines["issuers"] == authority.url
        assert lines["wanted"] == "aud with one of else, sem-image-classifier; access_token"
        assert lines["kind"] == "access token: header typ is at+jwt"
        assert lines["times"].startswith("expires in 3")
        assert lines["principal"].endswith(", shown as Ada Lovelace, group em")
        assert lines["roles"] == "em, openid, sem-admin (an admin; scopes count as roles)"
        assert "accepted" in lines


@pytest.mark.parametrize(
    ("claims", "last_passed", "reason"),
    [
        ({"aud": "else"}, "times", "another audience"),
        ({"exp": 1}, "signature", "has expired"),
        ({"header": {"kid": "unknown"}}, "algorithm", "does not publish"),
        ({"iss": "https://elsewhere.org"}, "algorithm", "not accepted here"),
        ({"typ": "ID"}, "audience", "ID token"),
        ({"sub": " \x1b[31m"}, "roles", None),
        ({"sub": " "}, "kind", "subject"),
        ({"padding": "x" * 70_000}, "wanted", "larger than 65536 bytes"),
    ],
)
def test_a_refused_token_is_explained_up_to_the_check_that_refused_it(
    claims: dict[str, Any],
    last_passed: str,
    reason: str | None,
    authority: DevIssuerServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    token = authority.mint("ada", **claims)
    where = {"OIDC_ISSUERS": authority.url, "OIDC_AUDIENCE": "sem-image-classifier"}
    status, lines = examined(token, monkeypatch, **where)
    assert status == (0 if reason is None else 1)
    assert list(lines)[-2] == last_passed
    assert reason is None or reason in lines["refused"]
    assert "\x1b" not in str(lines)


@pytest.mark.parametrize(
    "before", [["token", "check", "Bearer"], ["token", "check", "authorization: bearer"], ["token", "chekc"]]
)
def test_a_token_is_not_printed_however_it_was_typed(
    before: list[str], authority: DevIssuerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OIDC_ISSUERS", authority.url)
    token = authority.mint("ada")
    done = CliRunner().invoke(commands, [*before, token])
    assert token[-20:] not in done.output
    assert (done.exit_code == 0) == ("check" in before)


def test_an_issuer_that_is_away_is_not_the_token_s_fault(
    authority: DevIssuerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = f"http://127.0.0.1:{free_port()}/default"
    status, lines = examined(authority.mint("ada", iss=away), monkeypatch, OIDC_ISSUERS=away)
    assert status == 1
    assert "cannot be reached" in lines["unknown"]


@pytest.mark.parametrize("token", ["", "-", "x", "a.b.c", "ya29.opaque", "\udcff"])
def test_what_is_no_token_is_said_to_be_none(token: str) -> None:
    done = CliRunner().invoke(commands, ["token", "check", token], input="\n")
    assert (done.exit_code, "not a signed JSON Web Token" in done.stdout) == (1, True)


def test_a_result_that_does_not_fit_its_model_is_not_blamed_on_the_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unfinished.py").write_text(
        "from toy_model import WordStatistics\n"
        "class Unfinished(WordStatistics):\n"
        "    def postprocess(self, output, params, notes):\n"
        "        return self.Result()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    said = complaint("predict", "--model", "unfinished:Unfinished", "--params", '{"text": "a b"}')
    assert "gave a result that is no " in said
    assert "parameters" not in said


def test_the_thin_install_says_what_is_missing() -> None:
    script = "import sys; sys.modules['psutil'] = None; sys.argv = ['semapi', 'up']\n"
    script += "from serve_app.cli.main import app; app()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "semapi: this needs psutil: pip install 'sem-image-classifier[serve,local]'\n"
