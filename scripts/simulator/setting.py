"""The whole setting: servers, edge, operator and the RayService of this checkout, up and ready. A context manager."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
from benchmark.observed_service import wait_until
from manifests.reach import NAMESPACE

from serve_app.contracts import Json
from simulator.around.edge import Edge
from simulator.around.operator import Operator
from simulator.around.servers import IMAGE, objects, start_servers
from simulator.manifest.overlay import documents, policies, settings
from simulator.manifest.resource import containers, read_resource
from simulator.pods.house import House
from simulator.pods.image import ROOT, this_checkout
from simulator.stage import Stage

MANIFEST = ROOT / "rayservice.yaml"
OPERATOR: Json = {
    "metadata": {
        "name": "kuberay-operator",
        "namespace": "kuberay-system",
        "labels": {"app.kubernetes.io/name": "kuberay-operator"},
    }
}
RUNNING_S = 300.0


class Setting:
    """Starts on entry and ends everything on exit. `stage` is for the scenarios, `peak_gib` what it took of memory."""

    def __init__(self, folder: Path, progress: Callable[[str], None], *, haproxy: bool = False) -> None:
        self.folder, self.progress = folder, progress
        self.resource = read_resource(MANIFEST, NAMESPACE, haproxy=haproxy)
        self.peak_gib = 0.0
        self._over = threading.Event()

    def __enter__(self) -> Self:
        image = this_checkout(self.folder / "image")
        named = {container["image"] for container in containers(self.resource)}
        around = documents()
        images = {IMAGE: image, **dict.fromkeys(named, image)}
        self.house = House(self.folder, objects(settings(around)), images, policies(around))
        threading.Thread(target=self._watch_memory, daemon=True).start()
        try:
            edge = Edge(start_servers(self.house).pod.address)
            self.operator = Operator(self.house, edge, self.house.join(OPERATOR))
            self.progress("servers, edge and operator are up")
            self._serve()
            self.stage = Stage(self.house, edge, self.operator, self.progress)
            self.stage.wait_until_whole(RUNNING_S)
            self.progress("every pod is Ready")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if hasattr(self, "operator"):
            self.operator.end()
        self.house.end()

    def _serve(self) -> None:
        running = self.operator.create(self.resource)
        self.operator.start()
        wait_until(lambda: any(one.ready for one in running.group("headgroup")), RUNNING_S)
        self.operator.deploy(running, RUNNING_S)
        self.progress("every application is RUNNING")
        self.operator.switch(running)

    def _watch_memory(self) -> None:
        before = psutil.virtual_memory().used
        while not self._over.wait(1.0):
            self.peak_gib = max(self.peak_gib, (psutil.virtual_memory().used - before) / 2**30)
