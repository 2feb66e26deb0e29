"""A new rule against an old one: the base itself shows whether they go together."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from agent.bag import Bag
from agent.learning.data import bank, framed, personas
from agent.phrase import Phrase
from agent.ports import BASE
from agent.records import OPEN, Habit, Mask, Proposal, Rule, Self
from prompts import Language

ASKED = 12  # prompts on which rules are tried together
TRIED = 4  # the same while somebody waits


def clashing(
    bag: Bag, older: Sequence[Habit], newer: Habit, who: dict[Language, str], asked: int = ASKED
) -> list[Habit]:
    """Those of the older habits that do not go together with the newer one.

    Told both rules at once, the base answers word for word as if one of them, which by itself changes the answer,
    were not there. Counted are prompts on which the two rules give different answers, and half of them decide.
    """
    counted, lost = dict.fromkeys(older, 0), dict.fromkeys(older, 0)
    for language in newer.scope:
        beside = [h for h in older if language in h.scope]
        if not beside:
            continue
        texts = bank("anchors", language)["talk"][:asked]

        def said(*rules: str, language: Language = language, texts: list[str] = texts) -> list[str]:
            return bag.body.answers(
                [framed(language, t, rules, who.get(language, ""), "plain", {}) for t in texts], BASE
            )

        bare, new = said(), said(newer.rule)
        for h in beside:
            for b, o, n, both in zip(bare, said(h.rule), new, said(h.rule, newer.rule), strict=True):
                counted[h] += o != n
                lost[h] += o != n and ((both == n and o != b) or (both == o and n != b))
    return [h for h in older if lost[h] and 2 * lost[h] >= counted[h]]


def line(bag: Bag, mask: Mask, newer: Habit) -> tuple[Rule, list[Habit]]:
    """The newer habit's line for ``mask``, and the older ones that give way to it, in the mask or in the weights.

    Tried on few prompts, as somebody waits. A line without a habit gives way under an empty id.
    """
    inside = [p.habit for p in bag.selves.current().parts]
    older = {r.text: Habit(rule=r.text, scope=r.scope) for r in mask.rules}
    older |= {h.rule: h for h in bag.ledger.some(Habit, [*inside, *(r.habit for r in mask.rules if r.habit)])}
    older.pop(newer.rule, None)
    gone = clashing(bag, list(older.values()), newer, personas(mask), TRIED)
    overrules = tuple(h.id for h in gone if h.id in inside)
    return Rule(text=newer.rule, scope=newer.scope, habit=newer.id, overrules=overrules), gone


def adopt(bag: Bag, habit: Habit, cause: Phrase) -> Self:
    """Put the habit's rule into the mask, if no line says it yet; what does not go together with it gives way."""
    now = bag.selves.current()
    if any(r.text == habit.rule and {*habit.scope} <= {*r.scope} for r in now.mask.rules):
        return now
    rule, gone = line(bag, now.mask, habit)
    who = bag.selves.wear(lambda mask: mask.adding(rule, {h.rule for h in gone}), cause)
    inside = {p.habit: p.habit_stage for p in who.parts}
    with bag.ledger.together() as add:  # as they are now: trying the rules together took the base a while
        for h in bag.ledger.some(Habit, [h.id for h in gone if h.id]):
            if h.stage in ("told", "repeated", "proposed"):
                reason = Phrase("{newer} overrules it", newer=habit.id)
                left = h.become(inside[h.id], reason) if h.id in inside else superseded(h, habit)
                for record in (left, *withdrawn(bag, h, took_place(habit))):
                    add(record)
    return who


def drop_rule(bag: Bag, text: str, silence: Collection[str] = ()) -> None:
    """Take a rule out of the mask. A habit that was only told or asked for is thereby let go, one in the weights stays there.

    ``silence``: habits of the weights that are no longer to speak.
    """

    def without(mask: Mask) -> Mask:
        rules = tuple(r for r in mask.rules if r.text != text)
        return mask.model_copy(update={"rules": rules, "silenced": tuple(dict.fromkeys((*mask.silenced, *silence)))})

    why = Phrase("dropped a rule")
    bag.selves.wear(without, why)
    let_go(bag, text, why)


def let_go(bag: Bag, text: str, why: Phrase) -> None:
    """A habit whose line has left the mask is let go where it was only told or asked for."""
    inside = {p.habit: p.habit_stage for p in bag.selves.current().parts}
    for habit in bag.ledger.all(Habit):
        if habit.rule == text and habit.stage in ("told", "repeated", "proposed"):
            left = habit.become(inside.get(habit.id, "released"), why)
            asked = [p for p in withdrawn(bag, habit, why) if p.kind in ("learn", "correct")]
            bag.ledger.add_all([left, *asked])


def withdrawn(bag: Bag, older: Habit, note: Phrase) -> list[Proposal]:
    """What is still asked about a habit that leaves, withdrawn."""
    waiting = [p for p in bag.ledger.all(Proposal, parent=older.id) if p.status in OPEN]
    return [p.model_copy(update={"status": "withdrawn", "note": note, "at": ""}) for p in waiting]


def superseded(older: Habit, newer: Habit) -> Habit:
    """The older habit, as it leaves for the newer."""
    return older.become("released", took_place(newer))


def took_place(newer: Habit) -> Phrase:
    """Why an older habit leaves."""
    return Phrase("{newer} took its place", newer=newer.id)
