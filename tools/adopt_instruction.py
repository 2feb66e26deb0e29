from typing import Annotated

from pydantic import StringConstraints

from agent.learning.conflict import clashing, superseded
from agent.learning.proposing import personas
from agent.phrase import Phrase
from agent.records import Habit, Mask, Rule
from prompts import language_of
from tools.base import Desk, tool

ASKED = 4  # prompts on which it is tried beside an older rule: somebody waits for a reply


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
    now = desk.bag.selves.current().mask
    if any(r.text == rule for r in now.rules):
        return "ok"
    older = ledger.some(Habit, [r.habit for r in now.rules if r.habit])
    gone = clashing(desk.bag, older, habit, personas(now), ASKED)

    def adopted(mask: Mask) -> Mask:
        rules = [r for r in mask.rules if r.habit not in {h.id for h in gone}]
        return mask.model_copy(update={"rules": (*rules, Rule(text=rule, scope=habit.scope, habit=habit.id))})

    desk.bag.selves.wear(adopted, Phrase("adopted {habit}", habit=habit.id))
    for h in gone:
        if h.stage in ("told", "repeated"):
            ledger.add(superseded(h, habit))
    return "ok"
