"""The examples at the end of a command's `--help`: whole lines, to be copied as they stand."""

from __future__ import annotations

HEADING = "Examples:"


def epilog(*lines: str) -> str:
    """What a command is registered with: `app.command("edit", epilog=epilog(*EXAMPLES))`."""
    # \b keeps the help from wrapping the paragraph
    return "\n".join(["\b", HEADING, *(f"  {line}" for line in lines)])


def examples_of(text: str | None) -> list[str]:
    """The lines inside such an epilog; none where it is no such epilog."""
    _, heading, rest = (text or "").partition(HEADING)
    return [line.strip() for line in rest.splitlines() if line.strip()] if heading else []
