"""The shape of the repository: empty packages, locked packages, nothing of the machine it was written on."""

import ast
import fnmatch
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from manifests.documents import read

ROOT = Path(__file__).resolve().parents[2]
MAX_WEIGHTS_BYTES = 4_000_000

CODE_SUFFIXES = {".py", ".lua", ".sql"}
WEIGHT_SUFFIXES = {".bin", ".npz", ".onnx", ".pt", ".pth", ".safetensors"}
# Home folders, work folders and package mirrors of single machines; written so that this file does not match itself.
MACHINE_PATH = re.compile(r"(?<![\w.~})-])/(?:root|work|opt/(?:pypi|wheels)|home/[a-z]\w*|Users/\w+)(?![\w-])")
CREDENTIALS_IN_INDEX = re.compile(r"(?:index-url|find-links)[= ]+\S*(?://[^/\s]+@|file:)")


def ignored_names() -> list[str]:
    lines = (ROOT / ".gitignore").read_text().splitlines()
    return [".git", *(line.strip().rstrip("/") for line in lines if line.strip() and not line.startswith("#"))]


def repository_files(folder: Path = ROOT) -> Iterator[Path]:
    """Every file that git would track; without asking git, which a bare machine may not have."""
    names = ignored_names()
    for entry in sorted(folder.iterdir()):
        if any(fnmatch.fnmatch(entry.name, name) for name in names) or entry.is_symlink():
            continue
        if entry.is_dir():
            yield from repository_files(entry)
        else:
            yield entry


FILES = list(repository_files())
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
CODE = [path for path in FILES if path.suffix in CODE_SUFFIXES and path.relative_to(ROOT).parts[0] != "tests"]
MODULES = [path for path in CODE if path.suffix == ".py"]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_code_is_seen() -> None:
    names = {name(path) for path in MODULES}
    assert {"serve_app/contracts.py", "scripts/dev.py"} <= names


def test_packages_only_re_export() -> None:
    def allowed(node: ast.stmt) -> bool:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_export_list = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        return is_docstring or is_export_list or isinstance(node, ast.Import | ast.ImportFrom)

    packages = [path for path in MODULES if path.name == "__init__.py"]
    assert packages
    assert [name(path) for path in packages if not all(map(allowed, ast.parse(path.read_text("utf-8")).body))] == []


def test_nothing_tells_of_the_machine_it_was_written_on() -> None:
    found = []
    for path in FILES:
        text = path.read_bytes().decode("utf-8", errors="replace")
        if path.suffix in WEIGHT_SUFFIXES or "\0" in text:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if MACHINE_PATH.search(line) or CREDENTIALS_IN_INDEX.search(line):
                found.append(f"{name(path)}:{number}: {line.strip()[:100]}")
    assert found == []


@pytest.mark.parametrize(
    "line",
    ["cd /" + "root/project", "PATH=/" + "work/main", "'/" + "home/alice/x'", "--extra-index-url " + "file:///mirror"],
)
def test_a_path_of_a_machine_would_be_found(line: str) -> None:
    assert MACHINE_PATH.search(line) or CREDENTIALS_IN_INDEX.search(line)


@pytest.mark.parametrize("line", ["https://host/work/x", "homework/root", "/api/v1/jobs", "/workspace", "~/work/x"])
def test_other_paths_are_left_alone(line: str) -> None:
    assert not MACHINE_PATH.search(line)


def test_no_yaml_file_holds_a_key_twice() -> None:
    files = [path for path in FILES if path.suffix in {".yaml", ".yml"}]
    assert len(files) > 50
    found = [str(finding) for path in files for finding in read(path.read_text("utf-8"), name(path))[1]]
    assert [line for line in found if "twice" in line] == []


def test_weights_stay_small() -> None:
    sizes = {name(path): path.stat().st_size for path in FILES if path.suffix in WEIGHT_SUFFIXES}
    assert sum(sizes.values()) <= MAX_WEIGHTS_BYTES, sizes


@pytest.mark.parametrize("lock", ["serve", "dev", "torch-gpu"])
def test_every_locked_package_has_a_version_and_hashes(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text().replace("\\\n", " ")
    rows = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert len(rows) > 10
    assert [
        row[:80] for row in rows if not re.match(r"[a-z0-9][\w.\[\]-]*==\S+ .*--hash=sha256:[0-9a-f]{64}", row)
    ] == []
    holds_torch = any(row.startswith("torch==") for row in rows)
    assert holds_torch is (lock == "torch-gpu"), "torch is installed in a step of its own"


def test_the_locks_hold_what_the_project_asks_for() -> None:
    wanted = {"serve": list(PYPROJECT["project"]["dependencies"]), "dev": [], "torch-gpu": []}
    elsewhere = {"dev": "dev", "timm": "torch-gpu"}  # torchvision belongs to one build of torch
    for extra, needs in PYPROJECT["project"]["optional-dependencies"].items():
        wanted[elsewhere.get(extra, "serve")] += needs
    for lock, needs in wanted.items():
        locked = set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements" / f"{lock}.txt").read_text(), re.MULTILINE))
        names = {re.match(r"[\w.-]+", need).group().lower() for need in needs}  # type: ignore[union-attr]
        assert names - locked - {"torch"} == set(), lock


def test_an_installed_package_holds_what_lies_beside_the_code() -> None:
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["serve_app"]
    beside = [path.relative_to(ROOT / "serve_app") for path in FILES if name(path).startswith("serve_app/")]
    left_out = [path for path in beside if path.suffix != ".py" and not any(path.match(one[3:]) for one in patterns)]
    assert left_out == []
