"""Releases: a file on this machine when an image is built, an entry in the cluster when it serves.

The entry holds RayService and settings as they were applied, so that any machine can roll back to them. Its mark is a
digest of both, so that the same release has the same entry.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from operations.runner import Json, Runner, name_of
from operations.steps import Aborted, StepFailed
from operations.target import NAME, ROOT, Model, settings_file

FOLDER = ROOT / "build" / "releases"
KEPT = 10
"""Entries in the cluster, about 20 kB each."""
LABEL = f"app.kubernetes.io/component=release,app.kubernetes.io/name={NAME}"
SETTINGS_LABEL = f"app.kubernetes.io/component=settings,app.kubernetes.io/name={NAME}"
MARK = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True)
class Release:
    """One image, of one model, for one environment."""

    created_at_utc: str
    environment: str
    namespace: str
    image: str
    """By digest if it was pushed to a registry; otherwise by a tag made of its content."""
    digest: str
    """The image's digest in the registry; without a registry its id."""
    model_source: str
    model_id: str
    model_revision: str
    source: str
    """The commit of this repository."""


SHOWN = Release("", "", "", f"localhost/{NAME}:{'0' * 12}", "", "", "", "", "")
"""Stands for the release in a dry run that knows none."""


def now() -> str:
    """The current time, as releases store it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def write(release: Release) -> Path:
    """Write the release file, and make it the latest of its environment."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"release-{release.environment}-{re.sub('[-:]', '', release.created_at_utc).lower()}.json"
    path.write_text(json.dumps(asdict(release), indent=2) + "\n")
    fresh = FOLDER / f".{path.stem}.link"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(path.name)
    fresh.replace(_latest(release.environment))
    return path


def _latest(environment: str) -> Path:
    return FOLDER / f"release-{environment}-latest.json"


def find(run: Runner, wanted: str) -> Release:
    """The release of a file or of a mark in the cluster, else the newest of this machine.

    Raises Aborted for a release of another environment, or of another model than the settings name: the settings would
    override the image, and nothing would be served.
    """
    target = run.target
    if MARK.fullmatch(wanted):
        release = before(run, "", wanted)[0]
    elif wanted:
        release = _read(Path(wanted))
    else:
        release = _newest(run)
    if release == SHOWN:
        return release
    if release.environment != target.environment:
        raise Aborted(f"{wanted or 'this'} is a release of {release.environment}, not of {target.environment}")
    model = Model(release.model_source, release.model_id, release.model_revision)
    if model != target.model:
        settings = settings_file(target.environment)
        raise Aborted(f"{release.image} holds the model {model}, and {settings} names {target.model}")
    return release


def _newest(run: Runner) -> Release:
    target, path = run.target, _latest(run.target.environment)
    if path.exists():
        return _read(path)
    if run.dry:
        return SHOWN
    image, deploy = target.command("image"), target.command("deploy --release MARK")
    raise StepFailed(
        f"there is no release of {target.environment} on this machine yet: {image}\n"
        f"  or one that the cluster holds, by the mark that status shows: {deploy}"
    )


def _read(path: Path) -> Release:
    try:
        document = json.loads(path.read_text("utf-8"))
        return Release(**{field.name: document[field.name] for field in fields(Release)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StepFailed(f"{path} is no release file: {error!r}") from None


def record(run: Runner, release: Release, manifests: str, mark: str) -> None:
    """Enter what serves now into the cluster, and delete the oldest entries with the settings that only they used."""
    entry = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": _entry_name(mark),
            "namespace": run.target.namespace,
            "labels": dict(pair.split("=") for pair in LABEL.split(",")),
        },
        "data": {"release.json": json.dumps(asdict(release), indent=2), "manifests.yaml": manifests, "at": now()},
    }
    # An apply by the client would store all of it a second time, as an annotation.
    run.change(run.target.apply("--filename", "-"), stdin=json.dumps(entry))
    entries = _entries(run)
    # A cluster without an entry may still exist: it became ready too late, or is just ending.
    in_use = json.dumps([entries[:KEPT], run.objects("rayclusters")])
    settings = [one for one in run.objects("configmaps", "--selector", SETTINGS_LABEL) if name_of(one) not in in_use]
    for old in [*entries[KEPT:], *settings]:
        run.change(run.kubectl("delete", "configmap", name_of(old), "--ignore-not-found"))


def before(run: Runner, running: str, wanted: str) -> tuple[Release, str, str]:
    """The release to go back to, its manifests and its mark: `wanted`, else the newest that is not `running`.

    A release that never became ready has no entry, so after a failed upgrade this is the release that still serves.
    """
    entries = _entries(run)
    if run.dry:
        return SHOWN, "", ""
    for entry in entries:
        mark = _mark(entry)
        if wanted == mark or (not wanted and mark != running):
            return _release(entry), entry["data"]["manifests.yaml"], mark
    what, there = f"release {wanted}" if wanted else "earlier release", ", ".join(map(_mark, entries)) or "none"
    raise StepFailed(f"there is no {what} in the cluster; there are: {there}")


def entered(run: Runner) -> list[tuple[str, str, Release]]:
    """Mark, time of deployment and release of every entry, the newest first."""
    return [(_mark(entry), entry["data"]["at"], _release(entry)) for entry in _entries(run)]


def _entries(run: Runner) -> list[Json]:
    entries = run.objects("configmaps", "--selector", LABEL)
    return sorted(entries, key=lambda entry: str(entry["data"]["at"]), reverse=True)


def _release(entry: Json) -> Release:
    return Release(**json.loads(entry["data"]["release.json"]))


def _entry_name(mark: str) -> str:
    return f"{NAME}-release-{mark}"


def _mark(entry: Json) -> str:
    return name_of(entry).removeprefix(_entry_name(""))
