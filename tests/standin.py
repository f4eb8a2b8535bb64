"""Stands in for kubectl, kind, helm, podman or docker: writes down what it was asked, and answers from a script.

The folder in STANDIN holds `script.json`, a list of rules, and gets `record.jsonl`. The first rule whose `match` is in
the command line answers; `once` takes it out after that, `after` and `before` want a command to have been seen or not.
Standard library alone, and started as a program: what is tested is what reaches other programs.
"""

import json
import os
import re
import stat
import sys
import time
from pathlib import Path


def main() -> int:
    """Record, find the rule, answer."""
    folder = Path(os.environ["STANDIN"])
    line = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    takes_input = stat.S_ISFIFO(os.fstat(0).st_mode)
    asked = {"line": line, "stdin": sys.stdin.read() if takes_input else ""}
    record = folder / "record.jsonl"
    seen = [json.loads(row)["line"] for row in record.read_text().splitlines()] if record.exists() else []
    with record.open("a") as file:
        file.write(json.dumps(asked) + "\n")
    rule = next((one for one in json.loads((folder / "script.json").read_text()) if answers(one, line, seen)), {})
    for name, text in rule.get("files", {}).items():
        Path(name).write_text(text)
    sys.stdout.write(rule.get("output", ""))
    sys.stderr.write(rule.get("errors", ""))
    sys.stdout.flush()
    time.sleep(rule.get("stays_s", 0))
    return int(rule.get("status", 0))


def answers(rule: dict, line: str, seen: list) -> bool:
    """Whether a rule is for this command, at this point of the story."""

    def was_seen(pattern: str) -> bool:
        return any(re.search(pattern, one) for one in seen)

    if not re.search(rule["match"], line) or (rule.get("once") and was_seen(rule["match"])):
        return False
    if "after" in rule and not was_seen(rule["after"]):
        return False
    return "before" not in rule or not was_seen(rule["before"])


if __name__ == "__main__":
    sys.exit(main())
