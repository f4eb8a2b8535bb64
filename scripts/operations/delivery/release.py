"""What was built and deployed: a file on this machine when an image is made, an entry in the cluster when it serves.

The entry holds RayService and settings as they were applied, so that any machine can go back to them. Its mark follows
from both, so the same ones again are the same entry.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from operations.failure import Failed, Refused
from operations.target import NAME, ROOT, Model, settings_file
from operations.work import Json, Work, name_of

FOLDER = ROOT / "build" / "releases"
KEPT = 10
"""Entries in the cluster, of some 20 kB each."""
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
    """By digest where it was pushed; on kind by a tag made of its content."""
    digest: str
    """Of the image: as the registry knows it, on kind its id."""
    model_source: str
    model_id: str
    model_revision: str
    source: str
    """The revision of this repository."""


SHOWN = Release("", "", "", f"localhost/{NAME}:{'0' * 12}", "", "", "", "", "")
"""Stands for the release in a dry run where none is known."""


def now() -> str:
    """This moment, as releases write it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def write(release: Release) -> Path:
    """Write the release's file, and make it the latest of its environment."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"release-{release.environment}-{re.sub('[-:]', '', release.created_at_utc).lower()}.json"
    path.write_text(json.dumps(asdict(release), indent=2) + "\n")
    fresh = FOLDER / f".{path.stem}.link"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(path.name)
    fresh.replace(latest(release.environment))
    return path


def latest(environment: str) -> Path:
    """Where the newest release of an environment is found."""
    return FOLDER / f"release-{environment}-latest.json"


def find(work: Work, wanted: str) -> Release:
    """The release of a file or of a mark in the cluster, else the newest of this machine.

    Raises Refused for one of another environment, or of another model than the settings here name: they would win over
    what the image says, and nothing would be served.
    """
    target = work.target
    if MARK.fullmatch(wanted):
        release = before(work, "", wanted)[0]
    elif wanted:
        release = _read(Path(wanted))
    else:
        release = _newest(work)
    if release == SHOWN:
        return release
    if release.environment != target.environment:
        raise Refused(f"{wanted or 'this'} is a release of {release.environment}, not of {target.environment}")
    held = Model(release.model_source, release.model_id, release.model_revision)
    if held != target.model:
        settings = settings_file(target.environment)
        raise Refused(f"{release.image} holds the model {held}, and {settings} names {target.model}")
    return release


def _newest(work: Work) -> Release:
    target, path = work.target, latest(work.target.environment)
    if path.exists():
        return _read(path)
    if work.run.dry:
        return SHOWN
    image, deploy = target.command("image"), target.command("deploy --release MARK")
    raise Failed(
        f"there is no release of {target.environment} on this machine yet: {image}\n"
        f"  or one that the cluster holds, by the mark that status shows: {deploy}"
    )


def _read(path: Path) -> Release:
    try:
        document = json.loads(path.read_text("utf-8"))
        return Release(**{field.name: document[field.name] for field in fields(Release)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Failed(f"{path} is no release file: {error!r}") from None


def record(work: Work, release: Release, manifests: str, mark: str) -> None:
    """Enter into the cluster what serves now, and drop the oldest entries with the settings that they alone had."""
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
    # An apply by the client would keep the whole of it a second time, as an annotation.
    work.run.change(work.target.apply("--filename", "-"), stdin=json.dumps(entry))
    entries = _entries(work)
    # A cluster that was never entered may still be there: it came up too late, or ends just now.
    in_use = json.dumps([entries[:KEPT], work.objects("rayclusters")])
    settings = [one for one in work.objects("configmaps", "--selector", SETTINGS_LABEL) if name_of(one) not in in_use]
    for old in [*entries[KEPT:], *settings]:
        work.run.change(work.target.kubectl("delete", "configmap", name_of(old), "--ignore-not-found"))


def before(work: Work, running: str, wanted: str) -> tuple[Release, str, str]:
    """The release to go back to, its manifests and its mark: `wanted`, else the newest that is not `running`.

    What never became ready was not entered, so from a failed upgrade this leads to the release that still serves.
    """
    entries = _entries(work)
    if work.run.dry:
        return SHOWN, "", ""
    for entry in entries:
        mark = _mark(entry)
        if wanted == mark or (not wanted and mark != running):
            return _release(entry), entry["data"]["manifests.yaml"], mark
    what, there = f"release {wanted}" if wanted else "earlier release", ", ".join(map(_mark, entries)) or "none"
    raise Failed(f"there is no {what} in the cluster; there are: {there}")


def entered(work: Work) -> list[tuple[str, str, Release]]:
    """Mark, time of deployment and release of every entry, the last to have served first."""
    return [(_mark(entry), entry["data"]["at"], _release(entry)) for entry in _entries(work)]


def _entries(work: Work) -> list[Json]:
    entries = work.objects("configmaps", "--selector", LABEL)
    return sorted(entries, key=lambda entry: str(entry["data"]["at"]), reverse=True)


def _release(entry: Json) -> Release:
    return Release(**json.loads(entry["data"]["release.json"]))


def _entry_name(mark: str) -> str:
    return f"{NAME}-release-{mark}"


def _mark(entry: Json) -> str:
    return name_of(entry).removeprefix(_entry_name(""))
