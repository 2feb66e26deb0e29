"""A habit on its road: what counts as use, how long ago that was, and what the person allowed once and for all."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import islice, takewhile

from agent.bag import LOOK_BACK, Bag
from agent.learning.data import marks
from agent.learning.objections import rebuked
from agent.phrase import Phrase
from agent.records import Abstention, Decision, Habit, Proposal, Self, Turn, Verdict
from prompts import Language, language_of

HEARD = 3  # turns shown beside a habit
DECAY = "decay"  # the standing permission, where a proposal's id would stand


def told(bag: Bag, rule: str, language: Language, turn: str = "") -> Habit:
    """The habit of a rule that the person tells, in ``turn``: a new one, or one told again, which the weights then did
    not hold. Told in another language it applies there, too.
    """
    ledger = bag.ledger
    with ledger.together() as add:
        known = next((h for h in ledger.all(Habit) if h.rule == rule and h.stage != "released"), None)
        habit = known or Habit(rule=rule, scope=(language,))
        if habit.stage in ("essence", "fading"):
            reason = Phrase("told again: the weights alone did not hold it")
            if habit.id in bag.selves.current().mask.silenced:
                reason = Phrase("taken back, and told again")
            elif language not in habit.scope:
                reason = Phrase("told in another language, too")
            habit = habit.become("repeated", reason)
        scope = tuple(dict.fromkeys((*habit.scope, language)))
        evidence = tuple(dict.fromkeys((*habit.evidence, turn))) if turn else habit.evidence
        new = habit.model_copy(update={"scope": scope, "evidence": evidence})
        return known if new == known else add(new.model_copy(update={"at": ""}))


def uses(bag: Bag, habit: Habit) -> Iterator[Turn]:
    """Turns in which the habit spoke, latest first: in its scope, by a self that wears it, its words in the reply, no
    objection. Looked for among the last thousand turns of such selves.
    """
    ledger = bag.ledger
    wearing = [
        s.id
        for s in ledger.newest(Self)
        if any(p.habit == habit.id for p in s.parts) and not any(habit.id in s.mask.put_aside(x) for x in habit.scope)
    ]
    proposals = [p for p in ledger.all(Proposal, parent=habit.id) if p.status == "promoted"]
    words = marks(habit.rule, [e.completion for p in proposals for e in p.examples if e.habit == habit.id])
    for t in islice(ledger.newest(Turn, self_name=wearing), LOOK_BACK):
        shown = language_of(t.user) in habit.scope and all(w in t.reply for w in words)
        if shown and not rebuked(bag, t) and not any(v.kind == "correction" for v in ledger.all(Verdict, parent=t.id)):
            yield t


def half_lives(bag: Bag, habit: Habit, now: datetime) -> float:
    """Half-lives passed since the last verdict that cited it, since it last spoke, changed, or was kept by a veto."""
    ledger = bag.ledger
    times = [v.at for turn in habit.evidence for v in ledger.all(Verdict, parent=turn)]
    times += [t.at for t in islice(uses(bag, habit), 1)]
    fading = [p for p in ledger.all(Proposal, parent=habit.id) if p.kind in ("decay", "release")]
    times += [d.at for p in fading for d in ledger.all(Decision, parent=p.id) if d.verdict == "veto"]
    days = (now - datetime.fromisoformat(max([*times, habit.at]))).total_seconds() / 86_400
    return max(0.0, days / bag.settings.decay.half_life_days)


def heard(bag: Bag, habit: Habit) -> list[Turn]:
    """Up to three turns that teach something, resemble the habit and came after it entered the weights, latest first.

    Whether the person wants it gone there is the model's to say. What it once let pass, or asked about, is not
    shown again.
    """
    ledger = bag.ledger
    inside = habit.at
    for state in reversed(ledger.history(Habit, habit.id)):  # since it came into the weights, not since it faded there
        if state.stage not in ("essence", "fading", "repeated"):
            break
        inside = state.at
    passed = {
        t for a in takewhile(lambda a: a.at > inside, ledger.newest(Abstention, phase=("decay",))) for t in a.turns
    }
    asked = {t for p in ledger.all(Proposal, parent=habit.id) for t in p.evidence}
    known = {*habit.evidence, *passed, *asked}
    near = [
        i for i, _, score in bag.index.near(habit.quote or habit.rule, "turn", 40) if score > 0.1 and i not in known
    ]
    turns = [t for t in ledger.some(Turn, near) if t.at > inside and t.user]
    return sorted(turns, key=lambda t: -int(t.id[1:]))[:HEARD]


def standing(bag: Bag) -> Decision | None:
    """The person's leave to let unused habits fade unasked, while it holds. Off by default; never for a release."""
    decisions = bag.ledger.all(Decision, parent=DECAY)
    return decisions[-1] if decisions and decisions[-1].verdict == "approve" else None
