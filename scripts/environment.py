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
import sys
import time
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, NamedTuple

from installation import REQUIREMENTS, ROOT, Installation, Torch, choose_torch, chosen_in, stop

VENV = ROOT / ".venv"
STAMP = VENV / "setup-stamp.json"
BUILD = ROOT / "build"
LOG = BUILD / "setup.log"
INSTALLATION = Installation(VENV, LOG)
PYTHON = INSTALLATION.python

NEEDED_BYTES = 4 * 10**9


class Step(NamedTuple):
    """One part of the environment, redone when the digest of what it was made from changes."""

    name: str
    says: str
    digest: str
    install: Callable[[], None] = lambda: None


def ensure(*, dev: bool) -> None:
    """Make `.venv` what this checkout asks for, with the tools for tests when `dev`; at once when it is already."""
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
    """The digest of every step that is done, as the build of torch that was installed makes them."""
    done = {} if todo[0].name == "venv" else dict(stamp.get("steps", {}))
    names = {"venv"} | {step.name for step in todo}
    done.update({step.name: step.digest for step in steps(choose_torch(chosen), dev=dev) if step.name in names})
    return done


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
    build = (*place, (REQUIREMENTS / torch.lock).read_text()) if torch.lock else place
    wanted = [
        Step("venv", f"an empty environment with Python {version}", digest(*place), INSTALLATION.make),
        Step("torch", torch.says, digest(*build)),
        locked("serve", "the locked packages (about 300 MB)"),
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


def install_checkout() -> None:
    """Editable: the environment runs what lies here."""
    INSTALLATION.install_project(editable=True)


def refuse_foreign_checkout() -> None:
    """Two users or checkouts cannot share one environment: say so instead of failing half-way."""
    if VENV.is_symlink():
        stop(f"{VENV} is a link, and set-up would empty what it leads to. Remove the link first.")
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


def chosen_variables(stamp: Dict[str, Any]) -> Dict[str, str]:
    """The choice of torch from the environment, else the one made last time, so that it has to be made once."""
    return chosen_in(dict(os.environ)) or dict(stamp.get("torch", {}))
