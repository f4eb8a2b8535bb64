"""Every task of this repository, with Python alone: `python3 scripts/dev.py help`.

The Makefile calls nothing else. Standard library only, and syntax that older interpreters read.
"""

import os
import platform
import shutil
import subprocess
import sys
import time
from typing import Callable, Dict, List, NoReturn, Optional, Tuple

from environment import INSTALLATION, PYTHON, VENV, ensure
from installation import REQUIREMENTS, ROOT, stop

OLDEST, NEWEST = (3, 11), (3, 13)
CANDIDATES = ("python3.12", "python3.11", "python3.13")
UV = "uv==0.13.8"
PYTEST = ("python", "-m", "pytest")
PARALLEL = (*PYTEST, "--numprocesses=logical", "--maxprocesses=4", "--dist=loadfile", "--no-loadscope-reorder")
PARALLEL += ("--durations=15",)
PRODUCT, DEPLOY = ("tests/serve", "tests/services", "tests/unit"), ("tests/deploy",)


def fits(version: Tuple[int, ...]) -> bool:
    """True for the Python versions that the locked wheels exist for."""
    return OLDEST <= version <= NEWEST


def use_fitting_python() -> None:
    """Go on under a Python that fits: this one, else one from PATH, else say what to install."""
    if not fits(sys.version_info[:2]):
        for command in CANDIDATES:
            path = working(command)
            if path:
                os.execv(path, [path, *sys.argv])
        stop(f"Python 3.11, 3.12 or 3.13 is needed; this is {platform.python_version()}. {how_to_install()}")
    if platform.system() not in ("Linux", "Darwin") or sys.maxsize < 2**32:
        stop("64-bit Linux or macOS is needed (on Windows: WSL 2).")


def working(command: str) -> Optional[str]:
    """The path of an interpreter that answers and fits; a version manager's shim may be there and start nothing."""
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
    """The command that gets a fitting Python on this kind of machine."""
    if platform.system() == "Darwin":
        return "Install one: brew install python@3.12"
    if shutil.which("apt-get"):
        return "Install one: sudo apt-get install python3.12 python3.12-venv (or 3.11, or 3.13)"
    if shutil.which("dnf"):
        return "Install one: sudo dnf install python3.12"
    return "Install one: https://www.python.org/downloads/"


def become(*command: str) -> NoReturn:
    """Go over into a command of the environment, which then gets signals and sets the exit status itself."""
    path = str(VENV / "bin" / command[0])
    os.execv(path, [path, *command[1:]])


def setup(arguments: List[str]) -> None:
    """Build .venv, tools for tests included; the other tasks do it by themselves."""
    ensure(dev=True)


def run(arguments: List[str]) -> None:
    """Start the service and everything it needs, and classify a sample (ARGS=--once: then end)."""
    ensure(dev=False)
    become("semapi", "up", *arguments)


def test(arguments: List[str]) -> None:
    """Run the tests of the product (ARGS=tests/unit: some of them)."""
    ensure(dev=True)
    become(*PARALLEL, *arguments)


def test_deploy(arguments: List[str]) -> None:
    """Run the tests of the manifests, the image, scripts/cluster and their pages."""
    ensure(dev=True)
    become(*PARALLEL, *DEPLOY, *arguments)


def test_all(arguments: List[str]) -> None:
    """Run both in one."""
    ensure(dev=True)
    become(*PARALLEL, *PRODUCT, *DEPLOY, *arguments)


def coverage(arguments: List[str]) -> None:
    """Run the tests of the product and say which lines of serve_app they run, in subprocesses and replicas too."""
    ensure(dev=True)
    become(*PARALLEL, "--cov", *arguments)


def fuzz(arguments: List[str]) -> None:
    """Send 200 made-up requests to each route (FUZZ_EXAMPLES=1000: more), and hold the answers to the description."""
    ensure(dev=True)
    os.environ.setdefault("FUZZ_EXAMPLES", "200")
    become(*PYTEST, "--timeout=1800", "tests/services/test_description_fuzz.py", *arguments)


def check(arguments: List[str]) -> None:
    """Style, types, import direction, shape, the image's scripts, Go where it is: then one line for each."""
    ensure(dev=True)
    from operations import tools

    checks = {
        "style": ("ruff", "check", "."),
        "format": ("ruff", "format", "--check", "."),
        "types": ("mypy",),
        "imports": ("lint-imports",),
        "shape": (*PYTEST, "-q", "tests/unit/test_shape.py"),
        "generated": ("python", "scripts/generate.py", "--check"),
        "image": ("hadolint", "k8s/image/Containerfile"),
        "shell": ("shellcheck", *sorted(str(path) for path in ROOT.glob("k8s/**/*.sh"))),
    }
    if not (VENV / "bin" / "shellcheck").exists():
        del checks["shell"]  # there is no wheel of it for every machine
    if not tools.needs_go():  # only those who make a node need it
        checks["go"] = (
            *("env", f"PATH={os.environ['PATH']}:{tools.GO_FOLDER}", "bash", "-euc"),
            'go -C scripts/node vet ./...; unformatted=$(gofmt -l scripts/node); test -z "$unformatted"',
        )
    lines, failed = [], False
    for name, (command, *rest) in checks.items():
        print(f"== {name}", flush=True)
        began = time.monotonic()
        program = command if command == "env" else str(VENV / "bin" / command)
        wrong = subprocess.run([program, *rest], cwd=str(ROOT), check=False).returncode != 0
        lines.append(f"{name:9} {'FAILED' if wrong else 'ok':6} {time.monotonic() - began:5.1f} s")
        failed |= wrong
    print("==", *lines, sep="\n")
    sys.exit(1 if failed else 0)


def generate(arguments: List[str]) -> None:
    """Write the tables, pages and manifests that follow from facts elsewhere (scripts/generate.py)."""
    ensure(dev=True)
    become("python", "scripts/generate.py", *arguments)


def bench(arguments: List[str]) -> None:
    """Measure the service against its targets."""
    load_test("bench", arguments)


def bench_usage(arguments: List[str]) -> None:
    """Measure the usage report over ten million generated rows (about 10 minutes, 6 GB of disk)."""
    load_test("bench_usage", arguments)


def chaos(arguments: List[str]) -> None:
    """Kill, freeze, fill and stop one part after the other under load: is anything lost? (about 15 minutes)"""
    load_test("chaos", arguments)


def load_test(name: str, arguments: List[str]) -> NoReturn:
    """Run a module of scripts/loadtest, on the code of this checkout."""
    ensure(dev=True)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "scripts")])
    become("python", "-m", "loadtest." + name, *arguments)


def cluster(arguments: List[str]) -> None:
    """The service on Kubernetes, from nothing to a smoke test: ARGS=all (ARGS=--help: what else it does)."""
    os.execv(sys.executable, [sys.executable, str(ROOT / "scripts" / "cluster"), *arguments])


def test_cluster(arguments: List[str]) -> None:
    """Run the tests on a real Kubernetes node made here (Linux, root, Go; about 25 minutes; ARGS=--short: 8)."""
    ensure(dev=True)
    become(*PYTEST, "tests/cluster", *arguments)


def pictures(arguments: List[str]) -> None:
    """Draw the usage report with headless Chromium, as on a phone, a tablet and a desk."""
    ensure(dev=True)
    become("python", "scripts/usage_pictures.py", *arguments)


def train_demo(arguments: List[str]) -> None:
    """Train the demo model again (about 5 minutes on two cores)."""
    ensure(dev=False)
    become("python", "scripts/train_demo_model.py", *arguments)


def lock(arguments: List[str]) -> None:
    """Resolve requirements/*.in into hashed locks (ARGS=--upgrade: to the newest versions)."""
    ensure(dev=True)
    subprocess.run(INSTALLATION.pip("install", "--no-deps", "--quiet", UV), check=True)
    for name in ("serve", "dev", "torch-gpu"):
        source, target = REQUIREMENTS / f"{name}.in", REQUIREMENTS / f"{name}.txt"
        command = [str(PYTHON), "-m", "uv", "pip", "compile", "--universal", "--python-version", "3.11"]
        command += ["--generate-hashes", "--no-emit-index-url", "--quiet"]
        command += [] if name == "torch-gpu" else ["--no-emit-package", "torch"]
        command += ["--custom-compile-command", "make lock", *arguments]
        command += [str(source.relative_to(ROOT)), "-o", str(target.relative_to(ROOT))]
        subprocess.run(command, cwd=str(ROOT), check=True)


def show_help(arguments: List[str]) -> None:
    """This list."""
    print("make TARGET, or python3 scripts/dev.py TARGET. Arguments: make TARGET ARGS='...'\n")
    for name, task in TASKS.items():
        print(f"  {name:12} {task.__doc__}")


TASKS: Dict[str, Callable[[List[str]], None]] = {
    "help": show_help,
    "run": run,
    "test": test,
    "test-deploy": test_deploy,
    "test-all": test_all,
    "coverage": coverage,
    "fuzz": fuzz,
    "check": check,
    "generate": generate,
    "bench": bench,
    "bench-usage": bench_usage,
    "chaos": chaos,
    "cluster": cluster,
    "test-cluster": test_cluster,
    "pictures": pictures,
    "setup": setup,
    "train-demo": train_demo,
    "lock": lock,
}


def main() -> None:
    """Read the task's name and do it, in the root of the checkout."""
    name, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("help", [])
    if name not in TASKS:
        stop(f"there is no task {name!r}; there are: {', '.join(TASKS)}.")
    if name != "help":
        use_fitting_python()
    os.chdir(str(ROOT))
    try:
        TASKS[name](arguments)
    except KeyboardInterrupt:
        stop("interrupted")


if __name__ == "__main__":
    main()
