from typing import Annotated

from pydantic import Field, StringConstraints

from agent.learning.proposing import file_decay
from agent.phrase import Phrase
from tools.base import Desk, ToolError, tool


@tool
def decay_old_adapter(
    desk: Desk,
    habit: int,
    weight: Annotated[float, Field(ge=0, lt=1)],
    reason: Annotated[str, StringConstraints(min_length=1, max_length=300)],
) -> str:
    """Ask the person for leave to let an unused or unwanted habit fade to a lower weight; 0 asks to release it."""
    if habit not in desk.habits:
        raise ToolError(f"habit {habit} was not shown; shown: {sorted(desk.habits)}")
    now = next((p.weight for p in desk.bag.selves.current().parts if p.habit == desk.habits[habit].id), 0.0)
    if weight >= now:
        raise ToolError(f"the weight is {now} now; fading goes below it")
    proposal = file_decay(desk.bag, desk.habits[habit], weight, reason, tuple(t.id for t in desk.turns.values()))
    desk.proposals.append(proposal)
    return Phrase("{ref} waits for the person", ref=proposal.id)
