"""The application's settings in a ConfigMap: each known, each value one that the service starts with, none a secret."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pydantic import SecretStr, ValidationError

from manifests.documents import Document, Finding, of_kind
from serve_app.settings import Settings

NAME: Final = "sem-image-classifier"
FOR_RUNNING: Final = {"ENVIRONMENT"}
"""Left out of the trial: with `prod` the service asks for values that are the site's, and not in git."""


def check(documents: list[Document]) -> Iterator[Finding]:
    """Unknown settings, values that the service refuses, and secrets."""
    for document in of_kind(documents, "ConfigMap"):
        if document.name != NAME:
            continue
        given = {str(name): str(value) for name, value in document.mapping("data").items()}
        for name in given:
            field = Settings.model_fields.get(name.lower())
            if field is None or name != name.upper():
                yield document.finding(("data", name), f"The service has no setting {name}; see docs/settings.md.")
            elif isinstance(field.default, SecretStr):
                yield document.finding(("data", name), f"{name} is a secret, and a ConfigMap is none: use a Secret.")
        tried = {name.lower(): value for name, value in given.items() if name not in FOR_RUNNING}
        try:
            Settings(**tried)  # type: ignore[arg-type]  # texts, as the environment gives them
        except ValidationError as error:
            for fault in error.errors():
                path = ("data", *(str(step).upper() for step in fault["loc"][:1]))
                yield document.finding(path, f"The service refuses this: {fault['msg']}.")
