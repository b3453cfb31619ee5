"""Prompts: tags and @names, references, lint, the rewriting of free prose. Loads torch only to rewrite."""

from sky4.prompting.lint import Fault, PromptError, check_prompt, require_clean
from sky4.prompting.references import ReferenceFile, in_prompt_order, resolve_references
from sky4.prompting.tags import Mention, Prompt, Span, Text, parse

__all__ = [
    "Fault",
    "Mention",
    "Prompt",
    "PromptError",
    "ReferenceFile",
    "Span",
    "Text",
    "check_prompt",
    "in_prompt_order",
    "parse",
    "require_clean",
    "resolve_references",
]
