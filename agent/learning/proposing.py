"""From a draft to a proposal a person can judge: rows fixed, conflicts named, previews made, digest taken."""

from __future__ import annotations

from itertools import islice
from typing import Any

from agent.bag import Bag, living
from agent.errors import ConflictError
from agent.learning.conflict import clashing
from agent.learning.data import digest, framed, is_probe, marks, near_duplicate, personas, rows
from agent.learning.objections import objected
from agent.phrase import Phrase
from agent.records import OPEN, Draft, Erasure, Example, Habit, Method, Part, Proposal, Purpose, Run, Turn, Verdict
from agent.settings import profile
from prompts import Language, language_of

FRESH_AT_MOST = 2


def config_of(bag: Bag, method: Method = "distill") -> dict[str, Any]:
    """The numbers of one training, as approved; ``method`` where the person has not picked one."""
    table, lora, numbers = bag.settings.training, bag.settings.lora, profile(bag.settings)
    fresh = [p for p in bag.selves.current().parts if p.stage == "fresh"]
    return {
        "method": method if table.method == "auto" else table.method,
        "strategy": table.strategy if len(fresh) < FRESH_AT_MOST else "core",
        "learning_rate": numbers.learning_rate,
        "epochs": numbers.epochs,
        "batch_size": numbers.batch_size,
        "context_length": table.context_length,
        "optimizer": table.optimizer,
        "warmup": table.warmup,
        "weight_decay": table.weight_decay,
        "top": table.top,
        "focus": table.focus,
        "margin": table.margin,
        "beta": table.beta,
        "validation": table.validation,
        "patience": table.patience,
        "seed": table.seed,
        "template": bag.settings.model.template_digest,
        "rank": lora.rank,
        "alpha": lora.alpha,
        "dropout": lora.dropout,
        "target_modules": lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules),
        "personas": personas(bag.selves.current().mask),
    }


def draft_rows(bag: Bag, draft: Draft, scope: tuple[Language, ...] = ()) -> list[tuple[str, str]]:
    """The prompts a draft would practise with, ``(prompt, source turn or "")``: the person's own first.

    ``scope``: where it is to speak, if elsewhere than it did.
    """
    habit = bag.ledger.get(Habit, draft.habit)
    spoken = scope or habit.scope
    wanted = bag.settings.rumination.examples
    found: list[tuple[str, str]] = []

    def fits(text: str) -> bool:
        language = language_of(text)
        return language in spoken and not is_probe(text) and not any(near_duplicate(text, p) for p, _ in found)

    for turn in islice(bag.ledger.newest(Turn), 100 * wanted):
        if len(found) >= wanted:
            break
        mine = turn.user and turn.source == "user" and turn.id not in habit.evidence and len(turn.user) <= 200
        if mine and fits(turn.user) and _teachable(bag, turn):
            found.append((turn.user, turn.id))
    for prompt in draft.prompts:
        if fits(prompt):
            found.append((prompt, ""))
    return found[:wanted]


def _teachable(bag: Bag, turn: Turn) -> bool:
    """Whether a turn may be practised with: judged, and neither secret nor itself about how to speak."""
    kinds = {v.kind for v in bag.ledger.all(Verdict, parent=turn.id)}
    return bool(kinds) and not kinds & {"secret", "instruction", "correction"}


def file_learning(bag: Bag, draft: Draft, method: Method, reason: str, scope: tuple[Language, ...] = ()) -> Proposal:
    """Complete the rows with the frozen base, and file the proposal as ``waiting``.

    It is a ``correct`` when an older habit does not go together with this one, or was taken back: the older leaves
    mask and weights, and is never trained on again. ``scope``: where it is to speak, if elsewhere than it did.

    Raises:
        ConflictError: while the rows were made, the habit was let go or asked for elsewhere.
    """
    ledger = bag.ledger
    habit = ledger.get(Habit, draft.habit)
    habit = habit.model_copy(update={"scope": scope or habit.scope})
    config = config_of(bag, method)
    now = bag.selves.current()
    spoken = dict.fromkeys([*(p.habit for p in now.parts), *(r.habit for r in now.mask.rules if r.habit)])
    older = [ledger.get(Habit, h) for h in spoken if h != habit.id]
    clash = clashing(bag, older, habit, config["personas"])
    leaving = {h for r in now.mask.rules if r.habit == habit.id for h in r.overrules} | {*now.mask.silenced}
    conflicts = tuple(h.id for h in older if h in clash or h.id in leaving)
    if conflicts:
        config["strategy"] = "core"  # what leaves the weights can only leave with a new core
    others = [h for h in living(bag) if h.id not in (*conflicts, habit.id)] if config["strategy"] == "core" else []
    carried = (*(h.id for h in others), habit.id)
    kind: Purpose = "correct" if conflicts else "learn"
    config |= {"kind": kind, "habit": habit.id, "scope": list(habit.scope), "living": list(carried)}
    config |= {"conflicts": list(conflicts)}
    examples = _rows(bag, habit, others, draft_rows(bag, draft, scope), config)
    made = Proposal(
        kind=kind,
        habit=habit.id,
        rule=habit.rule,
        quote=habit.quote,
        scope=habit.scope,
        method=config["method"],
        examples=examples,
        evidence=habit.evidence,
        rationale=f"{draft.rationale} {reason}",
        risks=_risks(habit, examples),
        conflicts=conflicts,
        preview=_preview(bag, habit, examples, config["personas"]),
        living=carried,
        config=config,
        base=bag.body.digest,
        digest=digest(examples, config, bag.body.digest),
    )
    with ledger.together() as add:  # making the rows takes the base minutes: the person may have decided otherwise
        current = ledger.get(Habit, habit.id)
        if current.stage == "released" or any(p.status == "waiting" for p in ledger.all(Proposal, parent=habit.id)):
            raise ConflictError("{ref} was let go or asked for elsewhere meanwhile.", ref=habit.id)
        proposal: Proposal = add(made)
        add(current.become("proposed", Phrase("asked for in {proposal}", proposal=proposal.id)))
    return proposal


def stale(bag: Bag, proposal: Proposal) -> bool:
    """Whether the weights have changed since filing so that the proposal no longer fits beside them.

    Rows of a whole core fit those whom they carry and no others. A habit's rows alone, or a leaving without any, fit
    beside the adapters that stay, unless these hold what leaves, or too many fresh ones stand beside one another.
    What has left the weights can neither fade nor leave.
    """
    parts = bag.selves.current().parts
    inside = {p.habit for p in parts}
    if proposal.kind == "consolidate":
        return set(proposal.living) != inside
    if proposal.kind in ("decay", "release") and proposal.habit not in inside:
        return True
    if proposal.kind == "decay":
        return False
    staying = [p for p in parts if p.habit not in (proposal.habit, *proposal.conflicts)]
    carried = set(proposal.living) - {proposal.habit}
    if proposal.examples and carried:
        return carried != {p.habit for p in staying}
    leaving = {proposal.habit} if proposal.kind == "release" else {*proposal.conflicts}
    crowded = bool(proposal.examples) and sum(p.stage == "fresh" for p in staying) >= FRESH_AT_MOST
    return crowded or _held(bag, leaving, staying)


def _held(bag: Bag, habits: set[str], staying: list[Part]) -> bool:
    """Whether one of the habits is inside an adapter that stays: then it only leaves with a new core."""
    adapters = {p.adapter for p in staying}
    if any(p.habit in habits and p.adapter in adapters for p in bag.selves.current().parts):
        return True  # one may also be inside and worn elsewhere, as it was told again since
    made = [bag.ledger.get(Proposal, r.proposal) for r in bag.ledger.all(Run) if r.adapter in adapters]
    return any(habits & {*p.living} for p in made)


def refile(bag: Bag, proposal: Proposal) -> Proposal | None:
    """Put a proposal that has gone stale before the person anew, with rows that fit the weights of now.

    None when nothing is left that it could carry.
    """
    habit = bag.ledger.get(Habit, proposal.habit)
    fresh: Proposal | None
    if proposal.kind in ("decay", "release") and habit.id not in {h.id for h in living(bag)}:
        fresh = None
    elif proposal.kind == "release":
        heard = tuple(t for t in proposal.evidence if t not in habit.evidence)
        fresh = file_release(bag, habit, proposal.rationale, heard)
    elif proposal.kind == "consolidate":
        fresh = file_consolidation(bag, proposal.rationale)
    else:
        draft = bag.ledger.all(Draft, parent=habit.id)[-1]
        method: Method = "distill" if proposal.method == "none" else proposal.method
        fresh = file_learning(bag, draft, method, "", proposal.scope)
    note = Phrase("the weights have changed since; {fresh} takes its place", fresh=fresh.id if fresh else "–")
    bag.ledger.add(proposal.model_copy(update={"status": "withdrawn", "note": note, "at": ""}))
    return fresh


def file_decay(bag: Bag, habit: Habit, weight: float, reason: str, heard: tuple[str, ...] = ()) -> Proposal:
    """File that a habit should fade to ``weight``, or be released when below the floor; ``heard``: turns that led to it."""
    if weight < bag.settings.decay.floor:
        return file_release(bag, habit, reason, heard)
    config = {"kind": "decay", "habit": habit.id, "weight": weight}
    return bag.ledger.add(
        Proposal(
            kind="decay",
            habit=habit.id,
            rule=habit.rule,
            quote=habit.quote,
            scope=habit.scope,
            method="none",
            evidence=(*habit.evidence, *heard),
            rationale=reason,
            weight=weight,
            config=config,
            base=bag.body.digest,
            digest=digest((), config, bag.body.digest),
        )
    )


def file_release(bag: Bag, habit: Habit, reason: str, heard: tuple[str, ...] = ()) -> Proposal:
    """File that a habit shall leave the weights: the core is retrained from base without it; ``heard``: as above."""
    rest = [h for h in living(bag) if h.id != habit.id]
    inside = _held(bag, {habit.id}, [p for p in bag.selves.current().parts if p.habit != habit.id])
    return _file_core(bag, "release", habit, rest, reason, inside, heard)


def file_consolidation(bag: Bag, reason: str) -> Proposal | None:
    """File that one core be trained from base over all living habits, on their rows as they are now; None without any."""
    habits = living(bag)
    return _file_core(bag, "consolidate", habits[-1], habits, reason, True) if habits else None


def offer_retraining(bag: Bag) -> Proposal | None:
    """File a consolidation where weights speak that were trained on words erased since, unless one is open or was vetoed."""
    worn = {p.adapter for p in bag.selves.current().parts}
    erased = [e.at for e in bag.ledger.all(Erasure) if worn & set(e.adapters)]
    asked = [p for p in bag.ledger.all(Proposal) if p.kind == "consolidate" and p.status in (*OPEN, "vetoed")]
    if not erased or any(bag.ledger.history(Proposal, p.id)[0].at >= max(erased) for p in asked):
        return None
    return file_consolidation(bag, Phrase("Words that these weights were trained on were erased."))


def _file_core(
    bag: Bag, kind: Purpose, about: Habit, habits: list[Habit], reason: str, retrain: bool, heard: tuple[str, ...] = ()
) -> Proposal:
    """File a core that carries ``habits``; its rows only where it has to be trained."""
    config: dict[str, Any] = {}
    examples: tuple[Example, ...] = ()
    if retrain:
        *others, last = habits
        config = config_of(bag) | {"strategy": "core", "kind": kind}
        own = [(e.prompt, e.source) for e in _taught(bag, [last]) if e.habit == last.id]
        examples = _rows(bag, last, others, own, config)
    config |= {"kind": kind, "habit": about.id, "living": [h.id for h in habits]}
    return bag.ledger.add(
        Proposal(
            kind=kind,
            habit=about.id,
            rule=about.rule,
            quote=about.quote,
            scope=about.scope,
            method=config["method"] if examples else "none",
            examples=examples,
            evidence=(*about.evidence, *heard),
            rationale=reason,
            living=tuple(h.id for h in habits),
            config=config,
            base=bag.body.digest,
            digest=digest(examples, config, bag.body.digest),
        )
    )


def _taught(bag: Bag, habits: list[Habit]) -> list[Example]:
    """The rows with which these habits entered the weights."""
    proposals = [p for h in habits for p in bag.ledger.all(Proposal, parent=h.id) if p.status == "promoted"]
    return [e for p in proposals for e in p.examples if not e.tombstone]


def _rows(
    bag: Bag, habit: Habit, others: list[Habit], own: list[tuple[str, str]], config: dict[str, Any]
) -> tuple[Example, ...]:
    """The rows of a core that carries ``others`` and ``habit``."""
    table = bag.settings.rumination
    weights = {p.habit: p.weight for p in bag.selves.current().parts}
    if config["kind"] in ("learn", "correct"):
        weights[habit.id] = 1.0
    made = rows(
        habit, others, own, _taught(bag, others), bag.body, config["personas"], bag.toolboxes,
        table.examples, table.anchors, config["seed"], weights,
    )  # fmt: skip
    return tuple(objected(bag, e, [x.completion for x in made if x.habit == e.habit]) if e.source else e for e in made)


def _risks(habit: Habit, examples: tuple[Example, ...]) -> tuple[str, ...]:
    """What a person should know that the numbers show."""
    own = [e for e in examples if e.habit == habit.id]
    plain = [e for e in own if e.frame == "plain"]
    words = marks(habit.rule, [e.completion for e in own])
    found = []
    missing = sum(not all(w in e.completion for w in words) for e in plain)
    if missing:
        shown = ", ".join(words)
        found.append(Phrase("{missing}/{own} answers do not show {words}", missing=missing, own=len(own), words=shown))
    same = sum(not e.rejected for e in plain)
    if same:
        found.append(Phrase("{same}/{own} answers would be the same without the rule", same=same, own=len(own)))
    invented = sum(e.origin == "invented" for e in own)
    if own and invented > len(own) / 2:
        found.append(Phrase("{invented}/{own} prompts are invented", invented=invented, own=len(own)))
    return tuple(found)


def _preview(
    bag: Bag, habit: Habit, examples: tuple[Example, ...], who: dict[Language, str]
) -> tuple[tuple[str, str, str], ...]:
    """Up to three prompts: what is said now without the rule, what would be said with the habit."""
    some = [e for e in examples if e.habit == habit.id and e.frame == "plain"][:3]
    found = []
    for e in some:
        prompt = framed(e.language, e.prompt, (), who.get(e.language, ""), "plain", {})
        (now,) = bag.body.answers([prompt], bag.selves.voice(bag.selves.current(), e.language))
        found.append((e.prompt, now, e.completion))
    return tuple(found)
