"""YAML documents that know where each of their values stands, and what is found wrong in them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

Path = tuple[str | int, ...]
"""The way to a value: keys and list indexes."""
NAMES_OF_SECRETS: Final = "SecretNames"
"""Not a kind of Kubernetes: the list of the secrets that are not in git, with their keys (k8s/secrets.yaml)."""


@dataclass(frozen=True, order=True)
class Finding:
    """Something wrong, where it stands, and what to do."""

    file: str
    line: int
    """0 where the file is made of others and a line says nothing."""
    resource: str
    path: str
    sentence: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.resource} {self.path or '(whole)'}: {self.sentence}"


@dataclass(frozen=True)
class Document:
    """One resource, as plain values, with the line of each of them."""

    file: str
    body: dict[str, Any]
    lines: Mapping[Path, int] = field(default_factory=dict, compare=False)

    @property
    def kind(self) -> str:
        return str(self.body.get("kind", "?"))

    @property
    def name(self) -> str:
        return str(self.mapping("metadata").get("name", "?"))

    @property
    def resource(self) -> str:
        return f"{self.kind}/{self.name}"

    def at(self, *path: str | int) -> Any:
        """The value at that path, or None."""
        value: Any = self.body
        for step in path:
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and isinstance(step, int) and step < len(value):
                value = value[step]
            else:
                return None
        return value

    def mapping(self, *path: str | int) -> dict[str, Any]:
        """The mapping at that path; empty where there is none."""
        value = self.at(*path)
        return value if isinstance(value, dict) else {}

    def items(self, *path: str | int) -> list[Any]:
        """The list at that path; empty where there is none."""
        value = self.at(*path)
        return value if isinstance(value, list) else []

    def finding(self, path: Path, sentence: str) -> Finding:
        """At that path, or at what is nearest to it in the file."""
        nearest = next((path[:length] for length in range(len(path), -1, -1) if path[:length] in self.lines), ())
        return Finding(self.file, self.lines.get(nearest, 0), self.resource, dotted(path), sentence)


def dotted(path: Path) -> str:
    """`spec.containers[0].image`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


def read(text: str, file: str, *, numbered: bool = True) -> tuple[list[Document], list[Finding]]:
    """The documents of a YAML text, and what keeps it from being one. Keys that stand twice are found, not dropped."""
    documents: list[Document] = []
    findings: list[Finding] = []
    try:
        for value, lines, twice in _values(text):
            resource = Document(file, value if isinstance(value, dict) else {}, lines if numbered else {})
            findings += [resource.finding(path, "This key stands twice; the first one is lost.") for path in twice]
            if not isinstance(value, dict):
                findings.append(resource.finding((), "This is no mapping."))
            elif value:
                documents.append(resource)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 0
        findings.append(Finding(file, line, "?", "", f"This is no YAML: {getattr(error, 'problem', error)}."))
    return documents, findings


class _Loader(yaml.SafeLoader):
    """Remembers where aliases stand; a node knows its anchor's place alone."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.aliases: dict[tuple[int, int], int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent) and isinstance(index, int):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            self.aliases[id(parent), index] = event.start_mark.line + 1
        return super().compose_node(parent, index)


def _values(text: str) -> Iterator[tuple[Any, dict[Path, int], list[Path]]]:
    """For each document of the text its value, the line of each part, and the paths of keys that stand twice."""
    loader = _Loader(text)
    try:
        while loader.check_node():
            lines: dict[Path, int] = {}
            twice: list[Path] = []
            if node := loader.get_node():
                yield _value(loader, node, (), lines, twice), lines, twice
    finally:
        loader.dispose()


def _value(loader: _Loader, node: yaml.Node, path: Path, lines: dict[Path, int], twice: list[Path]) -> Any:
    lines[path] = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        items = []
        for number, item in enumerate(node.value):
            items.append(_value(loader, item, (*path, number), lines, twice))
            lines[(*path, number)] = loader.aliases.get((id(node), number), lines[(*path, number)])
        return items
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    mapping: dict[Any, Any] = {}
    for key_node, item in node.value:
        key = loader.construct_object(key_node)
        if key in mapping:
            twice.append((*path, key))
        mapping[key] = _value(loader, item, (*path, key), lines, twice)
        lines[(*path, key)] = key_node.start_mark.line + 1
    return mapping


def embedded(document: Document, *path: str | int) -> tuple[Document | None, list[Finding]]:
    """The YAML that a text inside the document is; its lines are those of the file around it."""
    text = document.at(*path)
    if not isinstance(text, str):
        return None, []
    base = document.lines.get(path)
    found, findings = read(text, document.file, numbered=base is not None)
    shift = base or 0  # a block begins on the line below its key
    if findings or len(found) != 1:
        sentence = findings[0].sentence if findings else "It must be one YAML mapping."
        line = shift + findings[0].line if findings and base else shift
        return None, [Finding(document.file, line, document.resource, dotted(path), sentence)]
    lines = {(*path, *inner): shift + line for inner, line in found[0].lines.items()}
    return Document(document.file, nested(path, found[0].body, document), lines), []


def nested(path: Path, body: Any, outer: Document) -> dict[str, Any]:
    """`body` below `path`, in a mapping that still says of which resource it is a part."""
    for step in reversed(path):
        body = {step: body}
    return {"kind": outer.kind, "metadata": {"name": outer.name}, **body}


def of_kind(documents: list[Document], *kinds: str) -> Iterator[Document]:
    """Those of the given kinds."""
    return (document for document in documents if document.kind in kinds)


def report(findings: Sequence[Finding]) -> int:
    """Print a line for each; the exit status of the program that found them."""
    for finding in findings:
        print(finding)
    print(f"{len(findings)} findings" if findings else "no findings", file=sys.stderr)
    return 1 if findings else 0
