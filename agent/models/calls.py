"""Llama-3 tool calls in text: ``{"name": …, "parameters": {…}}``, several parted by ``;``."""

from __future__ import annotations

import json
from typing import Any

PYTHON_TAG = "<|python_tag|>"


def looks_like_call(text: str) -> bool:
    """Whether a reply that begins so is a tool call rather than words."""
    return text.lstrip().removeprefix(PYTHON_TAG).lstrip().startswith("{")


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
