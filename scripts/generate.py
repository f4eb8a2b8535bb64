"""Write every text in this repository that follows from facts elsewhere: `make generate`. With `--check` only compare.

OUTPUTS says what is made from what. A file that is generated as a whole says so in its first line. In a page that is
otherwise written by hand, a generated section stands between two comments, the first of which names its source.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Final, NamedTuple

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, also where another one is installed

from serve_app import keyspace

ROOT: Final = Path(__file__).resolve().parents[1]
REDIS_KEYS: Final = """
# Keys of the job Redis

Each key belongs to one [room](architecture.md#the-rooms), which decides what is in it. Times are Redis' clock. Keys
that grow have a bound, and the last column says when each leaves. In a name, `{owner}` is a principal's id and `{id}`
that of a job or a delivery; `{hash}` is of an Idempotency-Key, its owner and its route.

An older release uses the same keys during an upgrade, so their names, types and TTLs stay.
"""


class Output(NamedTuple):
    """A generated file, or one section of a page."""

    path: str
    source: str
    """The file that holds the facts."""
    renew: Callable[[str, str], str]
    """Takes the file's text (empty if there is none yet) and the source; returns the text as it should be."""


def notice(source: str) -> str:
    """The line that keeps people from editing what is generated."""
    return f"Generated from {source} by `make generate`: change it there."


def section(page: str, name: str, source: str, lines: Iterable[str]) -> str:
    """The page with these lines between `<!-- generated: NAME … -->` and `<!-- end: NAME -->`."""
    first, last = f"<!-- generated: {name}.", f"<!-- end: {name} -->"
    pattern = re.compile(f"{re.escape(first)}.*?{re.escape(last)}", re.DOTALL)
    text = "\n".join([f"{first} {notice(source)} -->", "", *lines, "", last])
    renewed, count = pattern.subn(lambda _: text, page)
    if count != 1:
        sys.exit(f"A page needs one section {name!r}: a line `{first} -->` and below it a line `{last}`.")
    return renewed


def table(heading: tuple[str, ...], rows: Iterable[Iterable[str]]) -> list[str]:
    """A table in Markdown."""
    first, *others = [f"| {' | '.join(row)} |" for row in (heading, *rows)]
    return [first, "|" + "---|" * len(heading), *others]


def read_yaml(path: str) -> Any:
    """A file of this repository as data."""
    return yaml.safe_load((ROOT / path).read_text("utf-8"))


def secrets(page: str, source: str) -> str:
    """Which Secret holds what, for docs/security.md."""
    listed = read_yaml(source)["secrets"]
    rows = [
        (f"`{name}`", f"`{key}`", row["opens"], row["for"])
        for name, keys in listed.items()
        for key, row in keys.items()
    ]
    return section(page, "secrets", source, table(("Secret", "Key", "Opens", "For"), rows))


def redis_keys(_: str, source: str) -> str:
    """Every key of the job Redis, for docs/redis-keys.md."""
    rows = [(f"`{key.template}`", key.room, key.kind, key.holds, _bound(key), key.leaves) for key in keyspace.KEYS]
    heading = ("Key", "Room", "Type", "What it is", "Bound", "Leaves")
    return "\n".join([f"<!-- {notice(source)} -->", REDIS_KEYS, *table(heading, rows), ""])


def _bound(key: keyspace.Key) -> str:
    """The bound in words, behind its number or the name of the setting that sets it."""
    most = key.most
    if isinstance(most, str) and "." in most:
        most = int(resolve_name(f"serve_app.{most}"))
    return f"{most:,} {key.bound}" if isinstance(most, int) else f"{most} {key.bound}".strip()


OUTPUTS: Final = (
    Output("docs/security.md", "k8s/secrets.yaml", secrets),
    Output("docs/redis-keys.md", "serve_app/keyspace.py", redis_keys),
)


def main() -> None:
    """Write the outputs that differ, or with `--check` name them and fail."""
    check = sys.argv[1:] == ["--check"]
    stale = False
    for output in OUTPUTS:
        path = ROOT / output.path
        text = path.read_text("utf-8") if path.exists() else ""
        renewed = output.renew(text, output.source)
        if renewed == text:
            continue
        if check:
            stale = True
            print(f"{output.path} does not say what {output.source} says. Run `make generate` and commit the result.")
        else:
            path.write_text(renewed, "utf-8")
            print(f"{output.path} is renewed from {output.source}.")
    sys.exit(1 if stale else 0)


if __name__ == "__main__":
    main()
