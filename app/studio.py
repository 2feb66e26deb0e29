"""The graphs as LangGraph's own servers and clients expect them (``langgraph.json``).

``converse`` holds messages, ``ruminate`` takes nothing, ``update`` shows what waits in the human-review shape that
agent-chat-ui and agent-inbox render, and takes either's answer. Each calls the functions that every door calls.
A server of LangGraph's keeps the messages of its threads itself, so there is no sandbox here. It would answer every
page that a browser opens: ``door`` stands before all its routes, as before those of ``habitus serve``.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypedDict

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt
from starlette.applications import Starlette
from starlette.middleware import Middleware

from agent.errors import ConflictError, HabitusError, UsageError
from agent.records import Turn
from app.conversation import Brought, Conversation, new_thread
from app.server import Threshold
from app.show import visible
from app.threads import Threads
from app.wiring import untraced

if TYPE_CHECKING:
    from app.habitus import Habitus

Json = dict[str, Any]
ACTION = "grow_into_weights"
DECISIONS = ("approve", "accept", "reject", "edit", "ignore")
GUESTS = ("https://smith.langchain.com",)  # LangSmith Studio, whose address `langgraph dev` prints
door = Starlette(middleware=[Middleware(Threshold, key="", guests=GUESTS)])


@cache
def _habitus() -> Habitus:
    from app.wiring import open_habitus

    return open_habitus()


@cache
def _threads() -> Threads:
    return Threads(_habitus().bag)


def _made(graph: StateGraph[Any]) -> Any:
    untraced()  # not first in a node: the run that holds it would be on its way by then
    return graph.compile()


def _talk(state: MessagesState, config: RunnableConfig) -> Json:
    thread = str(config.get("configurable", {}).get("thread_id") or new_thread())
    *before, said = [m for m in state["messages"] if isinstance(m, HumanMessage | AIMessage)]
    history = [(str(a.text), str(b.text)) for a, b in pairwise(before) if a.type == "human" and b.type == "ai"]
    habitus, text = _habitus(), str(said.text)
    conversation, brought = Conversation(habitus, thread, "growth"), Brought(history=tuple(history))
    if again := _threads().place(history, text, thread).again:
        reply = habitus.bag.ledger.get(Turn, again).reply
        found = conversation.turn(conversation.answer(text, None, brought, reply, again))
    else:
        found = conversation.turn(conversation.answer(text, None, brought))
    details = {k: found[k] for k in ("turn_id", "self", "mask", "tool_calls")}
    return {"messages": [AIMessage(found["reply"], additional_kwargs={"habitus": details})]}


def converse() -> Any:
    """Talk: the last message is answered in the thread of the run."""
    graph = StateGraph(MessagesState)
    graph.add_node("talk", _talk)
    graph.add_edge(START, "talk")
    graph.add_edge("talk", END)
    return _made(graph)


class Night(TypedDict, total=False):
    """One pass of rumination."""

    found: Json


def ruminate() -> Any:
    """Judge what is new and propose, or abstain."""
    graph = StateGraph(Night)
    graph.add_node("ruminate", lambda _: {"found": _habitus().ruminate()})
    graph.add_edge(START, "ruminate")
    graph.add_edge("ruminate", END)
    return _made(graph)


class Review(TypedDict, total=False):
    """What is put before a person."""

    learn: bool  # train at once what was approved; else the next `learn` or `sleep` does
    proposal: str  # shown now; named at the start, only this one is
    digest: str
    seen: list[str]  # decided, or left for later
    answer: Json
    error: str  # why the last answer could not be carried out
    learned: list[Json]


def _show(state: Review) -> Review:
    """Fix what is shown before it is asked about: an approval holds for these bytes and no others."""
    only, seen = state.get("proposal", ""), state.get("seen", [])
    if only and not state.get("digest"):
        return {"digest": _habitus().proposal(only)["digest"], "seen": seen}
    waiting = [p for p in _habitus().proposals() if p["status"] == "waiting" and p["id"] not in seen]
    return {
        "proposal": waiting[0]["id"] if waiting else "",
        "digest": waiting[0]["digest"] if waiting else "",
        "seen": seen,
    }


def _decide(state: Review) -> Review:
    """The question alone: a node with an interrupt runs again from its top, with every answer given before."""
    request = _request(_habitus().proposal(state["proposal"]) | {"digest": state["digest"]})
    if error := state.get("error"):
        request |= {"error": error}
    return {"answer": _answer(interrupt(request))}


def _carry_out(state: Review) -> Review:
    """What was answered. What cannot be done is asked again: an error would stay in the thread for good."""
    habitus, ref, shown, answer = _habitus(), state["proposal"], state["digest"], state["answer"]
    anew: Review = {"proposal": "", "digest": "", "error": ""}
    try:
        match answer["type"]:
            case "approve" | "accept":
                habitus.approve(ref, shown)
            case "reject":
                habitus.veto(ref, str(answer.get("message") or answer.get("args") or "rejected"))
            case "edit":
                habitus.edit(ref, _dropped(answer))
                return anew  # shown under its new digest
            case "ignore":
                pass
            case other:
                raise UsageError(
                    "{given!r} is no decision here; allowed: {some}.", given=other, some=", ".join(DECISIONS)
                )
        return anew | {"seen": [*state["seen"], ref]}
    except ConflictError:  # decided elsewhere, or not what was shown any more
        return anew
    except HabitusError as error:
        return {"error": f"{error.message} {error.hint}".strip()}


def _dropped(answer: Json) -> list[int]:
    """The numbers of the examples to leave out, from an edited action or its bare arguments."""
    edited = answer.get("edited_action") or answer.get("args") or {}
    given = edited.get("args") or edited if isinstance(edited, dict) else {}
    numbers = given.get("drop", []) if isinstance(given, dict) else given
    try:
        some = re.split(r"[,\s]+", numbers.strip()) if isinstance(numbers, str) else list(numbers)
        return [int(n) for n in some]
    except (TypeError, ValueError) as error:
        raise UsageError("Which examples to drop? {given!r} are no numbers.", given=str(numbers)) from error


def _seen(node: Any) -> Any:
    """``node`` with what cannot be seen in its texts spelled out, as at the terminal."""
    if isinstance(node, dict):
        return {k: _seen(v) for k, v in node.items()}
    if isinstance(node, list | tuple):
        return [_seen(v) for v in node]
    return visible(node) if isinstance(node, str) else node


def _request(proposal: Json) -> Json:
    """A proposal as clients of LangGraph show it."""
    proposal = _seen(proposal)
    kept = ("id", "digest", "kind", "habit", "rule", "quote", "scope", "method", "risks", "conflicts")
    rows = [f"{i}. {e['prompt']} → {e['completion']}" for i, e in enumerate(proposal["examples"], 1)]
    description = "\n\n".join([str(proposal["rationale"]), f"> {proposal['quote']}", "\n".join(rows)])
    return {
        "action_requests": [
            {"name": ACTION, "args": {k: proposal[k] for k in kept} | {"drop": []}, "description": description}
        ],
        "review_configs": [{"action_name": ACTION, "allowed_decisions": ["approve", "edit", "reject"]}],
    }


def _answer(given: Any) -> Json:
    """The one decision, from either shape: ``{"decisions": [...]}``, or agent-inbox's older ``[{type, args}]``."""
    found = given.get("decisions", given) if isinstance(given, dict) else given
    one = found[0] if isinstance(found, list) and found else found
    return {"type": "", **one} if isinstance(one, dict) else {"type": str(one)}


def _learn(state: Review) -> Review:
    return {"learned": _habitus().learn()}


def update() -> Any:
    """Put each waiting proposal before a person; training follows where it was asked for."""
    graph = StateGraph(Review)
    graph.add_node("show", _show)
    graph.add_node("decide", _decide)
    graph.add_node("carry_out", _carry_out)
    graph.add_node("learn", _learn)
    graph.add_edge(START, "show")
    graph.add_conditional_edges(
        "show", lambda s: "decide" if s["proposal"] else "learn" if s.get("learn") else END, ["decide", "learn", END]
    )
    graph.add_edge("decide", "carry_out")
    graph.add_conditional_edges("carry_out", lambda s: "decide" if s["error"] else "show", ["decide", "show"])
    graph.add_edge("learn", END)
    return _made(graph)
