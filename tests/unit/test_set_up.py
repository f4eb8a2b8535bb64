"""Set-up picks a Python that works, says what to install, and does no more than has changed."""

import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import dev
import environment
import installation
import pytest

SOURCES = [Path(str(module.__file__)) for module in (dev, environment, installation)]


@pytest.fixture(autouse=True)
def default_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No choice of torch made, an environment that is there and disk enough, wherever these tests run."""
    monkeypatch.setattr(environment, "PYTHON", Path(sys.executable))
    monkeypatch.setattr(environment, "NEEDED_BYTES", 0)
    monkeypatch.setattr(installation, "PYPI_TORCH_BYTES", 0)
    for variable in installation.TORCH_VARIABLES:
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_an_older_python_can_read_it_and_needs_nothing_else(source: Path) -> None:
    tree = ast.parse(source.read_text("utf-8"), feature_version=(3, 6))
    # At the top: what a task imports for itself comes after the change to a Python that fits.
    imported = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert imported - set(sys.stdlib_module_names) <= {"environment", "installation"}
    assert "__future__" not in imported


@pytest.mark.parametrize(("version", "fits"), [((3, 10), False), ((3, 11), True), ((3, 13), True), ((3, 14), False)])
def test_the_pythons_with_wheels_fit(version: tuple[int, int], fits: bool) -> None:
    assert environment.fits(version) is fits


def command_in(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(0o755)


def test_a_shim_that_starts_nothing_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    command_in(tmp_path, "python3.12", "exit 127\n")
    command_in(tmp_path, "python3.11", "echo 3 11\n")
    command_in(tmp_path, "python3.13", "echo 3 14\n")
    assert [environment.working(name) for name in ("python3.12", "python3.13", "python3.9")] == [None, None, None]
    assert environment.working("python3.11") == str(tmp_path / "python3.11")


def test_without_a_fitting_python_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(environment, "NEWEST", (3, 10))
    with pytest.raises(SystemExit, match=r"Python 3\.11, 3\.12 or 3\.13 is needed; this is .+ Install one: "):
        environment.use_fitting_python()


def names(stamp: dict[str, object], *, dev: bool = True) -> list[str]:
    return [step.name for step in environment.outdated(dev=dev, stamp=stamp)]


def finished(*, dev: bool = True) -> dict[str, object]:
    torch = installation.choose_torch({})
    return {"torch": {}, "steps": {step.name: step.digest for step in environment.steps(torch, dev=dev)}}


def test_nothing_is_done_twice() -> None:
    assert names(finished()) == []


def test_what_was_never_finished_is_made_anew() -> None:
    assert names({}) == ["venv", "torch", "serve", "dev", "project"]
    assert names({}, dev=False) == ["venv", "torch", "serve", "project"]


def test_the_tools_for_tests_come_later_and_stay() -> None:
    assert names(finished(dev=False)) == ["dev", "project"]
    assert names(finished(dev=True), dev=False) == []


def test_a_changed_lock_is_installed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stamp = finished()
    for lock in ("serve.txt", "dev.txt", "torch-cpu.txt"):
        (tmp_path / lock).write_text((environment.REQUIREMENTS / lock).read_text())
    monkeypatch.setattr(environment, "REQUIREMENTS", tmp_path)
    assert names(stamp) == []
    (tmp_path / "serve.txt").write_text("pillow==1\n")
    assert names(stamp) == ["serve", "project"]
    (tmp_path / "torch-cpu.txt").write_text("torch==1\n")
    assert names(stamp) == ["torch", "serve", "project"]


def test_another_torch_is_a_new_environment_and_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    stamp = finished()
    monkeypatch.setenv("TORCH_INDEX_URL", "https://index.example.org/cu130")
    assert names(stamp)[0] == "venv"
    stamp["torch"] = environment.chosen_variables(stamp)
    torch = installation.choose_torch(environment.chosen_variables(stamp))
    stamp["steps"] = {step.name: step.digest for step in environment.steps(torch, dev=True)}
    monkeypatch.delenv("TORCH_INDEX_URL")
    assert names(stamp) == []
    monkeypatch.setenv("TORCH", "cpu")
    assert names(stamp)[0] == "venv"


def test_the_default_torch_never_brings_more_than_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    torch = installation.choose_torch({})
    assert torch.spec.endswith("+cpu")
    assert torch.source == "https://download.pytorch.org/whl/cpu"
    assert torch.alone
    assert installation.choose_torch({"TORCH": "pypi"}).source is None


@pytest.mark.parametrize(
    ("system", "chosen", "lock"),
    [
        ("Linux", {}, "torch-cpu.txt"),
        ("Darwin", {}, "torch-cpu.txt"),
        ("Linux", {"TORCH": "pypi"}, "torch-gpu.txt"),
        ("Linux", {"TORCH_SPEC": "torch==2.13.0+mine"}, ""),
        ("Linux", {"TORCH_INDEX_URL": "https://index.example.org/cu130"}, ""),
    ],
)
def test_every_build_but_one_of_the_users_own_has_a_lock(
    system: str, chosen: dict[str, str], lock: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.system", lambda: system)
    torch = installation.choose_torch(chosen)
    assert torch.lock == lock
    if lock:
        versions = re.findall(r"^(torch==\S+)", (installation.REQUIREMENTS / lock).read_text(), re.MULTILINE)
        assert torch.spec in versions, "the lock holds the version that the code names"


def hashes(text: str) -> set[str]:
    return set(re.findall(r"--hash=sha256:([0-9a-f]{64})", text))


def test_the_lock_of_the_cpu_build_has_a_file_for_every_python_and_machine() -> None:
    linux, macos = (installation.REQUIREMENTS / "torch-cpu.txt").read_text().split("sys_platform == 'darwin'")
    pythons = range(environment.OLDEST[1], environment.NEWEST[1] + 1)
    assert len(hashes(linux)) == len(pythons) * len(("x86_64", "aarch64"))
    assert len(hashes(macos)) == len(pythons), "there are no wheels for the old Macs"
    assert hashes(macos) <= hashes((installation.REQUIREMENTS / "torch-gpu.txt").read_text()), "as PyPI has them"


def wheel(folder: Path, version: str) -> str:
    """A torch that holds nothing, and its hash."""
    path = folder / f"torch-{version}-py3-none-any.whl"
    with ZipFile(path, "w") as archive:
        about = f"torch-{version}.dist-info"
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels and an index that cannot be reached; locks of its own, and an empty environment."""
    monkeypatch.setattr("platform.system", lambda: "Linux")
    closed = "http://127.0.0.1:9/simple"
    choices = {"CONFIG_FILE": os.devnull, "INDEX_URL": closed, "FIND_LINKS": str(tmp_path), "RETRIES": "0"}
    for name, value in choices.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setattr(installation, "TORCH_CPU_INDEX", closed)
    monkeypatch.setattr(installation, "REQUIREMENTS", tmp_path)
    (tmp_path / "torch-cpu.txt").write_text(f"torch=={installation.TORCH_VERSION}+cpu --hash=sha256:{'0' * 64}\n")
    (tmp_path / "torch-gpu.txt").write_text(f"torch=={installation.TORCH_VERSION} --hash=sha256:{'0' * 64}\n")
    return tmp_path


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty environment; making one takes seconds, copying it does not."""
    folder = tmp_path_factory.mktemp("empty")
    installation.Installation(folder / "made", folder / "installation.log").make()
    return folder / "made"


@pytest.fixture
def made(mirror: Path, empty: Path) -> installation.Installation:
    """An empty environment to install into, on a network as `mirror` has it."""
    shutil.copytree(empty, mirror / "made", symlinks=True)
    return installation.Installation(mirror / "made", mirror / "installation.log")


def test_a_torch_that_is_not_the_locked_file_is_refused(mirror: Path, made: installation.Installation) -> None:
    wheel(mirror, f"{installation.TORCH_VERSION}+cpu")
    spare = wheel(mirror, installation.TORCH_VERSION)
    (mirror / "torch-gpu.txt").write_text(f"torch=={installation.TORCH_VERSION} --hash=sha256:{spare}\n")
    with pytest.raises(SystemExit):
        made.install_torch({})
    assert "DO NOT MATCH THE HASHES" in (mirror / "installation.log").read_text()


def test_a_local_wheel_of_the_cpu_build_is_taken_without_its_index(
    mirror: Path, made: installation.Installation
) -> None:
    own = wheel(mirror, f"{installation.TORCH_VERSION}+cpu")
    (mirror / "torch-cpu.txt").write_text(f"torch=={installation.TORCH_VERSION}+cpu --hash=sha256:{own}\n")
    assert made.install_torch({}) == {}


def test_without_the_index_of_the_cpu_build_pypis_build_is_installed_and_its_cost_said(
    mirror: Path, made: installation.Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    spare = wheel(mirror, installation.TORCH_VERSION)
    (mirror / "torch-gpu.txt").write_text(f"torch=={installation.TORCH_VERSION} --hash=sha256:{spare}\n")
    assert made.install_torch({}) == {"TORCH": "pypi"}
    assert "2.7 GB more" in capsys.readouterr().out


def test_a_build_that_somebody_chose_is_not_replaced_by_another(mirror: Path, made: installation.Installation) -> None:
    spare = wheel(mirror, installation.TORCH_VERSION)
    (mirror / "torch-gpu.txt").write_text(f"torch=={installation.TORCH_VERSION} --hash=sha256:{spare}\n")
    with pytest.raises(SystemExit, match="Other sources"):
        made.install_torch({"TORCH": "cpu"})


def test_a_disk_too_small_for_pypis_build_is_said_before_the_download(
    made: installation.Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "PYPI_TORCH_BYTES", 10**18)
    with pytest.raises(SystemExit, match="GB of free disk space"):
        made.install_torch({})


@pytest.mark.parametrize("todo", [["venv", "torch", "serve", "dev", "project"], ["torch", "project"]])
def test_what_was_installed_instead_is_remembered(todo: list[str]) -> None:
    instead = {"TORCH": "pypi"}
    steps = [step for step in environment.steps(installation.choose_torch({}), dev=True) if step.name in todo]
    stamp = {"torch": instead, "steps": environment.finished(finished(), steps, instead, dev=True)}
    assert names(stamp) == []


def test_a_torch_nobody_knows_is_refused() -> None:
    with pytest.raises(SystemExit, match="TORCH is cpu or pypi, not 'cuda'"):
        installation.choose_torch({"TORCH": "cuda"})


def test_a_damaged_stamp_counts_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "STAMP", tmp_path / "stamp.json")
    assert environment.read_stamp() == {}
    for text in ("{", "[]", json.dumps("steps")):
        environment.STAMP.write_text(text)
        assert environment.read_stamp() == {}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_checkout_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o555)
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match="belongs to another user"):
        environment.refuse_foreign_checkout()


@pytest.mark.parametrize("words", [[], ["help"], ["-h"], ["--help"]])
def test_help_lists_every_target(words: list[str]) -> None:
    command = [sys.executable, str(dev.ROOT / "scripts" / "dev.py"), *words]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    listed = {line.split()[0] for line in shown.splitlines() if line.startswith("  ")}
    targets = (dev.ROOT / "Makefile").read_text().split("TARGETS := ")[1].splitlines()[0].split()
    assert listed == set(targets) == set(dev.TARGETS)


def test_what_one_target_leaves_out_another_runs() -> None:
    """`make test` and `make test-faults` complement each other; `make test-all` and `make coverage` select nothing."""
    commands = {name: target.command for name, target in dev.TARGETS.items() if isinstance(target.command, tuple)}
    common = len(dev.PARALLEL)
    assert commands["test"][common:] == ("-m", "not fault")
    assert commands["test-faults"][common:] == ("-m", "fault")
    assert commands["test-all"][common:] == (*dev.PRODUCT, *dev.DEPLOY)
    assert "-m" not in commands["coverage"][common:]
