"""Builds `.venv`, the Python environment of every task in `scripts/dev.py`, and finds the Python that it is made from.

A stamp in `.venv` records the inputs; while they are unchanged, nothing is done. The stamp is deleted before the first
change and written after the last one, so a set-up that failed or was killed starts afresh the next time. Standard
library only, in syntax that older interpreters can parse: they run this far to print what to install.
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
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

from installation import REQUIREMENTS, ROOT, Installation, Torch, choose_torch, chosen_in, stop

VENV = ROOT / ".venv"
STAMP = VENV / "setup-stamp.json"
BUILD = ROOT / "build"
LOG = BUILD / "setup.log"
INSTALLATION = Installation(VENV, LOG)
PYTHON = INSTALLATION.python

NEEDED_BYTES = 4 * 10**9
OLDEST, NEWEST = (3, 11), (3, 13)
CANDIDATES = ("python3.12", "python3.11", "python3.13")


def fits(version: Tuple[int, ...]) -> bool:
    """True for the Python versions that the locked wheels exist for."""
    return OLDEST <= version <= NEWEST


def use_fitting_python() -> None:
    """Continue under a Python that fits: this one, else one from PATH; without one, stop with what to install."""
    if not fits(sys.version_info[:2]):
        for command in CANDIDATES:
            path = working(command)
            if path:
                os.execv(path, [path, *sys.argv])
        stop(f"Python 3.11, 3.12 or 3.13 is needed; this is {platform.python_version()}. {how_to_install()}")
    if platform.system() not in ("Linux", "Darwin") or sys.maxsize < 2**32:
        stop("64-bit Linux or macOS is needed (on Windows: WSL 2).")


def working(command: str) -> Optional[str]:
    """The path of an interpreter that starts and fits. A version manager's shim may exist and start nothing."""
    path = shutil.which(command)
    if path is None:
        return None
    probe = [path, "-c", "import sys; print(*sys.version_info[:2])"]
    try:
        answer = subprocess.check_output(probe, stderr=subprocess.DEVNULL, universal_newlines=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return path if fits(tuple(int(part) for part in answer.split())) else None


def how_to_install() -> str:
    """The command that installs a Python that fits on this kind of machine."""
    if platform.system() == "Darwin":
        return "Install one: brew install python@3.12"
    if shutil.which("apt-get"):
        return "Install one: sudo apt-get install python3.12 python3.12-venv (or 3.11, or 3.13)"
    if shutil.which("dnf"):
        return "Install one: sudo dnf install python3.12"
    return "Install one: https://www.python.org/downloads/"


class Step(NamedTuple):
    """One part of the environment, redone when the digest of its inputs changes."""

    name: str
    says: str
    digest: str
    install: Callable[[], None] = lambda: None


def ensure(*, dev: bool) -> None:
    """Bring `.venv` up to date, with the tools for tests when `dev`; returns at once when it is already."""
    if not outdated(dev=dev, stamp=read_stamp()):
        return
    refuse_foreign_checkout()
    BUILD.mkdir(exist_ok=True)
    with one_at_a_time():
        stamp = read_stamp()
        todo = outdated(dev=dev, stamp=stamp)
        if not todo:
            return
        if shutil.disk_usage(ROOT).free < NEEDED_BYTES:
            stop(f"the environment needs {NEEDED_BYTES / 1e9:.0f} GB of free disk space at {ROOT}.")
        began = time.monotonic()
        print(f"Setting up {VENV.name}, needed once; the full output goes to {LOG.relative_to(ROOT)}", flush=True)
        STAMP.unlink(missing_ok=True)
        LOG.unlink(missing_ok=True)
        chosen = chosen_variables(stamp)
        for number, step in enumerate(todo, 1):
            print(f"[{number}/{len(todo)}] {step.says}", flush=True)
            if step.name == "torch":
                chosen = INSTALLATION.install_torch(chosen)
            else:
                step.install()
            print(f"      {time.monotonic() - began:.0f} s", flush=True)
        STAMP.write_text(json.dumps({"torch": chosen, "steps": finished(stamp, todo, chosen, dev=dev)}, indent=2))


def finished(stamp: Dict[str, Any], todo: List[Step], chosen: Dict[str, str], *, dev: bool) -> Dict[str, str]:
    """The digests to record: of the steps done now and before, for the build of torch that was installed."""
    done = {} if todo[0].name == "venv" else dict(stamp.get("steps", {}))
    names = {"venv"} | {step.name for step in todo}
    done.update({step.name: step.digest for step in steps(choose_torch(chosen), dev=dev) if step.name in names})
    return done


def outdated(*, dev: bool, stamp: Dict[str, Any]) -> List[Step]:
    """The steps to do: all of them without the right base; after any other step, the last one as well."""
    every = steps(choose_torch(chosen_variables(stamp)), dev=dev)
    done = stamp.get("steps", {})
    if done.get("venv") != every[0].digest or not os.access(PYTHON, os.X_OK):
        return every
    todo = [step for step in every if done.get(step.name) != step.digest]
    return [*todo, every[-1]] if todo and todo[-1] is not every[-1] else todo


def steps(torch: Torch, *, dev: bool) -> List[Step]:
    """All steps in order. An environment cannot be moved, hence its path in the first digest."""
    version = "{}.{}".format(*sys.version_info[:2])
    place = (str(VENV), version, platform.system(), platform.machine(), torch.spec, torch.source or "")
    build = (*place, (REQUIREMENTS / torch.lock).read_text()) if torch.lock else place
    wanted = [
        Step("venv", f"an empty environment with Python {version}", digest(*place), INSTALLATION.make),
        Step("torch", torch.says, digest(*build)),
        locked("serve", "the locked packages (1.6 GB on disk)"),
    ]
    if dev:
        wanted.append(locked("dev", "the locked tools for tests and checks (about 70 MB)"))
    return [
        *wanted,
        Step("project", "this checkout, and a check of the whole", digest(project_table()), install_checkout),
    ]


def locked(name: str, says: str) -> Step:
    """The step that installs one lock."""
    lock = REQUIREMENTS / f"{name}.txt"
    return Step(name, says, digest(lock.read_text()), lambda: INSTALLATION.install_lock(lock))


def digest(*parts: str) -> str:
    """One fingerprint of several texts."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def project_table() -> str:
    """The parts of pyproject.toml that an installation depends on; the settings of tools are left out."""
    import tomllib  # older interpreters lack it, and never get here

    table = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    return json.dumps([table["build-system"], table["project"], table["tool"].get("setuptools")], sort_keys=True)


def read_stamp() -> Dict[str, Any]:
    """The recorded inputs; empty when the environment was never finished."""
    try:
        stamp = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def install_checkout() -> None:
    """Install this checkout as editable."""
    INSTALLATION.install_project(editable=True)


def refuse_foreign_checkout() -> None:
    """Stop with a clear message where two users or checkouts would share one environment."""
    if VENV.is_symlink():
        stop(f"{VENV} is a link, and set-up would empty what it leads to. Remove the link first.")
    for place in (ROOT, VENV, BUILD):
        if place.exists() and not os.access(place, os.W_OK | os.X_OK):
            stop(f"{place} belongs to another user. Each user works in a clone of their own.")


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Hold the set-up lock, so that two tasks that start together do not both build the environment."""
    with (BUILD / "setup.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another task is setting up .venv; waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def chosen_variables(stamp: Dict[str, Any]) -> Dict[str, str]:
    """The choice of torch from the environment variables, else the remembered one."""
    return chosen_in(dict(os.environ)) or dict(stamp.get("torch", {}))
