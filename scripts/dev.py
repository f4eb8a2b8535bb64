"""Every task of this repository, with Python alone: `python3 scripts/dev.py help`.

The Makefile calls nothing else. Standard library only, in syntax that older interpreters can parse.
"""

import os
import subprocess
import sys
import time
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple, Union

from environment import INSTALLATION, PYTHON, VENV, ensure, use_fitting_python
from installation import REQUIREMENTS, ROOT, stop

UV = "uv==0.13.8"
PYTEST = ("python", "-m", "pytest")
XDIST = ("--numprocesses=logical", "--maxprocesses=4", "--dist=loadfile", "--no-loadscope-reorder")
PARALLEL = (*PYTEST, *XDIST, "--durations=15")
PRODUCT, DEPLOY = ("tests/serve", "tests/services", "tests/unit"), ("tests/deploy",)
MODULES = (("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "scripts")])),)


def show_help(arguments: List[str]) -> None:
    """List the targets."""
    print("make TARGET, or python3 scripts/dev.py TARGET. Arguments: make TARGET ARGS='...'\n")
    for name, target in TARGETS.items():
        print(f"  {name:13} {target.help}")


def check(arguments: List[str]) -> None:
    """Run every check, then print one line for each."""
    from operations import tools

    checks = {
        "style": ("ruff", "check", "."),
        "format": ("ruff", "format", "--check", "."),
        "types": ("mypy",),
        "imports": ("lint-imports",),
        "shape": ("python", "-m", "pytest", "-q", "tests/unit/test_shape.py"),
        "generated": ("python", "scripts/generate.py", "--check"),
        "image": ("hadolint", "k8s/image/Containerfile"),
        "shell": ("shellcheck", *sorted(str(path) for path in ROOT.glob("k8s/**/*.sh"))),
    }
    if not (VENV / "bin" / "shellcheck").exists():
        del checks["shell"]  # it has no wheel for some machines
    if not tools.needs_go():  # Go is only needed to make a node
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


def cluster(arguments: List[str]) -> None:
    """Run scripts/cluster, which needs Python alone."""
    os.execv(sys.executable, [sys.executable, str(ROOT / "scripts" / "cluster"), *arguments])


def set_up(arguments: List[str]) -> None:
    """Do nothing: `run` has built the environment before."""


def lock(arguments: List[str]) -> None:
    """Resolve requirements/*.in into hashed locks."""
    subprocess.run(INSTALLATION.pip("install", "--no-deps", "--quiet", UV), check=True)
    for name in ("serve", "dev", "torch-gpu"):
        source, target = REQUIREMENTS / f"{name}.in", REQUIREMENTS / f"{name}.txt"
        command = [str(PYTHON), "-m", "uv", "pip", "compile", "--universal", "--python-version", "3.11"]
        command += ["--generate-hashes", "--no-emit-index-url", "--quiet"]
        command += [] if name == "torch-gpu" else ["--no-emit-package", "torch"]
        command += ["--override", str((REQUIREMENTS / "overrides.txt").relative_to(ROOT))] if name == "serve" else []
        command += ["--custom-compile-command", "make lock", *arguments]
        command += [str(source.relative_to(ROOT)), "-o", str(target.relative_to(ROOT))]
        subprocess.run(command, cwd=str(ROOT), check=True)


class Target(NamedTuple):
    """One task."""

    help: str
    command: Union[Tuple[str, ...], Callable[[List[str]], None]]
    """A program of `.venv` with its arguments, or a function; both get the arguments of the command line as well."""
    needs: Optional[str] = "dev"
    """The environment: "dev" with the tools for tests, "run" without them, None for none."""
    variables: Tuple[Tuple[str, str], ...] = ()
    """Environment variables of the program."""


TARGETS: Dict[str, Target] = {
    "help": Target("This list.", show_help, None),
    "run": Target("Start the service, and classify a sample (ARGS=--once: then end).", ("semapi", "up"), "run"),
    "test": Target(
        "Run the tests of the product, but for those of test-faults (ARGS=tests/unit: some of them).",
        (*PARALLEL, "-m", "not fault"),
    ),
    "test-faults": Target(
        "Run the long tests of the product: servers killed, frozen, full or starved under load, and measurements.",
        (*PARALLEL, "-m", "fault"),
    ),
    "test-deploy": Target(
        "Run the tests of the manifests, the image, scripts/cluster and their pages.", (*PARALLEL, *DEPLOY)
    ),
    "test-all": Target("Run the tests of all three.", (*PARALLEL, *PRODUCT, *DEPLOY)),
    "coverage": Target(
        "Run the tests of the product with coverage, replicas included (25 minutes on two cores).",
        (*PARALLEL, "--cov=serve_app"),
        variables=(("PYTHONPATH", str(ROOT / "tests" / "measured")),),
    ),
    "fuzz": Target(
        "Send 200 made-up requests to each route (FUZZ_EXAMPLES=1000: more), and check the answers against OpenAPI.",
        (*PYTEST, "--timeout=1800", "tests/services/test_description_fuzz.py"),
        variables=(("FUZZ_EXAMPLES", os.environ.get("FUZZ_EXAMPLES", "200")),),
    ),
    "check": Target("Style, types, import direction, shape, the image's scripts, and Go where it is installed.", check),
    "generate": Target(
        "Write the tables, pages and manifests that follow from facts elsewhere.", ("python", "scripts/generate.py")
    ),
    "bench": Target("Measure the service against its targets.", ("python", "-m", "loadtest.bench"), variables=MODULES),
    "bench-usage": Target(
        "Measure the usage report over ten million generated rows (about 10 minutes, 6 GB of disk).",
        ("python", "-m", "loadtest.bench_usage"),
        variables=MODULES,
    ),
    "bench-mixed": Target(
        "Run 1,000 jobs over all models from two users while a replica is killed (about 10 minutes).",
        ("python", "-m", "loadtest.mixed"),
        variables=MODULES,
    ),
    "rows": Target(
        "Try what the source systems could do on a running service (ARGS=--help).",
        ("python", "-m", "loadtest.source_rows"),
        variables=MODULES,
    ),
    "bench-models": Target(
        "Measure accuracy and speed of the models of pages on drawn pages (about 10 minutes on two cores).",
        ("python", "-m", "loadtest.bench_models"),
        variables=MODULES,
    ),
    "bench-engines": Target(
        "Compare ENGINE=openvino with ENGINE=torch for the model of MODEL_SOURCE.",
        ("python", "-m", "loadtest.bare"),
        variables=MODULES,
    ),
    "chaos": Target(
        "Kill, freeze, fill and stop one part after the other under load, and count losses (about 15 minutes).",
        ("python", "-m", "loadtest.chaos"),
        variables=MODULES,
    ),
    "cluster": Target("The service on Kubernetes: ARGS=all (ARGS=--help: what else it does).", cluster, None),
    "test-cluster": Target(
        "Test on a real Kubernetes node made here (Linux, root, Go; about 25 minutes; ARGS=--short: 8).",
        (*PYTEST, "tests/cluster"),
    ),
    "pictures": Target(
        "Draw the usage report with headless Chromium: phone, tablet, desktop.", ("python", "scripts/usage_pictures.py")
    ),
    "setup": Target("Build .venv with the tools for tests; the other targets do it when needed.", set_up),
    "train-demo": Target(
        "Train the demo model again (about 5 minutes on two cores).",
        ("python", "-m", "demo_model.train"),
        "run",
        MODULES,
    ),
    "report-demo": Target(
        "Measure the demo model; write docs/demo-model.md (1 minute).",
        ("python", "-m", "demo_model.report"),
        "run",
        MODULES,
    ),
    "lock": Target("Resolve requirements/*.in into hashed locks (ARGS=--upgrade: to the newest versions).", lock),
}


def main() -> None:
    """Run the target that the command line names, in the root of the checkout."""
    name, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("help", [])
    if name in ("-h", "--help"):
        name = "help"
    if name not in TARGETS:
        stop(f"there is no target {name!r}; there are: {', '.join(TARGETS)}.")
    if name != "help":
        use_fitting_python()
    os.chdir(str(ROOT))
    try:
        run(TARGETS[name], arguments)
    except KeyboardInterrupt:
        stop("interrupted")


def run(target: Target, arguments: List[str]) -> None:
    """Build the environment that the target needs, then run it."""
    if target.needs:
        ensure(dev=target.needs == "dev")
    if callable(target.command):
        target.command(arguments)
    else:
        os.environ.update(target.variables)
        program, *fixed = target.command
        path = str(VENV / "bin" / program)
        os.execv(path, [path, *fixed, *arguments])  # signals and the exit status are then those of the program


if __name__ == "__main__":
    main()
