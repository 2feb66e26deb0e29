"""update: approve → settle ┆ train → examine → promote | reject. One checkpointed thread per proposal.

``approve`` contains only the interrupt. The person's Decision is recorded in ``settle``; the graph
then stops before ``train`` until ``learn`` or ``sleep`` goes on. Every node can run twice: what it
did is found in the ledger by proposal id.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import interrupt
from pydantic import BaseModel

from agent.bag import Bag
from agent.errors import ConflictError
from agent.learning.conflict import superseded, took_place, withdrawn
from agent.learning.data import personas
from agent.learning.exam import Exam
from agent.learning.gate import examine
from agent.learning.proposing import stale
from agent.learning.running import check_approved, train
from agent.phrase import Phrase
from agent.records import READY, Decision, GateReport, Habit, Mask, Part, Proposal, Record, Rule, Run
from agent.selves import worn
from graphs.context import Context
from prompts import LANGUAGES


class Verdict(BaseModel):
    """What a person answers to the interrupt."""

    verdict: Literal["approve", "veto"]
    digest: str
    note: str = ""


class State(TypedDict, total=False):
    """One proposal on its way into the weights."""

    proposal: str
    answer: dict[str, Any]
    run: str
    passed: bool
    self_name: str


def _approve(state: State) -> State:
    answer = interrupt({"proposal": state["proposal"]}, response_schema=Verdict)
    return {"answer": Verdict.model_validate(answer).model_dump()}


def settle(bag: Bag, ref: str, answer: Verdict) -> None:
    """Record the person's decision on a proposal; once, however often it is called."""
    ledger = bag.ledger
    proposal = ledger.get(Proposal, ref)
    done = ledger.all(Decision, parent=ref)
    if done and done[-1].verdict == answer.verdict and done[-1].digest == answer.digest:
        return
    habit = ledger.get(Habit, proposal.habit)
    status = "approved" if answer.verdict == "approve" else "vetoed"
    changes: list[Record] = [
        Decision(proposal=ref, verdict=answer.verdict, digest=answer.digest, note=answer.note),
        proposal.model_copy(update={"status": status, "note": answer.note, "at": ""}),
    ]
    if answer.verdict == "veto" and habit.stage == "proposed":
        changes.append(habit.become("repeated", Phrase("{proposal} was vetoed", proposal=ref)))
    ledger.add_all(changes)


def _settle(state: State, runtime: Runtime[Context]) -> State:
    settle(runtime.context.bag, state["proposal"], Verdict.model_validate(state["answer"]))
    return {}


def _train(state: State, runtime: Runtime[Context]) -> State:
    bag = runtime.context.bag
    with bag.ledger.together() as add:
        proposal = bag.ledger.get(Proposal, state["proposal"])
        check_approved(bag, proposal)
        if not proposal.examples:
            return {"run": ""}
        if proposal.status != "running":
            proposal = add(proposal.model_copy(update={"status": "running", "at": ""}))
    runtime.context.progress("train", {"proposal": proposal.id, "rows": len(proposal.examples)})
    run = train(bag, proposal, lambda event: runtime.context.progress("train", event))
    return {"run": run.id}


def _asked(bag: Bag, proposal: Proposal, ref: str) -> Habit:
    """A habit as it would be with this proposal, whose scope the person may have changed."""
    habit = bag.ledger.get(Habit, ref)
    learns = ref == proposal.habit and proposal.kind in ("learn", "correct")
    return habit.model_copy(update={"scope": proposal.scope}) if learns else habit


def parts_after(bag: Bag, proposal: Proposal, run: Run | None) -> tuple[Part, ...]:
    """The parts of the self that this proposal would make.

    Rows of one habit alone become a fresh part beside the others; rows of a whole core replace them. What the
    proposal is in conflict with leaves. Who is only carried along keeps its weight. A habit is worn where rows of its
    own taught it.
    """
    now = bag.selves.current().parts
    others = tuple(p for p in now if p.habit not in (proposal.habit, *proposal.conflicts))
    if proposal.kind == "decay":
        return tuple(p.model_copy(update={"weight": proposal.weight}) if p.habit == proposal.habit else p for p in now)
    if run is None:
        return others
    fresh = bool(others) and set(proposal.living) == {proposal.habit}
    weights = {p.habit: p.weight for p in (now if proposal.kind == "consolidate" else others)}
    taught = {(e.habit, e.language) for e in proposal.examples}
    made = tuple(
        Part(
            habit=h.id,
            adapter=run.adapter,
            weight=weights.get(h.id, 1.0),
            stage="fresh" if fresh else "core",
            scope=tuple(x for x in h.scope if (h.id, x) in taught),
        )
        for h in (_asked(bag, proposal, ref) for ref in proposal.living)
    )
    return (*others, *made) if fresh else made


def _moved(proposal: Proposal) -> ConflictError:
    return ConflictError(
        "The weights changed while {ref} was trained or examined.",
        "Run `habitus learn` again: it goes on beside them, or is put before you anew.",
        ref=proposal.id,
    )


def _examined(context: Context, proposal: Proposal, run: Run | None) -> GateReport:
    """The report on the self that the proposal would make of who speaks now: the one there is, or a new exam."""
    bag, name = context.bag, run.adapter if run else ""
    if stale(bag, proposal):
        raise _moved(proposal)
    now, parts = bag.selves.current(), parts_after(bag, proposal, run)
    for report in bag.ledger.all(GateReport, parent=proposal.id):
        if (report.adapter, report.parts) == (name, parts):
            return report
    context.progress("examine", {"proposal": proposal.id, "adapter": name})
    subject = _asked(bag, proposal, proposal.habit)
    scopes = {p.habit: p.scope for p in (*now.parts, *parts)}
    earlier = [bag.ledger.get(Habit, h) for h in sorted(scopes) if h not in (subject.id, *proposal.conflicts)]
    exam = Exam(
        body=bag.body,
        candidate={x: worn(bag.path, parts, x) for x in LANGUAGES},
        speaking={x: bag.selves.voice(now, x) for x in LANGUAGES},
        habit=subject,
        purpose=proposal.kind,
        earlier=[h.model_copy(update={"scope": scopes[h.id]}) for h in earlier],
        personas=personas(now.mask),
        tools=bag.toolboxes,
        table=bag.settings.gate,
        fading={p.habit for p in parts if p.weight < 1},
        private=[e.prompt for e in proposal.examples if e.source],
    )
    probes, samples, seconds = examine(exam)
    return bag.ledger.add(
        GateReport(
            proposal=proposal.id,
            adapter=name,
            passed=all(p.passed for p in probes),
            parts=parts,
            probes=probes,
            samples=samples,
            seconds=seconds,
        )
    )


def _may_speak(proposal: Proposal, report: GateReport) -> bool:
    """Letting go is the person's own: there the gate only reports."""
    return report.passed or proposal.kind in ("decay", "release")


def _examine(state: State, runtime: Runtime[Context]) -> State:
    bag = runtime.context.bag
    proposal = bag.ledger.get(Proposal, state["proposal"])
    report = _examined(runtime.context, proposal, bag.ledger.get(Run, state["run"]) if state["run"] else None)
    return {"passed": _may_speak(proposal, report)}


def _promote(state: State, runtime: Runtime[Context]) -> State:
    bag = runtime.context.bag
    proposal = bag.ledger.get(Proposal, state["proposal"])
    if proposal.status not in READY:
        return {"self_name": ""}  # withdrawn while it was trained, or promoted before a crash
    run = bag.ledger.get(Run, state["run"]) if state["run"] else None
    # a rollback waits for no exam: what speaks now may be another self than the one examined
    report = _examined(runtime.context, proposal, run)
    if not _may_speak(proposal, report):
        return {"passed": False}
    parts = report.parts
    inside = {p.habit: p.habit_stage for p in parts}
    # a habit carried along that was told again keeps its line: whether it is learned anew is asked by itself
    carried = bag.ledger.some(Habit, proposal.living) if run else []
    settled = {*proposal.conflicts, *(h.id for h in carried if h.stage in ("essence", "fading"))}
    settled |= set() if proposal.kind in ("decay", "consolidate") else {proposal.habit}
    texts = {bag.ledger.get(Habit, h).rule: h for h in settled}
    spoken = {p.habit: p.scope for p in parts}
    ref = proposal.id

    def rest(line: Rule) -> Rule | None:
        """A line, as far as the weights do not speak in its place."""
        habit = line.habit if line.habit in settled else texts.get(line.text)
        if habit is None:
            return line
        scope = tuple(x for x in line.scope if x not in spoken.get(habit, LANGUAGES))
        return line.model_copy(update={"scope": scope}) if scope else None

    def unmasked(mask: Mask) -> Mask:
        if bag.ledger.get(Proposal, ref).status not in READY or parts_after(bag, proposal, run) != parts:
            raise _moved(proposal)  # since, while the adapters were loaded
        return mask.model_copy(
            update={
                "rules": tuple(filter(None, map(rest, mask.rules))),
                "silenced": tuple(h for h in mask.silenced if h in inside),
            }
        )

    reasons = {
        "decay": Phrase("let fade with {proposal}", proposal=ref),
        "release": Phrase("let go with {proposal}", proposal=ref),
    }
    reason = reasons.get(proposal.kind, Phrase("learned with {proposal}", proposal=ref))

    def along() -> list[Record]:
        habit = bag.ledger.get(Habit, proposal.habit)
        habit = habit.model_copy(update={"scope": tuple(dict.fromkeys((*habit.scope, *proposal.scope)))})
        done: list[Record] = [proposal.model_copy(update={"status": "promoted", "at": ""})]
        if proposal.kind != "consolidate":
            done.append(habit.become(inside.get(habit.id, "released"), reason))
        for older in bag.ledger.some(Habit, proposal.conflicts):
            done += [superseded(older, habit), *withdrawn(bag, older, took_place(habit))]
        return done

    now = bag.selves.become(parts, unmasked, proposal.id, along)
    runtime.context.progress("promote", {"self": now.id})
    return {"self_name": now.id}


def _reject(state: State, runtime: Runtime[Context]) -> State:
    ledger = runtime.context.bag.ledger
    proposal = ledger.get(Proposal, state["proposal"])
    changes: list[Record] = [proposal.model_copy(update={"status": "rejected", "at": ""})]
    habit = ledger.get(Habit, proposal.habit)
    if habit.stage == "proposed":
        changes.append(habit.become("repeated", Phrase("{proposal} did not pass the gate", proposal=proposal.id)))
    ledger.add_all(changes)
    return {"self_name": ""}


def build() -> StateGraph[State, Context]:
    """The graph, uncompiled; compile it with ``interrupt_before=["train"]``."""
    graph = StateGraph(State, context_schema=Context)
    for name, node in (("approve", _approve), ("settle", _settle), ("train", _train), ("examine", _examine),
                       ("promote", _promote), ("reject", _reject)):  # fmt: skip
        graph.add_node(name, node)
    graph.add_edge(START, "approve")
    graph.add_edge("approve", "settle")
    graph.add_conditional_edges(
        "settle", lambda s: "train" if s["answer"]["verdict"] == "approve" else END, ["train", END]
    )
    graph.add_edge("train", "examine")
    graph.add_conditional_edges("examine", lambda s: "promote" if s["passed"] else "reject", ["promote", "reject"])
    graph.add_conditional_edges("promote", lambda s: END if s["passed"] else "reject", [END, "reject"])
    graph.add_edge("reject", END)
    return graph
