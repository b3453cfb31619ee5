"""Faults of a prompt, each with its column, one sentence and a caret under the place."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from dataclasses import dataclass

from sky4.errors import RequestError
from sky4.prompting.tags import Issue, Prompt, Severity, nearest, parse

_WIDTH = 76  # columns of the excerpt that a fault shows


@dataclass(frozen=True)
class Fault:
    """One fault at (line, column), both from 1; `length` characters are marked. Warnings do not stop a request."""

    column: int
    message: str
    line: int = 1
    length: int = 1
    severity: Severity = "error"

    def __str__(self) -> str:
        place = f"column {self.column}" if self.line == 1 else f"line {self.line}, column {self.column}"
        return f"{place}: {self.message}"

    def render(self, prompt: str) -> str:
        """Three lines: the fault, the prompt's line (cut to its neighbourhood when long), carets under the place."""
        lines = prompt.splitlines() or [""]
        line = lines[min(self.line, len(lines)) - 1].replace("\t", " ")
        start = self.column - 1
        end = min(start + self.length, len(line))
        first, last = _window(line, start, end)
        lead = ("…" if first else "") + line[first:start]
        tail = line[start:last] + ("…" if last < len(line) else "")
        carets = "^" * max(1, _cells(line[start:end]))
        return f"{self.severity}: {self}\n  {lead}{tail}\n  {' ' * _cells(lead)}{carets}"


class PromptError(RequestError):
    """A prompt with faults; its message is the first one, `faults` holds them all."""

    def __init__(self, prompt: str, faults: list[Fault]) -> None:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        super().__init__(f"--prompt has a fault at {faults[0]}{more}")
        self.prompt = prompt
        self.faults = faults

    def render(self) -> str:
        """All faults, each with its excerpt and carets."""
        return "\n".join(fault.render(self.prompt) for fault in self.faults)


def check_prompt(prompt: str, names: Collection[str] = (), implied: Collection[str] = ()) -> list[Fault]:
    """Every fault of a prompt, in the order of their places; `names` are those offered by --ref and --mask, `implied`
    those among them that the prompt need not mention.

    Errors: tags unknown, unclosed, stray, nested or cut short; @names that no reference answers to; an empty prompt.
    Warnings: empty spans; references offered that the prompt does not mention.
    """
    tree, issues = parse(prompt, names)
    if not prompt.strip():
        issues.append(Issue(0, 0, "the prompt is empty; describe the clip"))
    issues += [
        Issue(mention.offset, len(mention.name) + 1, _unresolved(mention.name, names))
        for mention in tree.mentions()
        if mention.name not in names
    ]
    mentioned = {mention.name for mention in tree.mentions()}
    issues += [
        Issue(len(prompt), 0, f"@{name} is not mentioned; write it where it belongs", "warning")
        for name in names
        if name not in mentioned and name not in implied
    ]
    return [_placed(prompt, issue) for issue in sorted(issues, key=lambda issue: issue.offset)]


def require_clean(prompt: str, names: Collection[str] = ()) -> Prompt:
    """The prompt's tree. Raises PromptError (a RequestError) where there is any error; warnings pass."""
    faults = [fault for fault in check_prompt(prompt, names) if fault.severity == "error"]
    if faults:
        raise PromptError(prompt, faults)
    return parse(prompt, names)[0]


def _unresolved(name: str, names: Collection[str]) -> str:
    meant = nearest(name, names)
    if meant:
        return f"no reference is named @{name}; did you mean @{meant}?"
    if names:
        return f"no reference is named @{name}; there are {', '.join('@' + known for known in names)}"
    return f"no reference is named @{name}; add --ref {name}=PATH"


def _placed(prompt: str, issue: Issue) -> Fault:
    before = prompt[: issue.offset].splitlines(keepends=True)
    fresh = not before or before[-1].splitlines()[0] != before[-1]  # at the start, or right after a line break
    line = len(before) + 1 if fresh else len(before)
    column = 1 if fresh else len(before[-1]) + 1
    return Fault(column, issue.message, line, max(1, issue.length), issue.severity)


def _window(line: str, start: int, end: int) -> tuple[int, int]:
    """The part of the line to show: it all, or what fits around the marked place."""
    if _cells(line) <= _WIDTH:
        return 0, len(line)
    first = start
    while first > 0 and _cells(line[first - 1 : start]) < _WIDTH // 2:
        first -= 1
    last = min(end, len(line))
    while last < len(line) and _cells(line[first : last + 1]) < _WIDTH:
        last += 1
    return first, last


def _cells(text: str) -> int:
    """How many columns of a terminal a text takes: two for wide characters, none for combining ones."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )
