r"""Shell texts as the shell reads them, and the programs that containers and probes need from their images.

In `a --b \` + newline + `# why` + newline + `--c` the comment ends the command, and `--c` is a command of its own.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from manifests.documents import Document, Finding, Path
from manifests.pods import Pod, pods_of

SHELLS: Final = ("sh", "bash", "/bin/sh", "/bin/bash")
IMAGE_TOOLS: Final[dict[str, set[str]]] = {
    "fluent/fluent-bit": set(),
    "postgres": {"bash", "pg_isready", "postgres", "psql", "sh"},
    "sem-image-classifier": {"bash", "grep", "python", "ray", "semapi", "sh", "wget"},
    "valkey/valkey": {"sh", "valkey-cli", "valkey-server"},
}
"""What an image is known to have, by its name without registry, tag and digest. Ours has what KubeRay's probes call."""
PROBES: Final = ("startupProbe", "readinessProbe", "livenessProbe")
BUILT_IN: Final = {
    "[",
    "[[",
    ":",
    ".",
    "cd",
    "echo",
    "eval",
    "exec",
    "exit",
    "export",
    "set",
    "sleep",
    "test",
    "trap",
    "true",
    "ulimit",
    "umask",
    "cat",
    "case",
    "esac",
    "if",
    "then",
    "else",
    "fi",
    "do",
    "done",
    "for",
    "while",
    "{",
    "}",
    "!",
}
"""The shell's own words, and what every image with a shell has."""
CONTINUED: Final = re.compile(r"\\\n")


def check(documents: list[Document]) -> Iterator[Finding]:
    """Comments inside continued commands, quotes that are not closed, programs that the image has not."""
    for document in documents:
        for path, text in scripts_of(document):
            for line, sentence in faults(text):
                found = document.finding(path, sentence)
                yield Finding(found.file, found.line and found.line + line, found.resource, found.path, sentence)
    for pod in pods_of(documents):
        yield from _missing_tools(pod)


def scripts_of(document: Document) -> Iterator[tuple[Path, str]]:
    """The shell texts of a resource: `sh -c` commands and `*.sh` in config maps."""
    if document.kind == "ConfigMap":
        for name, text in document.mapping("data").items():
            if str(name).endswith(".sh"):
                yield ("data", name), str(text)
    for pod in pods_of([document]):
        for path, container in pod.containers():
            for place, words in _commands(container, path):
                if (number := _script_at(words)) is not None:
                    yield (*place, number), str(words[number])


def faults(text: str) -> Iterator[tuple[int, str]]:
    """What is wrong in a shell text, each with its line below the text's first."""
    lines = text.split("\n")
    for number, line in enumerate(lines[:-1]):
        if line.rstrip(" \t").endswith("\\") and lines[number + 1].lstrip().startswith("#"):
            yield (
                number + 2,
                "A comment inside a continued command ends it: what follows is another command. Move it up.",
            )
        elif line.endswith("\\") and re.search(r"(?<=\s)#", line):
            yield number + 1, "The \\ is part of the comment: the command ends here. Move the comment up."
        elif re.search(r"\\[ \t]+$", line):
            yield number + 1, "A space after the \\ ends the command here; take it away."
    if "\n" not in text.strip() and (found := re.search(r"\s#\s.*(--|;|&&)", text)):
        yield (
            1,
            f"In one line everything after # is a comment: {found.group().strip()[:60]!r}. Use a block of lines (|).",
        )
    yield from _syntax(text)


def _syntax(text: str) -> Iterator[tuple[int, str]]:
    """What the shell itself says when it reads the text without running it."""
    shell = "bash" if "bash" in text.partition("\n")[0] else "sh"
    if found := shutil.which(shell):
        done = subprocess.run([found, "-n"], input=text, capture_output=True, text=True, timeout=10, check=False)
        if done.returncode != 0:
            number = re.search(r"(?:line )?(\d+):", done.stderr)
            yield int(number[1]) if number else 1, f"{shell} cannot read this: {done.stderr.strip()[-120:]}"


@dataclass(frozen=True)
class Line:
    """One command of a shell text as words, and the here-document that it reads."""

    words: list[str]
    here: list[str]


def logical_lines(text: str) -> list[Line]:
    """The commands of a shell text: lines joined where they are continued, comments gone. ValueError: an open quote."""
    lines: list[Line] = []
    rest = text
    while rest:
        raw, rest = _first_line(rest)
        here: list[str] = []
        if marker := re.search(r"<<-?\s*['\"]?(\w+)", raw):
            body, _, rest = rest.partition(f"\n{marker[1]}") if rest else ("", "", "")
            here = body.split("\n")
        if words := shlex.split(raw):
            lines.append(Line(words, here))
    return lines


def _first_line(text: str) -> tuple[str, str]:
    """The first command as far as the shell reads, without comments, and what comes after it."""
    kept, quote, at = "", "", 0
    while at < len(text):
        character = text[at]
        if character == "\\" and quote != "'":
            kept += "" if text[at + 1 : at + 2] == "\n" else text[at : at + 2]
            at += 2
            continue
        if character == "#" and not quote and (not kept or kept[-1] in " \t;|&("):
            end = text.find("\n", at)
            at = len(text) if end < 0 else end
            continue
        if character == "\n" and not quote:
            return kept, text[at + 1 :]
        if character in "'\"" and quote in ("", character):
            quote = "" if quote else character
        kept += character
        at += 1
    return kept, ""


def _commands(container: dict[str, Any], path: Path) -> Iterator[tuple[Path, list[Any]]]:
    """Every list of words that a container may execute."""
    command, args = container.get("command") or [], container.get("args") or []
    if _script_at(command) is None and command and _script_at([*command, *args]) is not None:
        yield (*path, "args"), args  # sh -c in the one, its text in the other
    elif command:
        yield (*path, "command"), command
    for name in PROBES:
        if words := ((container.get(name) or {}).get("exec") or {}).get("command"):
            yield (*path, name, "exec", "command"), words
    for name, hook in (container.get("lifecycle") or {}).items():
        if words := (hook.get("exec") or {}).get("command"):
            yield (*path, "lifecycle", name, "exec", "command"), words


def _script_at(words: list[Any]) -> int | None:
    """Where the text of `sh -c TEXT` is."""
    if not words or str(words[0]) not in SHELLS:
        return None
    flags = [number for number, word in enumerate(words[1:], 1) if re.fullmatch(r"-\w*c\w*", str(word))]
    number = flags[0] + 1 if flags else len(words)
    if number < len(words) and words[number] == "--":
        number += 1
    return number if number < len(words) else None


def _missing_tools(pod: Pod) -> Iterator[Finding]:
    for path, container in pod.containers():
        image = image_name(str(container.get("image")))
        for place, words in _commands(container, path):
            tools = IMAGE_TOOLS.get(image)
            if tools is None:
                sentence = f"Nobody has said what the image {image} has; add it to IMAGE_TOOLS."
                yield pod.document.finding(place, sentence)
                continue
            for tool in sorted(_programs(words) - tools - BUILT_IN):
                yield pod.document.finding(place, f"The image {image} has no {tool}; use what it has, or add it there.")


def image_name(image: str) -> str:
    """The name without registry, tag and digest: what is after a part with a dot or a port."""
    parts = image.partition("@")[0].split("/")
    if len(parts) > 1 and ("." in parts[0] or ":" in parts[0]):
        parts = parts[1:]
    return "/".join(parts).partition(":")[0]


def _programs(words: list[Any]) -> set[str]:
    first = str(words[0]).rpartition("/")[2]
    if (number := _script_at(words)) is None:
        return {first}
    text = CONTINUED.sub("", str(words[number]))
    simple = re.split(r"\|\||&&|[|;&\n(]", re.sub(r"'[^']*'|\"[^\"]*\"|\$\([^)]*\)", "''", text))
    heads = [part.split() for part in simple if part.split() and not part.split()[0].startswith("#")]
    return {first, *(head[0] for head in heads if re.fullmatch(r"[\w./-]+", head[0]) and "=" not in head[0])}
