"""The application's settings in a ConfigMap: each known, each value one that the service starts with, none a secret."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from pydantic import SecretStr, ValidationError

from manifests.documents import Document, Finding, of_kind
from serve_app.settings import Settings

COMPONENT: Final = "settings"
"""By this label the ConfigMap is known; `scripts/cluster` adds a mark to its name."""
FOR_RUNNING: Final = {"ENVIRONMENT"}
"""Left out of the trial: with `prod` the service asks for values that are the site's, and not in git."""
FROM_ELSEWHERE: Final = {
    "redis_url": "redis://:of-the-secret-not-known-here@redis:6379/0",
    "model_cache_dir": "/models",
}
"""What a pod has from a Secret and from its image."""


def settings_of(documents: list[Document]) -> list[Document]:
    """The ConfigMap with the settings; a list, for it may be missing."""
    label = ("metadata", "labels", "app.kubernetes.io/component")
    return [document for document in of_kind(documents, "ConfigMap") if document.at(*label) == COMPONENT]


def check(documents: list[Document]) -> Iterator[Finding]:
    """Unknown settings, values that the service refuses, and secrets."""
    for document in settings_of(documents):
        for name in map(str, document.mapping("data")):
            field = Settings.model_fields.get(name.lower())
            if field is None or name != name.upper():
                yield document.finding(("data", name), f"The service has no setting {name}; see docs/settings.md.")
            elif isinstance(field.default, SecretStr):
                yield document.finding(("data", name), f"{name} is a secret, and a ConfigMap is none: use a Secret.")
        try:
            _tried(document)
        except ValidationError as error:
            for fault in error.errors():
                path = ("data", *(str(step).upper() for step in fault["loc"][:1]))
                yield document.finding(path, f"The service refuses this: {fault['msg']}.")


def production_faults(document: Document) -> Iterator[Finding]:
    """What the service refuses where it is told `prod`, and that it is told so: every other value lets all of it in."""
    if document.at("data", "ENVIRONMENT") != "prod":
        yield document.finding(("data", "ENVIRONMENT"), "Only with `prod` does the service refuse weak values.")
    try:
        faults = _tried(document).production_faults()
    except ValidationError:
        return  # `check` tells them
    for fault in faults:
        name = re.match(r"\w+", fault)
        yield document.finding(("data", name[0] if name else ""), f"prod refuses this: {fault}.")


def _tried(document: Document) -> Settings:
    """The settings as a pod would have them, whatever is set in the shell that checks them."""
    given: dict[str, Any] = {str(name): str(value) for name, value in document.mapping("data").items()}
    tried = {name.lower(): value for name, value in given.items() if name not in FOR_RUNNING}
    return Settings(_env_prefix="NOT_FROM_THIS_SHELL_", **{**FROM_ELSEWHERE, **tried})  # type: ignore[call-arg]
