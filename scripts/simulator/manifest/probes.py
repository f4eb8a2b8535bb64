"""The probes that KubeRay 1.7 gives the containers of a RayService that have none (Ray >= 2.53)."""

from __future__ import annotations

from serve_app.contracts import Json

AGENT_PORT = 52365
WGET = "wget --tries 1 -T {timeout} -q -O- http://localhost:{port}/{path} | grep success"


def add_probes(container: Json, *, is_head: bool) -> None:
    """Put in what is missing; a probe of the container's own stays as it is."""
    timeout = 5 if is_head else 2
    alive = {"httpGet": {"path": "/api/healthz", "port": AGENT_PORT}, "periodSeconds": 5, "timeoutSeconds": timeout}
    ready = {**alive} if is_head else {"exec": {"command": ["bash", "-c", _serving(container)]}, "periodSeconds": 5}
    container.setdefault("livenessProbe", {**alive, "initialDelaySeconds": 30, "failureThreshold": 120})
    threshold = 10 if is_head else 1
    timing = {"initialDelaySeconds": 10, "timeoutSeconds": timeout, "failureThreshold": threshold}
    container.setdefault("readinessProbe", {**ready, **timing})


def _serving(container: Json) -> str:
    """The raylet lives and the proxy of this node answers: what makes a worker an endpoint."""
    port = next(port["containerPort"] for port in container.get("ports", []) if port.get("name") == "serve")
    raylet = WGET.format(timeout=2, port=AGENT_PORT, path="api/local_raylet_healthz")
    return f"{raylet} && {WGET.format(timeout=10, port=port, path='-/healthz')}"
