"""The namespace that the service has for itself: made with a label, by which it is ours, and deleted with the service
in the order in which its parts let go of each other."""

from __future__ import annotations

import json

from operations.failure import Failed, Refused
from operations.target import NAME, PART_OF, ROOT, refuse_protected
from operations.work import Json, Work

SERVICE_DEADLINE_S = 420.0
"""KubeRay cleans up Ray's Redis for at most 300 s before it lets the cluster go."""
NAMESPACE_DEADLINE_S = 300.0


def live(work: Work) -> Json | None:
    """The namespace as it stands in the cluster."""
    return work.object("namespace", work.target.namespace)


def refuse_foreign(work: Work, namespace: Json) -> None:
    """Refuse one that was not made for the service: what is in it is not ours to change, and not to delete."""
    if namespace["metadata"].get("labels", {}).get(PART_OF) != NAME:
        space = work.target.namespace
        give = " ".join(work.target.kubectl("label", "namespace", space, f"{PART_OF}={NAME}"))
        raise Refused(
            f"the namespace {space} was not made for this service: it lacks the label {PART_OF}={NAME}. Choose "
            f"another by --namespace; or, where it is empty and is to be deleted with the service, give it: {give}"
        )


def ensure(work: Work) -> str:
    """Make the namespace unless it is there and ours. Its further labels come with the surroundings."""
    found = live(work)
    if found is not None:
        refuse_foreign(work, found)
        return work.target.namespace
    # One call makes and labels it: a failure in the middle leaves none that nobody owns.
    metadata = {"name": work.target.namespace, "labels": {PART_OF: NAME}}
    file = work.target.folder / "namespace.json"
    work.run.write(file, json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}, indent=2) + "\n")
    work.run.change(work.target.kubectl("create", "--filename", str(file.relative_to(ROOT))))
    return work.target.namespace


class Removal:
    """Deletes the namespace that was permitted, and none that came into its place; each method is a step."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._permitted = ""

    @property
    def _place(self) -> str:
        return f"{self._work.target.namespace} at {self._work.target.context}"

    def permit(self) -> str:
        """Refuse what is protected, is not ours or calls itself prod; ask before anything is deleted."""
        refuse_protected(self._work.target)
        found = live(self._work)
        if found is None and not self._work.run.dry:
            return f"there is no namespace {self._place}"
        if found is not None:
            refuse_foreign(self._work, found)
            self._permitted = found["metadata"]["uid"]
        self._refuse_production()
        question = f"Everything in {self._place} will be deleted: jobs, rows, volumes."
        self._work.confirm(question, self._work.target.namespace)
        return self._place

    def _refuse_production(self) -> None:
        """Whatever the ConfigMaps are called: what runs there has its settings from one of them."""
        settings = ("get", "configmaps", "--output", "jsonpath={.items[*].data.ENVIRONMENT}")
        if "prod" in self._work.run.read(self._work.target.kubectl(*settings)).split():
            raise Refused(f"what runs in {self._place} calls itself prod")

    def service(self) -> str:
        """Delete the RayService, before the Redis that its last clean-up needs."""
        if not self._is_there():
            return "there is none"
        kubectl, run = self._work.target.kubectl, self._work.run
        if not run.dry and not run.read(kubectl("api-resources", "--api-group", "ray.io", "--output", "name")):
            return "KubeRay is not installed: there is none"
        self._delete("rayservice", NAME, within_s=SERVICE_DEADLINE_S)
        # A RayCluster goes after its RayService, and only when Ray's Redis was cleaned.
        self._delete("rayclusters", "--all", within_s=SERVICE_DEADLINE_S)
        return ""

    def namespace(self) -> str:
        """Delete the namespace with all that is left in it."""
        if not self._is_there():
            return "there is none"
        space = self._work.target.namespace
        self._delete("namespace", space, within_s=NAMESPACE_DEADLINE_S)
        return f"{space} is gone"

    def _delete(self, kind: str, name: str, *, within_s: float) -> None:
        wait = ("--ignore-not-found", "--wait", f"--timeout={within_s:g}s")
        self._work.run.change(self._work.target.kubectl("delete", kind, name, *wait), deadline_s=within_s + 30)

    def _is_there(self) -> bool:
        """Whether the permitted namespace is still there. An image was built since: its name may be another's now."""
        found = live(self._work)
        if found is None:
            return self._work.run.dry
        refuse_foreign(self._work, found)
        if found["metadata"]["uid"] != self._permitted:
            raise Failed(f"{self._place} was made anew since it was asked for: nothing in it is deleted")
        return True
