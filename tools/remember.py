from typing import Annotated

from pydantic import StringConstraints

from agent.records import Memory
from tools.base import Desk, tool


@tool
def remember(desk: Desk, text: Annotated[str, StringConstraints(min_length=1, max_length=400)]) -> str:
    """Keep a fact of the person's life in memory, in their own words."""
    if all(memory.text != text for memory in desk.bag.ledger.all(Memory)):
        memory = desk.bag.ledger.add(Memory(text=text))
        desk.bag.index.add(memory.id, memory.text, "memory")
    return "ok"
