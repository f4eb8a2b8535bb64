"""Taking the service out of a cluster, in the order in which its parts let go of each other."""

from __future__ import annotations

from operations.delivery.release import SETTINGS_LABEL
from operations.failure import Refused
from operations.target import NAME, refuse_protected
from operations.work import Work

SERVICE_DEADLINE_S = 420.0
"""KubeRay cleans up Ray's Redis for at most 300 s before it lets the cluster go."""
NAMESPACE_DEADLINE_S = 300.0


def permit(work: Work) -> str:
    """Refuse what is protected, by name or by what runs there, and ask before anything is deleted."""
    refuse_protected(work.target)
    path = "jsonpath={.items[*].data.ENVIRONMENT}"
    command = work.target.kubectl("get", "configmaps", "--selector", SETTINGS_LABEL, "--output", path)
    if "prod" in work.run.read(command).split():
        raise Refused(f"what runs in {work.target.namespace} at {work.target.context} calls itself prod")
    what = f"{work.target.namespace} at {work.target.context}"
    work.confirm(f"Everything in {what} will be deleted: jobs, rows, volumes.", work.target.namespace)
    return what


def service(work: Work) -> str:
    """Delete the RayService, before the Redis that its last clean-up needs."""
    wait = ("--ignore-not-found", "--wait", f"--timeout={SERVICE_DEADLINE_S:g}s")
    if not work.run.dry and not work.run.read(
        work.target.kubectl("api-resources", "--api-group", "ray.io", "--output", "name")
    ):
        return "KubeRay is not installed: there is none"
    command = work.target.kubectl("delete", "rayservice", NAME, *wait)
    work.run.change(command, deadline_s=SERVICE_DEADLINE_S + 30)
    # A RayCluster goes after its RayService, and only when Ray's Redis was cleaned.
    clusters = work.target.kubectl("delete", "rayclusters", "--all", *wait)
    work.run.change(clusters, deadline_s=SERVICE_DEADLINE_S + 30)
    return ""


def namespace(work: Work) -> str:
    """Delete the namespace with all that is left in it."""
    space = work.target.namespace
    wait = ("--ignore-not-found", "--wait", f"--timeout={NAMESPACE_DEADLINE_S:g}s")
    work.run.change(work.target.kubectl("delete", "namespace", space, *wait), deadline_s=NAMESPACE_DEADLINE_S + 30)
    return f"{space} is gone"
