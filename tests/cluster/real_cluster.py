"""The cluster under test: a copy of the checkout, its `scripts/cluster`, and hands on the node below it.

The copy is there to be changed: a setting, a size, a broken release. What the commands write lies in it too.
"""

from __future__ import annotations

import base64
import copy
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from operations import image
from operations.here import Node
from operations.target import NAME, Model, Target

Json = dict[str, Any]
T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
SERVICE = f"{NAME}-serve-svc"
WORKERS = ("gateway", "models")
MODEL = "sem-classifier"
SETTINGS = "k8s/overlays/dev/settings.env"
EDGE_SPACE = "ingress-nginx"
EDGE: list[Json] = [
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": EDGE_SPACE}},
    {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "edge", "namespace": EDGE_SPACE, "labels": {"app.kubernetes.io/name": "ingress-nginx"}},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "pause", "image": image.SANDBOX, "imagePullPolicy": "Never"}],
        },
    },
]
UP_S = 1800.0
"""The first time its programs are built."""
ALONE_S = 420.0
"""The old cluster stays for its delay, and its head ends last."""
WHOLE_S = 240.0
POLL_S = 0.5
KUBECTL_S = 60.0


@dataclass(frozen=True)
class Ended:
    """How a command of `scripts/cluster` ended."""

    status: int
    output: str
    errors: str
    seconds: float

    @property
    def said(self) -> str:
        return self.output + self.errors


class RealCluster:
    """One cluster of ours on this machine, as `scripts/cluster up --here` makes it, under a name of its own."""

    def __init__(self, folder: Path, context: str) -> None:
        self.folder = folder
        self.checkout = folder / "checkout"
        self.context = context
        self.namespace = NAME
        self.replicas = 1
        """Pods of each worker group that are there when all is well."""
        _copy_checkout(self.checkout)

    @property
    def target(self) -> Target:
        """What `scripts/cluster` calls it."""
        return Target("dev", Model("demo"), self.namespace, self.context)

    @property
    def kubeconfig(self) -> Path:
        """How kubectl reaches it, from inside a node's network."""
        return self.target.kubeconfig

    @property
    def namespaces(self) -> list[str]:
        """The network of each node, as nsenter takes it."""
        return [str(path) for path in sorted(self.target.state.glob("node*/network"))]

    def up(self, nodes: int) -> None:
        """Make the cluster, or what is missing of it."""
        self.run("up", "--nodes", str(nodes), timeout_s=UP_S)

    def kill_node(self, number: int) -> None:
        """Kill everything on a node at once, its pods too; nothing is told to anybody."""
        os.kill(self._first_process(number), signal.SIGKILL)

    def _first_process(self, number: int) -> int:
        first = Node(self.target, number).first_process()
        assert first is not None, f"node {number} does not run"
        return first

    def run(self, *words: str, well: bool = True, timeout_s: float = 600.0) -> Ended:
        """A command of `scripts/cluster`; with `well` it must succeed."""
        command = [sys.executable, str(self.checkout / "scripts" / "cluster"), *words, "--context", self.context]
        command += ["--namespace", self.namespace]
        began = time.monotonic()
        done = subprocess.run(
            command, cwd=self.checkout, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s
        )
        ended = Ended(done.returncode, done.stdout, done.stderr, time.monotonic() - began)
        assert not well or ended.status == 0, f"{' '.join(words)} ended with {ended.status}:\n{ended.said[-4000:]}"
        return ended

    def kubectl(self, *arguments: str, input: str = "", timeout_s: float = KUBECTL_S) -> str:  # noqa: A002
        """What kubectl prints; it must succeed."""
        done = subprocess.run(
            self.kubectl_command(*arguments), input=input, capture_output=True, text=True, timeout=timeout_s
        )
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr.strip()}"
        return done.stdout

    def kubectl_command(self, *arguments: str) -> list[str]:
        """A kubectl command for this cluster and namespace."""
        return self.target.kubectl(*arguments)

    def in_namespace(self, namespace: str) -> RealCluster:
        """The same cluster, for another namespace."""
        other = copy.copy(self)
        other.namespace = namespace
        return other

    def objects(self, *arguments: str) -> list[Json]:
        """What `kubectl get` lists."""
        return list(json.loads(self.kubectl("get", *arguments, "--output", "json"))["items"])

    def object(self, *arguments: str) -> Json:
        """One object, which must be there."""
        return dict(json.loads(self.kubectl("get", *arguments, "--output", "json")))

    def make_edge(self) -> None:
        """A pod that the network policies take for the edge: clients reach the service through its network."""
        space, items = f"--namespace={EDGE_SPACE}", json.dumps({"apiVersion": "v1", "kind": "List", "items": EDGE})
        apply = ("apply", "--filename", "-", space)
        wait(lambda: self.kubectl(*apply, input=items), 60, "the namespace of the edge has no account for a pod")
        self.kubectl("wait", "pod/edge", space, "--for=condition=Ready", "--timeout=60s", timeout_s=90)

    def inside(self, *command: str) -> list[str]:
        """The command in the network namespace of the edge's pod: there it has what the policies grant the edge."""
        return self.inside_pod(self.object("pod", "edge", f"--namespace={EDGE_SPACE}"), *command)

    def inside_pod(self, pod: Json, *command: str) -> list[str]:
        """The command in the network namespace of a pod, by its first process that is no zombie."""
        networks = (Path(f"/proc/{process}/ns/net") for process in sorted(self.processes(pod)))
        return ["nsenter", f"--net={next(path for path in networks if path.exists())}", *command]

    def service_url(self) -> str:
        """Where clients inside the node reach the service."""
        return f"http://{self.service_address(SERVICE)}:8000"

    def service_address(self, name: str) -> str:
        """The cluster address of a Service."""
        return str(self.object("service", name)["spec"]["clusterIP"])

    def token(self, user: str, *more: str) -> str:
        """A token of the development issuer."""
        return self.run("token", user, *more).output.strip()

    def secret(self, name: str, key: str) -> str:
        """A value of a Secret."""
        return base64.b64decode(self.object("secret", name)["data"][key]).decode()

    def active(self) -> str:
        """The name of the RayCluster that serves."""
        status = self.object("rayservice", NAME).get("status", {})
        return str(status.get("activeServiceStatus", {}).get("rayClusterName", ""))

    def pods(self, group: str) -> list[Json]:
        """The pods of a group (`headgroup`, `gateway`, `models`, `burst`) that serve and are not about to end."""
        found = self.objects("pods", "--selector", f"ray.io/cluster={self.active()},ray.io/group={group}")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def server(self, component: str) -> Json:
        """The pod of a store."""
        return self.objects("pods", "--selector", f"app.kubernetes.io/component={component}")[0]

    def is_whole(self) -> bool:
        """Every pod there and ready, every application running, no second cluster on its way."""
        groups = {"headgroup": 1} | dict.fromkeys(WORKERS, self.replicas)
        if any(self.ready(group) < count for group, count in groups.items()):
            return False
        service = self.object("rayservice", NAME)
        states = service["status"].get("activeServiceStatus", {}).get("applicationStatuses") or {}
        waiting = service["status"].get("pendingServiceStatus", {}).get("rayClusterName")
        return not waiting and bool(states) and all(one.get("status") == "RUNNING" for one in states.values())

    def ready(self, group: str) -> int:
        """Ready pods of a group. A burst pod that took the place of a lost model counts among the models."""
        groups = ("models", "burst") if group == "models" else (group,)
        return sum(sum(map(is_ready, self.pods(one))) for one in groups)

    def wait_until_whole(self, seconds: float = WHOLE_S) -> None:
        """Return when the cluster is whole."""
        wait(self.is_whole, seconds, "the cluster is not whole again")

    def wait_until_alone(self, seconds: float = ALONE_S) -> None:
        """Return when the cluster that serves is the only one."""
        wait(lambda: len(self.objects("rayclusters")) == 1, seconds, "the old cluster is still there")

    def wait_until_healed(self, victim: Json, group: str, seconds: float = WHOLE_S) -> None:
        """Return when a pod that was struck has ended or started again, and the cluster is whole."""

        def struck() -> bool:
            found = self.objects("pods", "--selector", f"ray.io/group={group}")
            return all(_life(pod) != _life(victim) for pod in found)

        wait(struck, seconds, f"{victim['metadata']['name']} goes on as if nothing had happened")
        self.wait_until_whole(seconds)

    def processes(self, pod: Json) -> list[int]:
        """The process ids, on this machine, of everything that runs in a pod."""
        return list(_processes(str(pod["metadata"]["uid"])))

    def signal(self, pod: Json, number: signal.Signals) -> None:
        """Send a signal to every process of a pod, its sandbox included, behind the back of the kubelet."""
        found = self.processes(pod)
        assert found, f"no process of {pod['metadata']['name']} was found"
        for process in found:
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def scale(self, workload: str, replicas: int) -> None:
        """Scale a StatefulSet and return when its pods are there or gone."""
        self.kubectl("scale", "statefulset", workload, f"--replicas={replicas}")
        names = ("replicas", "readyReplicas")

        def scaled() -> bool:
            status = self.object("statefulset", workload)["status"]
            return all(status.get(name, 0) == replicas for name in names)

        wait(scaled, WHOLE_S, f"{workload} has not {replicas} pods")

    def limited_volume(self, claim: str, room_mib: int) -> LimitedVolume:
        """Give a claim that no pod holds a file system in memory, with its files and so much room."""
        volume = self.object("persistentvolume", self.object("persistentvolumeclaim", claim)["spec"]["volumeName"])
        return LimitedVolume(self._first_process(1), volume["spec"]["local"]["path"], room_mib)

    def delete(self, pod: Json, *, force: bool = False) -> None:
        """Delete a pod and do not wait for its end."""
        now = ["--grace-period=0", "--force"] if force else []
        self.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false", *now)

    def set(self, **settings: str) -> None:
        """Write settings into the copy's overlay, in the place of what stands there."""
        path = self.checkout / SETTINGS
        lines = [line for line in path.read_text().splitlines() if line.partition("=")[0] not in settings]
        path.write_text("\n".join([*lines, *(f"{name}={value}" for name, value in settings.items())]) + "\n")

    def sql(self, *statements: str, database: str = "app") -> str:
        """Run SQL in the database's own pod; what it prints, one row a line."""
        psql = ["psql", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--tuples-only", "--no-align", "--username=postgres"]
        psql += [database, *(f"--command={statement}" for statement in statements)]
        return self.kubectl("exec", "postgresql-0", "--container", "postgres", "--", *psql).strip()

    def in_redis(self, program: str, *words: str) -> Any:
        """What a Python program prints as JSON that runs in the network of the job Redis, with REDIS_URL set.

        The policies let nobody else in whom the service does not need.
        """
        url = self.secret(NAME, "redis-url").replace("@redis:", "@127.0.0.1:")
        environment = {**os.environ, "REDIS_URL": url, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests")))}
        command = self.inside_pod(self.server("redis"), sys.executable, "-c", program, *words)
        return json.loads(subprocess.check_output(command, env=environment, text=True, timeout=120))

    def ask(self, method: str, path: str, token: str, body: str = "") -> str:
        """What the service answers to a request from inside the node; it must be a good answer."""
        headers = ["--header", f"Authorization: Bearer {token}", "--header", "Content-Type: application/json"]
        options = ["--silent", "--show-error", "--fail-with-body", "--max-time", "30", "--request", method]
        command = self.inside(
            "curl", *options, *headers, *(["--data", body] if body else []), self.service_url() + path
        )
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"{method} {path}: {done.stdout} {done.stderr}"
        return done.stdout

    @contextmanager
    def work_stopped(self) -> Iterator[None]:
        """No model begins a job as long as the block lasts."""
        token = self.token("suite-admin", "--admin")
        self.ask(
            "POST", "/api/v1/admin/stops", token, json.dumps({"message": "a test", "what": "work", "model": MODEL})
        )
        try:
            yield
        finally:
            self.ask("DELETE", f"/api/v1/admin/stops/work:{MODEL}", token)

    def resize(self, replicas: int) -> None:
        """Write into the copy how many gateways and models the development sizes have."""
        serve, small = (self.checkout / "k8s/service/dev" / name for name in ("serve.yaml", "small.yaml"))
        text = re.sub(r"gateway_replicas: \d+", f"gateway_replicas: {replicas}", serve.read_text())
        text = re.sub(r"min_replicas: \d+", f"min_replicas: {replicas}", text)
        serve.write_text(re.sub(r"max_replicas: \d+", f"max_replicas: {replicas + 1}", text))
        pattern = r"(workerGroupSpecs/[01]/(?:min|max)Replicas, value: )\d+"
        small.write_text(re.sub(pattern, rf"\g<1>{replicas}", small.read_text()))
        self.replicas = replicas

    def release(self) -> Json:
        """The newest release of the copy."""
        return dict(json.loads((self.checkout / "build/releases/release-dev-latest.json").read_text()))


class LimitedVolume:
    """A folder of a volume below a file system of limited size, as the first node sees it, until the node ends."""

    def __init__(self, first_process: int, folder: str, room_mib: int) -> None:
        self._inside = ["nsenter", f"--mount=/proc/{first_process}/ns/mnt"]
        self._filler = f"{folder}/filler"
        held = int(subprocess.check_output(["du", "--summarize", "--block-size=1M", folder], text=True).split()[0])
        self._run(
            f"set -e; new=$(mktemp -d); mount -t tmpfs -o size={held + room_mib}m tmpfs $new; "
            f"cp --archive {folder}/. $new; mount --bind $new {folder}; umount $new; rmdir $new"
        )

    def fill(self) -> None:
        """Leave no byte free."""
        self._run(f"! cat /dev/zero > {self._filler}")

    def empty(self) -> None:
        """Free again what `fill` took."""
        self._run(f"rm {self._filler}")

    def _run(self, script: str) -> None:
        subprocess.run([*self._inside, "sh", "-c", script], check=True, capture_output=True, timeout=60)


def is_ready(pod: Json) -> bool:
    """Whether a pod's readiness probe passes."""
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", []))


def restarts(pod: Json) -> int:
    """How often containers of a pod were started again."""
    return sum(int(one["restartCount"]) for one in pod["status"].get("containerStatuses", []))


def _life(pod: Json) -> tuple[str, int]:
    return str(pod["metadata"]["uid"]), restarts(pod)


def wait(look: Callable[[], T], seconds: float, wanting: str) -> T:
    """What `look` gives, once it is true; an answer that kubectl did not give counts as not yet."""
    deadline = time.monotonic() + seconds
    while True:
        with suppress(AssertionError, IndexError, KeyError):
            if found := look():
                return found
        assert time.monotonic() < deadline, f"{wanting} after {seconds:g} s"
        time.sleep(POLL_S)


def _copy_checkout(to: Path) -> None:
    """What git knows or would know, and this machine's own settings of the build."""
    listed = subprocess.check_output(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, text=True
    )
    own = [str(path.relative_to(ROOT)) for path in (ROOT / "k8s").glob("*.local.env")]
    for name in [*filter(None, listed.split("\0")), *own]:
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def _processes(uid: str) -> Iterable[int]:
    """By cgroup: the kubelet names those of a pod after its uid."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if uid in (entry / "cgroup").read_text():
                    yield int(entry.name)
