"""Llama-3 tool calls in text: ``{"name": …, "parameters": {…}}``, several parted by ``;``."""

from __future__ import annotations

import json
import re
from typing import Any

PYTHON_TAG = "<|python_tag|>"
# how calls begin, but for their white space and name; the last is how tools are shown, which some Llamas copy
FORMS = ('{"name":"","parameters":', '{"name":"","arguments":', '{"type":"function",')


def looks_like_call(text: str) -> bool:
    """Whether a reply that begins so is a tool call rather than words."""
    return text.lstrip().removeprefix(PYTHON_TAG).lstrip().startswith("{")


def calling(text: str) -> bool | None:
    """Whether a reply that begins so has the form of a call, as other JSON has not; None: it may become either."""
    said = "".join(text.split()).removeprefix(PYTHON_TAG)
    nameless = re.sub(r'^(\{"name":")[^"]+', r"\1", said)  # which tools there are the grammar knows
    if nameless.startswith(FORMS):
        return True
    return None if any(form.startswith(nameless) for form in FORMS) else False


def parse(text: str) -> tuple[str, list[dict[str, Any]], list[str]]:
    """Split a reply into words, calls ``{"name", "args"}`` and the pieces that failed to parse."""
    if not looks_like_call(text):
        return text, [], []
    rest = text.strip().removeprefix(PYTHON_TAG).strip()
    decoder, calls, bad = json.JSONDecoder(), [], []
    while rest:
        try:
            found, end = decoder.raw_decode(rest)
        except (json.JSONDecodeError, RecursionError):
            bad.append(rest)
            break
        arguments = found.get("parameters", found.get("arguments")) if isinstance(found, dict) else None
        if isinstance(arguments, dict) and isinstance(found.get("name"), str):
            calls.append({"name": found["name"], "args": arguments})
        else:
            bad.append(rest[:end])
        rest = rest[end:].lstrip("; \t\r\n")
    return "", calls, bad
