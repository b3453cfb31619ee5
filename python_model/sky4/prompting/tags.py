"""The structured prompt: prose with spans <text> <sfx> <dialogue> <singing> <bgm> and @names of references.

`parse` never fails: it returns the tree that it could read and the faults of form that it met, each at its place.
Offsets count characters of the prompt from 0.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

TAGS = ("text", "sfx", "dialogue", "singing", "bgm")

# Names that prompts are trained with; any other name that --ref gives is as good.
NUMBERED = re.compile(r"(image|video|audio)_\d+|(Actor|Audio)-\d+")
NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[_-]+[A-Za-z0-9]+)*")

_KNOWN = "|".join(TAGS)
_TOKEN = re.compile(
    r"(?P<tag><(?P<close>/?)(?P<tagname>[A-Za-z][\w-]*)\s*(?P<void>/?)>)"
    rf"|(?P<wide>＜(?P<wideclose>/?)(?P<widename>{_KNOWN})\s*＞)"
    rf"|(?P<cut><(?P<cutclose>/?)(?P<cutname>{_KNOWN})(?![\w>-]))"
    rf"|(?P<at>@(?P<name>{NAME.pattern}))"
)
# What follows the @ of an e-mail address; the part before it is looked for in _is_address.
_DOMAIN = re.compile(r"@[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}")

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Issue:
    """A fault of form at prompt[offset : offset + length]."""

    offset: int
    length: int
    message: str
    severity: Severity = "error"


@dataclass(frozen=True)
class Text:
    """Plain words."""

    value: str
    offset: int


@dataclass(frozen=True)
class Mention:
    """@name: a reference, named as the user named it."""

    name: str
    offset: int


@dataclass(frozen=True)
class Span:
    """<tag>parts</tag>; parts are words and mentions."""

    tag: str
    parts: tuple[Node, ...]
    offset: int

    @property
    def words(self) -> str:
        """What stands inside, as written."""
        return "".join(_source(part) for part in self.parts)


Node = Text | Mention | Span


@dataclass(frozen=True)
class Prompt:
    """The tree of one prompt; str() writes a clean prompt back as it was."""

    parts: tuple[Node, ...]

    def __str__(self) -> str:
        return "".join(_source(part) for part in self.parts)

    def mentions(self) -> tuple[Mention, ...]:
        """Every @name, in the order of the prompt, repeated ones too."""
        return tuple(node for node in _walk(self.parts) if isinstance(node, Mention))

    def spans(self, tag: str) -> tuple[str, ...]:
        """The words of every <tag> span, in order."""
        return tuple(node.words for node in _walk(self.parts) if isinstance(node, Span) and node.tag == tag)


@dataclass
class _Open:
    tag: str
    offset: int
    length: int
    parts: list[Node]


def parse(prompt: str, names: Collection[str] = ()) -> tuple[Prompt, list[Issue]]:
    """Read a prompt into its tree, with the faults of its form: tags unknown, unclosed, stray, nested, cut short.

    names: the references offered; they settle what an @ between letters and dots means (see `_is_address`).
    What cannot be read as tag or mention stays in the tree as plain words.
    """
    issues: list[Issue] = []
    stack = [_Open("", 0, 0, [])]
    at = 0
    for token in _TOKEN.finditer(prompt):
        literal = stack[-1].tag == "text"  # what is written in the picture may hold an @ of its own
        if token["at"] and (literal or _is_address(prompt, token, names)):
            continue
        if fault := _tag_fault(token):
            issues.append(fault)
        tag = token["tagname"] or token["widename"] or token["cutname"]
        if not token["at"] and (tag not in TAGS or token["void"]):
            continue
        _add_text(stack[-1].parts, prompt[at : token.start()], at)
        at = token.end()
        if token["at"]:
            stack[-1].parts.append(Mention(token["name"], token.start()))
        elif token["close"] or token["wideclose"] or token["cutclose"]:
            _close(stack, tag, token, issues)
        else:
            _open(stack, tag, token, issues)
    _add_text(stack[-1].parts, prompt[at:], at)
    while len(stack) > 1:
        _unclosed(stack, issues)
    return Prompt(tuple(stack[0].parts)), sorted(issues, key=lambda issue: issue.offset)


def nearest(word: str, among: Collection[str]) -> str | None:
    """The one of `among` that `word` was probably meant to be."""
    by_lower = {name.lower(): name for name in among}
    close = get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def _open(stack: list[_Open], tag: str, token: re.Match[str], issues: list[Issue]) -> None:
    offset, length = token.start(), len(token.group())
    if len(stack) > 1:
        outer = stack[-1].tag
        issues.append(Issue(offset, length, f"<{tag}> lies inside <{outer}>; close </{outer}> before it"))
    stack.append(_Open(tag, offset, length, []))


def _close(stack: list[_Open], tag: str, token: re.Match[str], issues: list[Issue]) -> None:
    offset, length = token.start(), len(token.group())
    if all(opened.tag != tag for opened in stack):
        issues.append(Issue(offset, length, f"</{tag}> closes nothing; put <{tag}> before it or remove it"))
        stack[-1].parts.append(Text(token.group(), offset))
        return
    while stack[-1].tag != tag:
        _unclosed(stack, issues)
    opened = stack.pop()
    span = Span(tag, tuple(opened.parts), opened.offset)
    if not span.words.strip():
        issues.append(Issue(opened.offset, opened.length, f"<{tag}> is empty; fill it or remove it", "warning"))
    stack[-1].parts.append(span)


def _unclosed(stack: list[_Open], issues: list[Issue]) -> None:
    opened = stack.pop()
    issues.append(Issue(opened.offset, opened.length, f"<{opened.tag}> is never closed; add </{opened.tag}>"))
    stack[-1].parts.append(Text(f"<{opened.tag}>", opened.offset))
    stack[-1].parts.extend(opened.parts)


def _tag_fault(token: re.Match[str]) -> Issue | None:
    """What is wrong with a tag taken by itself."""
    message = None
    written, name = token.group(), token["tagname"]
    if token["wide"]:
        message = f"{written} is in full-width brackets; write {written.replace('＜', '<').replace('＞', '>')}"
    elif token["cut"]:
        message = f"the tag {written} lacks its '>'; write {written}>"
    elif name and name not in TAGS:
        meant = nearest(name, TAGS)
        remedy = f"did you mean <{meant}>?" if meant else "known are " + ", ".join(f"<{tag}>" for tag in TAGS)
        message = f"unknown tag {written}; {remedy}"
    elif token["void"]:
        message = f"{written} holds nothing; write <{name}>...</{name}>"
    return Issue(token.start(), len(written), message) if message else None


def _is_address(prompt: str, token: re.Match[str], names: Collection[str]) -> bool:
    """Whether this @ belongs to an e-mail address: Latin letters or digits right before it, a dotted domain after.

    A name that is offered, or numbered as references are, is no address: `says@image_1.Then` mentions @image_1.
    """
    before = prompt[token.start() - 1] if token.start() else " "
    if not (before.isascii() and (before.isalnum() or before in "_.+%-")):
        return False
    if token["name"] in names or NUMBERED.fullmatch(token["name"]):
        return False
    return _DOMAIN.match(prompt, token.start()) is not None


def _add_text(parts: list[Node], value: str, offset: int) -> None:
    if value:
        parts.append(Text(value, offset))


def _walk(parts: tuple[Node, ...]) -> Iterator[Node]:
    for part in parts:
        yield part
        if isinstance(part, Span):
            yield from _walk(part.parts)


def _source(node: Node) -> str:
    match node:
        case Text(value=value):
            return value
        case Mention(name=name):
            return f"@{name}"
        case Span(tag=tag):
            return f"<{tag}>{node.words}</{tag}>"
