"""Installs the locked packages, torch and this project into an environment.

`scripts/environment.py` uses it for `.venv`; the image's build runs `python3 scripts/installation.py FOLDER PART`.
Standard library only, in syntax that older interpreters can parse.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, NoReturn, Optional, Tuple, Union

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"

TORCH_VERSION = "2.13.0"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
TORCH_VARIABLES = ("TORCH", "TORCH_INDEX_URL", "TORCH_SPEC")
HEARTBEAT_S = 15
PYPI_TORCH_BYTES = 7 * 10**9
"""Free disk space for PyPI's build: 2.7 GB of wheels in pip's cache, and their unpacked files."""

WRONG_HASH = "DO NOT MATCH THE HASHES"
"""pip's message for a file with another hash than the lock's: a reason to stop, not to try another source."""
OTHER_TORCHES = """Other sources:
  TORCH=pypi make run               the build on PyPI; on Linux the GPU build, several GB
  TORCH_INDEX_URL=URL make run      an index of yours, or https://download.pytorch.org/whl/cu130
  PIP_FIND_LINKS=FOLDER make run    a folder that holds the wheel"""

OTHER_OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python")
"""Builds of OpenCV that packages ask for by name. The lock has opencv-contrib-python-headless in their place: it holds
the modules of all three, and two builds would overwrite each other's files."""
CHECK = """
import re, subprocess, sys
import cv2
found = subprocess.run([sys.executable, "-I", "-m", "pip", "check"], stdout=subprocess.PIPE, universal_newlines=True)
replaced = re.compile(r"\\S+ \\S+ requires (%s), which is not installed\\." % "|".join(sys.argv[1:]))
wrong = [line for line in found.stdout.splitlines() if not replaced.fullmatch(line)]
print(found.stdout)
sys.exit(1 if wrong and found.returncode else 0)
"""

Command = Tuple[Union[str, Path], ...]


class Torch(NamedTuple):
    """A build of torch and its source."""

    says: str
    spec: str
    source: Optional[str] = None
    alone: bool = True
    """The lock holds all that a CPU build needs, so nothing else may come from a second index."""
    lock: str = ""
    """The lock with the hashes of this build; empty for a build that the user named, whose hashes are unknown."""


def stop(message: str) -> NoReturn:
    """End with one clear message and a failing exit status."""
    sys.exit("error: " + message)


def chosen_in(variables: Dict[str, str]) -> Dict[str, str]:
    """The variables that choose a build of torch."""
    return {name: variables[name] for name in TORCH_VARIABLES if variables.get(name)}


def choose_torch(variables: Dict[str, str]) -> Torch:
    """The CPU build, unless `TORCH=pypi` or `TORCH_INDEX_URL` (and `TORCH_SPEC`) say otherwise."""
    choice, index = variables.get("TORCH", "cpu"), variables.get("TORCH_INDEX_URL")
    spec = variables.get("TORCH_SPEC", f"torch=={TORCH_VERSION}")
    if choice not in ("cpu", "pypi"):
        stop(f"TORCH is cpu or pypi, not {choice!r}.")
    if index:
        return Torch(f"{spec} from {index}", spec, index, alone=False)
    is_ours = "TORCH_SPEC" not in variables
    lock = "torch-cpu.txt" if is_ours else ""
    if platform.system() == "Darwin":
        return Torch(f"{spec} from PyPI (about 80 MB)", spec, lock=lock)
    if choice == "pypi":
        lock = "torch-gpu.txt" if is_ours else ""
        return Torch(f"{spec} from PyPI, the GPU build (several GB)", spec, alone=False, lock=lock)
    spec += "+cpu" if is_ours else ""
    return Torch(f"{spec}, the CPU build (about 200 MB)", spec, TORCH_CPU_INDEX, lock=lock)


def locked(lock: Path) -> List[str]:
    """pip's arguments to install exactly the files of a lock."""
    return ["--no-deps", "--only-binary", ":all:", "--require-hashes", "-r", str(lock)]


class Installation:
    """One environment in `folder`. Output goes to `log`; after a failure its end is printed and this program stops."""

    def __init__(self, folder: Path, log: Path) -> None:
        self.python = folder / "bin" / "python"
        self._folder, self._log = folder, log

    def make(self) -> None:
        """Make a new, empty environment, or say which package is missing: Debian and Ubuntu ship Python without it."""
        base = os.path.realpath(sys.executable)  # the interpreter itself, also inside a virtual environment
        probe = subprocess.run([base, "-c", "import ensurepip, venv"], capture_output=True, check=False)
        if probe.returncode != 0:
            package = "python{}.{}-venv".format(*sys.version_info[:2])
            stop(f"this Python cannot make virtual environments. Install that part: sudo apt-get install {package}")
        self._must(base, "-I", "-m", "venv", "--clear", self._folder)

    def install_torch(self, variables: Dict[str, str]) -> Dict[str, str]:
        """Install torch alone, before the rest; returns the variables that name the installed build.

        When no build was chosen and the CPU build is neither in a local folder nor on its index, PyPI's build is
        installed instead; `{"TORCH": "pypi"}` is then returned.
        """
        torch = choose_torch(variables)
        if not torch.source:
            self._must(*self._torch(torch))
            return variables
        # The wheel may be in a local folder: pip would wait long for an index that cannot be reached.
        if self._execute(*self._torch(torch, "--retries", "0", "--timeout", "15")):
            return variables
        print("      not found at once; trying again with longer timeouts", flush=True)
        if self._execute(*self._torch(torch, "--retries", "2", "--timeout", "30")):
            return variables
        if variables or WRONG_HASH in self._log.read_text(errors="replace"):
            stop(f"{torch.spec} could not be installed from {torch.source}; see {self._log}.\n{OTHER_TORCHES}")
        return self._fall_back(torch)

    def _fall_back(self, torch: Torch) -> Dict[str, str]:
        """Install PyPI's build instead of the CPU build, for networks that mirror PyPI and nothing else."""
        instead = {"TORCH": "pypi"}
        print(
            f"      {torch.spec} is not available: no local wheel, and {torch.source} cannot be reached.\n"
            f"      Instead: {choose_torch(instead).says}. It runs on the CPU as well; it costs 2.7 GB more to\n"
            "      download and 5 GB more of disk. This is remembered; TORCH=cpu make run tries the CPU build again",
            flush=True,
        )
        if shutil.disk_usage(self.python.parent.parent).free < PYPI_TORCH_BYTES:
            stop(f"PyPI's build of torch needs {PYPI_TORCH_BYTES / 1e9:.0f} GB of free disk space.\n{OTHER_TORCHES}")
        if not self._execute(*self._torch(choose_torch(instead))):
            stop(f"torch could be installed from neither {torch.source} nor PyPI; see {self._log}.\n{OTHER_TORCHES}")
        return instead

    def _torch(self, torch: Torch, *patience: str) -> Command:
        """pip's command for one build. No other package is taken from the index of a CPU build."""
        index = ["--extra-index-url", torch.source] if torch.source else []
        named = ["--no-deps", torch.spec] if torch.alone else [torch.spec]
        wanted = locked(REQUIREMENTS / torch.lock) if torch.lock else named
        return self.pip("install", *index, *patience, *wanted)

    def install_lock(self, lock: Path) -> None:
        """Install exactly the files of a lock. They are wheels, so no build script runs."""
        self._must(*self.pip("install", *locked(lock)))

    def install_project(self, *, editable: bool) -> None:
        """Install this checkout, or a copy of it; then `pip check` verifies every package's requirements, except for
        the builds of OpenCV in OTHER_OPENCV."""
        project = ["--editable", str(ROOT)] if editable else [str(ROOT)]
        self._must(*self.pip("install", "--no-deps", "--no-build-isolation", *project))
        self._must(self.python, "-I", "-c", CHECK, *OTHER_OPENCV)

    def pip(self, *arguments: str) -> Command:
        """A pip command of the environment. `-I` ignores PYTHONPATH and the user's own site-packages."""
        return (self.python, "-I", "-m", "pip", "--disable-pip-version-check", *arguments)

    def _must(self, *command: Union[str, Path]) -> None:
        if not self._execute(*command):
            for line in self._log.read_text(errors="replace").splitlines()[-20:]:
                print("      " + line, flush=True)
            stop(f"set-up failed; the whole output is in {self._log}. The next run starts afresh.")

    def _execute(self, *command: Union[str, Path]) -> bool:
        """Run a command with its output in the log; prints a line every HEARTBEAT_S. True when it succeeded."""
        began = time.monotonic()
        with self._log.open("ab") as log:
            log.write(("\n$ " + " ".join(map(str, command)) + "\n").encode())
            log.flush()
            with subprocess.Popen([str(part) for part in command], cwd=str(ROOT), stdout=log, stderr=log) as process:
                while True:
                    try:
                        return process.wait(HEARTBEAT_S) == 0
                    except subprocess.TimeoutExpired:
                        print(f"      still running after {time.monotonic() - began:.0f} s of this step", flush=True)


def install_packages(installation: Installation) -> None:
    """Install everything but the project: a layer that a change of the project does not invalidate."""
    chosen = chosen_in(dict(os.environ))
    print(choose_torch(chosen).says, flush=True)
    installation.make()
    installation.install_torch(chosen)
    print("the locked packages (1.6 GB on disk)", flush=True)
    installation.install_lock(REQUIREMENTS / "serve.txt")


def main() -> None:
    """Install `packages` into a folder, or the `project` itself as a copy."""
    folder, part = Path(sys.argv[1]), sys.argv[2]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as logs:
        installation = Installation(folder, Path(logs) / "installation.log")
        if part == "packages":
            install_packages(installation)
        elif part == "project":
            installation.install_project(editable=False)
        else:
            stop(f"PART is packages or project, not {part!r}.")


if __name__ == "__main__":
    main()
