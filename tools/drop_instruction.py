from typing import Annotated

from pydantic import StringConstraints

from tools.base import Desk, ToolError, tool


@tool
def drop_instruction(desk: Desk, rule: Annotated[str, StringConstraints(min_length=2, max_length=300)]) -> str:
    """Take a rule out of your mask because the person no longer wants it."""
    selves = desk.bag.selves
    mask = selves.current().mask
    rest = tuple(r for r in mask.rules if r.text != rule)
    if len(rest) == len(mask.rules):
        raise ToolError("no such rule stands in the mask")
    selves.wear(mask.model_copy(update={"rules": rest}), "dropped a rule")
    return "ok"
