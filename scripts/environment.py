"""Builds `.venv`: the Python environment that every task of `scripts/dev.py` runs in.

A stamp in `.venv` tells what it was made from; while that is unchanged, nothing is done. The stamp goes away before the
first change and comes back after the last one, so a set-up that failed or was killed is made anew the next time.
Standard library alone, and syntax that older interpreters read, so that they can say what to install.
"""

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, NoReturn, Optional, Tuple, Union

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "setup-stamp.json"
BUILD = ROOT / "build"
LOG = BUILD / "setup.log"
REQUIREMENTS = ROOT / "requirements"

TORCH_VERSION = "2.13.0"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
TORCH_VARIABLES = ("TORCH", "TORCH_INDEX_URL", "TORCH_SPEC")
NEEDED_BYTES = 4 * 10**9
HEARTBEAT_S = 15

Command = Tuple[Union[str, Path], ...]


class Torch(NamedTuple):
    """Which build of torch, and from where."""

    says: str
    spec: str
    source: Optional[str]
    alone: bool
    """The CPU builds need nothing that the lock does not hold, so nothing else may come from a second index."""


class Step(NamedTuple):
    """One part of the environment, redone when the digest of what it was made from changes."""

    name: str
    says: str
    digest: str
    install: Callable[[], None]


def stop(message: str) -> NoReturn:
    """End with one clear message and a failing exit status."""
    sys.exit("error: " + message)


def ensure(*, dev: bool) -> None:
    """Make `.venv` what this checkout asks for, with the tools for tests when `dev`; at once when it is already."""
    if not outdated(dev=dev, stamp=read_stamp()):
        return
    refuse_foreign_checkout()
    BUILD.mkdir(exist_ok=True)
    with one_at_a_time():
        stamp = read_stamp()
        torch, todo = chosen_variables(stamp), outdated(dev=dev, stamp=stamp)
        if not todo:
            return
        if shutil.disk_usage(ROOT).free < NEEDED_BYTES:
            stop(f"the environment needs {NEEDED_BYTES / 1e9:.0f} GB of free disk space at {ROOT}.")
        began = time.monotonic()
        print(f"Setting up {VENV.name}, needed once; the full output goes to {LOG.relative_to(ROOT)}", flush=True)
        STAMP.unlink(missing_ok=True)
        LOG.unlink(missing_ok=True)
        for number, step in enumerate(todo, 1):
            print(f"[{number}/{len(todo)}] {step.says}", flush=True)
            step.install()
            print(f"      {time.monotonic() - began:.0f} s", flush=True)
        done = {} if todo[0].name == "venv" else stamp.get("steps", {})
        done.update({step.name: step.digest for step in todo})
        STAMP.write_text(json.dumps({"torch": torch, "steps": done}, indent=2))


def outdated(*, dev: bool, stamp: Dict[str, Any]) -> List[Step]:
    """The steps to do. Without the right base everything is to do; the checkout is looked at again after any other."""
    every = steps(choose_torch(chosen_variables(stamp)), dev=dev)
    done = stamp.get("steps", {})
    if done.get("venv") != every[0].digest or not os.access(PYTHON, os.X_OK):
        return every
    todo = [step for step in every if done.get(step.name) != step.digest]
    return [*todo, every[-1]] if todo and todo[-1] is not every[-1] else todo


def steps(torch: Torch, *, dev: bool) -> List[Step]:
    """What the environment is made of, in order. It cannot be moved, hence its path in the first digest."""
    version = "{}.{}".format(*sys.version_info[:2])
    place = (str(VENV), version, platform.system(), platform.machine(), torch.spec, torch.source or "")
    serve, tools = REQUIREMENTS / "serve.txt", REQUIREMENTS / "dev.txt"
    wanted = [
        Step("venv", f"an empty environment with Python {version}", digest(*place), make_venv),
        Step("torch", torch.says, digest(*place), lambda: install_torch(torch)),
        Step("serve", "the locked packages (about 300 MB)", digest(serve.read_text()), lambda: install_lock(serve)),
    ]
    if dev:
        says = "the locked tools for tests and checks (about 50 MB)"
        wanted.append(Step("dev", says, digest(tools.read_text()), lambda: install_lock(tools)))
    return [
        *wanted,
        Step("project", "this checkout, and a check of the whole", digest(project_table()), install_project),
    ]


def digest(*parts: str) -> str:
    """One fingerprint of several texts."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def project_table() -> str:
    """What an installation reads of pyproject.toml; the settings of the tools are not among it."""
    import tomllib  # not in the older interpreters that only come here to be told so

    table = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    return json.dumps([table["build-system"], table["project"], table["tool"].get("setuptools")], sort_keys=True)


def read_stamp() -> Dict[str, Any]:
    """What the environment was made from; empty when it was never finished."""
    try:
        stamp = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def refuse_foreign_checkout() -> None:
    """Two users cannot share one environment: say so instead of failing half-way."""
    for place in (ROOT, VENV, BUILD):
        if place.exists() and not os.access(place, os.W_OK | os.X_OK):
            stop(f"{place} belongs to another user. Each user works in a clone of their own.")


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Hold the set-up lock, so that two tasks started at once do not build the same environment twice."""
    with (BUILD / "setup.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another task is setting up .venv; waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def execute(*command: Union[str, Path]) -> bool:
    """Run one installing command into the log, with a sign of life while it takes long. True when it succeeded."""
    began = time.monotonic()
    with LOG.open("ab") as log:
        log.write(("\n$ " + " ".join(map(str, command)) + "\n").encode())
        log.flush()
        with subprocess.Popen([str(part) for part in command], cwd=str(ROOT), stdout=log, stderr=log) as process:
            while True:
                try:
                    return process.wait(HEARTBEAT_S) == 0
                except subprocess.TimeoutExpired:
                    print(f"      still at it after {time.monotonic() - began:.0f} s", flush=True)


def must(*command: Union[str, Path]) -> None:
    """Run one installing command; when it fails, show the end of its output and stop."""
    if not execute(*command):
        for line in LOG.read_text(errors="replace").splitlines()[-20:]:
            print("      " + line, flush=True)
        stop(f"set-up failed; the whole output is in {LOG.relative_to(ROOT)}. The next try starts afresh.")


def pip(*arguments: str) -> Command:
    """A pip command of the environment. `-I` keeps PYTHONPATH and packages of the user's own out of it."""
    return (PYTHON, "-I", "-m", "pip", "--disable-pip-version-check", *arguments)


def base_python() -> str:
    """The interpreter itself, also when this runs inside an activated virtual environment."""
    return os.path.realpath(sys.executable)


def make_venv() -> None:
    """A new, empty environment. Debian and Ubuntu ship Python without the part that makes one."""
    probe = subprocess.run([base_python(), "-c", "import ensurepip, venv"], capture_output=True, check=False)
    if probe.returncode != 0:
        package = "python{}.{}-venv".format(*sys.version_info[:2])
        stop(f"this Python cannot make virtual environments. Install that part: sudo apt-get install {package}")
    must(base_python(), "-I", "-m", "venv", "--clear", VENV)


def chosen_variables(stamp: Dict[str, Any]) -> Dict[str, str]:
    """The choice of torch from the environment, else the one made last time, so that it has to be made once."""
    chosen = {name: os.environ[name] for name in TORCH_VARIABLES if os.environ.get(name)}
    return chosen or dict(stamp.get("torch", {}))


def choose_torch(variables: Dict[str, str]) -> Torch:
    """The CPU build, unless `TORCH=pypi` or `TORCH_INDEX_URL` (and `TORCH_SPEC`) say otherwise."""
    choice, index = variables.get("TORCH", "cpu"), variables.get("TORCH_INDEX_URL")
    spec = variables.get("TORCH_SPEC", f"torch=={TORCH_VERSION}")
    if choice not in ("cpu", "pypi"):
        stop(f"TORCH is cpu or pypi, not {choice!r}.")
    if index:
        return Torch(f"{spec} from {index}", spec, index, alone=False)
    if platform.system() == "Darwin":
        return Torch(f"{spec} from PyPI (about 80 MB)", spec, None, alone=True)
    if choice == "pypi":
        return Torch(f"{spec} from PyPI, the GPU build (several GB)", spec, None, alone=False)
    if "TORCH_SPEC" not in variables:
        spec += "+cpu"
    return Torch(f"{spec}, the CPU build (about 200 MB)", spec, TORCH_CPU_INDEX, alone=True)


def install_torch(torch: Torch) -> None:
    """First and alone: the index it comes from is never asked for any other package of a CPU set-up."""
    install = ["install", *(["--no-deps"] if torch.alone else [])]
    if torch.source:
        install += ["--extra-index-url", torch.source]
    # pip waits long for an index that cannot be reached, although the wheel may be at hand without it.
    if execute(*pip(*install, "--retries", "0", "--timeout", "15", torch.spec)):
        return
    print("      not there at once; trying again with more patience", flush=True)
    if not execute(*pip(*install, "--retries", "3", torch.spec)):
        stop(
            f"{torch.spec} could not be installed from {torch.source or 'PyPI'}; see {LOG.relative_to(ROOT)}.\n"
            "Other sources:\n"
            "  TORCH=pypi make run               the build on PyPI; on Linux the GPU build, several GB\n"
            "  TORCH_INDEX_URL=URL make run      an index of yours, or https://download.pytorch.org/whl/cu130\n"
            "  PIP_FIND_LINKS=FOLDER make run    a folder that holds the wheel"
        )


def install_lock(lock: Path) -> None:
    """Exactly the files whose hashes the repository holds."""
    must(*pip("install", "--no-deps", "--require-hashes", "-r", str(lock)))


def install_project() -> None:
    """This checkout, editable; then pip compares what every package asks for with what is there."""
    must(*pip("install", "--no-deps", "--no-build-isolation", "-e", str(ROOT)))
    must(*pip("check"))
