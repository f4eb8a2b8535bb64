"""The image's Containerfile calls scripts alone, ends as an account without rights, and is sent nothing needless."""

import errno
import os
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import bake_model
import pytest
import yaml
from containerfile import CONTAINERFILE, PREFIX, ROOT, Image, context, ignored, instructions

TEXT = CONTAINERFILE.read_text("utf-8")
STEPS = list(instructions(TEXT))
SCRIPTS = CONTAINERFILE.parent
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
RAY = yaml.safe_load((ROOT / "rayservice.yaml").read_text("utf-8"))["spec"]["rayClusterConfig"]["rayVersion"]


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a builder is sent."""
    folder = tmp_path_factory.mktemp("context")
    context(folder)
    return folder


@pytest.fixture
def image(sent: Path, tmp_path: Path) -> Image:
    """What a build without arguments does."""
    return Image(tmp_path).build(TEXT, sent)


def arguments() -> dict[str, set[str]]:
    """Every ARG, with the defaults its lines give it."""
    found: dict[str, set[str]] = {}
    for name, _, default in (rest.partition("=") for word, rest in STEPS if word == "ARG"):
        found.setdefault(name, set()).update({default} - {""})
    return found


def test_every_step_is_one_script_of_its_folder() -> None:
    for command in (rest for word, rest in STEPS if word == "RUN"):
        called = re.fullmatch(
            r"(?:--\S+ )*(?:\"\$\{PREFIX\}/bin/python\" )?(?:/source/)?k8s/image/(\w+\.\w+)( \w+)?", command
        )
        assert called, command
        path = SCRIPTS / called[1]
        assert path.is_file()
        assert path.suffix == ".py" or os.access(path, os.X_OK), f"{path.name} must be executable"


def test_what_is_copied_is_sent_and_little_else(sent: Path, image: Image) -> None:
    copied = {path.relative_to(image.source).as_posix() for path in image.source.rglob("*") if path.is_file()}
    there = {path.relative_to(sent).as_posix() for path in sent.rglob("*") if path.is_file()}
    assert copied == there
    assert {path.split("/")[0] for path in there} == {
        *("LICENSE", "NOTICE", "README.md", "pyproject.toml"),
        *("k8s", "requirements", "scripts", "serve_app"),
    }
    assert not [path for path in there if path.endswith(".pyc") or (path.startswith("k8s/") and "/image/" not in path)]


def test_a_model_beside_the_scripts_is_sent_and_kept_out_of_git() -> None:
    assert bake_model.PRIVATE.parent == SCRIPTS
    assert not ignored((bake_model.PRIVATE / "model.safetensors").relative_to(ROOT).as_posix())
    assert "*.local/" in (ROOT / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize(
    "path", [".git/config", ".venv/bin/python", "secrets.local.env", "k8s/overlays/prod/secret.env", "scripts/dev.py"]
)
def test_what_is_none_of_its_business_is_not_sent(path: str) -> None:
    assert ignored(path)


def test_docker_is_sent_the_same_as_podman() -> None:
    assert (ROOT / ".containerignore").resolve() == ROOT / ".dockerignore"


def test_it_ends_as_the_account_of_the_pods_with_a_check_and_root_owns_its_files(image: Image) -> None:
    users = [run.user for run in image.runs]
    assert users[:-1] == ["0"] * (len(users) - 1)
    assert users[-1] == image.user == "1000:100"
    assert "--chown" not in TEXT
    assert image.runs[-1].command.endswith("k8s/image/check.sh")


def test_every_builder_knows_the_options_of_its_steps(image: Image) -> None:
    """podman 4.3, which Debian 12 has, refuses a file with `RUN --network`."""
    assert {option.partition("=")[0] for run in image.runs for option in run.options} == {"--mount"}


CONNECTS = """
import socket, subprocess, sys
socket.socketpair()
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5).close()
except OSError as error:
    sys.exit(error.strerror)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the image is of Linux")
@pytest.mark.parametrize("shell", [[], ["bash", "-c", '"$@"; exit $?', "bash"]], ids=["itself", "its child"])
def test_the_check_and_its_children_reach_no_network(shell: list[str]) -> None:
    connects = [*shell, sys.executable, "-c", CONNECTS]
    offline = [sys.executable, str(SCRIPTS / "offline.py")]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        [reached, refused] = [
            subprocess.run([*command, port], capture_output=True, text=True, timeout=30, check=False)
            for command in (connects, [*offline, *connects])
        ]
    assert (reached.returncode, reached.stderr) == (0, "")
    assert (refused.returncode, refused.stderr.strip()) == (1, os.strerror(errno.ENETUNREACH))


def test_versions_are_those_of_the_project_and_the_manifest() -> None:
    named = arguments()
    assert named["VERSION"] == {VERSION}
    assert re.fullmatch(r"docker\.io/rayproject/ray:(.+)-py311-cpu", named["BASE"].pop())[1] == RAY  # type: ignore[index]
    assert f"\nray=={RAY} " in (ROOT / "requirements" / "serve.txt").read_text()


def test_labels_and_environment_say_what_was_baked(sent: Path, tmp_path: Path) -> None:
    given = {"COMMIT": "c" * 40, "MODEL_SOURCE": "hugging_face", "MODEL_ID": "org/name", "MODEL_REVISION": "a" * 40}
    image = Image(tmp_path, given).build(TEXT, sent)
    assert image.labels["org.opencontainers.image.version"] == VERSION
    assert image.labels["org.opencontainers.image.revision"] == given["COMMIT"]
    assert image.labels["sem-image-classifier.model.revision"] == given["MODEL_REVISION"]
    for name in ("MODEL_SOURCE", "MODEL_ID", "MODEL_REVISION"):
        assert image.environment[name] == given[name]
    assert image.environment["HF_HUB_OFFLINE"] == "1"
    assert image.environment["PATH"].split(":")[0] == f"{PREFIX}/bin"
    assert not {"ENVIRONMENT", "COMMIT", "TORCH"} & image.environment.keys(), "the cluster says where it runs"


def test_every_build_argument_is_a_row_of_its_page() -> None:
    page = (ROOT / "docs" / "container-image.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (\S+) \|", page, re.MULTILINE))
    assert rows == {name: f"`{default.pop()}`" if default else "empty" for name, default in arguments().items()}


@pytest.mark.skipif(sys.platform != "linux", reason="the image is of Linux")
def test_the_check_refuses_a_network_and_root() -> None:
    command = ["bash", str(SCRIPTS / "check.sh"), "offline"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert ("not as root" if os.geteuid() == 0 else "there is a network here") in done.stderr
