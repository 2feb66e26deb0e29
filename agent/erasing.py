"""Erase what a person said, for good: the words leave every file, the chain of rows holds.

Rows stay, their texts go. Newer states of the turns, memories and training rows are written
without words; what had rested on them is named in an ``Erasure``. Index, exports and checkpoints
are rebuilt or dropped. A crash between the two is made good by the next ``sweep``.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from agent.bag import Bag
from agent.content import Word, put_away, take_out
from agent.errors import BusyError
from agent.models.adapters import SERVED, drop
from agent.phrase import Phrase
from agent.records import OPEN, Abstention, Erasure, Example, Habit, Memory, Proposal, Record, Run, Turn, Verdict

LONG = 8  # characters from which a text counts as the person's own wherever it stands


def erase(bag: Bag, turns: Collection[str]) -> Erasure:
    """Erase these turns, and every text that came from them.

    A habit that rests on them alone and neither speaks nor stands in the mask goes with them. One
    that does stays until the person forgets it; the result names it.

    Raises:
        NotFoundError: no such turn.
        BusyError: another process owns the bag's index, or trains.
    """
    ledger, gone = bag.ledger, set(turns)
    with bag.training_lock():
        if not bag.index.owned:
            raise BusyError(
                "Another process has this bag open; it would keep what is erased.",
                "Leave the chat first, then try again.",
            )
        said = [ledger.get(Turn, ref) for ref in turns]
        memories, habits = ledger.all(Memory), ledger.all(Habit)
        now = bag.selves.current()
        alive = {p.habit for p in now.parts} | {r.habit for r in now.mask.rules}
        forgotten = [m for m in memories if m.turns and set(m.turns) <= gone]
        citing = [h for h in habits if gone & set(h.evidence)]
        orphans = [h for h in citing if set(h.evidence) <= gone and h.id not in alive]
        words = {t.user for t in said} | {m.text for m in forgotten} | {x for h in orphans for x in (h.rule, h.quote)}
        words |= {q for h in citing if h not in orphans for q in _quotes(bag, h, gone)}
        stay = {h.rule for h in habits if h not in orphans} | {r.text for r in now.mask.rules}
        stay |= {m.text for m in memories if m not in forgotten}
        copies = _Copies(words - {""}, stay)
        doomed = list(_doomed(bag, gone, {m.id for m in forgotten}, {h.id for h in orphans}, copies))
        proposals, adapters, examples = _tombstoned(bag, gone, {h.id for h in orphans}, copies)
        judged = {v.turn for v in ledger.all(Verdict)}
        unjudged = tuple(t.id for t in said if t.id not in judged)
        erasure = Erasure(
            turns=tuple(turns),
            memories=tuple(m.id for m in forgotten),
            habits=tuple(h.id for h in citing if h not in orphans),
            examples=examples,
            adapters=adapters,
        )
        blank: list[Record] = [
            t.model_copy(update={"user": "", "reply": "", "tool_calls": (), "rules": (), "at": ""}) for t in said
        ]
        blank += [m.model_copy(update={"text": "", "at": ""}) for m in forgotten]
        blank += [
            h.model_copy(update={"rule": "", "quote": "", "reason": "", "stage": "released", "at": ""}) for h in orphans
        ]
        blank += [h.model_copy(update={"at": ""}) for h in citing if h not in orphans and h.quote in copies]
        if unjudged:
            blank.append(Abstention(phase="judge", reason="erased", turns=unjudged))
        ledger.erase(doomed, [_without(r, copies) for r in (*blank, *proposals, erasure)])
        return sweep(bag) or ledger.all(Erasure)[-1]


def _quotes(bag: Bag, habit: Habit, gone: set[str]) -> set[str]:
    """What was ever quoted for a habit and stands in a turn that is erased, and in none that stays."""
    evidence = bag.ledger.some(Turn, habit.evidence)
    quotes = {h.quote for h in bag.ledger.history(Habit, habit.id)}
    quotes |= {p.quote for p in bag.ledger.all(Proposal, parent=habit.id)}
    lost, left = [[t.user for t in evidence if (t.id in gone) is x] for x in (True, False)]
    return {q for q in quotes if any(q in t for t in lost) and not any(q in t for t in left)}


@dataclass(frozen=True)
class _Copies:
    """What counts as a copy of the erased words, wherever it stands: not what something else says, too."""

    words: set[str]
    stay: set[str]  # rules and memories behind which something stands that is not erased

    def __contains__(self, text: str) -> bool:
        if text in self.stay:
            return False
        return text in self.words or any(len(w) >= LONG and w in text for w in self.words)


def _without(record: Record, copies: _Copies) -> Record:
    """A state about to be written, with nothing in place of every copy."""
    found: list[tuple[str, str, str]] = []
    body = put_away(record.model_dump(mode="json"), found)
    texts = {digest: "" if text in copies else text for digest, _, text in found}
    return type(record).model_validate(take_out(body, texts))


def _doomed(bag: Bag, turns: set[str], memories: set[str], habits: set[str], copies: _Copies) -> Iterator[str]:
    """Digests of every text of these turns, memories and habits, and of every copy of their words elsewhere."""
    for kind, ref, parent, body in bag.ledger.words():
        match kind:
            case "Turn":
                whole = ref in turns  # in another turn the person said it again: that one stays
                yield from (w.digest for w in _words(body if whole else body["rules"]) if whole or w.text in copies)
                continue
            case "Verdict":
                whole = parent in turns
            case "Memory":
                whole = ref in memories
            case "Habit":
                whole = ref in habits
            case "Draft":
                whole = parent in habits
            case "Abstention":
                whole = bool(turns & set(body["turns"]))
            case "Proposal":
                whole = parent in habits
                for e in body["examples"]:
                    if e["source"] in turns:
                        yield from (w.digest for w in _words(e))
                for row in body["preview"]:
                    if row[0].text in copies:
                        yield from (w.digest for w in _words(row))
            case _:
                whole = False
        yield from (w.digest for w in _words(body) if whole or w.text in copies)


def _words(node: Any) -> Iterator[Word]:
    if isinstance(node, Word):
        yield node
    elif isinstance(node, dict | list):
        for item in node.values() if isinstance(node, dict) else node:
            yield from _words(item)


def _tombstoned(
    bag: Bag, turns: set[str], habits: set[str], copies: _Copies
) -> tuple[list[Record], tuple[str, ...], int]:
    """Newer states of the proposals that used these turns, the adapters trained on them, and how many rows there were."""
    changed: list[Record] = []
    adapters: list[str] = []
    count = 0
    for p in bag.ledger.all(Proposal):
        used = [not e.tombstone and (e.source in turns or p.habit in habits or _uses(e, copies)) for e in p.examples]
        if not any(used) and (p.habit not in habits or not p.rule):
            continue
        count += sum(used)
        adapters += [r.adapter for r in bag.ledger.all(Run, parent=p.id) if r.adapter]
        update: dict[str, Any] = {
            "examples": tuple(_without_words(e) if gone else e for e, gone in zip(p.examples, used, strict=True)),
            "preview": (),
            "at": "",
        }
        if p.habit in habits:
            update |= {"rule": "", "quote": "", "rationale": "", "risks": ()}
        if p.status in OPEN:
            update |= {"status": "withdrawn", "note": Phrase("words it rests on were erased")}
            habit = bag.ledger.get(Habit, p.habit)
            if habit.stage == "proposed" and p.habit not in habits:
                changed.append(habit.become("repeated", Phrase("words it rests on were erased")))
        changed.append(p.model_copy(update=update))
    return changed, tuple(dict.fromkeys(adapters)), count


def _uses(e: Example, copies: _Copies) -> bool:
    return any(text in copies for text in (e.prompt, e.completion, e.rejected, *e.rules, *e.teacher))


def _without_words(e: Example) -> Example:
    return e.model_copy(update={"prompt": "", "completion": "", "rejected": "", "rules": (), "teacher": ()})


def sweep(bag: Bag) -> Erasure | None:
    """Finish what was begun: rebuild every file without the words, drop adapters that nothing may wear again.

    Returns the last ``Erasure`` when there was one to finish. Cheap when there is not.
    """
    ledger = bag.ledger
    erasures = ledger.all(Erasure)
    if tainted := {a for e in erasures for a in e.adapters}:
        unworn = tainted - {p.adapter for p in bag.selves.current().parts}
        for name in unworn:
            shutil.rmtree(bag.path / "adapters" / name, ignore_errors=True)
        drop(bag.path / SERVED, unworn)
    todo = [e for e in erasures if not e.swept]
    if not todo:
        return None
    for path in (bag.path / "turns").glob("*.jsonl"):
        bag.export(path.stem)
    bag.index.rebuild()
    for path in bag.path.glob("checkpoints.db*"):  # only an index: `learn` begins anew from the recorded decision
        path.unlink()
    for name in ("job.json", "report.md", "report.json"):  # left by a cut-off training; `proposals report` has the rest
        for path in (bag.path / "runs").glob(f"*/{name}"):
            path.unlink()
    ledger.compact()
    return ledger.add_all([e.model_copy(update={"swept": True, "at": ""}) for e in todo])[-1]
