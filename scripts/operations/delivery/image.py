"""The image: built, then brought to where the cluster finds it. Its name follows from its content."""

from __future__ import annotations

import json
import shutil
import time
import tomllib

from operations.delivery import release
from operations.delivery.release import Release
from operations.failure import Failed, Refused
from operations.ground import here, images, programs, tools
from operations.target import NAME, ROOT, refuse_foreign_model
from operations.work import Work

CONTAINERFILE = "k8s/image/Containerfile"
INDEX = "PIP_INDEX_URL"
BUILD_DEADLINE_S = 3600.0
MOVE_DEADLINE_S = 1800.0
"""Of some two gigabytes, to a registry or into kind's node."""
SHOWN_DIGEST = f"sha256:{'0' * 64}"
"""Stands for an image's id or digest in a dry run."""


def build(work: Work) -> str:
    """Build the image, name it after its content, bring it to the cluster, and write the release's file."""
    target = work.target
    refuse_foreign_model(target)
    if not target.is_local and not target.registry:
        raise Refused(f"{target.environment} needs REGISTRY, where its images are pushed and its nodes pull them")
    commit = _commit(work)
    builder = tools.BUILDERS[0] if work.run.dry else tools.builder()
    digest = _build(work, builder, commit)
    name = f"{target.registry or 'localhost'}/{NAME}:{digest.removeprefix('sha256:')[:12]}"
    work.run.change([builder, "tag", digest.removeprefix("sha256:"), name])
    image = name
    if target.registry:
        digest = _push(work, builder, name)
        image = f"{target.registry}/{NAME}@{digest}"
    elif target.is_here:
        _bring(work, name, digest)
    else:
        _load(work, builder, name)
    if work.run.dry:
        return ""
    model = (target.model.source, target.model.id, target.model.revision)
    made = Release(release.now(), target.environment, target.namespace, image, digest, *model, commit)
    return f"{image}, written down in {release.write(made).relative_to(ROOT)}"


def _build(work: Work, builder: str, commit: str) -> str:
    """Build; the image's id."""
    target, identity = work.target, work.target.folder / "image-id"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    arguments = {
        "ENVIRONMENT": target.environment,
        "VERSION": project["version"],
        "COMMIT": commit,
        "MODEL_SOURCE": target.model.source,
        "MODEL_ID": target.model.id,
        "MODEL_REVISION": target.model.revision,
        **({"BASE": images.base(work)} if target.is_here and "BASE" not in dict(target.build) else {}),
        **({} if target.environment == "dev" else {"TORCH": "cpu"}),
        **dict(target.build),
    }
    index = arguments.pop(INDEX, "")
    command = [builder, "build", "--file", CONTAINERFILE, "--iidfile", str(identity.relative_to(ROOT))]
    command += [part for name, value in arguments.items() if value for part in ("--build-arg", f"{name}={value}")]
    command += ["--secret", f"id=hf_token,src={target.hf_token_file}"] if target.hf_token_file else []
    if not work.run.dry:
        identity.unlink(missing_ok=True)
    with work.run.passing(target.folder / "pip-index-url") as file:
        if index:  # it may hold a password: as an argument it would stand in the layers and in every `ps`
            command += ["--secret", f"id={INDEX.lower()},src={file.relative_to(ROOT)}"]
        if index and not work.run.dry:
            file.touch(mode=0o600)
            file.write_text(index)
        work.run.work([*command, "."], deadline_s=BUILD_DEADLINE_S)
    return SHOWN_DIGEST if work.run.dry else "sha256:" + identity.read_text().strip().removeprefix("sha256:")


def _commit(work: Work) -> str:
    """The commit that is built. In prod every line of the image must be in it."""
    found, changed = "unknown", ""
    if work.run.dry or shutil.which("git"):
        found = work.run.ask(["git", "rev-parse", "HEAD"], assumed="COMMIT").output.strip() or "unknown"
        changed = work.run.ask(["git", "status", "--porcelain"]).output.strip()
    if work.target.environment == "prod" and not work.run.dry and (found == "unknown" or changed):
        raise Refused("prod is built from a clean checkout: commit or stash what changed")
    return f"{found}-dirty" if changed else found


def _load(work: Work, builder: str, name: str) -> None:
    """Into the node of kind. An archive works the same from podman and from docker."""
    names = [
        one for node in work.objects("nodes") for held in node["status"].get("images", []) for one in held["names"]
    ]
    if name in names:
        work.say("its node holds it already")
        return
    with work.run.passing(work.target.folder / "image.tar") as archive:  # podman adds to an archive that is there
        shown = str(archive.relative_to(ROOT))
        work.run.work([builder, "save", "--output", shown, name], deadline_s=MOVE_DEADLINE_S)
        command = ["kind", "load", "image-archive", shown, "--name", work.target.cluster]
        work.run.work(command, deadline_s=MOVE_DEADLINE_S)


def _bring(work: Work, name: str, digest: str) -> None:
    """Into each node of a cluster without a registry, the stores' images too. Images that nothing names any more go."""
    if work.run.dry:
        return
    nodes = images.nodes(work, programs.programs(), here.sockets(work.target))
    work.say(images.bring_stores(work, programs.CACHE, nodes))
    image = images.built(work, name, digest.removeprefix("sha256:"))
    named = json.dumps([work.objects("pods"), [entry.image for _, _, entry in release.entered(work)]])
    for node in nodes:
        began = time.monotonic()
        sent = node.bring(image)
        work.say(f"{sent / 1e6:.0f} MB of new layers, {time.monotonic() - began:.0f} s")
        ours = [one for one in node.images() if one.startswith(f"localhost/{NAME}:") and one != name]
        node.remove([one for one in ours if f'"{one}"' not in named])


def _push(work: Work, builder: str, name: str) -> str:
    """To the registry; the digest under which it is pulled from there."""
    if builder == "podman":
        file = work.target.folder / "digest"
        command = ["podman", "push", "--digestfile", str(file.relative_to(ROOT)), name]
        work.run.work(command, deadline_s=MOVE_DEADLINE_S)
        return SHOWN_DIGEST if work.run.dry else file.read_text().strip()
    work.run.work([builder, "push", name], deadline_s=MOVE_DEADLINE_S)
    answer = work.run.read([builder, "image", "inspect", "--format", "{{json .RepoDigests}}", name], assumed="[]")
    repository = name.rpartition(":")[0] + "@"
    digests = [one.removeprefix(repository) for one in json.loads(answer) if one.startswith(repository)]
    if work.run.dry:
        return SHOWN_DIGEST
    if not digests:
        raise Failed(f"{name} was pushed, and {builder} does not know its digest")
    return str(digests[0])
