from typing import Annotated

from pydantic import StringConstraints

from agent.records import Habit, Rule
from prompts import language_of
from tools.base import Desk, tool


@tool
def adopt_instruction(desk: Desk, rule: Annotated[str, StringConstraints(min_length=2, max_length=300)]) -> str:
    """Put a lasting wish of the person into your mask as one rule."""
    ledger, selves = desk.bag.ledger, desk.bag.selves
    mask = selves.current().mask
    if any(r.text == rule for r in mask.rules):
        return "ok"
    known = next((h for h in ledger.all(Habit) if h.rule == rule and h.stage not in ("released", "essence")), None)
    habit = known or ledger.add(Habit(rule=rule, scope=(language_of(desk.user or rule),)))
    if known is None:
        desk.told.append(habit)
    line = Rule(text=rule, scope=habit.scope, habit=habit.id)
    selves.wear(mask.model_copy(update={"rules": (*mask.rules, line)}), f"adopted {habit.id}")
    return "ok"
