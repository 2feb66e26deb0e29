from typing import Annotated

from pydantic import StringConstraints

from agent.learning.conflict import adopt
from agent.phrase import Phrase
from agent.records import Habit
from prompts import language_of
from tools.base import Desk, tool


@tool
def adopt_instruction(desk: Desk, rule: Annotated[str, StringConstraints(min_length=2, max_length=300)]) -> str:
    """Put a lasting wish of the person into your mask as one rule."""
    ledger = desk.bag.ledger
    known = next((h for h in ledger.all(Habit) if h.rule == rule and h.stage != "released"), None)
    habit = known or ledger.add(Habit(rule=rule, scope=(language_of(desk.user or rule),)))
    if habit.stage in ("essence", "fading"):  # told again though it is in the weights: they did not hold it
        reason = Phrase("told again: the weights alone did not hold it")
        habit = ledger.add(habit.model_copy(update={"stage": "repeated", "reason": reason, "at": ""}))
    desk.told.append(habit)  # told again is evidence too
    if all(r.text != rule for r in desk.bag.selves.current().mask.rules):
        adopt(desk.bag, habit, Phrase("adopted {habit}", habit=habit.id))
    return "ok"
