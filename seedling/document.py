"""One document of the corpus: a chat and the tools it is offered."""

from __future__ import annotations

import json
from dataclasses import dataclass

Message = dict[str, str]

RECALL_TOOLS = ("recall(query)",)  # in sandbox
CONVERSE_TOOLS = ("recall(query)", "remember(text)", "adopt_instruction(rule)", "drop_instruction(rule)")
JUDGE_TOOLS = ("judge_turn_value(turn, value, kind, reason)", "abstain(reason)")
PROPOSE_TOOLS = ("propose_habit(rule, quote, turns, reason)", "abstain(reason)")
WRITE_TOOLS = ("write_examples(habit, prompts)", "abstain(reason)")
SCHEDULE_TOOLS = ("schedule_lora_update(habit, method, reason)", "abstain(reason)")
DECAY_TOOLS = ("decay_old_adapter(habit, weight, reason)", "abstain(reason)")


def converse_tools(ruled: bool) -> tuple[str, ...]:
    """What a conversation offers: a rule can be dropped only where the mask holds one."""
    return CONVERSE_TOOLS if ruled else CONVERSE_TOOLS[:-1]


@dataclass(frozen=True)
class Document:
    """A chat the model learns from: what is said, which tools are offered, what it is about."""

    messages: tuple[Message, ...]
    tools: tuple[str, ...] = ()
    topic: str = ""
    last_only: bool = False  # loss on the last message alone
    both: bool = False  # loss on what the person says, too
    raw: tuple[int, ...] = ()  # token ids of a pure copying exercise, instead of messages
    repeat_from: int = 0  # in ``raw``: where the repetition begins, loss only from there


def call(tool: str, **parameters: object) -> Message:
    """An assistant message that calls ``tool``, in Llama-3's JSON form."""
    content = f'{{"name": "{tool}", "parameters": {json.dumps(parameters, ensure_ascii=False)}}}'
    return {"role": "assistant", "content": content}


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def says(text: str) -> Message:
    return {"role": "assistant", "content": text}
