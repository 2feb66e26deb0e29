from typing import Annotated

from pydantic import StringConstraints

from tools.base import Desk, tool


@tool
def recall(desk: Desk, query: Annotated[str, StringConstraints(min_length=1, max_length=200)]) -> str:
    """Look up what the person told you before."""
    index = desk.bag.passing_index if desk.mode == "sandbox" else desk.bag.index
    found = index.near(query, "memory", 3, least=0.08)
    return "\n".join(f"- {text}" for _, text, _ in found) or "none"
