from typing import Annotated

from pydantic import StringConstraints

from agent.records import Abstention
from tools.base import Desk, tool


@tool
def abstain(desk: Desk, reason: Annotated[str, StringConstraints(min_length=1, max_length=300)]) -> str:
    """Choose to do nothing here, and say why."""
    turns = tuple(t.id for t in desk.turns.values())
    desk.bag.ledger.add(Abstention.model_validate({"phase": desk.phase, "reason": reason, "turns": turns}))
    desk.abstained = reason
    return "ok"
