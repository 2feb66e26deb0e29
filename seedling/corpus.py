"""The corpus: documents in the runtime's own prompts, drawn without end from a seed.

Every document is a chat (messages + tool signatures). Loss falls on what the assistant says and calls.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from random import Random
from typing import Any

from seedling import rules
from seedling.document import (
    CONVERSE_TOOLS,
    DECAY_TOOLS,
    JUDGE_TOOLS,
    PROPOSE_TOOLS,
    SCHEDULE_TOOLS,
    WRITE_TOOLS,
    Document,
)
from seedling.duties import decay, diary, judge, propose, schedule, write
from seedling.speech import FILLERS, FIXED, REASONS, TALK, intents
from seedling.talks import adopt_talk, chat, echo, fact_talk, grown_talk, kinds_talk, life_talk, unknown_talk
from seedling.words import ABOUT, CALLED, NAMES, SLOTS


def repeat(r: Random, vocabulary: int, first: int) -> Document:
    """Random tokens, then the same again, whole or by pieces in another order: the dense lesson in copying."""
    make = r.random()
    if make < 0.5:
        ids = [r.randrange(first, vocabulary) for _ in range(r.randrange(6, 40))]
        return Document((), topic="repeat", raw=(*ids, *ids), repeat_from=len(ids) + 1)
    pieces = [[r.randrange(first, vocabulary) for _ in range(r.randrange(2, 7))] for _ in range(r.randrange(3, 9))]
    again = r.sample(pieces, len(pieces))
    flat = [t for p in pieces for t in p]
    return Document((), topic="repeat", raw=(*flat, *(t for p in again for t in p)), repeat_from=len(flat) + 1)


MIX: list[tuple[Callable[[Random], Document], float]] = [
    (chat, 34), (life_talk, 26), (grown_talk, 8), (fact_talk, 8), (adopt_talk, 10), (unknown_talk, 9), (kinds_talk, 4),
    (judge, 6), (propose, 15), (write, 8), (schedule, 1), (decay, 3), (diary, 1), (echo, 4),
]  # fmt: skip


def draw(r: Random) -> Document:
    """One document of the mix."""
    make: Callable[[Random], Document] = r.choices([maker for maker, _ in MIX], [weight for _, weight in MIX])[0]
    return make(r)


def vocabulary_texts() -> list[str]:
    """Everything written by hand that the model meets; what is made up at random stays spelled out."""

    def strings(node: Any) -> list[str]:
        if isinstance(node, str):
            return [node]
        return [s for item in (node.values() if isinstance(node, dict) else node) for s in strings(item)]

    tools = [
        t
        for group in (CONVERSE_TOOLS, JUDGE_TOOLS, PROPOSE_TOOLS, WRITE_TOOLS, SCHEDULE_TOOLS, DECAY_TOOLS)
        for t in group
    ]
    talk = [s for path in sorted(TALK.glob("*.toml")) for s in strings(tomllib.loads(path.read_text("utf-8")))]
    prompts = [p.read_text("utf-8") for p in sorted((TALK.parents[1] / "prompts").glob("*/*.md"))]
    always = [*tools, *prompts, *NAMES, *CALLED["en"], "system user assistant ipython Tools name parameters distill none ok P S", *strings(FIXED),
              *strings(REASONS), *strings([*FILLERS["ko"], *FILLERS["en"], *rules.COURTESIES["ko"], *rules.COURTESIES["en"]]), *(en for pairs in (*SLOTS.values(), *ABOUT.values()) for _, en in pairs)]  # fmt: skip
    replies = [s for i in intents() for s in strings(i.replies)]
    return talk + replies + always * 2
