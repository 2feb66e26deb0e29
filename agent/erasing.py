"""Erase what a person said, for good: the words leave every file, the chain of rows holds.

Rows stay, their texts go. Newer states of the turns, memories and training rows are written
without words; what had rested on them is named in an ``Erasure``. Index, exports and checkpoints
are rebuilt or dropped. A crash between the two is made good by the next ``sweep``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from agent.bag import Bag
from agent.content import Word, put_away, take_out
from agent.errors import BusyError
from agent.learning.data import literals
from agent.models.adapters import SERVED, drop
from agent.phrase import Phrase
from agent.records import OPEN, Abstention, Erasure, Example, Habit, Memory, Proposal, Record, Run, Turn, Verdict

LONG = 8  # characters from which a text counts as the person's own wherever it stands
FIXED = {"config", "examples"}  # of a proposal: the configuration is as approved, a row goes whole or not at all


def erase(bag: Bag, turns: Collection[str]) -> Erasure:
    """Erase these turns, and every text that came from them. The caller holds the lock of trainings.

    A habit that rests on erased turns alone and neither speaks nor stands in the mask goes with them. One that does
    is named by the result, and goes once the person has let go of it (``sweep``).

    Raises:
        NotFoundError: no such turn.
        BusyError: another process owns the bag's index.
    """
    if not bag.index.owned:
        raise BusyError(
            "Another process has this bag open; it would keep what is erased.",
            "Leave the chat first, then try again.",
        )
    bag.ledger.erase(lambda: _plan(bag, turns))
    return sweep(bag) or bag.ledger.all(Erasure)[-1]


def _plan(bag: Bag, turns: Collection[str]) -> tuple[list[str], list[Record]]:
    """The digests of what goes with these turns, and the rows that say so."""
    ledger, gone = bag.ledger, set(turns)
    said = [ledger.get(Turn, ref) for ref in turns]
    forgotten, orphans = _bereft(bag, gone)
    habits = [h for h in ledger.all(Habit) if h not in orphans]
    citing = [h for h in habits if h.rule and gone & set(h.evidence)]
    words = {t.user for t in said} | {m.text for m in forgotten} | {x for h in orphans for x in (h.rule, h.quote)}
    words |= {q for h in citing for q in _quotes(bag, h, gone)}
    mask = bag.selves.current().mask
    rules = {h.rule for h in habits} | {r.text for r in mask.rules}
    by_hand = {mask.mood, *mask.persona.values(), *(text for shot in mask.few_shot for text in shot)}
    copies = _Copies(words - {""}, rules | by_hand | {m.text for m in ledger.all(Memory) if m not in forgotten})
    ids = {h.id for h in orphans}
    lost = _Lost(
        turns=gone,
        memories={m.id for m in forgotten},
        habits=ids,
        proposals={p.id for p in ledger.all(Proposal) if ids & {p.habit, *p.living, *p.conflicts}},
        copies=copies,
        names={w for h in orphans for w in literals(h.rule)} - {w for rule in rules for w in literals(rule)},
    )
    doomed = list(_doomed(bag, lost))
    proposals, adapters, examples = _tombstoned(bag, lost)
    judged = {v.turn for v in ledger.all(Verdict)}
    unjudged = tuple(t.id for t in said if t.id not in judged)
    erasure = Erasure(
        turns=tuple(turns),
        memories=tuple(m.id for m in forgotten),
        habits=tuple(h.id for h in citing),
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
    blank += [h.model_copy(update={"at": ""}) for h in citing if h.quote in copies]
    if unjudged:
        blank.append(Abstention(phase="judge", reason="erased", turns=unjudged))
    return doomed, [_without(r, copies) for r in (*blank, *proposals, erasure)]


def _bereft(bag: Bag, turns: set[str]) -> tuple[list[Memory], list[Habit]]:
    """The memories and habits behind which nothing stands any more, now or once these turns are erased, too.

    A habit that speaks or stands in the mask is the person's to let go.
    """
    ledger, now = bag.ledger, bag.selves.current()
    past = turns | {t for e in ledger.all(Erasure) for t in e.turns}
    alive = {p.habit for p in now.parts} | {r.habit for r in now.mask.rules}
    memories = [m for m in ledger.all(Memory) if m.text and m.turns and set(m.turns) <= past]
    habits = [h for h in ledger.all(Habit) if h.rule and h.evidence and set(h.evidence) <= past and h.id not in alive]
    return memories, habits


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
    stay: set[str]  # rules, memories and a mask's texts behind which something stands that is not erased

    @cached_property
    def pieces(self) -> set[str]:
        """Of the words those that count inside another text, too, as they are or as JSON writes them."""
        return {form for w in self.words if len(w) >= LONG for form in (w, _quoted(w)[1:-1])}

    def __contains__(self, text: str) -> bool:
        return text not in self.stay and (text in self.words or any(p in text for p in self.pieces))

    def told(self, text: str) -> bool:
        """Whether a tool was told one, whole among its arguments, or gave one, as a line of what it recalled."""
        alone = any(_quoted(w) in text or f"\n- {w}\n" in f"\n{text}\n" for w in self.words)
        return alone or any(p in text for p in self.pieces)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


@dataclass(frozen=True)
class _Lost:
    """What goes whole, by id, and what goes wherever it stands."""

    turns: set[str]
    memories: set[str]
    habits: set[str]
    proposals: set[str]  # that carried one of these habits, or another in its place
    copies: _Copies
    names: set[str]  # what only the rules of these habits have said: a self that wore one may have said it anywhere

    def spoken(self, text: str) -> bool:
        """Whether what a self said holds any of it."""
        return text in self.copies or any(name in text for name in self.names)

    def uses(self, row: Mapping[str, Any]) -> bool:
        """Whether a training row rests on it. A prompt from elsewhere, a turn that stays or the anchors, does not."""
        elsewhere = row["origin"] == "anchor" or row["source"] not in ("", *self.turns)
        owed = ("completion", "rejected", "rules", "teacher", *(() if elsewhere else ("prompt",)))
        whole = row["source"] in self.turns or row["habit"] in self.habits
        return whole or any(text in self.copies for key in owed for text in _texts(row.get(key, "")))


def _without(record: Record, copies: _Copies) -> Record:
    """A state about to be written, with nothing in place of every copy."""
    found: list[tuple[str, str, str]] = []
    body = put_away(record.model_dump(mode="json", exclude=FIXED), found)
    texts = {digest: "" if text in copies else text for digest, _, text in found}
    sieved: Any = take_out(body, texts)
    return type(record).model_validate(sieved | record.model_dump(include=FIXED))


def _doomed(bag: Bag, lost: _Lost) -> Iterator[str]:
    """Digests of every text of what goes, and of every copy of its words elsewhere."""
    for kind, ref, parent, body in bag.ledger.words():
        body.pop("config", None)
        whole, copied = False, lost.copies.__contains__
        match kind:
            case "Turn":
                whole = ref in lost.turns
                if not whole:  # in another turn the person said it again: what came of that stays as well
                    again = "".join(_texts(body.pop("user")))
                    staying = {w for w in lost.copies.words if w in again or w in lost.copies.stay}
                    other = replace(lost.copies, words=lost.copies.words - staying)
                    yield from (w.digest for w in _words(body.pop("tool_calls")) if other.told(w.text))
                    body.pop("reply")
            case "Verdict":
                whole = parent in lost.turns
            case "Memory":
                whole = ref in lost.memories
            case "Habit":
                whole = ref in lost.habits
            case "Draft":
                whole = parent in lost.habits
            case "Abstention":
                whole = bool(lost.turns & set(body["turns"]))
            case "Proposal":
                whole = parent in lost.habits
                used = [row for row in body.pop("examples") if lost.uses(row)]
                yield from (w.digest for w in _words(used))
                preview = body.pop("preview")
                if whole or used or any(lost.spoken(x) for _, *said in preview for x in _texts(said)):
                    yield from (w.digest for w in _words(preview))
                if ref in lost.proposals:
                    yield from (w.digest for w in _words([body["note"]]))
            case "Decision" | "Run":
                whole = parent in lost.proposals
            case "GateReport":
                whole, copied = parent in lost.proposals, lost.spoken
            case "Diary":
                whole, copied = bool(lost.proposals & set(body["proposals"])), lost.spoken
        yield from (w.digest for w in _words(body) if whole or copied(w.text))


def _words(node: Any) -> Iterator[Word]:
    if isinstance(node, Word):
        yield node
    elif isinstance(node, dict | list):
        for item in node.values() if isinstance(node, dict) else node:
            yield from _words(item)


def _texts(node: Any) -> Iterator[str]:
    """Texts of a row's field, whether they were taken out as words or stand there themselves."""
    if isinstance(node, Word | str):
        yield node.text if isinstance(node, Word) else node
    else:
        for item in node:
            yield from _texts(item)


def _tombstoned(bag: Bag, lost: _Lost) -> tuple[list[Record], tuple[str, ...], int]:
    """Newer states of the proposals that used what goes, the adapters trained on it, and how many rows there were."""
    changed: list[Record] = []
    adapters: list[str] = []
    count = 0
    for p in bag.ledger.all(Proposal):
        trained = {  # an edit may have taken a row out that an earlier run was trained on
            state.digest
            for state in bag.ledger.history(Proposal, p.id)
            if any(lost.uses(dict(e)) for e in state.examples)
        }
        adapters += [r.adapter for r in bag.ledger.all(Run, parent=p.id) if r.adapter and r.data in trained]
        used = [not e.tombstone and lost.uses(dict(e)) for e in p.examples]
        if not any(used) and (p.habit not in lost.habits or not p.rule):
            continue
        count += sum(used)
        update: dict[str, Any] = {
            "examples": tuple(_without_words(e) if gone else e for e, gone in zip(p.examples, used, strict=True)),
            "preview": (),
            "at": "",
        }
        if p.id in lost.proposals:
            update |= {"note": ""}
        if p.habit in lost.habits:
            update |= {"rule": "", "quote": "", "rationale": "", "risks": ()}
        if p.status in OPEN:
            update |= {"status": "withdrawn", "note": Phrase("words it rests on were erased")}
            habit = bag.ledger.get(Habit, p.habit)
            if habit.stage == "proposed" and p.habit not in lost.habits:
                changed.append(habit.become("repeated", Phrase("words it rests on were erased")))
        changed.append(p.model_copy(update=update))
    return changed, tuple(dict.fromkeys(adapters)), count


def _without_words(e: Example) -> Example:
    return e.model_copy(update={"prompt": "", "completion": "", "rejected": "", "rules": (), "teacher": ()})


def sweep(bag: Bag) -> Erasure | None:
    """Finish what was begun: rebuild every file without the words, drop adapters that nothing may wear again.

    What rested on erased turns alone and was let go of since goes now. Returns the last ``Erasure`` when there was
    one to finish. Cheap when there is not.
    """
    ledger = bag.ledger
    if ledger.all(Erasure) and any(_bereft(bag, set())):
        ledger.erase(lambda: _plan(bag, ()))
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
    made = {r.adapter for r in ledger.all(Run)}
    for path in (bag.path / "adapters").glob("a-p*-????????"):  # what else lies there is the person's own
        if _folder(path) and path.name not in made:  # cut off before it was recorded
            shutil.rmtree(path)
    for path in (bag.path / "runs").glob("*/*"):
        if _folder(path):  # rows and weights of a training that was cut off
            shutil.rmtree(path)
        elif path.name in ("report.md", "report.json"):  # `proposals report` has the rest
            path.unlink()
    ledger.compact()
    return ledger.add_all([e.model_copy(update={"swept": True, "at": ""}) for e in todo])[-1]


def _folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
