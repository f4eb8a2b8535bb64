"""A machine for `scripts/cluster`: a checkout of its own, and stand-ins of every outside program in its PATH."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from operations.delivery.release import Release
from operations.target import PART_OF

ROOT = Path(__file__).resolve().parents[1]
NAME = "sem-image-classifier"
IMAGE_ID = "ab12" * 16
IMAGE = f"localhost/{NAME}:{IMAGE_ID[:12]}"
TOOLS = ("kubectl", "kind", "helm", "podman", "git")
Rule = dict[str, Any]

SETTINGS = f"""apiVersion: v1
data:
  ENVIRONMENT: dev
kind: ConfigMap
metadata:
  name: {NAME}
"""
KINDS = "configmaps  cm  v1  true  ConfigMap\nstatefulsets  sts  apps/v1  true  StatefulSet\n"
SURROUNDINGS = """apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: redis
spec:
  template:
    spec:
      volumes:
      - name: password
        secret:
          defaultMode: 288
          items:
          - key: password
            path: password
          secretName: redis
"""
SERVICE = f"""{SETTINGS}---
apiVersion: ray.io/v1
kind: RayService
metadata:
  name: {NAME}
spec:
  rayClusterConfig:
    authOptions:
      mode: token
      secretName: {NAME}-ray
    env:
    - name: DATABASE_URL
      valueFrom:
        secretKeyRef:
          key: database-url
          name: {NAME}
    - name: METRICS_TOKEN
      valueFrom:
        secretKeyRef:
          key: metrics-token
          name: {NAME}
          optional: true
"""
MADE = r"create --filename build/cluster/\w+/namespace\.json"
ROLLED_OUT = {"replicas": 1, "updatedReplicas": 1, "readyReplicas": 1}
SECRETS = f"{NAME} database-url metrics-token redis-url\n{NAME}-ray auth_token\npostgres password\nredis password\n"


def rule(match: str, output: str | dict[str, Any] = "", **more: Any) -> Rule:
    return {"match": match, "output": output if isinstance(output, str) else json.dumps(output), **more}


def items(*objects: dict[str, Any]) -> dict[str, Any]:
    return {"items": list(objects)}


def namespace(uid: str = "first", **labels: str) -> dict[str, Any]:
    """A namespace as it stands in the cluster; of this service unless other labels are given."""
    return {"metadata": {"name": NAME, "uid": uid, "labels": labels or {PART_OF: NAME}}}


def operator(version: str = "1.7.0", namespace: str = "kuberay-system") -> dict[str, Any]:
    tag = f":v{version}" if version else "@sha256:" + "5a" * 32
    containers = [{"image": f"quay.io/kuberay/operator{tag}"}]
    return {"metadata": {"namespace": namespace}, "spec": {"template": {"spec": {"containers": containers}}}}


def ray_cluster(image: str = IMAGE) -> dict[str, Any]:
    return {"spec": {"headGroupSpec": {"template": {"spec": {"containers": [{"image": image}]}}}}}


def ray_service(*, ready: bool = True, generation: int = 1, mark: str = "", **status: Any) -> dict[str, Any]:
    """A RayService as the operator leaves it."""
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    serving = {"rayClusterName": "green", "applicationStatuses": {NAME: {"status": "RUNNING"}}}
    return {
        "metadata": {"name": NAME, "generation": 1, "annotations": {f"{NAME}/release": mark}},
        "spec": {"rayClusterConfig": ray_cluster()["spec"]},
        "status": {
            "conditions": conditions,
            "observedGeneration": generation,
            "numServeEndpoints": 4,
            "activeServiceStatus": serving,
            **status,
        },
    }


def entry(mark: str, at: str, image: str) -> dict[str, Any]:
    """A release as it is entered in the cluster."""
    release = {field.name: "" for field in fields(Release)} | {
        "image": image,
        "environment": "dev",
        "model_source": "demo",
    }
    data = {"release.json": json.dumps(release), "manifests.yaml": f"manifests of {mark}\n", "at": at}
    return {"metadata": {"name": f"{NAME}-release-{mark}"}, "data": data}


def story(ports: dict[str, int]) -> list[Rule]:
    """What the tools answer on a machine where everything goes well, beginning with nothing."""
    forwards = [
        rule(f"port-forward service/{service} ", f"Forwarding from 127.0.0.1:{port} -> 1\n", stays_s=60)
        for service, port in ports.items()
    ]
    return [
        *forwards,
        rule("kubectl version --client", {"clientVersion": {"gitVersion": "v1.33.1"}}),
        rule("helm version", "v3.18.4+gd80839c\n"),
        rule("kind version", "kind v0.30.0 go1.24.6 linux/amd64\n"),
        rule("podman version", "5.4.2\n"),
        rule("git rev-parse", "0123456789abcdef0123456789abcdef01234567\n"),
        rule("kind get clusters", f"{NAME}\n", after="kind create cluster"),
        rule("get deployments --all-namespaces", items(operator()), after="helm upgrade"),
        rule("get deployments --all-namespaces", items()),
        rule("podman build", files={"build/cluster/dev/image-id": f"sha256:{IMAGE_ID}"}),
        rule("get nodes", items({"status": {"images": [{"names": [IMAGE]}]}}), after="kind load"),
        rule("get nodes", items()),
        rule("kubectl kustomize .*/surroundings", SURROUNDINGS),
        rule("kubectl kustomize .*/overlays/", f"{SETTINGS}---\n{SURROUNDINGS}"),
        rule("api-resources --no-headers", KINDS),
        rule("api-versions", "apps/v1\nv1\n"),
        rule("kubectl kustomize .*/settings", SETTINGS),
        rule("kubectl kustomize .*/service", SERVICE),
        rule("get namespace", namespace(), after=MADE),
        rule("get namespace"),
        rule("get secrets", SECRETS, after="create --filename -"),
        rule("get statefulsets,deployments", "statefulset.apps/postgresql\nstatefulset.apps/redis\n"),
        rule(r"get statefulset\.apps/", {"metadata": {}, "spec": {}, "status": ROLLED_OUT}),
        rule("get job migrate", {"status": {"conditions": [{"type": "Complete", "status": "True"}]}}),
        rule("get rayservice", ray_service()),
        rule("get raycluster", ray_cluster()),
        rule("--output json", items()),
    ]


class Machine:
    """The checkout, the stand-ins, and what was asked of them."""

    def __init__(self, folder: Path, ports: dict[str, int]) -> None:
        self.tree = folder / "tree"
        self.bin = folder / "bin"
        self.standin = folder / "standin"
        self.rules = story(ports)
        self.environment = {"PATH": str(self.bin), "STANDIN": str(self.standin), "HOME": str(folder)}
        self.environment |= {"XDG_STATE_HOME": str(folder), "XDG_CACHE_HOME": str(folder)}  # no cluster of this machine
        self._copy()

    def _copy(self) -> None:
        shutil.copytree(ROOT / "scripts" / "operations", self.tree / "scripts" / "operations")
        shutil.copy(ROOT / "scripts" / "cluster", self.tree / "scripts" / "cluster")
        shutil.copy(ROOT / "pyproject.toml", self.tree / "pyproject.toml")
        samples = self.tree / "serve_app" / "samples"
        samples.mkdir(parents=True)
        shutil.copy(ROOT / "serve_app" / "samples" / "nanowires.jpg", samples)
        self.settings("dev", "ENVIRONMENT=dev\nMODEL_SOURCE=demo\n")
        self.bin.mkdir()
        self.standin.mkdir()
        for tool in TOOLS:
            self.make(self.bin / tool)

    def make(self, program: Path) -> None:
        """Put a stand-in there."""
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!{sys.executable} -IS\n" + (ROOT / "tests" / "standin.py").read_text())
        program.chmod(0o755)

    def settings(self, environment: str, text: str) -> None:
        """What the overlay of an environment tells the service."""
        path = self.tree / "k8s" / "overlays" / environment / "settings.env"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def local(self, environment: str, text: str) -> None:
        """What this machine says of an environment."""
        (self.tree / "k8s").mkdir(exist_ok=True)
        (self.tree / "k8s" / f"{environment}.local.env").write_text(text)

    def first(self, *rules: Rule) -> None:
        """Rules that come before the others."""
        self.rules[:0] = rules

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        (self.standin / "script.json").write_text(json.dumps(self.rules))
        # -S: no installed packages, as on a machine that only deploys.
        command = [sys.executable, "-S", str(self.tree / "scripts" / "cluster"), *arguments]
        return subprocess.Popen(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One command of the program, to its end."""
        with self.start(*arguments) as process:
            try:
                output, errors = process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGTERM)
                raise
        assert "Traceback" not in errors
        return subprocess.CompletedProcess(arguments, process.returncode, output, errors)

    @property
    def asked(self) -> list[dict[str, str]]:
        """Every call of a tool, oldest first: its line and its input."""
        record = self.standin / "record.jsonl"
        return [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []

    @property
    def lines(self) -> list[str]:
        return [one["line"] for one in self.asked]

    @property
    def changes(self) -> list[str]:
        """The calls that change something."""
        return [line for line in self.lines if changes(line)]

    def forget(self) -> None:
        """Begin a new record; what the tools have done stays done."""
        (self.standin / "record.jsonl").unlink(missing_ok=True)


ASKING = (
    " get ",
    " version",
    "kustomize",
    "rev-parse",
    "status",
    "logs",
    "port-forward",
    "dry-run=server",
    "show crds",
    "check_production",
)


def changes(line: str) -> bool:
    return not any(word in line for word in ASKING)


class Service(BaseHTTPRequestHandler):
    """The service and the development issuer, as far as a smoke test sees them."""

    label = "Nanowires"
    status = "COMPLETED"
    rows = 1
    """How many rows a completed job leaves."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/default/token":
            form = parse_qs(body.decode())
            self.server.users.append(form["client_id"][0])  # type: ignore[attr-defined]
            self._answer(200, {"access_token": "token-of-" + form["client_id"][0]})
        else:
            assert self.path == "/api/v1/jobs"
            assert b'name="image"; filename="nanowires.jpg"' in body
            self.server.completed += self.rows  # type: ignore[attr-defined]
            self._answer(202, {"job_id": "7", "status": "PENDING"})

    def do_GET(self) -> None:
        if self.headers["Authorization"] != "Bearer token-of-smoke":
            self._answer(401, {"title": "Sign in", "detail": "no token"})
        elif urlsplit(self.path).path == "/api/v1/usage":
            self._answer(200, {"users": [{"completed": self.server.completed}]})  # type: ignore[attr-defined]
        else:
            result = {"label": self.label, "model": {"demo": True}}
            job = {"job_id": "7", "status": self.status, "result": result, "problem": {"detail": "it broke"}}
            self._answer(200, job)

    def _answer(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, text: str, *arguments: Any) -> None:
        """Quiet."""


@contextmanager
def serving(handler: type[Service] = Service) -> Iterator[int]:
    """The port of a service that answers like that."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.users, server.completed = [], 3  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def machine(folder: Path, handler: type[Service] = Service) -> Iterator[Machine]:
    """A machine whose cluster, once it is up, serves like that."""
    assert os.sep in str(folder)
    with serving(handler) as port:
        yield Machine(folder, {"dev-issuer": port, f"{NAME}-serve-svc": port})
