"""A command is a list of steps: each prints its result and its duration. When one fails, the error says what was done,
what was not, and which commands to run next."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


class StepFailed(Exception):
    """Something outside this program failed; the text says what, and what to do about it."""

    status = 1


class Aborted(StepFailed):
    """The command was refused before it changed anything."""

    status = 2


class Interrupted(StepFailed):
    """The user pressed Ctrl-C."""

    status = 130


@dataclass(frozen=True)
class Step:
    """One thing to do. If it is done already, the step says so and changes nothing."""

    name: str
    command: str | Callable[[], str]
    """The command that repeats this step; empty for a step that only reads, a function if an earlier step decides."""
    do: Callable[[], str]
    """Do it, and return the result in a few words."""

    @property
    def again(self) -> str:
        """The command as it is now."""
        return self.command if isinstance(self.command, str) else self.command()


def carry_out(command: Callable[[str], str], steps: Sequence[Step], *, dry: bool) -> None:
    """Do the steps in order. `command` turns a command of this program into a line that can be typed.

    Raises StepFailed, with the state of all steps, at the first that fails.
    """
    began, several = time.monotonic(), len(steps) > 1
    for number, step in enumerate(steps):
        if several:
            say(f"{'# ' * dry}[{number + 1}/{len(steps)}] {step.name}")
        step_began = time.monotonic()
        try:
            outcome = step.do()
        except KeyboardInterrupt:
            raise Interrupted(_summary(command, steps, number, "interrupted")) from None
        except StepFailed as error:
            if isinstance(error, Aborted) and number == 0:
                raise  # nothing was begun
            raise StepFailed(_summary(command, steps, number, str(error))) from None
        if not dry and (outcome or several):
            say(f"    {outcome or 'done'}" + f" ({duration(time.monotonic() - step_began)})" * several)
    if several and not dry:
        say(f"{len(steps)} steps in {duration(time.monotonic() - began)}")


def _summary(command: Callable[[str], str], steps: Sequence[Step], failed: int, reason: str) -> str:
    lines = [f"{steps[failed].name}: {reason}"]
    if len(steps) > 1:
        lines.append("done:     " + (", ".join(step.name for step in steps[:failed]) or "nothing"))
        lines.append("not done: " + ", ".join(step.name for step in steps[failed:]))
    if commands := list(dict.fromkeys(step.again for step in steps[failed:] if step.again)):
        lines.append("next:     " + ", then ".join(map(command, commands)))
    return "\n".join(lines)


def say(line: str) -> None:
    """Print a line of progress. Standard output is for results."""
    print(line, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """A duration in words: 0.4 s, 82 s, 12 min 5 s."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes >= 2 else f"{round(seconds)} s"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table whose columns are aligned; the first row holds the headings."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
