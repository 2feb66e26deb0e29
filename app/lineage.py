"""How a being came to be so: from a habit back to its words, and from one self to another."""

from __future__ import annotations

from typing import Any

from agent.bag import Bag
from agent.learning.data import bank
from agent.records import Decision, GateReport, Habit, Proposal, Run, Self, Turn, Verdict
from prompts import LANGUAGES

Json = dict[str, Any]
ASKED = 12  # of the gate's small talk, in each language: questions nothing was ever trained on


def why(bag: Bag, ref: str) -> Json:
    """A habit's road, the turns it rests on, what was proposed, decided and trained, and where it speaks now.

    Raises:
        NotFoundError: no such habit.
    """
    ledger = bag.ledger
    habit = ledger.get(Habit, ref)
    verdicts = {t: v for t in habit.evidence for v in ledger.all(Verdict, parent=t)}
    now = bag.selves.current()
    parts = [p.model_dump(mode="json") for p in now.parts if p.habit == ref]
    proposals = [p for p in ledger.all(Proposal) if ref == p.habit or ref in p.living]
    return {
        "habit": habit.id,
        "rule": habit.rule,
        "quote": habit.quote,
        "scope": list(habit.scope),
        "stage": habit.stage,
        "self": now.id,
        "parts": parts,
        "put_aside": bool(parts) and any(ref in now.mask.put_aside(x) for x in habit.scope),
        "in_mask": any(r.habit == ref or r.text == habit.rule for r in now.mask.rules),
        "road": _road(ledger.history(Habit, ref)),
        "evidence": [_evidence(ledger.get(Turn, t), verdicts.get(t)) for t in habit.evidence],
        "proposals": [_proposal(bag, p, ref) for p in proposals],
    }


def _road(states: list[Habit]) -> list[Json]:
    """The states in which something changed, with what they rest on."""
    found: list[Json] = []
    for h in states:
        step = {"stage": h.stage, "reason": h.reason, "evidence": list(h.evidence), "kept": h.kept}
        if not found or {k: found[-1][k] for k in step} != step:
            found.append({"at": h.at, **step})
    return found


def _evidence(turn: Turn, verdict: Verdict | None) -> Json:
    judged = verdict.model_dump(mode="json", include={"value", "kind", "reason"}) if verdict else None
    return {
        "turn_id": turn.id,
        "thread": turn.thread,
        "at": turn.at,
        "user": turn.user,
        "source": turn.source,
        "verdict": judged,
    }


def _proposal(bag: Bag, p: Proposal, habit: str) -> Json:
    ledger = bag.ledger
    reports = ledger.all(GateReport, parent=p.id)
    own = [e for e in p.examples if e.habit == habit]
    return {
        "id": p.id, "kind": p.kind, "status": p.status, "rationale": p.rationale, "digest": p.digest,
        "examples": len(own), "from_turns": [e.source for e in own if e.source], "tombstones": sum(e.tombstone for e in own),
        "decisions": [d.model_dump(mode="json", include={"at", "verdict", "note"}) for d in ledger.all(Decision, parent=p.id)],
        "runs": [r.model_dump(mode="json", include={"id", "at", "adapter", "seconds", "failure"}) for r in ledger.all(Run, parent=p.id)],
        "gate": {q.name: q.after for q in reports[-1].probes if q.count} if reports else None,
    }  # fmt: skip


def differences(a: Self, b: Self) -> Json:
    """What two selves are made of: weights, rules, sampling; only what differs, as ``(a, b)``."""

    def parts(who: Self) -> Json:
        return {p.habit: {"adapter": p.adapter, "weight": p.weight, "stage": p.stage} for p in who.parts}

    def rules(who: Self) -> Json:
        return {r.text: [*r.scope, *r.overrules] for r in who.mask.rules}

    def other(who: Self) -> Json:
        mask = who.mask.model_dump(mode="json", exclude={"rules"})
        return {
            **mask,
            **{f"sampling.{k}": v for k, v in who.sampling.items()},
            "base": who.base,
            "template": who.template,
        }

    return {"a": a.id, "b": b.id, "parts": _unlike(parts(a), parts(b)), "rules": _unlike(rules(a), rules(b)), "settings": _unlike(other(a), other(b))}  # fmt: skip


def _unlike(a: Json, b: Json) -> Json:
    return {k: [a.get(k), b.get(k)] for k in {**a, **b} if a.get(k) != b.get(k)}


def questions() -> list[str]:
    """What two selves are asked to be compared."""
    return [text for x in LANGUAGES for text in bank("probes", x)["talk"][:ASKED]]
