"""The Secrets that the manifests name: made for development, demanded everywhere else. Their values are never shown."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping

from operations.delivery.render import made_by, secret_keys
from operations.failure import Failed
from operations.target import NAME
from operations.work import Work

LIST_KEYS = '{{range .items}}{{.metadata.name}}{{range $key, $value := .data}} {{$key}}{{end}}{{"\\n"}}{{end}}'
"""A template of kubectl's that prints the names of Secrets and of their keys, and no value."""
REDIS_CERTIFICATE = "redis-tls"
"""Of the job Redis, where the component of this name is taken: then it speaks TLS and nothing else."""
REDIS_AUTHORITY = "/run/secrets/redis-ca/ca.crt"


def ensure(work: Work, manifests: str) -> str:
    """See that every Secret is there that the rendered manifests need from elsewhere.

    What is missing is made for development, with random values; elsewhere it says what is missing and how to make it.
    """
    needed = secret_keys(manifests)
    answer = work.run.read(work.target.kubectl("get", "secrets", "--output", f"go-template={LIST_KEYS}"))
    there = {name: set(keys) for name, *keys in (line.split() for line in answer.splitlines() if line.strip())}
    if work.run.dry and work.target.environment == "dev":
        work.run.change(work.target.kubectl("create", "--filename", "-"), stdin="")  # unless all are there
    missing = {
        name: keys - there.get(name, set()) for name, keys in needed.items() if name not in there or keys - there[name]
    }
    if not missing:
        return f"all {len(needed)} there" if needed else ""
    if work.target.environment != "dev":
        raise Failed(_how_to_make(work, missing))
    made = _development(work, sorted(missing), there, tls=REDIS_CERTIFICATE in made_by(manifests))
    document = json.dumps({"apiVersion": "v1", "kind": "List", "items": made})
    work.run.change(work.target.kubectl("create", "--filename", "-"), stdin=document)
    return f"made {', '.join(sorted(missing))}, with random values"


def _development(
    work: Work, missing: list[str], there: Mapping[str, set[str]], *, tls: bool
) -> list[dict[str, object]]:
    passwords = {name: _password(work, name, there) for name in ("redis", "postgres")}
    scheme, authority = ("rediss", f"?ssl_ca_certs={REDIS_AUTHORITY}") if tls else ("redis", "")
    values = {
        "redis": {"password": passwords["redis"]},
        "postgres": {"password": passwords["postgres"]},
        f"{NAME}-ray-redis": {"password": secrets.token_urlsafe(24)},
        f"{NAME}-ray": {"auth_token": secrets.token_urlsafe(32)},
        NAME: {
            "redis-url": f"{scheme}://:{passwords['redis']}@redis:6379/0{authority}",
            "database-url": f"postgresql://semapi:{passwords['postgres']}@postgres:5432/app",
            "metrics-token": secrets.token_urlsafe(24),
        },
    }
    for name in missing:
        if name not in values or name in there:
            raise Failed(
                f"the Secret {name} is missing or lacks a key, and this program does not know what belongs in it"
            )
    metadata = {"namespace": work.target.namespace, "labels": {"app.kubernetes.io/name": NAME}}
    return [
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, **metadata}, "stringData": values[name]}
        for name in missing
    ]


def _password(work: Work, name: str, there: Mapping[str, set[str]]) -> str:
    """A server's password: the one it has, if an earlier call made it and then failed."""
    if name not in there:
        return secrets.token_urlsafe(24)
    found = work.object("secret", name)
    return base64.b64decode(found["data"]["password"]).decode() if found else secrets.token_urlsafe(24)


def _how_to_make(work: Work, missing: Mapping[str, set[str]]) -> str:
    lines = ["Secrets are missing, or keys of them. Each is made once, from files that hold nothing but the value:"]
    for name, keys in sorted(missing.items()):
        # Without keys a pod takes whatever the Secret holds: then the names of the files are the site's to choose.
        files = " ".join(f"--from-file={key}=FILE" for key in sorted(keys)) or "--from-file=FOLDER"
        lines.append("  " + " ".join(work.target.kubectl("create", "secret", "generic", name, files)))
    return "\n".join(lines)
