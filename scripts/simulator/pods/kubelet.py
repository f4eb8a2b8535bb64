"""Probes as a kubelet runs them, and what they say of each pod."""

from __future__ import annotations

import http.client
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import psutil

from serve_app.contracts import Json
from simulator.pods.pod import Pod

TICK_S = 0.25
START_S = 90.0
MESSAGE_CHARACTERS = 200


class Kubelet:
    """Runs one pod: starts it, probes it, and tells `changed` whenever its readiness or its life changes.

    A failed liveness probe is counted, and ends the pod when the manifest's threshold is reached.
    """

    def __init__(self, pod: Pod, changed: Callable[[], None], gate: threading.Semaphore) -> None:
        self.pod, self._changed, self._gate = pod, changed, gate
        self.ready = False
        self.failed = ""
        """Why the pod is Failed; empty while it is not."""
        self.said: list[tuple[float, str, bool, str]] = []
        """Time, probe, result and output, each time that the result changed."""
        self._last: dict[str, bool] = {}
        self._thread = threading.Thread(target=self._run, name=f"kubelet-{pod.name}", daemon=True)

    def start(self) -> None:
        """Begin, and go on beside the caller."""
        self._thread.start()

    def _run(self) -> None:
        try:
            self.pod.prepare()
            with self._gate:
                self.pod.start()
                self._wait_until_alive()
        except Exception as error:
            self._fail(f"{type(error).__name__}: {error}")
            return
        probes = [
            (kind, container, container[kind], [container[kind].get("initialDelaySeconds", 0) + time.monotonic(), 0])
            for container in self.pod.containers
            for kind in ("startupProbe", "livenessProbe", "readinessProbe")
            if kind in container
        ]
        while not self.pod.deleted.wait(TICK_S):
            if self.pod.ended():
                self._fail("a container ended")
                return
            for kind, container, probe, state in probes:
                if time.monotonic() >= state[0]:
                    state[0] = time.monotonic() + probe.get("periodSeconds", 10)
                    self._probe(kind, container, probe, state)
        self._set(ready=False)

    def _wait_until_alive(self) -> None:
        """Let nobody else start meanwhile: Ray gives a node 30 s to come up, and here nodes share the processors."""
        first = self.pod.containers[0]
        deadline = time.monotonic() + START_S
        while "livenessProbe" in first and time.monotonic() < deadline and not self.pod.ended():
            if self.pod.deleted.wait(TICK_S) or try_probe(self.pod, first, first["livenessProbe"])[0]:
                return

    def _probe(self, kind: str, container: Json, probe: Json, state: list[float]) -> None:
        """`state` holds when the probe is due again, and its failures in a row."""
        succeeded, message = try_probe(self.pod, container, probe)
        if self._last.get(kind) is not succeeded:
            self._last[kind] = succeeded
            self.said.append((time.time(), kind, succeeded, message[:MESSAGE_CHARACTERS]))
        state[1] = 0 if succeeded else state[1] + 1
        exhausted = state[1] >= probe.get("failureThreshold", 3)
        if kind == "readinessProbe" and (succeeded or exhausted):
            self._set(ready=succeeded)
        elif exhausted and kind != "readinessProbe":
            self._fail(f"{kind}: {message[:MESSAGE_CHARACTERS]}")
            self.pod.kill()

    def _set(self, *, ready: bool) -> None:
        if ready is not self.ready:
            self.ready = ready
            self._changed()

    def _fail(self, why: str) -> None:
        self.failed, self.ready = why, False
        self._changed()


def try_probe(pod: Pod, container: Json, probe: Json) -> tuple[bool, str]:
    """Whether it succeeded, and what was said."""
    timeout = float(probe.get("timeoutSeconds", 1))
    if execute := probe.get("exec"):
        with suppress(subprocess.TimeoutExpired, psutil.NoSuchProcess):
            done = pod.execute(container, execute["command"], timeout)
            return done.returncode == 0, done.stdout + done.stderr
        return False, f"no answer in {timeout:g} s"
    request = probe["httpGet"]
    port = request["port"]
    if isinstance(port, str):
        port = next(one["containerPort"] for one in container["ports"] if one["name"] == port)
    connection = http.client.HTTPConnection(pod.address, port, timeout=timeout)
    try:
        connection.request("GET", request.get("path", "/"))
        answer = connection.getresponse()
        return 200 <= answer.status < 400, f"{answer.status} {answer.read(MESSAGE_CHARACTERS)!r}"
    except (OSError, http.client.HTTPException) as error:
        return False, type(error).__name__
    finally:
        connection.close()
