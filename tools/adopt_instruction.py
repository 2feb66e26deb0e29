from typing import Annotated

from pydantic import StringConstraints

from agent.learning.conflict import adopt
from agent.learning.lifecycle import told
from agent.phrase import Phrase
from agent.records import LONGEST_RULE
from prompts import language_of
from tools.base import Desk, tool


@tool
def adopt_instruction(
    desk: Desk, rule: Annotated[str, StringConstraints(min_length=2, max_length=LONGEST_RULE)]
) -> str:
    """Put a lasting wish of the person into your mask as one rule."""
    habit = told(desk.bag, rule, language_of(desk.user or rule), desk.turn)
    adopt(desk.bag, habit, Phrase("adopted {habit}", habit=habit.id))
    return "ok"
