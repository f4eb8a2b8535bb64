"""Stand-ins of outside programs that answer from rules, for failures that a real cluster cannot be brought to, and a
checkout of its own for `scripts/cluster`, which reads and writes files there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from operations.release import Release
from operations.runner import Runner
from operations.target import NAME, PART_OF, Model, Target

ROOT = Path(__file__).resolve().parents[2]
IMAGE_ID = "ab12" * 16
IMAGE = f"localhost/{NAME}:{IMAGE_ID[:12]}"
ASKING = (" get ", " version", "kustomize", "rev-parse", "status", "dry-run=server", "show crds", " api-")
Rule = dict[str, Any]


def rule(match: str, output: str | dict[str, Any] = "", **more: Any) -> Rule:
    return {"match": match, "output": output if isinstance(output, str) else json.dumps(output), **more}


def items(*objects: dict[str, Any]) -> dict[str, Any]:
    return {"items": list(objects)}


def namespace(uid: str = "first", **labels: str) -> dict[str, Any]:
    """A namespace as it stands in the cluster; of this service unless other labels are given."""
    return {"metadata": {"name": NAME, "uid": uid, "labels": labels or {PART_OF: NAME}}}


def ray_cluster(image: str = IMAGE) -> dict[str, Any]:
    return {"spec": {"headGroupSpec": {"template": {"spec": {"containers": [{"image": image}]}}}}}


def ray_service(*, ready: bool = True, generation: int = 1, mark: str = "", **status: Any) -> dict[str, Any]:
    """A RayService as the operator leaves it."""
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    serving = {"rayClusterName": "green", "applicationStatuses": {NAME: {"status": "RUNNING"}}}
    seen = {"conditions": conditions, "observedGeneration": generation, "numServeEndpoints": 4}
    return {
        "metadata": {"name": NAME, "generation": 1, "annotations": {f"{NAME}/release": mark}},
        "spec": {"rayClusterConfig": ray_cluster()["spec"]},
        "status": {**seen, "activeServiceStatus": serving, **status},
    }


def release(**more: str) -> dict[str, str]:
    """A release of the demo model for development."""
    known = {"image": IMAGE, "environment": "dev", "model_source": "demo"}
    return {field.name: "" for field in fields(Release)} | known | more


def entry(mark: str, at: str) -> dict[str, Any]:
    """A release as it is entered in the cluster."""
    data = {"release.json": json.dumps(release()), "manifests.yaml": f"manifests of {mark}\n", "at": at}
    return {"metadata": {"name": f"{NAME}-release-{mark}"}, "data": data}


class Tools:
    """Stand-ins of outside programs in a folder that is all of the PATH, and what was asked of them."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.bin, self.standin = folder / "bin", folder / "standin"
        self.bin.mkdir()
        self.standin.mkdir()
        self.environment = {"PATH": str(self.bin), "STANDIN": str(self.standin), "HOME": str(folder)}
        self.environment |= {"XDG_STATE_HOME": str(folder), "XDG_CACHE_HOME": str(folder)}  # no cluster of this machine
        self.have(*names)
        self.answer()

    def have(self, *names: str) -> None:
        """Put these programs there."""
        for name in names:
            (self.bin / name).write_text(f"#!{sys.executable} -IS\n" + (ROOT / "tests" / "standin.py").read_text())
            (self.bin / name).chmod(0o755)

    def answer(self, *rules: Rule) -> None:
        """What they answer, by the first rule that matches; nothing where none does."""
        (self.standin / "script.json").write_text(json.dumps(rules))

    @staticmethod
    def work(environment: str = "dev", *, yes: bool = True) -> Runner:
        """A call of the program in this process."""
        context = "kind-lab" if environment == "dev" else "lab"
        return Runner(Target(environment, Model("demo"), context=context), timeout_s=1.0, yes=yes)

    @property
    def asked(self) -> list[dict[str, str]]:
        """Every call, oldest first: its line and its input."""
        record = self.standin / "record.jsonl"
        return [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []

    @property
    def changes(self) -> list[str]:
        """The calls that change something."""
        lines = [one["line"] for one in self.asked]
        return [line for line in lines if not any(word in line for word in ASKING)]


class Machine(Tools):
    """A checkout on a machine with these tools."""

    def __init__(self, folder: Path, *names: str) -> None:
        super().__init__(folder, *names)
        self.tree = folder / "tree"
        shutil.copytree(ROOT / "scripts" / "operations", self.tree / "scripts" / "operations")
        shutil.copy(ROOT / "scripts" / "cluster", self.tree / "scripts")
        shutil.copy(ROOT / "pyproject.toml", self.tree)
        (folder / "packages").mkdir()
        (folder / "packages" / "yaml").symlink_to(Path(yaml.__file__).parent)
        self.environment["PYTHONPATH"] = str(folder / "packages")
        self.write("k8s/overlays/dev/settings.env", "ENVIRONMENT=dev\nMODEL_SOURCE=demo\n")

    def write(self, name: str, text: str) -> Path:
        """A file of the checkout."""
        path = self.tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        # -S: no installed packages but PyYAML, as on a machine that only deploys.
        command = [sys.executable, "-S", str(self.tree / "scripts" / "cluster"), *arguments]
        pipe, none = subprocess.PIPE, subprocess.DEVNULL
        return subprocess.Popen(command, env=self.environment, stdin=none, stdout=pipe, stderr=pipe, text=True)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One command of the program, to its end."""
        with self.start(*arguments) as process:
            try:
                output, errors = process.communicate(timeout=60)
            finally:
                process.terminate()
        assert "Traceback" not in errors
        return subprocess.CompletedProcess(arguments, process.returncode, output, errors)
