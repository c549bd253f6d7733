"""A LAMMPS input script as a list of commands that can be edited one by one.

LAMMPS reads a script line by line: ``&`` continues a line, ``#`` starts a comment, quotes (also
triple ones over several lines) hold words together, ``$`` is replaced only when the line is
reached. Text that is not edited stays as the user wrote it, byte for byte.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

RUNS = frozenset({"run", "minimize"})
# With these the order of the lines is not the order of execution, or a line hides what it does.
NOT_LINEAR = frozenset({
    "jump", "label", "next", "if", "clear", "partition", "python", "rerun", "neb", "prd", "tad",
    "temper", "temper/grem", "temper/npt", "hyper", "third_order", "dynamical_matrix", "mdi",
})
_MARK = "# orionflow: "
_WORD = re.compile(r'"""(?:.|\n)*?"""|"[^"\n]*"|\'[^\'\n]*\'|[^\s"\']+(?:"[^"\n]*")?')
_TRIPLE = '"""'


@dataclass
class Command:
    """One command with the lines it was written on; ``words`` is empty for comments.

    Attributes
    ----------
    lines
        As in the file, without line ends.
    words
        Name and arguments, quotes kept.
    comment
        What followed ``#`` on the last line, with the sign.
    """

    lines: list[str]
    words: list[str] = field(default_factory=list)
    comment: str = ""

    @property
    def name(self) -> str:
        """The command itself, or an empty string."""
        return self.words[0] if self.words else ""

    @property
    def args(self) -> list[str]:
        """Arguments with the quotes around them taken off."""
        return [unquote(w) for w in self.words[1:]]

    def __str__(self) -> str:
        """Name and arguments on one line."""
        return " ".join(self.words)


def unquote(word: str) -> str:
    """Return a word without the quotes around it."""
    for quote in (_TRIPLE, '"', "'"):
        if len(word) >= 2 * len(quote) and word.startswith(quote) and word.endswith(quote):
            return word[len(quote):-len(quote)]
    return word


def split_comment(line: str) -> tuple[str, str]:
    """Split a line at the first ``#`` outside quotes."""
    quote = ""
    at = 0
    while at < len(line):
        if quote:
            if line.startswith(quote, at):
                at += len(quote)
                quote = ""
                continue
        elif line.startswith(_TRIPLE, at):
            quote = _TRIPLE
            at += 3
            continue
        elif line[at] in "\"'":
            quote = line[at]
        elif line[at] == "#":
            return line[:at], line[at:]
        at += 1
    return line, ""


def parse(text: str) -> list[Command]:
    """Return the commands of a script, blank and comment lines among them.

    As in LAMMPS, ``&`` at the end and open triple quotes continue a line even inside a comment.
    """
    commands: list[Command] = []
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    at = 0
    while at < len(lines):
        raw = [lines[at]]
        code = lines[at].rstrip()
        at += 1
        while at < len(lines):
            if code.count(_TRIPLE) % 2:
                code += "\n" + lines[at].rstrip()
            elif code.endswith("&"):
                code = code[:-1] + " " + lines[at].rstrip()
            else:
                break
            raw.append(lines[at])
            at += 1
        code, comment = split_comment(code)
        commands.append(Command(raw, _WORD.findall(code), comment))
    return commands


def as_comment(lines: Sequence[str]) -> list[str]:
    """Return lines as comments that continue nothing."""
    safe = (line.replace(_TRIPLE, "(quotes)").rstrip() for line in lines)
    return [f"{_MARK}was: {line[:-1] + '(&)' if line.endswith('&') else line}" for line in safe]


class Script:
    """An input script under edit.

    Parameters
    ----------
    text
        The whole script.

    Attributes
    ----------
    commands
        In the order of the file.
    """

    def __init__(self, text: str) -> None:
        self.commands = parse(text)

    @classmethod
    def read(cls, path: Path) -> Script:
        """Read a script and put the files it includes in their places.

        A file is left as an `include` when its name holds a variable, it is not there, or it
        jumps (then it must stay a file of its own).
        """
        script = cls(path.read_text(errors="surrogateescape"))
        script._inline(path.parent, depth=5)
        return script

    def _inline(self, folder: Path, depth: int) -> None:
        result: list[Command] = []
        for command in self.commands:
            inner = None
            if command.name == "include" and len(command.args) == 1 and depth:
                file = folder / command.args[0]
                if "$" not in command.args[0] and file.is_file():
                    inner = Script(file.read_text(errors="surrogateescape"))
            if inner is None or any(c.name in {"jump", "label"} for c in inner.commands):
                result.append(command)
                continue
            inner._inline(folder, depth - 1)
            result.append(Command([f"{_MARK}begin of {command.args[0]}"]))
            result += inner.commands
            result.append(Command([f"{_MARK}end of {command.args[0]}"]))
        self.commands = result

    def text(self) -> str:
        """Return the script as it is now."""
        return "\n".join(line for c in self.commands for line in c.lines) + "\n"

    def copy(self) -> Script:
        """Return an independent copy."""
        return Script(self.text())

    @property
    def linear(self) -> bool:
        """Whether commands are carried out once each, in the order of the lines."""
        return not any(
            c.name in NOT_LINEAR or (c.name == "include")
            or (c.name == "run" and "every" in c.words) for c in self.commands
        )

    def find(self, *names: str) -> list[int]:
        """Return the positions of all commands with one of these names."""
        return [i for i, c in enumerate(self.commands) if c.name in names]

    def all(self, *names: str) -> Iterator[Command]:
        """Go through all commands with one of these names."""
        return (c for c in self.commands if c.name in names)

    def runs(self) -> list[int]:
        """Return the positions of everything that moves atoms: `run` and `minimize`."""
        return self.find(*RUNS)

    def insert(self, at: int, lines: Sequence[str]) -> None:
        """Put commands before position ``at``."""
        self.commands[at:at] = [c for line in lines for c in parse(line)]

    def replace(self, at: int, line: str) -> None:
        """Write another command in place of one, which stays as a comment."""
        old = self.commands[at]
        new = parse(line)
        new[0].lines[:0] = as_comment(old.lines)
        self.commands[at : at + 1] = new

    def remove(self, at: int) -> None:
        """Turn a command into a comment."""
        self.commands[at] = Command(as_comment(self.commands[at].lines))

    def restore_to(self, other: Script) -> None:
        """Take over all commands of another script."""
        self.commands = other.copy().commands
