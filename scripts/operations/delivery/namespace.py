"""The namespace that the service has for itself. It is made with a label, and one without it is somebody else's."""

from __future__ import annotations

import json

from operations.failure import Refused
from operations.target import NAME, PART_OF, ROOT
from operations.work import Json, Work


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
