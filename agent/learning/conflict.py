"""A new rule against an old one: the base itself shows whether they go together."""

from __future__ import annotations

from collections.abc import Sequence

from agent.bag import Bag
from agent.learning.data import bank, framed, personas
from agent.phrase import Phrase
from agent.ports import BASE
from agent.records import Habit, Mask, Rule, Self
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
    """The newer habit's line for ``mask``, and the older habits that give way to it.

    Tried on few prompts, as somebody waits. What gives way in the mask is to leave it; what does so in the weights
    the line overrules.
    """
    inside = {p.habit for p in bag.selves.current().parts}
    others = {*inside, *(r.habit for r in mask.rules)} - {newer.id, ""}
    gone = clashing(bag, bag.ledger.some(Habit, sorted(others)), newer, personas(mask), TRIED)
    overruled = tuple(h.id for h in gone if h.id in inside)
    return Rule(text=newer.rule, scope=newer.scope, habit=newer.id, overrules=overruled), gone


def adopt(bag: Bag, habit: Habit, cause: Phrase) -> Self:
    """Put the habit's rule into the mask; what does not go together with it gives way."""
    rule, gone = line(bag, bag.selves.current().mask, habit)
    who = bag.selves.wear(lambda mask: mask.adding(rule, {h.id for h in gone}), cause)
    for h in gone:
        if h.stage in ("told", "repeated"):
            inside = h.model_copy(update={"stage": "essence", "at": ""})
            bag.ledger.add(inside if h.id in rule.overrules else superseded(h, habit))
    return who


def superseded(older: Habit, newer: Habit) -> Habit:
    """The older habit, as it leaves for the newer."""
    reason = Phrase("{newer} took its place", newer=newer.id)
    return older.model_copy(update={"stage": "released", "reason": reason, "at": ""})
