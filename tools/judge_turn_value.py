from typing import Annotated

from pydantic import Field, StringConstraints

from agent.records import Kind, Verdict
from tools.base import Desk, ToolError, tool


@tool
def judge_turn_value(
    desk: Desk,
    turn: int,
    value: Annotated[int, Field(ge=0, le=5)],
    kind: Kind,
    reason: Annotated[str, StringConstraints(min_length=1, max_length=300)],
) -> str:
    """Judge how much a turn is worth learning: its value, what kind of turn it is, and why."""
    if turn not in desk.turns:
        raise ToolError(f"turn {turn} was not shown; shown: {sorted(desk.turns)}")
    judged = desk.turns[turn]
    desk.verdicts.append(desk.bag.ledger.add(Verdict(turn=judged.id, value=value, kind=kind, reason=reason)))
    return "ok"
