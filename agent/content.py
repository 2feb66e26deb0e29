"""The words beside the rows: texts leave a row's body for the content table, under salted digests.

So a text can be erased for good without breaking the chain of rows, and nobody who has only the chain
can test a guess against it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from typing import NamedTuple

WORDS = frozenset(
    ("user", "reply", "text", "rule", "rules", "quote", "reason", "rationale", "prompt", "completion", "rejected", "teacher", "prompts",
     "entry", "note", "risks", "preview", "result", "mood", "few_shot", "what", "failure", "samples")
)  # fmt: skip
ALL_WORDS = frozenset(("persona", "personas"))  # here every text is words, whatever its key
WHOLE = "arguments"  # of a tool call: words whatever they are, keys and numbers too, so they are one text, as JSON
ERASED = "⌫"
MARKS = {"$": ERASED, "$json": "{}"}  # what stands in a text's place, with its digest; how it reads once it was erased


class Word(NamedTuple):
    """One text of a row, and the digest it is kept under."""

    digest: str
    text: str


def content_digest(salt: str, text: str) -> str:
    """What a text is kept under."""
    return hashlib.sha256(f"{salt}\x1f{text}".encode()).hexdigest()


def put_away(node: object, contents: list[tuple[str, str, str]], words: bool = False, all_: bool = False) -> object:
    """``node`` with the person's and the model's words replaced by ``{"$": digest}``; own ``$…`` keys are escaped.

    What is kept as JSON becomes ``{"$json": digest}``.
    """
    if isinstance(node, dict):
        return {
            (f"${k}" if k.startswith("$") else k): {"$json": _kept(json.dumps(v, ensure_ascii=False), contents)}
            if k == WHOLE and v
            else put_away(v, contents, all_ or k in WORDS or k in ALL_WORDS, all_ or k in ALL_WORDS)
            for k, v in node.items()
        }
    if isinstance(node, list):
        return [put_away(v, contents, words, all_) for v in node]
    if words and isinstance(node, str) and node:
        return {"$": _kept(node, contents)}
    return node


def _kept(text: str, contents: list[tuple[str, str, str]]) -> str:
    salt = os.urandom(8).hex()
    digest = content_digest(salt, text)
    contents.append((digest, salt, text))
    return digest


def take_out(node: object, texts: dict[str, str], make: Callable[[str, str], object] | None = None) -> object:
    """``node`` with its words put back, or what ``make(digest, text)`` makes of each; what was erased reads as in ``MARKS``."""
    if isinstance(node, dict):
        if _marked(node):
            ((mark, digest),) = node.items()
            text = texts.get(digest, MARKS[mark])
            return make(digest, text) if make else json.loads(text) if mark == "$json" else text
        return {k[1:] if k.startswith("$$") else k: take_out(v, texts, make) for k, v in node.items()}
    if isinstance(node, list):
        return [take_out(v, texts, make) for v in node]
    return node


def _marked(node: dict[str, object]) -> bool:
    return len(node) == 1 and node.keys() <= MARKS.keys()


def digests(node: object) -> list[str]:
    """Every digest in ``node``."""
    if isinstance(node, dict):
        if _marked(node):
            return list(node.values())
        return [d for v in node.values() for d in digests(v)]
    if isinstance(node, list):
        return [d for v in node for d in digests(v)]
    return []
