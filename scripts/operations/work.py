"""What the parts of one command share: where, by which means, what has come out so far."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

from operations.failure import Failed, Refused
from operations.runner import Runner
from operations.target import Target

Json = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """One call of this program."""

    target: Target
    run: Runner
    timeout_s: float
    """How long the service may take to become ready."""
    yes: bool = False
    """Do without asking what is asked for otherwise."""

    def say(self, text: str) -> None:
        """A line of progress. Standard output is for results."""
        print(f"    {text}", file=sys.stderr, flush=True)

    def objects(self, *arguments: str) -> list[Json]:
        """What `kubectl get` lists; nothing in a dry run."""
        answer = self.run.read(self.target.kubectl("get", *arguments, "--output", "json"), assumed='{"items": []}')
        return list(parsed(answer, "kubectl get " + " ".join(arguments)).get("items", []))

    def object(self, *arguments: str) -> Json | None:
        """One object, None where it is not there."""
        command = self.target.kubectl("get", *arguments, "--ignore-not-found", "--output", "json")
        answer = self.run.read(command)
        return parsed(answer, "kubectl get " + " ".join(arguments)) if answer.strip() else None

    def answers(self) -> bool:
        """Whether the API server says that it is ready."""
        return self.run.ask(self.target.kubectl("get", "--raw", "/readyz")).status == 0

    def confirm(self, question: str, word: str) -> None:
        """Have `word` typed before it is done, unless --yes was given. Without a terminal: refused."""
        if self.yes or self.run.dry:
            return
        if not sys.stdin.isatty():
            raise Refused(f"{question} Nobody is here to be asked: --yes does it without asking")
        print(f"{question} Type {word} to go on: ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip() != word:
            raise Refused("nothing was changed")


def name_of(thing: Json) -> str:
    """The name of an object."""
    return str(thing["metadata"]["name"])


def parsed(text: str | bytes, source: str) -> Json:
    """A JSON object that a tool or a server gave."""
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise Failed(f"{source} gave something else than JSON: {text.strip()[:200]!r}")
    return document
