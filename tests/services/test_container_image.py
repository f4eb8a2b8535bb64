"""The image, without a container: its steps run into an empty folder, and pods start from there as a cluster's do.

The account is that of the image, the root is read-only, there is no network but a wire between the two pods.
`make test` links the packages it runs with, which the same code installed from the same locks; `make image-test`
installs them anew.
"""

from __future__ import annotations

import json
import os
import secrets
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

pytestmark = [pytest.mark.skipif(bool(missing()), reason=missing()), pytest.mark.timeout(1800)]

HEAD, WORKER = "10.97.0.1", "10.97.0.2"
SERVICE = "sem-image-classifier-head-svc.sem-image-classifier.svc.cluster.local"
HOSTS = f"{HEAD} head {SERVICE}\n{WORKER} worker"

# What KubeRay 1.7 makes of `rayStartParams` and a container's resources, and what it puts into the environment.
LIMIT = "ulimit -n ${RAY_START_ULIMIT_OPEN_FILES:-65536}; "
START_HEAD = (
    "ray start  --head  --block  --dashboard-agent-listen-port=52365  --dashboard-host=0.0.0.0  --memory=1073741824  "
    "--metrics-export-port=8080  --no-monitor  --num-cpus=0  --object-store-memory=100000000 "
)
START_WORKER = (
    f"ray start  --address={SERVICE}:6379  --block  --dashboard-agent-listen-port=52365  --memory=2147483648  "
    "--metrics-export-port=8080  --num-cpus=2  --object-store-memory=100000000 "
)
OPERATOR = {
    "RAY_AUTH_MODE": "token",
    "RAY_timeout_ms_task_wait_for_death_info": "0",
    "RAY_SERVE_KV_TIMEOUT_S": "5",
}
MANIFEST = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    "RAY_SERVE_HAPROXY_LOG_TARGET": "ring@buf0",
    "RAY_worker_niceness": "0",
    # Neither is there: a gateway starts without them, and says so at /readyz.
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "DATABASE_URL": "postgresql://nobody@127.0.0.1:2/none",
}
BUSY = {"RAY_raylet_start_wait_time_s": "600", "RAY_gcs_server_request_timeout_seconds": "60"}
"""These tests share their machine, so a node may take long to start. The operator sets 5 s for the second."""

START_S = 600

# The probes of KubeRay 1.7 for Ray >= 2.53, word for word.
ALIVE = "wget --tries 1 -T 2 -q -O- http://localhost:52365/api/local_raylet_healthz | grep success"
READY = ALIVE + " && wget --tries 1 -T 10 -q -O- http://localhost:8000/-/healthz | grep success"

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


@pytest.fixture
def pods(built: Built) -> Iterator[tuple[Pod, Pod]]:
    """A head and a worker, made but not started."""
    environment = {**built.image.environment, **OPERATOR, **MANIFEST, **BUSY, "RAY_AUTH_TOKEN": secrets.token_hex(24)}
    head, worker = (Pod(name, environment, folder=built.folder, hosts=HOSTS) for name in ("head", "worker"))
    with ExitStack() as killed:
        for pod, command in ((head, START_HEAD), (worker, START_WORKER)):
            pod.create("/bin/bash", "-c", "--", LIMIT + command)
            killed.callback(pod.kill)
        connect(head, worker, (HEAD, WORKER))
        yield head, worker
        for pod in (head, worker):  # pytest shows it of a test that failed
            print(pod.log.read_text())
            tail = "tail -n 40 /tmp/ray/session_latest/logs/{gcs_server,raylet}.*"
            print("" if pod.ended() else pod.execute("bash", "-c", tail).stdout)


def request(pod: Pod, url: str, token: str = "", body: str = "") -> str:
    """The answer to a request made inside a pod; empty when there was none, or an error."""
    return pod.execute("python", "-c", REQUEST, url, token, body, seconds=60).stdout.strip()


def running(answer: str) -> bool:
    """Whether Serve's answer says that the application is all there: what the operator waits for."""
    return bool(answer) and json.loads(answer)["applications"]["sem-image-classifier"]["status"] == "RUNNING"


def probe(pod: Pod, command: str) -> bool:
    return pod.execute("bash", "-c", command, seconds=60).returncode == 0


def test_pods_pass_the_operators_probes(pods: tuple[Pod, Pod]) -> None:
    head, worker = pods
    token = head.environment["RAY_AUTH_TOKEN"]
    head.start()
    until(lambda: "gcs: success" in request(head, f"http://{HEAD}:52365/api/healthz"), "the head's probe", START_S)
    worker.start()
    until(lambda: probe(worker, ALIVE), "the worker's node", START_S)
    until(lambda: "success" in request(worker, f"http://{WORKER}:52365/api/healthz"), "the worker's liveness probe", 60)
    assert not probe(worker, READY), "a worker without a replica is not ready"

    config = yaml.safe_load((ROOT / "serve_app" / "serve.yaml").read_text())
    config |= {"proxy_location": "EveryNode"}
    config["http_options"] |= {"host": "0.0.0.0", "port": 8000}  # noqa: S104  # of a pod
    applications = f"http://{HEAD}:8265/api/serve/applications/"
    assert request(head, applications) == "", "refused without Ray's token"
    request(head, applications, token, json.dumps(config))
    until(lambda: probe(worker, READY), "the worker's readiness probe", START_S)
    until(lambda: running(request(head, applications, token)), "the application with the model of the image", START_S)

    assert "POST /api/v1/jobs" in worker.execute("wget", "-q", "-O-", "http://localhost:8000/api/v1/version").stdout
    assert worker.execute("id", "-u").stdout == "1000\n"
    tried = worker.execute("bash", "-c", "for folder in / $PREFIX $HOME /dev/shm; do mktemp -p $folder; done")
    assert [Path(made).parent for made in tried.stdout.split()] == [Path("/tmp"), Path("/dev/shm")]
