"""Puts the model into the image, and beside it `release.json`: what was built, from what.

`MODEL_SOURCE` is the service's own setting: `demo` (it comes with the code), `hugging_face` (downloaded here, and never
again) or `private` (the files in `model.local` beside this one). `ENVIRONMENT=prod` wants a real model at a commit.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # made public without a word to mypy

from serve_app.contracts import Json
from serve_app.errors import ModelUnready
from serve_app.models.snapshot import FILES, Snapshot, locate
from serve_app.settings import COMMIT, Settings

SOURCE = Path(__file__).resolve().parents[2]
PRIVATE = Path(__file__).resolve().parent / "model.local"
HUB_TOKEN = Path("/run/secrets/hf_token")
REVISION = re.compile(r"[\w][\w.-]*")


class Refused(Exception):
    """This must not become an image."""


def main() -> None:
    """Read the build's arguments from the environment, bake, and say what is in the image now."""
    prefix, arguments = Path(os.environ["PREFIX"]), dict(os.environ)
    models = prefix / "models"
    try:
        check(arguments)
        models.mkdir(exist_ok=True)
        snapshot = bake(arguments, models)
    except (Refused, ModelUnready, HFValidationError, OSError) as error:
        sys.exit(f"bake: {error}")
    described = release(arguments, snapshot)
    (prefix / "release.json").write_text(json.dumps(described, indent=2) + "\n")
    print(f"{snapshot.id} at {snapshot.revision or 'no revision'}: {described['model']['sha256']}")


def check(arguments: dict[str, str]) -> None:
    """Raises `Refused`: arguments that do not fit each other, or nothing to go into production with."""
    installed = version("sem-image-classifier")
    if arguments["VERSION"] != installed:
        raise Refused(f"VERSION={arguments['VERSION']}, but the code is version {installed}.")
    source, revision = arguments["MODEL_SOURCE"], arguments.get("MODEL_REVISION", "")
    if source not in ("demo", "hugging_face", "private"):
        raise Refused(f"MODEL_SOURCE is demo, hugging_face or private, not {source!r}.")
    if source == "demo" and (arguments.get("MODEL_ID") or revision):
        raise Refused("MODEL_SOURCE=demo has no MODEL_ID and no MODEL_REVISION: did you mean hugging_face?")
    if source != "demo":
        validate_repo_id(arguments.get("MODEL_ID", ""))
        if not REVISION.fullmatch(revision):
            raise Refused(f"MODEL_SOURCE={source} needs a MODEL_REVISION, not {revision!r}.")
    if arguments["ENVIRONMENT"] == "prod":
        check_production(arguments)


def check_production(arguments: dict[str, str]) -> None:
    """What runs in production can be told from its labels, and built again."""
    if arguments["MODEL_SOURCE"] == "demo":
        raise Refused("ENVIRONMENT=prod refuses the demo model; name the real one.")
    for name in ("MODEL_REVISION", "COMMIT"):
        if not COMMIT.fullmatch(arguments[name]):
            raise Refused(f"ENVIRONMENT=prod needs {name} as a commit of 40 hex digits, not {arguments[name]!r}.")
    if "@sha256:" not in arguments["BASE"]:
        raise Refused(f"ENVIRONMENT=prod needs BASE with its digest (@sha256:...), not {arguments['BASE']}.")


def bake(arguments: dict[str, str], models: Path) -> Snapshot:
    """The model's files below `models`, where a replica with the same settings finds them."""
    source, name = arguments["MODEL_SOURCE"], arguments.get("MODEL_ID", "")
    revision = arguments.get("MODEL_REVISION", "")
    if source == "hugging_face":
        token = HUB_TOKEN.read_text().strip() if HUB_TOKEN.exists() else None
        snapshot_download(name, revision=revision, cache_dir=models, allow_patterns=list(FILES), token=token or False)
    elif source == "private":
        if not PRIVATE.is_dir():
            raise Refused(f"MODEL_SOURCE=private takes the model's files from {PRIVATE.name}, which is not there.")
        folder = models / f"models--{name.replace('/', '--')}" / "snapshots" / revision
        folder.mkdir(parents=True)
        for path in (path for pattern in FILES for path in PRIVATE.glob(pattern)):
            shutil.copyfile(path, folder / path.name)
    named = {"model_source": source, "model_id": name, "model_revision": revision, "model_cache_dir": models}
    settings = Settings.model_validate({**named, "environment": "dev"})  # prod wants to know a whole cluster
    return locate(settings, cache=models)


def source_sha256(source: Path) -> str:
    """Of every file that the project is installed from, with its name."""
    digest = hashlib.sha256()
    for path in [source / "pyproject.toml", *sorted((source / "serve_app").rglob("*"))]:
        if path.is_file() and path.suffix != ".pyc":
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{content}  {path.relative_to(source)}\n".encode())
    return digest.hexdigest()


def release(arguments: dict[str, str], snapshot: Snapshot) -> Json:
    """What `release.json` holds."""
    return {
        "version": arguments["VERSION"],
        "commit": arguments["COMMIT"],
        "source_sha256": source_sha256(SOURCE),
        "base": arguments["BASE"],
        "python": platform.python_version(),
        "ray": version("ray"),
        "torch": version("torch"),
        "model": {
            "source": arguments["MODEL_SOURCE"],
            "id": snapshot.id,
            "revision": snapshot.revision,
            "sha256": snapshot.sha256(),
        },
    }


if __name__ == "__main__":
    main()
