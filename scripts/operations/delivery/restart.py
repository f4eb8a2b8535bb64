"""New processes of the same release."""

from __future__ import annotations

import json

from operations.delivery import diagnosis, release, watch
from operations.failure import Failed
from operations.target import NAME
from operations.work import Work, name_of

RESTART_MARK = f"{NAME}/restarted-at"
SERVERS = {
    "redis": "statefulset/redis",
    "ray-redis": "statefulset/ray-redis",
    "postgres": "statefulset/postgresql",
    "dev-issuer": "deployment/dev-issuer",
}
COMPONENTS = ("service", "head", *SERVERS)


def restart(work: Work, component: str) -> str:
    """Restart one component and wait until it is back.

    `service` is without interruption: a whole new cluster, as in an upgrade. It also reads changed Secrets.
    """
    if component == "service":
        return _service(work)
    if component == "head":
        return _head(work)
    name = SERVERS[component]
    work.run.change(work.target.kubectl("rollout", "restart", name))
    return f"{watch.until_servers(work, [name])} is back"


def _service(work: Work) -> str:
    """KubeRay makes a new cluster when anything in a template changes, an annotation too."""
    service = work.object("rayservice", NAME)
    if service is None and not work.run.dry:
        raise Failed(f"there is no RayService in {work.target.namespace}")
    mark = {"metadata": {"annotations": {RESTART_MARK: release.now()}}}
    patch = {"spec": {"rayClusterConfig": {"headGroupSpec": {"template": mark}}}}
    command = work.target.kubectl("patch", "rayservice", NAME, "--type", "merge", "--patch", json.dumps(patch))
    work.run.change(command)
    return watch.until_ready(work, watch.image_of(service["spec"]["rayClusterConfig"]) if service else "")


def _head(work: Work) -> str:
    """The head alone. Workers go on serving; the new head finds what it knew in Ray's Redis."""
    service = watch.healthy(work, "the service is not ready; a head is replaced while all else is well")
    selector = ("--selector", "app.kubernetes.io/component=head")
    old = {name_of(pod) for pod in work.objects("pods", *selector)}
    work.run.change(work.target.kubectl("delete", "pod", *selector, "--wait"), deadline_s=watch.SERVERS_DEADLINE_S)

    def look() -> watch.Look:
        heads = [pod for pod in work.objects("pods", *selector) if name_of(pod) not in old]
        done = "there" if heads and all(map(diagnosis.is_ready, heads)) else ""
        return watch.Look(done, "waiting for the new head", watch.reasons(work), any(map(diagnosis.is_stuck, heads)))

    if not work.run.dry:
        watch.until(work, work.timeout_s, look)
    return watch.until_ready(work, watch.image_of(service["spec"]["rayClusterConfig"]) if service else "")
