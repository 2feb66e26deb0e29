from typing import Annotated

from pydantic import StringConstraints

from agent.errors import ConflictError
from agent.learning.proposing import draft_rows, file_learning
from agent.phrase import Phrase
from agent.records import Method
from tools.base import Desk, ToolError, tool


@tool
def schedule_lora_update(
    desk: Desk,
    habit: int,
    method: Method,
    reason: Annotated[str, StringConstraints(min_length=1, max_length=300)],
) -> str:
    """Ask the person for leave to grow a habit into your weights: freezes the data and files the proposal as waiting."""
    if desk.draft is None or habit not in desk.habits:
        raise ToolError("there is no draft to schedule")
    if not draft_rows(desk.bag, desk.draft):
        raise ToolError("the draft holds no examples yet")
    try:
        proposal = file_learning(desk.bag, desk.draft, method, reason)
    except ConflictError as error:  # nothing to be corrected
        return error.message
    desk.proposals.append(proposal)
    return Phrase("{ref} waits for the person", ref=proposal.id)
