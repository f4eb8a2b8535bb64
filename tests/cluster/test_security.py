"""What confines the containers, read from their processes and not from their manifests."""

from __future__ import annotations

import errno
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from overlays import amount
from real_cluster import NAME, Json, RealCluster

pytestmark = pytest.mark.short

PAUSE: Final = "pause"
CAPABILITIES: Final = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
TOKEN_FOLDER: Final = "/run/secrets/kubernetes.io/serviceaccount"
MEMORY_FILES: Final = ("memory/{}/memory.limit_in_bytes", "{}/memory.max")
"""Below /sys/fs/cgroup, in version 1 and 2."""
KUBECTL_S: Final = 60.0


@dataclass(frozen=True)
class Container:
    """A container that runs, by one of its processes on this machine."""

    pod: Json
    name: str
    process: int

    def __str__(self) -> str:
        return f"{self.pod['metadata']['name']}/{self.name}"

    @property
    def component(self) -> str:
        return str(self.pod["metadata"]["labels"].get("app.kubernetes.io/component"))

    @property
    def spec(self) -> Json:
        return next(one for one in self.pod["spec"]["containers"] if one["name"] == self.name)

    def status(self) -> dict[str, str]:
        """What the kernel says of the process."""
        lines = Path(f"/proc/{self.process}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def mounts(self) -> dict[str, set[str]]:
        """By place in the container the options of what is mounted there."""
        rows = [line.split() for line in Path(f"/proc/{self.process}/mountinfo").read_text().splitlines()]
        return {row[4]: set(row[5].split(",")) for row in rows}


@pytest.fixture(scope="module")
def containers(service: RealCluster) -> list[Container]:
    """Every container of the namespace that runs."""
    pods = service.objects("pods", "--field-selector", "status.phase=Running")
    found = [one for pod in pods for one in _containers(service, pod)]
    there = {(one.component, one.name) for one in found}
    stores = {("redis", "redis"), ("ray-redis", "redis"), ("postgres", "postgres")}
    ray = {("head", "ray-head"), ("head", "autoscaler"), ("gateway", "ray-worker"), ("models", "ray-worker")}
    assert stores | ray <= there
    return found


def test_nobody_is_root_or_has_a_capability_or_can_get_one(containers: list[Container]) -> None:
    for container in containers:
        status = container.status()
        assert "0" not in status["Uid"].split(), container
        assert "0" not in [status["Gid"].split()[0], *status["Groups"].split()] or container.component == "postgres", (
            container
        )
        assert {int(status[name], 16) for name in CAPABILITIES} == {0}, container
        assert status["NoNewPrivs"] == "1", container
        assert status["Seccomp"] == "2", f"{container}: no filter of system calls"


def test_the_root_cannot_be_written_to(containers: list[Container]) -> None:
    for container in containers:
        assert "ro" in container.mounts()["/"], container
        with pytest.raises(OSError, match="Read-only file system") as refused:
            Path(f"/proc/{container.process}/root/probe").touch()
        assert refused.value.errno == errno.EROFS


def test_only_the_autoscaler_has_a_token_of_the_cluster(containers: list[Container]) -> None:
    holders = {one.component for one in containers if any(TOKEN_FOLDER in place for place in one.mounts())}
    assert holders == {"head"}


def test_the_kernel_holds_each_container_to_its_memory(containers: list[Container]) -> None:
    for container in containers:
        assert _memory_limit(container.process) == amount(container.spec["resources"]["limits"]["memory"]), container


def test_nothing_of_the_node_is_mounted(containers: list[Container]) -> None:
    allowed = ("emptyDir", "configMap", "secret", "projected", "persistentVolumeClaim", "name")
    for container in containers:
        kinds = {kind for volume in container.pod["spec"].get("volumes", []) for kind in volume}
        assert kinds <= set(allowed), container
        assert container.pod["spec"].get("hostNetwork") is None, container


def test_pod_security_and_quota_refuse(service: RealCluster) -> None:
    assert 'violates PodSecurity "restricted' in _refusal(service, {"securityContext": {"privileged": True}})
    assert 'violates PodSecurity "restricted' in _refusal(service, {"securityContext": {}})
    assert "exceeded quota" in _refusal(service, {"resources": _resources("1Ti")})
    assert _refusal(service, {}) == ""


def test_containers_without_sizes_get_some(service: RealCluster) -> None:
    done = _dry_run(service, {"resources": {}})
    made = json.loads(done.stdout)["spec"]["containers"][0]["resources"]
    assert {"cpu", "memory"} <= made["limits"].keys() & made["requests"].keys()


def _refusal(service: RealCluster, changes: Json) -> str:
    done = _dry_run(service, changes)
    return done.stderr if done.returncode else ""


def _dry_run(service: RealCluster, changes: Json) -> subprocess.CompletedProcess[str]:
    """What the API server says of a pod of the strictest kind with these changes."""
    context = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True}
    context["seccompProfile"] = {"type": "RuntimeDefault"}
    container = {"name": "probe", "image": PAUSE, "securityContext": context, "resources": _resources("16Mi")}
    spec = {"containers": [container | changes]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe", "namespace": NAME}, "spec": spec}
    command = service.kubectl_command("create", "--dry-run=server", "--output", "json", "--filename", "-")
    return subprocess.run(command, input=json.dumps(pod), capture_output=True, text=True, timeout=KUBECTL_S)


def _resources(memory: str) -> Json:
    return {kind: {"cpu": "100m", "memory": memory} for kind in ("requests", "limits")}


def _containers(service: RealCluster, pod: Json) -> Iterator[Container]:
    """By its first process: others may be a probe's, which the runtime has not confined yet."""
    firsts = [one for one in service.processes(pod) if _is_first(one)]
    for status in pod["status"]["containerStatuses"]:
        number = status["containerID"].rpartition("/")[2]
        with suppress(StopIteration, OSError):
            process = next(one for one in firsts if number in Path(f"/proc/{one}/cgroup").read_text())
            yield Container(pod, status["name"], process)


def _is_first(process: int) -> bool:
    with suppress(OSError):
        return bool(re.search(r"^NSpid:.*\s1$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE))
    return False


def _memory_limit(process: int) -> int:
    """Bytes, of the process's own cgroup."""
    for line in Path(f"/proc/{process}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for pattern in MEMORY_FILES if controllers in ("memory", "") else ():
            file = Path("/sys/fs/cgroup", pattern.format(path.lstrip("/")))
            if file.exists():
                return int(file.read_text())
    raise AssertionError(f"process {process} is in no cgroup that bounds its memory")
