"""converse: recall → reply ⇄ tools → record. One run for each message; tokens stream from ``reply``.

History comes from the ledger; in sandbox from the state the door keeps in memory, and nothing is
recorded. The current self is looked up at every step, so a rule adopted now already holds.

A client may bring more than the message: the history it resends, a system text, sampling, tools of its own,
pictures. That shapes this reply and teaches nothing. A call of a client's tool is the client's to carry out:
the run ends there, unrecorded, and goes on when the result is brought.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from agent.bag import Bag
from agent.models.chat import to_message
from agent.models.sampling import looped
from agent.ports import Prompt, Voice
from agent.records import Call, Habit, Mask, Mode, Self, Turn
from agent.settings import Sampling
from graphs.context import Context
from prompts import Language, language_of, render
from tools.adopt_instruction import adopt_instruction
from tools.base import Desk, Tool
from tools.drop_instruction import drop_instruction
from tools.recall import recall
from tools.remember import remember

NEAR = 0.12  # cosine from which a memory comes to mind
STEPS = 4  # tool steps in one turn
NO_CALL = dict.fromkeys(("{", '{"'), -100.0)
ANEW = (0.8, 0.8, 1.0, 1.2)  # temperatures at least, one after the other until another reply comes
GROWTH_TOOLS: tuple[Tool, ...] = (recall, remember, adopt_instruction, drop_instruction)
SANDBOX_TOOLS: tuple[Tool, ...] = (recall,)
KEEPING = tuple(t.name for t in GROWTH_TOOLS if t is not recall)


class State(TypedDict, total=False):
    """One message on its way to becoming a turn."""

    thread: str
    mode: Mode
    user: str
    unwanted: str | None  # a reply, when another is wanted in its place
    instead: str  # the turn in which it stands
    mask: dict[str, Any]  # sandbox only: the mask worn in this process
    who: str  # sandbox only: another self than the one that speaks now
    history: list[tuple[str, str]]  # what was said before, where it is not the ledger's to tell
    aside: str  # a client's system text
    sampling: dict[str, Any]  # a client's own values
    tools: list[dict[str, Any]]  # a client's own
    choice: str  # auto, none, required, or the name of one of these
    brought: list[BaseMessage]  # calls of these and their results
    pictures: list[str]  # URLs
    memories: list[str]
    exchange: list[BaseMessage]
    calls: list[dict[str, Any]]
    steps: int
    reply: str
    asked: list[dict[str, Any]]  # calls for the client to carry out
    usage: tuple[int, int]  # tokens read and said
    ended: bool  # by itself, not for want of room
    self_name: str
    rules: list[str]
    turn: str


def toolbox(mode: Mode, ruled: bool) -> tuple[Tool, ...]:
    """The tools bound in a mode; a rule can be dropped only where one stands, in the mask or in the weights."""
    if mode == "sandbox":
        return SANDBOX_TOOLS
    return GROWTH_TOOLS if ruled else tuple(t for t in GROWTH_TOOLS if t is not drop_instruction)


def system_text(mask: Mask, language: Language, memories: list[str]) -> str:
    """The system prompt: persona and mood, the rules in scope, what is remembered."""
    persona = mask.persona.get(language) or render("persona", language)
    if mask.mood:
        persona = f"{persona} {mask.mood}"
    return render("converse", language, persona=persona, rules=mask.rules_for(language), memories=memories)


def _recall(state: State, runtime: Runtime[Context]) -> State:
    bag = runtime.context.bag
    index = bag.passing_index if state["mode"] == "sandbox" else bag.index
    found = index.near(state["user"], "memory", 3, least=NEAR)
    return {
        "memories": [text for _, text, _ in found],
        "exchange": state.get("brought", []),
        "calls": _carried_out(state.get("brought", [])),
        "steps": 0,
        "turn": "",
        "usage": (0, 0),
        "asked": [],
        "ended": True,
    }


def _carried_out(brought: list[BaseMessage]) -> list[dict[str, Any]]:
    """A client's calls with what came of them, as the turn keeps them."""
    results = {m.tool_call_id: str(m.text) for m in brought if isinstance(m, ToolMessage)}
    made = [c for m in brought if isinstance(m, AIMessage) for c in m.tool_calls]
    return [Call(name=c["name"], arguments=c["args"], result=results.get(c["id"] or "", "")).model_dump() for c in made]


def _reply(state: State, runtime: Runtime[Context]) -> State:
    bag, mode = runtime.context.bag, state["mode"]
    who = _who(bag, state)
    language = language_of(state["user"])
    mask, voice = bag.selves.dressed(who, language)
    sampling = bag.selves.sampling(who).model_copy(update=state.get("sampling", {}))
    unwanted = state.get("unwanted")
    pairs = (
        shown(state["history"], bag.thread(state["thread"]))
        if "history" in state
        else history(bag, state["thread"], state.get("instead", ""))
    )
    pairs = [*mask.few_shot, *latest(bag, pairs)]
    system = "\n\n".join(filter(None, (system_text(mask, language, state["memories"]), state.get("aside"))))
    tools, choice = _offered(bag, state, who, language) if unwanted is None else ([], "none")
    messages = fitting(bag, system, pairs, [_said_now(state), *state["exchange"]], tools)
    salt = mode if mode == "sandbox" else ""
    if unwanted is None:
        model: Any = bag.body.chat(voice, sampling, salt)
        said: AIMessage = (model.bind_tools(tools, tool_choice=choice) if tools else model).invoke(messages)
        if said.invalid_tool_calls:  # not a call after all: let it speak, in words
            in_words = sampling.model_copy(update={"logit_bias": {**sampling.logit_bias, **NO_CALL}})
            said = bag.body.chat(voice, in_words, salt).bind_tools(tools, tool_choice="none").invoke(messages)
    else:
        said = _otherwise(bag, voice, sampling, messages, unwanted, salt)
    used, (read, spoken) = said.usage_metadata, state["usage"]
    theirs_by_name = {t["function"]["name"] for t in state.get("tools", [])}
    return {
        "exchange": [*state["exchange"], said],
        "reply": str(said.text),
        "asked": [dict(c) for c in said.tool_calls if c["name"] in theirs_by_name],
        "self_name": who.id,
        "rules": list(mask.rules_for(language)),
        "usage": (read + used["input_tokens"], spoken + used["output_tokens"]) if used else (read, spoken),
        "ended": not used or used["output_tokens"] < min(sampling.max_tokens, bag.body.context - used["input_tokens"]),
    }


def _offered(bag: Bag, state: State, who: Self, language: Language) -> tuple[list[dict[str, Any]], str]:
    """The tools of this step, and whether one must be called."""
    theirs, choice = state.get("tools", []), state.get("choice", "auto")
    if choice not in ("auto", "none") and not state["exchange"]:
        return theirs, choice
    if state["steps"] >= STEPS:
        return [], "none"
    return [*own_tools(bag, state["mode"], who, language, state["user"]), *(theirs if choice != "none" else [])], "auto"


def own_tools(bag: Bag, mode: Mode, who: Self, language: Language, user: str) -> list[dict[str, Any]]:
    """What the model itself may call in answer to ``user``."""
    stands = [] if mode == "sandbox" else standing(bag, who, language)
    return [_narrowed(t, user, stands) for t in toolbox(mode, bool(stands))]


def _who(bag: Bag, state: State) -> Self:
    """Who speaks: looked up at every step."""
    if state["mode"] != "sandbox":
        return bag.selves.refresh()
    who = bag.selves.get(state["who"]) if state.get("who") else bag.selves.current()
    return who.model_copy(update={"mask": Mask.model_validate(state["mask"])})


def _said_now(state: State) -> HumanMessage:
    if not state.get("pictures"):
        return HumanMessage(state["user"])
    seen = [{"type": "image_url", "image_url": {"url": url}} for url in state["pictures"]]
    return HumanMessage([{"type": "text", "text": state["user"]}, *seen])


def _otherwise(
    bag: Bag, voice: Voice, sampling: Sampling, messages: list[BaseMessage], unwanted: str, salt: str
) -> AIMessage:
    """Another reply than the one that was not wanted, without tools: what they did is done."""
    for least in ANEW:
        livelier = sampling.model_copy(update={"temperature": max(sampling.temperature, least), "seed": None})
        said: AIMessage = bag.body.chat(voice, livelier, salt).invoke(messages)
        if str(said.text) != unwanted:
            break
    return said


def standing(bag: Bag, who: Self, language: Language) -> list[str]:
    """The rules that can be dropped: lines of the mask and habits of the weights that speak ``language``.

    Of another language's the model is shown nothing: offered them, it takes a wish in this one for their end.
    """
    inside = [p.habit for p in who.parts if language in p.scope and p.habit not in who.mask.silenced]
    lines = [r.text for r in who.mask.rules if language in r.scope]
    return list(dict.fromkeys([*lines, *(h.rule for h in bag.ledger.some(Habit, inside))]))


def _narrowed(tool: Tool, user: str, stands: Sequence[str]) -> dict[str, Any]:
    if tool is remember:
        return tool.schema(text={"x-substring-of": [user]})
    if tool is drop_instruction:
        return tool.schema(rule={"enum": list(stands)})
    return tool.schema()


def history(bag: Bag, thread: str, before: str = "") -> list[tuple[str, str]]:
    """What was said in a thread (before a turn), as the model is shown it."""
    turns = [t for t in bag.thread(thread) if not before or int(t.id[1:]) < int(before[1:])]
    return shown([(t.user, t.reply) for t in turns if t.reply], turns)


def latest(bag: Bag, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The last of ``pairs``: as many as the model may read."""
    most = bag.settings.model.history
    return list(pairs[-most:]) if most else []


def shown(pairs: Sequence[tuple[str, str]], turns: Sequence[Turn]) -> list[tuple[str, str]]:
    """What of ``pairs``, from the ledger or a client, the model sees; ``turns``: what is recorded of their thread."""
    taken_back = {(t.user.strip(), t.reply.strip()) for t in turns if _took_back(t)}  # clients strip
    # a reply that lost itself in a loop would draw the next one in
    return [(u, r) for u, r in pairs if not looped(r) and (u.strip(), r.strip()) not in taken_back]


def _took_back(turn: Turn) -> bool:
    """Whether a rule was dropped in it. The mask says so; its words, read again, would be taken for the rule itself."""
    return any(c.name == drop_instruction.name and c.result == "ok" for c in turn.tool_calls)


def fitting(
    bag: Bag, system: str, pairs: list[tuple[str, str]], now: list[BaseMessage], tools: list[dict[str, Any]]
) -> list[BaseMessage]:
    """As many of the latest exchanges as the context holds beside the rest."""
    rest = Prompt(tuple(map(to_message, [SystemMessage(system), *now])), tuple(tools))
    room = bag.body.context - min(200, bag.body.context // 3) - len(bag.body.ids_of(rest))
    kept: list[BaseMessage] = []
    for user, reply in reversed(pairs):
        room -= bag.body.count(user) + bag.body.count(reply) + 16
        if room < 0:
            break
        kept = [HumanMessage(user), AIMessage(reply), *kept]
    return [SystemMessage(system), *kept, *now]


def _use_tools(state: State, runtime: Runtime[Context]) -> State:
    bag = runtime.context.bag
    by_name = {t.name: t for t in toolbox(state["mode"], ruled=True)}
    said = state["exchange"][-1]
    assert isinstance(said, AIMessage)
    calls, messages = list(state["calls"]), list(state["exchange"])
    turn = state["turn"]
    if state["mode"] != "sandbox" and any(c["name"] in KEEPING for c in said.tool_calls):
        turn = _begun(bag, state, "").id  # what a tool keeps stands with the words that led to it: it can be erased
    desk = Desk(bag=bag, mode=state["mode"], thread=state["thread"], turn=turn, user=state["user"])
    try:
        for asked in said.tool_calls:
            known = by_name.get(asked["name"])
            call = (
                known.call(desk, asked["args"])
                if known
                else Call(name=asked["name"], arguments=asked["args"], result="error: no such tool")
            )
            calls.append(call.model_dump())
            messages.append(ToolMessage(call.result, tool_call_id=asked["id"] or "", name=call.name))
            runtime.context.progress("tool", {"name": call.name, "arguments": call.arguments, "result": call.result})
    finally:
        if turn:
            _begun(bag, {**state, "turn": turn, "calls": calls}, "")
    return {"exchange": messages, "calls": calls, "steps": state["steps"] + 1, "turn": turn}


def _begun(bag: Bag, state: State, reply: str) -> Turn:
    """The turn as far as it has come, recorded; its reply may be yet to come. One that was broken off is gone on with."""
    last = next(reversed(bag.thread(state["thread"])), None)
    ref = state["turn"] or (last.id if last and not last.reply and last.user == state["user"] else "")
    before = bag.ledger.get(Turn, ref) if ref else Turn(thread=state["thread"], user=state["user"], reply="")
    calls = [Call.model_validate(c) for c in state["calls"]]
    return bag.keep(
        before.model_copy(
            update={
                "reply": reply,
                "tool_calls": (*(c for c in before.tool_calls if c not in calls), *calls),
                "self_name": state["self_name"],
                "model": bag.settings.model.name,
                "rules": tuple(state["rules"]),
            }
        )
    )


def _record(state: State, runtime: Runtime[Context]) -> State:
    bag = runtime.context.bag
    if state["mode"] == "sandbox":
        return {"turn": ""}
    if state.get("unwanted") is None:
        return {"turn": _begun(bag, state, state["reply"]).id}
    before = bag.ledger.get(Turn, state["instead"])
    said = {"reply": state["reply"], "self_name": state["self_name"], "rules": tuple(state["rules"])}
    return {"turn": bag.keep(before.model_copy(update=said)).id}


def _next(state: State) -> str:
    said = state["exchange"][-1]
    if state["asked"]:
        return END
    return "tools" if isinstance(said, AIMessage) and said.tool_calls and state["steps"] < STEPS else "record"


def build() -> StateGraph[State, Context]:
    """The graph, uncompiled."""
    graph = StateGraph(State, context_schema=Context)
    graph.add_node("recall", _recall)
    graph.add_node("reply", _reply)
    graph.add_node("tools", _use_tools)
    graph.add_node("record", _record)
    graph.add_edge(START, "recall")
    graph.add_edge("recall", "reply")
    graph.add_conditional_edges("reply", _next, ["tools", "record", END])
    graph.add_edge("tools", "reply")
    graph.add_edge("record", END)
    return graph


def ask_messages(mask: Mask, text: str, language: Language) -> list[BaseMessage]:
    """The clean probe: system text + mask + TEXT."""
    shots: list[BaseMessage] = [m for u, a in mask.few_shot for m in (HumanMessage(u), AIMessage(a))]
    return [SystemMessage(system_text(mask, language, [])), *shots, HumanMessage(text)]
