from typing import Annotated

from pydantic import StringConstraints

from agent.records import Memory
from tools.base import Desk, tool


@tool
def remember(desk: Desk, text: Annotated[str, StringConstraints(min_length=1, max_length=400)]) -> str:
    """Keep a fact of the person's life in memory, in their own words."""
    ledger = desk.bag.ledger
    with ledger.together() as add:
        known = next((m for m in ledger.all(Memory) if m.text == text), None)
        memory = known or Memory(text=text)
        turns = tuple(dict.fromkeys((*memory.turns, desk.turn))) if desk.turn else memory.turns
        if known is None or turns != known.turns:
            add(memory.model_copy(update={"turns": turns, "at": ""}))
    return "ok"
