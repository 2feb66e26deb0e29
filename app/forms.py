"""The forms in which results leave: plain dicts, with the field names of the contract (docs/design.md)."""

from __future__ import annotations

from typing import Any

from agent.bag import Bag
from agent.records import Decision, GateReport, Habit, Proposal, Self, Speaking, Turn

Json = dict[str, Any]


def summary(p: Proposal) -> Json:
    """A proposal as the contract lists it."""
    return {
        "id": p.id, "digest": p.digest, "kind": p.kind, "status": p.status, "habit": p.habit, "rule": p.rule, "quote": p.quote,
        "scope": list(p.scope), "method": p.method, "examples": len(p.examples), "evidence": list(p.evidence),
        "rationale": p.rationale, "risks": list(p.risks), "conflicts": list(p.conflicts),
    }  # fmt: skip


def gate(report: GateReport) -> Json:
    """A gate report as the contract lists it."""
    probes = [{**p.model_dump(mode="json"), "interval": [round(x, 4) for x in p.interval]} for p in report.probes]
    return {"passed": report.passed, "probes": probes}


def self_(who: Self) -> Json:
    """A self as the contract lists it."""
    return {
        "name": who.id, "base": who.base, "parts": [p.model_dump(mode="json") for p in who.parts],
        "mask": who.mask.model_dump(mode="json"), "sampling": who.sampling, "template": who.template or "llama3",
        "cause": who.cause, "at": who.at,
    }  # fmt: skip


def proposal(bag: Bag, p: Proposal) -> Json:
    """A proposal with everything a person needs to judge it."""
    ledger = bag.ledger
    reports = ledger.all(GateReport, parent=p.id)
    return summary(p) | {
        "evidence": [
            {"turn_id": t.id, "at": t.at, "user": t.user, "source": t.source} for t in ledger.some(Turn, p.evidence)
        ],
        "conflicts": [{"habit": h.id, "rule": h.rule} for h in ledger.some(Habit, p.conflicts)],
        "examples": [{"n": i + 1, **e.model_dump(mode="json")} for i, e in enumerate(p.examples)],
        "preview": [{"prompt": a, "before": b, "after": c} for a, b, c in p.preview],
        "config": p.config,
        "decisions": [d.model_dump(mode="json") for d in ledger.all(Decision, parent=p.id)],
        "gate": gate(reports[-1]) if reports else None,
    }


def trail(bag: Bag) -> list[Json]:
    """Each time another self began to speak."""
    found = []
    for s in bag.ledger.rows(Speaking):
        who = bag.selves.get(s.self_name)
        held = {"habits": [p.habit for p in who.parts], "rules": [r.text for r in who.mask.rules]}
        found.append({"at": s.at, "name": who.id, "cause": s.cause, **held})
    return found
