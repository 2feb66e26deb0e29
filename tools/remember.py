from typing import Annotated

from pydantic import StringConstraints

from agent.records import Memory
from tools.base import Desk, tool


@tool
def remember(desk: Desk, text: Annotated[str, StringConstraints(min_length=1, max_length=400)]) -> str:
    """Keep a fact of the person's life in memory, in their own words."""
    memory = next((m for m in desk.bag.ledger.all(Memory) if m.text == text), None)
    if memory is None:
        memory = desk.bag.ledger.add(Memory(text=text))
    desk.noted.append(memory)
    return "ok"
