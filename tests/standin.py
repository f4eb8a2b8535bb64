"""Stands in for kubectl, kind, helm, podman or docker: writes down what it was asked, and answers from a script.

The folder in STANDIN holds `script.json`, a list of rules, and gets `record.jsonl`. The first rule whose `match` is in
the command line answers; one with `once` answers once. Standard library alone, and started as a program.
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
    stdin = sys.stdin.read() if stat.S_ISFIFO(os.fstat(0).st_mode) else ""
    with (folder / "record.jsonl").open("a") as file:
        file.write(json.dumps({"line": line, "stdin": stdin}) + "\n")
    rules = json.loads((folder / "script.json").read_text())
    rule = next((one for one in rules if re.search(one["match"], line)), {})
    if rule.get("once"):
        rules.remove(rule)
        (folder / "script.json").write_text(json.dumps(rules))
    for name, text in rule.get("files", {}).items():
        Path(name).write_text(text)
    sys.stdout.write(rule.get("output", ""))
    sys.stderr.write(rule.get("errors", ""))
    sys.stdout.flush()
    time.sleep(rule.get("stays_s", 0))
    return int(rule.get("status", 0))


if __name__ == "__main__":
    sys.exit(main())
