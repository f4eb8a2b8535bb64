"""The image, without a container: its steps run into an empty folder, and pods start from there as a cluster's do.

Commands, environment and probes are those that the operator makes of rayservice.yaml. The account is that of the image,
the root is read-only, there is no network but a wire between the two pods.
`make test` links the packages it runs with, which the same code installed from the same locks; `make image-test`
installs them anew.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from containerfile import CONTAINERFILE, ROOT, Image, as_root, context
from pods import Pod, connect, missing, until
from simulator.manifest.environment import Objects, command_of, environment_of
from simulator.manifest.rendered import RayCluster, head_pod, worker_pod
from simulator.manifest.resource import read_resource

from serve_app.contracts import Json

pytestmark = [pytest.mark.skipif(bool(missing()), reason=missing()), pytest.mark.timeout(1800)]

HEAD, WORKER = "10.97.0.1", "10.97.0.2"
NAME = "sem-image-classifier"
BUSY = {"RAY_raylet_start_wait_time_s": "600", "RAY_gcs_server_request_timeout_seconds": "60"}
"""These tests share their machine, so a node may take long to start. The operator sets 5 s for the second."""
START_S = 600
OBJECTS = Objects(
    # No server is there: a gateway starts without them, and says so at /readyz.
    secrets={
        NAME: {"redis-url": "redis://127.0.0.1:1/0", "database-url": "postgresql://nobody@127.0.0.1:2/none"},
        f"{NAME}-ray": {"auth_token": secrets.token_hex(24)},
    },
    config_maps={NAME: {}},
)

REQUEST = """
import sys, urllib.request
url, token, body = sys.argv[1:]
headers = {"x-ray-authorization": "Bearer " + token, "Content-Type": "application/json"} if token else {}
request = urllib.request.Request(url, body.encode() or None, headers, method="PUT" if body else "GET")
print(urllib.request.urlopen(request, timeout=30).read().decode())
"""


@dataclass(frozen=True)
class Built:
    """An image's folders, and what its last step, the check, printed."""

    folder: Path
    image: Image
    checked: str


def link_packages(prefix: Path) -> None:
    """What `install.sh packages` makes, from the packages of this environment."""
    subprocess.run([os.path.realpath(sys.executable), "-I", "-m", "venv", "--without-pip", prefix], check=True)
    own = Path(sysconfig.get_path("purelib"))
    shutil.copytree(own, prefix / own.relative_to(sys.prefix), symlinks=True, dirs_exist_ok=True, copy_function=link)
    _, _, program = (Path(sys.prefix) / "bin" / "ray").read_text().partition("\n")
    (prefix / "bin" / "ray").write_text(f"#!{prefix}/bin/python\n{program}")
    (prefix / "bin" / "ray").chmod(0o755)


def link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # on another disk
        shutil.copy2(source, target)


@pytest.fixture(scope="module")
def built() -> Iterator[Built]:
    """The image of this checkout, built step by step."""
    folder = Path(tempfile.mkdtemp(prefix="semapi-image-", dir="/var/tmp"))
    folder.chmod(0o755)
    sent, source = folder / "context", folder / "source"
    source.mkdir()
    context(sent)
    image, full = Image(folder / "prefix", source), os.environ.get("IMAGE_TEST") == "full"
    checked = ""
    for run in image.walk(CONTAINERFILE.read_text("utf-8"), sent):
        if run.user == image.user == "1000:100":
            checked = check(folder, {**image.environment, **run.environment}, run.command)
        elif run.command.endswith("install.sh packages") and not full:
            link_packages(image.prefix)
        else:
            as_root(run, source)
    yield Built(folder, image, checked)
    shutil.rmtree(folder)


def check(folder: Path, environment: dict[str, str], command: str) -> str:
    pod = Pod("check", environment, folder=folder)
    pod.create("bash", "-c", command)
    pod.start()
    status = pod.wait(300)
    printed = pod.log.read_text()
    assert status == 0, printed
    return printed


def test_its_own_check_passes_without_a_network(built: Built) -> None:
    lines = built.checked.splitlines()
    assert "No broken requirements found." in lines
    assert any(line.startswith("HAProxy version ") for line in lines)
    answer = json.loads(next(line for line in lines if line.startswith('{"input"')))
    assert answer["label"] == "Nanowires"
    release = json.loads((built.image.prefix / "release.json").read_text())
    assert release["model"]["sha256"] == answer["model"]["sha256"]
    assert release["version"] == built.image.labels["org.opencontainers.image.version"]


@dataclass(frozen=True)
class Started:
    """A pod, the container that the operator makes for it, and its address."""

    pod: Pod
    container: Json
    address: str

    def passes(self, probe: str) -> bool:
        """Whether this probe succeeds now, asked as a kubelet asks it but with more patience."""
        asked = self.container[probe]
        if "exec" in asked:
            return self.pod.execute(*asked["exec"]["command"], seconds=60).returncode == 0
        return bool(request(self.pod, f"http://{self.address}:{asked['httpGet']['port']}{asked['httpGet']['path']}"))


def small_service() -> Json:
    """rayservice.yaml for one worker, which has a replica of each kind. It keeps nothing: there is no Redis for Ray."""
    resource = read_resource(ROOT / "rayservice.yaml", NAME, haproxy=False)
    cluster = resource["spec"]["rayClusterConfig"]
    del cluster["gcsFaultToleranceOptions"]
    gateway = cluster["workerGroupSpecs"][0]
    gateway["rayStartParams"]["resources"] = r'"{\"gateway\": 1, \"models\": 1}"'
    gateway["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] = "3"
    config = yaml.safe_load(resource["spec"]["serveConfigV2"])
    arguments = config["applications"][0]["args"]
    arguments["gateway_replicas"] = 1
    arguments["models"][0] |= {"min_replicas": 1, "max_replicas": 1}
    return resource | {"spec": resource["spec"] | {"serveConfigV2": yaml.safe_dump(config)}}


@pytest.fixture
def service() -> Json:
    """What the operator would be given."""
    return small_service()


@pytest.fixture
def pods(built: Built, service: Json) -> Iterator[tuple[Started, Started]]:
    """A head and a worker as the operator makes them of the service; created but not started."""
    cluster = RayCluster(service, NAME, "1")
    hosts = f"{HEAD} head {cluster.head_service}\n{WORKER} worker"
    manifests = ((head_pod(cluster, "head"), HEAD), (worker_pod(cluster, "gateway", "worker"), WORKER))
    with ExitStack() as killed:
        started = [create(built, manifest, address, hosts, killed) for manifest, address in manifests]
        head, worker = started
        connect(head.pod, worker.pod, (HEAD, WORKER))
        yield head, worker
        for pod in (head.pod, worker.pod):  # pytest shows it of a test that failed
            print(pod.log.read_text())
            tail = "tail -n 40 /tmp/ray/session_latest/logs/{gcs_server,raylet}.*"
            print("" if pod.ended() else pod.execute("bash", "-c", tail).stdout)


def create(built: Built, manifest: Json, address: str, hosts: str, killed: ExitStack) -> Started:
    """The pod with its init containers' commands first, then Ray's; the sidecar of the head is left out."""
    spec = manifest["spec"]
    container = spec["containers"][0]
    environment = environment_of(container, manifest, address, OBJECTS)
    inside = {**built.image.environment, **environment, **BUSY}
    pod = Pod(manifest["metadata"]["name"], inside, folder=built.folder, hosts=hosts)
    commands = [shlex.join(command_of(one, environment)) for one in (*spec.get("initContainers", []), container)]
    pod.create("/bin/bash", "-c", " && ".join([*commands[:-1], f"exec {commands[-1]}"]))
    killed.callback(pod.kill)
    return Started(pod, container, address)


def request(pod: Pod, url: str, token: str = "", body: str = "") -> str:
    """The answer to a request made inside a pod; empty when there was none, or an error."""
    return pod.execute("python", "-c", REQUEST, url, token, body, seconds=60).stdout.strip()


def running(answer: str) -> bool:
    """Whether Serve's answer says that the application is all there: what the operator waits for."""
    return bool(answer) and json.loads(answer)["applications"]["sem-image-classifier"]["status"] == "RUNNING"


def test_pods_pass_the_operators_probes(pods: tuple[Started, Started], service: Json) -> None:
    head, worker = pods
    head.pod.start()
    until(lambda: head.passes("livenessProbe") and head.passes("readinessProbe"), "the head's probes", START_S)
    worker.pod.start()
    until(lambda: worker.passes("livenessProbe"), "the worker's liveness probe", START_S)
    assert not worker.passes("readinessProbe"), "a worker without a replica is not ready"

    config = json.dumps(yaml.safe_load(service["spec"]["serveConfigV2"]))
    applications, token = f"http://{HEAD}:8265/api/serve/applications/", head.pod.environment["RAY_AUTH_TOKEN"]
    assert request(head.pod, applications) == "", "refused without Ray's token"
    request(head.pod, applications, token, config)
    until(lambda: worker.passes("readinessProbe"), "the worker's readiness probe", START_S)
    until(
        lambda: running(request(head.pod, applications, token)), "the application with the model of the image", START_S
    )

    answer = worker.pod.execute("wget", "-q", "-O-", "http://localhost:8000/api/v1/version").stdout
    assert "POST /api/v1/jobs" in answer
    assert worker.pod.execute("id", "-u").stdout == "1000\n"
    tried = worker.pod.execute("bash", "-c", "for folder in / $PREFIX $HOME /dev/shm; do mktemp -p $folder; done")
    writable = {mount["mountPath"] for mount in worker.container["volumeMounts"]}
    assert {str(Path(made).parent) for made in tried.stdout.split()} == writable == {"/tmp", "/dev/shm"}
