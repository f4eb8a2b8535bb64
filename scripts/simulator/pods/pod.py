"""A pod that runs here: containers in the network namespace of the pod, started and ended as a kubelet does it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from serve_app.contracts import Json
from simulator.manifest.environment import Objects, command_of, environment_of, files_of
from simulator.pods.image import GROUP, USER, Image
from simulator.pods.network import API_ADDRESS, API_PORT, Namespace

ENTRY = Path(__file__).with_name("container.py")
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
API_SERVER = {"KUBERNETES_SERVICE_HOST": API_ADDRESS, "KUBERNETES_SERVICE_PORT_HTTPS": str(API_PORT)}
"""What a kubelet tells every container."""
GRACE_S = 30
POLL_S = 0.05
START_S = 10.0


@dataclass
class Surroundings:
    """What every pod of a cluster shares: the objects, the names, and the images by the name that manifests use."""

    objects: Objects
    hosts: Path
    images: dict[str, Image]
    folder: Path
    account: Path | None = None
    """Token and authority of the API server, for pods whose manifest does not decline them."""


class Pod:
    """One pod of its manifest. `process_of` gives the first process of a container."""

    def __init__(self, manifest: Json, namespace: Namespace, surroundings: Surroundings) -> None:
        self.manifest, self.network, self._around = manifest, namespace, surroundings
        self.name: str = manifest["metadata"]["name"]
        self.labels: dict[str, str] = manifest["metadata"].get("labels", {})
        self.folder = surroundings.folder / namespace.name
        self.folder.mkdir(parents=True)
        self.deleted = threading.Event()
        """Set when its deletion begins: it is no endpoint any more."""
        self.started_at = 0.0
        self.asked_at = 0.0
        """When its processes were sent SIGTERM."""
        self.ended_s = 0.0
        """What its end in order took, and which containers had to be killed when the grace was over."""
        self.killed: list[str] = []
        self._containers: dict[str, subprocess.Popen[bytes]] = {}
        self._volumes = {volume["name"]: self._make_volume(volume) for volume in self._spec.get("volumes", [])}

    @property
    def address(self) -> str:
        return self.network.address

    @property
    def _spec(self) -> Json:
        spec: Json = self.manifest["spec"]
        return spec

    @property
    def containers(self) -> list[Json]:
        return list(self._spec["containers"])

    def prepare(self) -> None:
        """Run the init containers to their end, one after the other. Raises RuntimeError when one fails."""
        for container in self._spec.get("initContainers", []):
            process = self._run(container)
            while process.poll() is None:
                if self.deleted.wait(POLL_S):
                    process.kill()
                    process.wait()
                    return
            if process.returncode != 0:
                raise RuntimeError(f"{container['name']} of {self.name} failed: {self.log(container['name'])}")

    def start(self) -> None:
        """Start the containers, unless its end has begun."""
        if self.deleted.is_set():
            return
        for container in self.containers:
            self._containers[container["name"]] = self._run(container)
        self.started_at = time.time()

    def ended(self) -> bool:
        """True once the container with the work has ended; a sidecar that ends takes nobody with it."""
        first = self._containers.get(self.containers[0]["name"])
        return first is not None and first.poll() is not None

    def gone(self) -> bool:
        """True once its end has begun and nothing of it runs any more."""
        return self.deleted.is_set() and all(process.poll() is not None for process in self._containers.values())

    def log(self, container: str) -> Path:
        return self.folder / f"{container}.log"

    def execute(self, container: Json, command: list[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
        """What a command gives inside a running container, under its own user and environment."""
        first = self._first_process(self._containers[container["name"]])
        entering = ["nsenter", f"--target={first.pid}", "--mount", "--pid", "--net", "--ipc", "--uts"]
        entering += ["--root", "--wdns=/", *self._privileges(container), *command]
        return subprocess.run(
            entering, env=self._environment(container), capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def delete(self) -> None:
        """End it in order: preStop, SIGTERM, and SIGKILL when the grace is over."""
        self.deleted.set()
        began = time.monotonic()
        grace = self._spec.get("terminationGracePeriodSeconds", GRACE_S)
        for container in self.containers:
            self._before_stop(container, grace)
        self.asked_at = time.time()
        for process in self._containers.values():
            with suppress(psutil.NoSuchProcess):
                self._first_process(process).send_signal(signal.SIGTERM)
        for process in self._containers.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, began + grace - time.monotonic()))
        self.killed = [name for name, process in self._containers.items() if process.poll() is None]
        self.kill()
        self.ended_s = time.monotonic() - began

    def kill(self) -> None:
        """SIGKILL everything at once, as when the node dies or memory runs out; its connections are closed."""
        self.deleted.set()
        for process in self._containers.values():
            if process.poll() is None:
                with suppress(psutil.NoSuchProcess):
                    self._first_process(process).kill()
            process.wait()

    def _before_stop(self, container: Json, grace: float) -> None:
        hook = container.get("lifecycle", {}).get("preStop", {})
        if sleep := hook.get("sleep"):
            time.sleep(min(sleep["seconds"], grace))  # the hook itself is a sleep
        elif execute := hook.get("exec"):
            with suppress(subprocess.TimeoutExpired, psutil.NoSuchProcess):
                self.execute(container, execute["command"], grace)

    def _run(self, container: Json) -> subprocess.Popen[bytes]:
        specification = self.folder / f"{container['name']}.json"
        root = self.folder / f"{container['name']}-root"
        root.mkdir(exist_ok=True)
        environment = self._environment(container)
        mounts = [(source, target, True) for source, target in self._image(container).parts]
        mounts += [(str(self._around.hosts), "/etc/hosts", True)]
        mounts += [self._mount(mount) for mount in container.get("volumeMounts", [])]
        if self._around.account and self._spec.get("automountServiceAccountToken", True):
            mounts.append((str(self._around.account), ACCOUNT, True))
        command = [*self._privileges(container), *command_of(container, environment)]
        context = container.get("securityContext", {})
        specification.write_text(
            json.dumps(
                {
                    "root": str(root),
                    "mounts": mounts,
                    "read_only": bool(context.get("readOnlyRootFilesystem")),
                    "command": command,
                    "environment": environment,
                }
            )
        )
        entering = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--ipc", "--uts"]
        with self.log(container["name"]).open("ab") as log:
            return subprocess.Popen(
                self.network.command(*entering, sys.executable, "-I", str(ENTRY), str(specification)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.defpath},
            )

    def _mount(self, mount: Json) -> tuple[str, str, bool]:
        source: Path = self._volumes[mount["name"]]
        if "subPath" in mount:
            source = source / mount["subPath"]
            if not source.exists():
                source.mkdir(parents=True)
                _open_to_all(source)
        return str(source), mount["mountPath"], bool(mount.get("readOnly"))

    def _make_volume(self, volume: Json) -> Path:
        path = self.folder / "volumes" / str(volume["name"])
        path.mkdir(parents=True)
        if (files := files_of(volume, self._around.objects)) is not None:
            for name, text in files.items():
                (path / name).write_text(text)
                (path / name).chmod(0o444)
        elif volume.get("emptyDir", {}).get("medium") == "Memory":
            subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "memory", str(path)], check=True)
        else:
            _open_to_all(path)
        return path

    def _environment(self, container: Json) -> dict[str, str]:
        said = environment_of(container, self.manifest, self.address, self._around.objects)
        return {**self._image(container).environment, "HOSTNAME": self.name, **API_SERVER, **said}

    def _image(self, container: Json) -> Image:
        return self._around.images[container["image"]]

    def _privileges(self, container: Json) -> list[str]:
        """The command that gives up what the security contexts take away."""
        context = {**self._spec.get("securityContext", {}), **container.get("securityContext", {})}
        user, group = context.get("runAsUser", USER), context.get("runAsGroup", GROUP)
        command = ["/usr/bin/setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]
        if "ALL" in context.get("capabilities", {}).get("drop", []):
            command += ["--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all"]
        if context.get("allowPrivilegeEscalation") is False:
            command.append("--no-new-privs")
        return command

    @staticmethod
    def _first_process(outer: subprocess.Popen[bytes]) -> psutil.Process:
        """The first process of the container's own process namespace; `outer` waits for it outside."""
        deadline = time.monotonic() + START_S
        while not (found := psutil.Process(outer.pid).children()):
            if time.monotonic() > deadline:
                raise psutil.NoSuchProcess(outer.pid)
            time.sleep(POLL_S)
        return found[0]


def _open_to_all(path: Path) -> None:
    path.chmod(0o1777)
