from typing import Annotated

from pydantic import StringConstraints

from agent.bag import living
from agent.learning.conflict import drop_rule
from agent.records import LONGEST_RULE
from tools.base import Desk, ToolError, tool


@tool
def drop_instruction(desk: Desk, rule: Annotated[str, StringConstraints(min_length=2, max_length=LONGEST_RULE)]) -> str:
    """Take a rule out of your mask because the person no longer wants it."""
    line = any(r.text == rule for r in desk.bag.selves.current().mask.rules)
    inside = [h.id for h in living(desk.bag) if h.rule == rule]  # how to be rid of it for good is thought over at night
    if not line and not inside:
        raise ToolError("no such rule stands in the mask")
    drop_rule(desk.bag, rule, inside)
    return "ok"
