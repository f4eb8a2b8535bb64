"""The settings with which each Redis really runs: those of its command line and its file, as the server reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from ray.autoscaler._private.kuberay.utils import parse_quantity

from manifests.commands import logical_lines, scripts_of
from manifests.documents import Document, Finding, Path, of_kind
from manifests.pods import Pod, pods_of

SERVERS: Final = ("redis-server", "valkey-server")
JOBS: Final = "redis"
PORT: Final = 6379
NEEDED: Final = {"maxmemory-policy": "noeviction", "appendonly": "yes"}
"""Of every Redis here; anything else loses accepted jobs, or Ray's state, without an error."""
HEADROOM: Final = 0.75
"""Most of a container's memory that maxmemory may be: rewriting the file copies pages that change meanwhile."""


@dataclass
class Server:
    """One Redis: its pod and the settings that take effect."""

    pod: Pod
    path: Path
    settings: dict[str, str] = field(default_factory=dict)
    places: dict[str, tuple[Document, Path]] = field(default_factory=dict)


def check(documents: list[Document]) -> Iterator[Finding]:
    """Settings that lose data, or that are written and not read."""
    servers = list(_servers(documents))
    seen = {(server.pod.document.resource, server.path) for server in servers}
    for pod in pods_of(documents):
        for path, container in pod.containers():
            serves = any(port.get("containerPort") == PORT for port in container.get("ports") or [])
            if serves and not pod.group and (pod.document.resource, path) not in seen:
                yield pod.document.finding(
                    path, "How the server is called cannot be seen; name it in command or script."
                )
    for server in servers:
        needed = {**NEEDED, **({"appendfsync": "always"} if server.pod.document.name == JOBS else {})}
        for name, value in needed.items():
            given = server.settings.get(name)
            if given != value:
                document, path = server.places.get(name, (server.pod.document, server.path))
                yield document.finding(path, f"{name} is {given or 'not in effect'}; it must be {value}.")
        if not {"requirepass", "aclfile", "user"} & set(server.settings):
            yield server.pod.document.finding(server.path, "It asks for no password; set requirepass from a Secret.")
        yield from _memory(server)


def _memory(server: Server) -> Iterator[Finding]:
    document, path = server.places.get("maxmemory", (server.pod.document, server.path))
    if (given := server.settings.get("maxmemory")) is None:
        yield document.finding(
            path, "maxmemory is not in effect; without it the kernel kills the server when it is full."
        )
        return
    limit = (server.pod.document.at(*server.path, "resources", "limits", "memory")) or 0
    if _bytes(given) > HEADROOM * float(parse_quantity(str(limit))):
        sentence = (
            f"maxmemory {given} is more than {HEADROOM:.0%} of the container's {limit}: a rewrite would be killed."
        )
        yield document.finding(path, sentence)


def _bytes(text: str) -> float:
    units = {"kb": 2**10, "mb": 2**20, "gb": 2**30, "k": 1e3, "m": 1e6, "g": 1e9}
    unit = next((unit for unit in units if text.lower().endswith(unit)), "")
    number = text[: len(text) - len(unit)]
    return float(number) * units.get(unit, 1) if number.isdigit() else 0


def _servers(documents: list[Document]) -> Iterator[Server]:
    for pod in pods_of(documents):
        for path, container in pod.containers():
            for words, mounted in _calls(documents, pod, container, path):
                server = Server(pod, path)
                _read_call(server, words, mounted, container)
                yield server


Mounted = dict[str, tuple[Document, str]]
"""Files that a container has from config maps: path to config map and key."""


def _calls(
    documents: list[Document], pod: Pod, container: dict[str, Any], path: Path
) -> Iterator[tuple[list[str], Mounted]]:
    """The words with which a server is called: directly, in `sh -c`, or in a script from a config map."""
    mounted = _mounted(documents, pod, container)
    words = [str(word) for word in [*(container.get("command") or []), *(container.get("args") or [])]]
    if words and words[0].rpartition("/")[2] in SERVERS:
        yield words[1:], mounted
        return
    texts = [text for place, text in scripts_of(pod.document) if place[: len(path)] == path]
    for word in words:
        if word in mounted and word.endswith(".sh"):
            config_map, key = mounted[word]
            arguments = words[words.index(word) + 1 :]
            texts.append(_with_arguments(str(config_map.mapping("data")[key]), arguments))
    for text in texts:
        yield from ((line, mounted) for line in _server_lines(text))


def _with_arguments(text: str, arguments: list[str]) -> str:
    for number, argument in enumerate(arguments, 1):
        text = text.replace(f'"${number}"', argument)
    return text


def _server_lines(text: str) -> Iterator[list[str]]:
    """Arguments of the server in a script; a here-document's lines follow as options, for `-` reads them."""
    try:
        lines = logical_lines(text)
    except ValueError:
        return  # an open quote, which is a finding of its own
    for line in lines:
        names = [word.rpartition("/")[2] for word in line.words]
        if found := next((number for number, name in enumerate(names, 1) if name in SERVERS), None):
            yield [*line.words[found:], *_options(line.here)]


def _options(lines: list[str]) -> Iterator[str]:
    for line in lines:
        name, _, value = line.strip().partition(" ")
        if value and not name.startswith("#"):
            yield from (f"--{name}", value.strip())


def _mounted(documents: list[Document], pod: Pod, container: dict[str, Any]) -> Mounted:
    volumes = {volume.get("name"): volume for volume in pod.spec.get("volumes") or []}
    found: Mounted = {}
    for mount in container.get("volumeMounts") or []:
        source = (volumes.get(mount.get("name")) or {}).get("configMap") or {}
        for document in of_kind(documents, "ConfigMap"):
            if document.name == source.get("name"):
                for key in document.mapping("data"):
                    found[f"{mount.get('mountPath')}/{key}"] = (document, str(key))
    return found


def _read_call(server: Server, words: list[str], mounted: Mounted, container: dict[str, Any]) -> None:
    """First the file, then the options, which win; variables by their values where they are written down."""
    variables = {one.get("name"): one.get("value") for one in container.get("env") or []}
    if words and words[0] in mounted:
        document, key = mounted[words[0]]
        for line in str(document.mapping("data")[key]).split("\n"):
            name, _, value = line.strip().partition(" ")
            if name and not name.startswith("#"):
                server.settings[name.lower()] = value.strip().strip('"')
                server.places[name.lower()] = (document, ("data", key))
    for name, value in pairwise(words):
        if name.startswith("--"):
            setting = name.removeprefix("--").lower()
            bare = value.strip("\"'${}")
            server.settings[setting] = str(variables.get(bare) or value) if value.startswith(("$", '"$')) else value
            server.places[setting] = (server.pod.document, server.path)
