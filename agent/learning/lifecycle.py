"""A habit on its road: what counts as use, how long ago that was, and what the person allowed once and for all."""

from __future__ import annotations

from datetime import datetime

from agent.bag import Bag
from agent.learning.data import literals
from agent.records import Decision, Habit, Self, Turn, Verdict
from prompts import language_of

DECAY = "decay"  # the standing permission, where a proposal's id would stand


def uses(bag: Bag, habit: Habit) -> list[Turn]:
    """Turns in which the habit spoke: in its scope, by a self that wears it, its words in the reply, no objection."""
    ledger = bag.ledger
    wearing = {s.id for s in ledger.all(Self) if any(p.habit == habit.id for p in s.parts)}
    objected = {v.turn for v in ledger.all(Verdict) if v.kind == "correction"}
    words = literals(habit.rule)
    return [
        t
        for t in ledger.all(Turn)
        if t.self_name in wearing
        and t.id not in objected
        and language_of(t.user) in habit.scope
        and all(w in t.reply for w in words)
    ]


def half_lives(bag: Bag, habit: Habit, now: datetime) -> float:
    """Half-lives passed since the last verdict that cited it, since it last spoke, or since it last changed."""
    times = [v.at for v in bag.ledger.all(Verdict) if v.turn in habit.evidence]
    times += [t.at for t in uses(bag, habit)[-1:]]
    days = (now - datetime.fromisoformat(max([*times, habit.at]))).total_seconds() / 86_400
    return max(0.0, days / bag.settings.decay.half_life_days)


def standing(bag: Bag) -> Decision | None:
    """The person's leave to let unused habits fade unasked, while it holds. Off by default; never for a release."""
    decisions = bag.ledger.all(Decision, parent=DECAY)
    return decisions[-1] if decisions and decisions[-1].verdict == "approve" else None
