"""A command as a row of steps. Each says what came of it and how long it took; where one fails, the command says what
was done, what was not, and what to run next."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from operations.failure import Failed, Interrupted, Refused
from operations.target import Target


@dataclass(frozen=True)
class Step:
    """One thing to do, which may be done already: then it says so and changes nothing."""

    name: str
    command: str | Callable[[], str]
    """The command of this program that does this step, and may be run again; empty for one that only looks. A function
    where an earlier step decides it."""
    do: Callable[[], str]
    """Does it, and returns what came out, in a few words."""

    @property
    def again(self) -> str:
        """The command as it is now."""
        return self.command if isinstance(self.command, str) else self.command()


def carry_out(target: Target, steps: Sequence[Step], *, dry: bool) -> None:
    """Do the steps in order. Raises Failed, with the account of all steps, at the first that does not work out."""
    began, several = time.monotonic(), len(steps) > 1
    for number, step in enumerate(steps):
        if several:
            _say(f"{'# ' * dry}[{number + 1}/{len(steps)}] {step.name}")
        step_began = time.monotonic()
        try:
            outcome = step.do()
        except KeyboardInterrupt:
            raise Interrupted(account(target, steps, number, "interrupted")) from None
        except Failed as error:
            if isinstance(error, Refused) and number == 0:
                raise  # nothing was begun
            raise Failed(account(target, steps, number, str(error))) from None
        if not dry and (outcome or several):
            _say(f"    {outcome or 'done'}" + f" ({duration(time.monotonic() - step_began)})" * several)
    if several and not dry:
        _say(f"{len(steps)} steps in {duration(time.monotonic() - began)}")


def account(target: Target, steps: Sequence[Step], failed: int, reason: str) -> str:
    """What became of each step, and how to go on: every command finds what is done and leaves it."""
    lines = [f"{steps[failed].name}: {reason}"]
    if len(steps) > 1:
        lines.append("done:     " + (", ".join(step.name for step in steps[:failed]) or "nothing"))
        lines.append("not done: " + ", ".join(step.name for step in steps[failed:]))
    commands = list(dict.fromkeys(step.again for step in steps[failed:] if step.again))
    if commands:
        lines.append("next:     " + ", then ".join(target.command(command) for command in commands))
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """A time that something took: 0.4 s, 82 s, 12 min 5 s."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes >= 2 else f"{round(seconds)} s"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: each column as wide as its widest cell. The first row holds the headings."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
