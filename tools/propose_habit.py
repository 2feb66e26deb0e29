from typing import Annotated

from pydantic import Field, StringConstraints

from agent.bag import settled
from agent.records import LONGEST_RULE, Call, Draft, Habit, Proposal
from prompts import language_of
from tools.base import Desk, ToolError, tool


@tool
def propose_habit(
    desk: Desk,
    rule: Annotated[str, StringConstraints(min_length=2, max_length=LONGEST_RULE)],
    quote: Annotated[str, StringConstraints(min_length=2, max_length=300)],
    turns: Annotated[list[int], Field(min_length=1, max_length=32)],
    reason: Annotated[str, StringConstraints(min_length=1, max_length=300)],
) -> str:
    """Propose that a repeated wish become a habit: the rule, an exact quote of the person, the turns that show it, and why."""
    strangers = [n for n in turns if n not in desk.turns]
    if strangers:
        raise ToolError(f"turns {strangers} were not shown; shown: {sorted(desk.turns)}")
    cited = [desk.turns[n] for n in dict.fromkeys(turns)]
    if any(t.source != "user" for t in cited):
        raise ToolError("only the person's own words may teach")
    if not any(quote in t.user for t in cited):
        raise ToolError("the quote must be an exact piece of what the person said in a cited turn")
    ledger = desk.bag.ledger
    known = next((h for h in ledger.all(Habit) if h.rule == rule and h.stage != "released"), None)
    if known and known.id in settled(desk.bag):
        raise ToolError(f"this is a habit already ({known.stage})")
    dropping = Call(name="drop_instruction", arguments={"rule": rule}, result="ok")
    decided = {t.id for t in cited if dropping in t.tool_calls}
    for h in (h for h in ledger.all(Habit) if h.rule == rule):
        decided |= {t for p in ledger.all(Proposal, parent=h.id) for t in p.evidence}
        decided |= set(h.evidence) if h.stage == "released" else set()
    if {t.id for t in cited} <= decided:
        raise ToolError("the person has decided on this already, and said nothing new of it in these turns")
    habit = ledger.add(
        Habit(
            id=known.id if known else "",
            rule=rule,
            quote=quote,
            scope=known.scope if known else (language_of(next(t.user for t in cited if quote in t.user)),),
            stage="repeated",
            evidence=tuple(dict.fromkeys([*(known.evidence if known else ()), *(t.id for t in cited)])),
            kept=desk.bag.kept_in(known) if known else 0,
            reason=reason,
        )
    )
    desk.draft = ledger.add(Draft(habit=habit.id, rationale=reason))
    return f"habit {habit.id} drafted"
