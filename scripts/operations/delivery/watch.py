"""Waits until the RayService serves what was applied: says what changes meanwhile, and at the end why it does not."""

from __future__ import annotations

import time
from collections.abc import Callable

from operations.delivery import diagnosis
from operations.failure import Failed
from operations.target import NAME
from operations.work import Json, Work

POLL_S = 3.0
HEARTBEAT_S = 30.0
AWAY_S = 60.0
"""How long the API server may fail to answer before waiting for it is given up."""
CLUSTER_LABEL = "ray.io/cluster"


def until_ready(work: Work, image: str) -> str:
    """Wait for the RayService to be Ready with this image in its serving cluster. Raises Failed with the reasons."""
    if work.run.dry:
        work.run.ask(
            work.target.kubectl("wait", f"rayservice/{NAME}", "--for=condition=Ready", f"--timeout={work.timeout_s:g}s")
        )
        return ""
    began = answered = time.monotonic()
    tell = _teller(work, began)
    while True:
        found: list[str] = []
        try:
            service = work.object("rayservice", NAME)
            if service and diagnosis.is_current(service) and _serving_image(work, service) == image:
                return f"ready after {time.monotonic() - began:.0f} s: {_endpoints(service)}"
            pods = work.objects("pods", "--selector", CLUSTER_LABEL)
            found = _reasons(work, service, pods)
            tell(_progress(service, pods), found)
            answered = time.monotonic()
        except Failed as error:  # an API server may be away for a moment in a quarter of an hour
            if time.monotonic() - min(answered + AWAY_S, began + work.timeout_s) > 0:
                raise
            tell(str(error), [])
            service = None
        if time.monotonic() - began > work.timeout_s:
            raise Failed(_verdict(work, service, found))
        time.sleep(POLL_S)


def reasons(work: Work) -> list[str]:
    """Why the service is not ready, as it stands now."""
    return _reasons(work, work.object("rayservice", NAME), work.objects("pods"))


def server_reasons(work: Work) -> list[str]:
    """Why pods that are no part of the service do not come up."""
    pods = work.objects("pods", "--selector", f"!{CLUSTER_LABEL}")
    volumes, events = work.objects("persistentvolumeclaims"), _warnings(work)
    return [reason for pod in pods for reason in diagnosis.pod_reasons(pod)] + diagnosis.storage_reasons(
        pods, volumes, events
    )


def _reasons(work: Work, service: Json | None, pods: list[Json]) -> list[str]:
    return diagnosis.reasons(
        service,
        pods,
        work.objects("persistentvolumeclaims"),
        _warnings(work),
    )


def _warnings(work: Work) -> list[Json]:
    return work.objects("events", "--field-selector", "type=Warning")


def _serving_image(work: Work, service: Json) -> str:
    """The image of the cluster that serves: after a change it is the old one's until the new one is healthy."""
    name = service["status"].get("activeServiceStatus", {}).get("rayClusterName", "")
    cluster = work.object("raycluster", name) if name else None
    return image_of(cluster["spec"]) if cluster else ""


def image_of(cluster: Json) -> str:
    """The image in the spec of a RayCluster; head and workers have the same."""
    return str(cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["image"])


def _progress(service: Json | None, pods: list[Json]) -> str:
    if service is None:
        return "the RayService is not there yet"
    parts, status = [], service.get("status", {})
    for word, key in (("serving", "activeServiceStatus"), ("coming", "pendingServiceStatus")):
        cluster = status.get(key, {}).get("rayClusterName")
        if cluster:
            own = [pod for pod in pods if pod["metadata"].get("labels", {}).get(CLUSTER_LABEL) == cluster]
            states = ", ".join(str(one.get("status")) for one in diagnosis.applications(status[key]).values())
            ready = sum(map(diagnosis.is_ready, own))
            parts.append(f"{word} {cluster}: {ready} of {len(own)} pods ready, application {states or 'not there yet'}")
    return "; ".join(parts) or "KubeRay has not begun"


def _teller(work: Work, began: float) -> Callable[[str, list[str]], None]:
    """Says what is new, and every half minute that it still waits."""
    said: dict[str, float] = {}

    def tell(progress: str, reasons: list[str]) -> None:
        now = time.monotonic()
        for line in (progress, *(f"  {reason}" for reason in reasons)):
            if line not in said or (line is progress and now - max(said.values()) > HEARTBEAT_S):
                work.say(f"[{now - began:4.0f} s] {line}")
                said[line] = now

    return tell


def _endpoints(service: Json) -> str:
    count = service["status"].get("numServeEndpoints")
    return f"{count} endpoints" if count else "serving"


def _verdict(work: Work, service: Json | None, reasons: list[str]) -> str:
    lines = [f"not ready after {work.timeout_s:g} s"]
    lines += [f"  {reason}" for reason in reasons] or [
        "  the cluster gives no reason; " + work.target.command("logs head")
    ]
    if service and diagnosis.is_upgrading(service) and diagnosis.condition(service, "Ready"):
        lines.append(f"  the release before still serves; {work.target.command('rollback')} takes the new one back")
    return "\n".join(lines)
