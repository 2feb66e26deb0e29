"""One thread being talked in."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig

from agent.errors import UsageError
from agent.learning.conflict import line
from agent.records import LONGEST_RULE, Habit, Mask, Mode, Turn
from graphs import converse
from prompts import language_of

if TYPE_CHECKING:
    from app.habitus import Habitus

Json = dict[str, Any]
Show = Callable[[str], None]


class _Aloud(BaseCallbackHandler):
    """Passes on what the model says, piece by piece."""

    raise_error = True  # who no longer listens ends the reply

    def __init__(self, show: Show) -> None:
        self._show = show

    def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        """Before its tools do anything: a call says no word aloud."""
        self._show("")

    def on_llm_new_token(self, token: str | list[str | dict[str, Any]], **kwargs: Any) -> None:
        if token and isinstance(token, str):
            self._show(token)


@dataclass(frozen=True)
class Brought:
    """What a client sends beside the message. It shapes this reply and teaches nothing."""

    history: tuple[tuple[str, str], ...] | None = None  # as the client resends it; None: the ledger's
    system: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[Json, ...] = ()
    choice: str = "auto"
    exchange: tuple[BaseMessage, ...] = ()  # calls of its tools, and what came of them
    pictures: tuple[str, ...] = ()


class Conversation:
    """One thread being talked in. In sandbox all of it lives in this object and nowhere else."""

    def __init__(self, habitus: Habitus, thread: str, mode: Mode, who: str = "") -> None:
        self.habitus, self.thread, self.mode, self._who = habitus, thread, mode, who
        selves = habitus.bag.selves
        self.mask = Mask() if mode == "growth" else (selves.get(who) if who else selves.current()).mask  # its own copy
        self._history: list[tuple[str, str]] = []

    def say(self, text: str, show: Show | None = None) -> Json:
        """One turn; ``show`` receives the reply piece by piece, and ends it by raising."""
        return self.turn(self.answer(text, show, Brought()))

    def answer(
        self, text: str, show: Show | None, brought: Brought, unwanted: str | None = None, instead: str = ""
    ) -> converse.State:
        """One turn as the graph left it; another than the ``unwanted`` reply, which stands in turn ``instead``."""
        if not text.strip():
            raise UsageError("There is nothing to answer.", "Say something.")
        state: Json = {
            "thread": self.thread,
            "mode": self.mode,
            "user": text,
            "unwanted": unwanted,
            "instead": instead,
            "aside": brought.system,
            "sampling": dict(brought.sampling),
            "tools": list(brought.tools),
            "choice": brought.choice,
            "brought": list(brought.exchange),
            "pictures": list(brought.pictures),
        }
        if self.mode == "sandbox":
            before = self._history if unwanted is None else self._history[:-1]
            state |= {"mask": self.mask.model_dump(), "history": before, "who": self._who}
        if brought.history is not None:
            state["history"] = list(brought.history)
        # A callback, not stream_mode "messages": that one runs each node in a thread of its own and wakes
        # another for every token, which took half as long again as the model itself (docs/log.md).
        config: RunnableConfig = {"recursion_limit": 50}
        if show:
            config["callbacks"] = [_Aloud(show)]
        final: converse.State = self.habitus.talking.invoke(state, config, context=self.habitus.context)
        if self.mode == "sandbox":
            self._history = [*before, (text, final["reply"])]
        return final

    def turn(self, final: converse.State) -> Json:
        """A turn as doors show it."""
        return {
            "thread": self.thread,
            "turn_id": final.get("turn", ""),
            "mode": self.mode,
            "user": final["user"],
            "reply": final["reply"],
            "tool_calls": [{k: c[k] for k in ("name", "arguments", "result")} for c in final["calls"]],
            "self": final["self_name"],
            "mask": final["rules"],
        }

    def again(self, show: Show | None = None) -> Json:
        """Another reply to what was said last, shown whole. The first is kept as one that was not wanted."""
        user, turn = self._last()
        reply, ref = (turn.reply, turn.id) if turn else (self._history[-1][1], "")
        found = self.turn(self.answer(user, None, Brought(), reply, ref))
        if show:  # not piece by piece: a draw that says the same is drawn again
            show(found["reply"])
        return found

    def better(self, text: str) -> None:
        """The reply the person would have liked to what was said last, in his own words."""
        if not text.strip():
            raise UsageError("Write the answer you would have liked.", "Example: /better Good morning, Captain.")
        user, turn = self._last()
        if turn is None:
            self._history[-1] = (user, text)
            return
        self.habitus.bag.keep(turn.model_copy(update={"reply": text, "self_name": ""}))

    def _last(self) -> tuple[str, Turn | None]:
        """What was said last, and its turn where turns are recorded."""
        if self.mode == "sandbox" and self._history:
            return self._history[-1][0], None
        turns = self.habitus.bag.thread(self.thread) if self.mode == "growth" else []
        if not turns:
            raise UsageError("There is nothing yet to say again.", "Talk first.")
        return turns[-1].user, turns[-1]

    def mask_now(self) -> Mask:
        """The mask worn in this conversation."""
        return self.mask if self.mode == "sandbox" else self.habitus.bag.selves.current().mask

    def mask_add(self, rule: str) -> None:
        """Add a rule: to the being, or in sandbox to this process alone."""
        if self.mode == "sandbox":
            rule = as_rule(rule)
            told = Habit(rule=rule, scope=(language_of(rule),))
            added, gone = line(self.habitus.bag, self.mask, told)
            self.mask = self.mask.adding(added, {h.rule for h in gone})
        else:
            self.habitus.mask_add(rule)

    def mask_drop(self, number: int) -> None:
        """Drop a rule by its number."""
        if self.mode == "sandbox":
            self.mask = without_rule(self.mask, number)
        else:
            self.habitus.mask_drop(number)


def as_rule(text: str) -> str:
    """A line that a person adds to a mask, as the model's own tools bound it: a longer one leaves no room to talk.

    Raises:
        UsageError: it is empty, or too long.
    """
    rule = text.strip()
    if not rule:
        raise UsageError("The rule is empty.", "Example: habitus mask add \"Call me 'Captain'.\"")
    if len(rule) > LONGEST_RULE:
        raise UsageError(
            "The rule has {count} characters; {most} are the most.",
            "Say it shorter, or as two rules.",
            count=len(rule),
            most=LONGEST_RULE,
        )
    return rule


def without_rule(mask: Mask, number: int) -> Mask:
    """``mask`` without the rule shown under ``number``."""
    if not 1 <= number <= len(mask.rules):
        raise UsageError(
            "The mask has no rule {number}.",
            "It has {count}; see `habitus mask`.",
            number=number,
            count=len(mask.rules),
        )
    return mask.model_copy(update={"rules": (*mask.rules[: number - 1], *mask.rules[number:])})


def new_thread() -> str:
    """A fresh conversation's name."""
    return f"c-{datetime.now(UTC):%Y%m%d}-{secrets.token_hex(3)}"
