"""ruminate: judge → propose → write → schedule → … → decay → diary, inside a budget.

Every phase offers only its legal tools and ``abstain``. Code chooses what is shown and how often
the model is asked; what is valuable, what is a habit, what to train on is the model's to decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice, takewhile
from typing import Any, TypedDict

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from agent.bag import Bag, living, settled
from agent.learning.lifecycle import half_lives, heard
from agent.learning.proposing import draft_rows
from agent.phrase import Phrase
from agent.records import OPEN, TEACHING, Abstention, Call, Diary, Draft, Habit, Proposal, Turn, Verdict
from agent.settings import GREEDY
from graphs.context import Context
from prompts import Language, language_of, render
from tools.abstain import abstain
from tools.base import Desk, Tool
from tools.decay_old_adapter import decay_old_adapter
from tools.judge_turn_value import judge_turn_value
from tools.propose_habit import propose_habit
from tools.schedule_lora_update import schedule_lora_update
from tools.write_examples import write_examples

SHOWN = 6  # turns in one shortlist
HORIZON = 500  # verdicts that teach, the latest, in which a pass looks for what was not weighed yet
LENGTH = 120  # characters of a turn shown
RETRIES = 2
WRITE_CALLS = 24


class State(TypedDict, total=False):
    """One pass."""

    todo: list[str]  # turns to judge
    verdicts: list[str]
    seeds: list[list[str]]  # shortlists of turns still to be considered
    draft: str
    written: int  # write calls made for this draft
    proposals: list[str]
    abstained: bool
    reason: str
    diary: str


def _act(
    context: Context,
    desk: Desk,
    system: str,
    user: str,
    offers: Sequence[tuple[Tool, dict[str, dict[str, Any]]]],
    temperature: float = 0.0,
) -> Call:
    """Ask the model for one tool call; an error goes back to it to be corrected."""
    bag = context.bag
    who = bag.selves.current()
    sampling = GREEDY.model_copy(update={"tool_temperature": temperature, "max_tokens": 600})
    model: Any = bag.body.chat(bag.selves.voice(who, desk.language), sampling)
    model = model.bind_tools([t.schema(**narrow) for t, narrow in offers], tool_choice="any")
    messages: list[BaseMessage] = [SystemMessage(system), HumanMessage(user)]
    by_name = {t.name: t for t, _ in offers}
    call = Call(name="", arguments={}, result="error: no call")
    for _ in range(1 + RETRIES):
        said: AIMessage = model.invoke(messages)
        if not said.tool_calls:
            call = Call(name="", arguments={}, result="error: answer with one tool call")
            messages += [said, HumanMessage(call.result)]
            continue
        asked = said.tool_calls[0]
        known = by_name.get(asked["name"])
        call = (
            known.call(desk, asked["args"])
            if known
            else Call(name=asked["name"], arguments=asked["args"], result="error: no such tool here")
        )
        if not call.result.startswith("error"):
            break
        messages += [said, ToolMessage(call.result, tool_call_id=asked["id"] or "", name=asked["name"])]
    if call.result.startswith("error"):
        bag.note(f"{desk.phase}: {call.result}", call.name)
    context.progress(desk.phase, {"tool": call.name, "arguments": call.arguments, "result": call.result})
    return call


def _begin(state: State, runtime: Runtime[Context]) -> State:
    bag = runtime.context.bag
    todo = [t.id for t in bag.unjudged(bag.settings.rumination.turns)]
    return {
        "todo": todo,
        "verdicts": [],
        "seeds": [],
        "draft": "",
        "written": 0,
        "proposals": [],
        "abstained": False,
        "reason": "",
    }


def _judge(state: State, runtime: Runtime[Context]) -> State:
    """One turn."""
    bag = runtime.context.bag
    turn = bag.ledger.get(Turn, state["todo"][0])
    language = language_of(turn.user)
    desk = Desk(bag=bag, phase="judge", language=language, turns={1: turn})
    call = _act(
        runtime.context, desk, render("judge", language),
        render("judge_turn", language, number=1, user=turn.user[:400], reply=turn.reply[:200]),
        [(judge_turn_value, {"turn": {"enum": [1]}}), (abstain, {})],
    )  # fmt: skip
    if call.result.startswith("error"):  # it could not: set the turn aside instead of asking for ever
        bag.ledger.add(Abstention(phase="judge", reason=call.result, turns=(turn.id,)))
    return {"todo": state["todo"][1:], "verdicts": [*state["verdicts"], *(v.id for v in desk.verdicts)]}


def _teaches(bag: Bag, verdict: Verdict) -> bool:
    return verdict.kind in TEACHING and verdict.value >= bag.settings.rumination.least_value


def _unweighed(bag: Bag) -> list[str]:
    """Turns that teach something and that no pass has weighed yet, latest first; none from beyond the horizon.

    What was proposed once, or has left, is not asked again by itself; beside something new it is shown.
    """
    ledger = bag.ledger
    recent = list(islice(ledger.newest(Verdict, kind=TEACHING), HORIZON))
    since = recent[-1].at if recent else ""
    abstained = takewhile(lambda a: a.at >= since, ledger.newest(Abstention, phase=("propose",)))
    weighed = {t for a in abstained for t in a.turns}
    weighed |= {t for p in ledger.all(Proposal) for t in p.evidence}
    weighed |= {t for h in ledger.all(Habit) if h.stage == "released" for t in h.evidence}
    found = {v.turn for v in recent if _teaches(bag, v) and v.turn not in weighed}
    return sorted(found, key=lambda t: -int(t[1:]))


def _shortlist(state: State, runtime: Runtime[Context]) -> State:
    """Gather what might belong together; the model decides whether it does."""
    bag = runtime.context.bag
    ledger = bag.ledger
    most = 3 * max(1, bag.settings.rumination.proposals)
    taken = settled(bag)
    habits = ledger.all(Habit)
    claimed = {t for h in habits if h.id in taken for t in h.evidence}
    refused = {p.habit for p in ledger.all(Proposal)}  # told anew it may come back; merely kept it may not
    fresh = [ledger.get(Verdict, v) for v in state["verdicts"]]
    told = [h for h in habits if h.stage in ("told", "repeated") and h.id not in refused and bag.kept_in(h) > h.kept]
    heads = [t for t in (*_unweighed(bag), *(t for h in told for t in h.evidence)) if t not in claimed]
    seeds: list[list[str]] = []
    for head in dict.fromkeys(heads):
        if len(seeds) == most:
            break
        text = ledger.get(Turn, head).user  # empty when it was erased
        if not text or any(head in seed for seed in seeds):
            continue
        near = [i for i, _, score in bag.index.near(text, "turn", 40) if score > 0.1 and i not in claimed | {head}]
        alike = (i for i in near if any(_teaches(bag, v) for v in ledger.all(Verdict, parent=i)))
        seeds.append(sorted([head, *islice(alike, SHOWN - 1)], key=lambda t: int(t[1:])))
    if not seeds and fresh:
        open_ = [v.turn for v in fresh if v.kind != "secret"]
        seeds = [open_[-SHOWN // 2 :]]  # nothing stands out: the model may still see something, or abstain
        if not open_:  # secrets are not even shown
            turns = tuple(v.turn for v in fresh)
            ledger.add(Abstention(phase="propose", reason=Phrase("only secrets were told"), turns=turns))
    return {"seeds": [s for s in seeds if s]}


def _propose(state: State, runtime: Runtime[Context]) -> State:
    """One shortlist: a habit, or not."""
    bag = runtime.context.bag
    turns = {i + 1: bag.ledger.get(Turn, t) for i, t in enumerate(state["seeds"][0])}
    language = language_of(turns[1].user)
    about = [
        h
        for h in bag.ledger.all(Habit)
        if h.stage in ("told", "repeated") and any(t.id in h.evidence for t in turns.values())
    ]
    kept = {h.id: bag.kept_in(h) for h in about}
    desk = Desk(bag=bag, phase="propose", language=language, turns=turns)
    shown = [{"number": n, "user": t.user[:LENGTH]} for n, t in turns.items()]
    call = _act(
        runtime.context, desk, render("propose", language), render("propose_evidence", language, turns=shown, kept=max(kept.values(), default=0)),
        [
            (propose_habit, {"quote": {"x-substring-of": [t.user[:LENGTH] for t in turns.values()]},
                             "turns": {"items": {"type": "integer", "enum": list(turns)}, "maxItems": len(turns)}}),
            (abstain, {}),
        ],
    )  # fmt: skip
    if failed := call.result.startswith("error"):  # not asked again by itself
        bag.ledger.add(Abstention(phase="propose", reason=call.result, turns=tuple(t.id for t in turns.values())))
    if not desk.draft:  # nor because it was kept as often as now
        with bag.ledger.together() as add:  # as they are now: the person talks on while the model thinks
            for h in bag.ledger.some(Habit, list(kept)):
                if kept[h.id] != h.kept:
                    add(h.model_copy(update={"kept": kept[h.id], "at": ""}))
    seeds = state["seeds"][1:]
    if desk.draft:
        cited = set(bag.ledger.get(Habit, desk.draft.habit).evidence)
        seeds = [s for s in seeds if not cited & set(s)]
    return {"seeds": seeds, "draft": desk.draft.id if desk.draft else "", "written": 0,
            "reason": desk.abstained or state["reason"] or (Phrase("its call could not be used") if failed else "")}  # fmt: skip


def _write(state: State, runtime: Runtime[Context]) -> State:
    """One handful of invented prompts."""
    bag = runtime.context.bag
    draft = bag.ledger.get(Draft, state["draft"])
    habit = bag.ledger.get(Habit, draft.habit)
    language = habit.scope[0] if state["written"] % 2 == 0 else habit.scope[-1]
    number = int(habit.id[1:])
    desk = Desk(bag=bag, phase="write", language=language, habits={number: habit}, draft=draft)
    call = _act(
        runtime.context, desk, render("write", language), render("write_habit", language, number=number, rule=habit.rule),
        [(write_examples, {"habit": {"enum": [number]}}), (abstain, {})],
        temperature=1.0,
    )  # fmt: skip
    stop = call.name == "abstain" or call.result.startswith("error")
    return {"written": WRITE_CALLS if stop else state["written"] + 1}


def _enough(state: State, runtime: Runtime[Context]) -> str:
    bag = runtime.context.bag
    have = len(draft_rows(bag, bag.ledger.get(Draft, state["draft"])))
    return "schedule" if have >= bag.settings.rumination.examples or state["written"] >= WRITE_CALLS else "write"


def _schedule(state: State, runtime: Runtime[Context]) -> State:
    bag = runtime.context.bag
    draft = bag.ledger.get(Draft, state["draft"])
    habit = bag.ledger.get(Habit, draft.habit)
    language, number = habit.scope[0], int(habit.id[1:])
    desk = Desk(bag=bag, phase="schedule", language=language, habits={number: habit}, draft=draft)
    call = _act(
        runtime.context, desk, render("schedule", language),
        render("schedule_habit", language, number=number, rule=habit.rule, evidence=len(habit.evidence), examples=len(draft_rows(bag, draft))),
        [(schedule_lora_update, {"habit": {"enum": [number]}}), (abstain, {})],
    )  # fmt: skip
    if not desk.proposals:  # weighed all the same: it comes back beside something new
        bag.ledger.add(Abstention(phase="propose", reason=desk.abstained or call.result, turns=habit.evidence))
    return {
        "proposals": [*state["proposals"], *(p.id for p in desk.proposals)],
        "draft": "",
        "reason": desk.abstained or state["reason"],
    }


def _decay(state: State, runtime: Runtime[Context]) -> State:
    """Each habit in the weights: let it fade or go, or not."""
    bag = runtime.context.bag
    found: list[str] = []
    waiting = {p.habit for p in bag.ledger.all(Proposal) if p.status in OPEN}
    weights = {p.habit: p.weight for p in bag.selves.current().parts}
    for habit in living(bag):
        if habit.id in waiting:
            continue
        language: Language = habit.scope[0]
        number = int(habit.id[1:])
        said = heard(bag, habit)
        desk = Desk(bag=bag, phase="decay", language=language, habits={number: habit}, turns=dict(enumerate(said, 1)))
        passed = f"{half_lives(bag, habit, datetime.now(UTC)):.1f}"
        _act(
            runtime.context, desk, render("decay", language),
            render("decay_habit", language, number=number, rule=habit.rule, weight=weights[habit.id], half_lives=passed,
                   heard=[t.user[:LENGTH] for t in said]),
            [(decay_old_adapter, {"habit": {"enum": [number]}}), (abstain, {})],
        )  # fmt: skip
        found += [p.id for p in desk.proposals]
    return {"proposals": [*state["proposals"], *found]}


def _diary(state: State, runtime: Runtime[Context]) -> State:
    bag = runtime.context.bag
    judged = len(state["verdicts"])
    if not judged and not state["proposals"]:
        return {"abstained": True, "reason": state["reason"], "diary": ""}
    turns = [bag.ledger.get(Turn, bag.ledger.get(Verdict, v).turn) for v in state["verdicts"]]
    proposals = [bag.ledger.get(Proposal, p) for p in state["proposals"]]
    language = language_of(turns[-1].user) if turns else proposals[0].scope[0]
    rules = [p.rule for p in proposals]
    model = bag.body.chat(bag.selves.voice(bag.selves.current(), language), GREEDY)
    said = model.invoke(
        [
            SystemMessage(render("diary", language)),
            HumanMessage(render("diary_day", language, judged=judged, rules=rules)),
        ]
    )
    entry = str(said.text)
    bag.ledger.add(Diary(entry=entry, judged=judged, proposals=tuple(state["proposals"])))
    if not state["proposals"] and not state["reason"]:
        last = bag.ledger.last(Abstention)
        return {"abstained": True, "reason": last.reason if last else "", "diary": entry}
    return {"abstained": not state["proposals"], "diary": entry}


def _more(state: State, runtime: Runtime[Context]) -> str:
    budget = runtime.context.bag.settings.rumination.proposals
    return "propose" if state["seeds"] and len(state["proposals"]) < budget else "decay"


def build() -> StateGraph[State, Context]:
    """The graph, uncompiled."""
    graph = StateGraph(State, context_schema=Context)
    for name, node in (("begin", _begin), ("judge", _judge), ("shortlist", _shortlist), ("propose", _propose), ("write", _write),
                       ("schedule", _schedule), ("decay", _decay), ("diary", _diary)):  # fmt: skip
        graph.add_node(name, node)
    graph.add_edge(START, "begin")
    graph.add_conditional_edges("begin", lambda s: "judge" if s["todo"] else "shortlist", ["judge", "shortlist"])
    graph.add_conditional_edges("judge", lambda s: "judge" if s["todo"] else "shortlist", ["judge", "shortlist"])
    graph.add_conditional_edges("shortlist", _more, ["propose", "decay"])
    graph.add_conditional_edges(
        "propose", lambda s, runtime: "write" if s["draft"] else _more(s, runtime), ["write", "propose", "decay"]
    )
    graph.add_conditional_edges("write", _enough, ["write", "schedule"])
    graph.add_conditional_edges("schedule", _more, ["propose", "decay"])
    graph.add_edge("decay", "diary")
    graph.add_edge("diary", END)
    return graph
