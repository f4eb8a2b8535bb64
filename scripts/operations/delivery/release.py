"""What was built and deployed: a file on this machine when an image is made, an entry in the cluster when it serves.

The entry holds RayService and settings as they were applied, so that any machine can go back to them.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from operations.failure import Failed, Refused
from operations.target import NAME, ROOT, Target
from operations.work import Json, Work

FOLDER = ROOT / "build" / "releases"
KEPT = 10
"""Entries in the cluster, of some 20 kB each."""
LABEL = f"app.kubernetes.io/component=release,app.kubernetes.io/name={NAME}"


@dataclass(frozen=True)
class Release:
    """One image, of one model, for one environment."""

    created_at_utc: str
    environment: str
    namespace: str
    image: str
    """By digest where it was pushed; on kind by a tag made of its content."""
    digest: str
    """Of the image: as the registry knows it, on kind its id."""
    model_source: str
    model_id: str
    model_revision: str
    source: str
    """The revision of this repository."""

    @property
    def name(self) -> str:
        return f"release-{self.environment}-{self.created_at_utc.translate({ord('-'): None, ord(':'): None}).lower()}"


def now() -> str:
    """This moment, as releases write it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def write(release: Release) -> Path:
    """Write the release's file, and make it the latest of its environment."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{release.name}.json"
    path.write_text(json.dumps(asdict(release), indent=2) + "\n")
    fresh = FOLDER / f".{release.name}.link"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(path.name)
    fresh.replace(latest(release.environment))
    return path


def latest(environment: str) -> Path:
    """Where the newest release of an environment is found."""
    return FOLDER / f"release-{environment}-latest.json"


def load(target: Target, path: Path | None) -> Release:
    """The release of a file, else the latest of the environment."""
    where = path or latest(target.environment)
    try:
        document = json.loads(where.read_text("utf-8"))
        release = Release(**{field.name: document[field.name] for field in fields(Release)})
    except FileNotFoundError:
        raise Failed(f"there is no release of {target.environment} yet: {target.command('image')}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Failed(f"{where} is no release file: {error!r}") from None
    if release.environment != target.environment:
        raise Refused(f"{where.name} is a release of {release.environment}, not of {target.environment}")
    return release


def record(work: Work, release: Release, manifests: str, mark: str) -> None:
    """Enter into the cluster what serves now, and drop the oldest entries."""
    entry = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": _entry_name(mark),
            "namespace": work.target.namespace,
            "labels": dict(pair.split("=") for pair in LABEL.split(",")),
        },
        "data": {"release.json": json.dumps(asdict(release), indent=2), "manifests.yaml": manifests, "at": now()},
    }
    # Not `apply`: that keeps the whole of it a second time, as an annotation.
    command = work.target.kubectl("apply", "--server-side", "--force-conflicts", "--filename", "-")
    work.run.change(command, stdin=json.dumps(entry))
    for old in _entries(work)[KEPT:]:
        work.run.change(work.target.kubectl("delete", "configmap", old["metadata"]["name"], "--ignore-not-found"))


def before(work: Work, running: str, wanted: str) -> tuple[Release, str, str]:
    """The release to go back to, its manifests and its mark: `wanted`, else the newest that is not `running`.

    What never became ready was not entered, so from a failed upgrade this leads to the release that still serves.
    """
    entries = _entries(work)
    for entry in entries:
        mark = entry["metadata"]["name"].removeprefix(_entry_name(""))
        if wanted == mark or (not wanted and mark != running):
            return Release(**json.loads(entry["data"]["release.json"])), entry["data"]["manifests.yaml"], mark
    there = ", ".join(entry["metadata"]["name"].removeprefix(_entry_name("")) for entry in entries) or "none"
    raise Failed(
        f"there is no {'release ' + wanted if wanted else 'earlier release'} in the cluster; there are: {there}"
    )


def entered(work: Work) -> list[tuple[str, str, Release]]:
    """Mark, time of deployment and release of every entry, the last to have served first."""
    return [
        (
            entry["metadata"]["name"].removeprefix(_entry_name("")),
            entry["data"]["at"],
            Release(**json.loads(entry["data"]["release.json"])),
        )
        for entry in _entries(work)
    ]


def _entries(work: Work) -> list[Json]:
    entries = work.objects("configmaps", "--selector", LABEL)
    return sorted(entries, key=lambda entry: str(entry["data"]["at"]), reverse=True)


def _entry_name(mark: str) -> str:
    return f"{NAME}-release-{mark}"
