"""The whole loop, played once on real weights in a bag of its own."""

from __future__ import annotations

import os
import shutil
import tempfile
import time

from agent.phrase import Phrase
from app import show
from app.wiring import open_habitus
from app.words import language, padded, say
from prompts import Language

SCRIPT: dict[Language, dict[str, list[str]]] = {
    "ko": {
        "say": ["안녕, 오늘 처음 만나네", "앞으로는 모든 대답 끝에 '꾸벅'을 붙여 줘", "오늘 너무 힘들었어",
                "대답할 때마다 맨 끝에 '꾸벅'을 붙여 주면 좋겠어", "비가 와서 기분이 좋아", "아까 말했잖아, 대답 끝에 '꾸벅' 붙이라고"],
        "ask": ["오늘 너무 피곤해", "나 점심으로 라면 먹었어", "이제 잘게"],
        "other": ["i am so tired today", "good night"],
    },
    "en": {
        "say": ["hello, we meet for the first time", "from now on please end every answer with 'zibble'", "i am so tired today",
                "I would love it if you ended all your replies with 'zibble'", "it is raining outside", "you forgot to end with 'zibble', please do it"],
        "ask": ["what a long day", "i ate ramen for lunch", "good night"],
        "other": ["오늘 너무 피곤해", "이제 잘게"],
    },
}  # fmt: skip


def play(keep: bool, model: str | None = None) -> None:
    """Talk, ruminate, approve, learn, ask without the mask, roll back."""
    started = time.monotonic()
    where = tempfile.mkdtemp(prefix="habitus-demo-")
    script = SCRIPT[language()]

    def title(text: str) -> None:
        print(f"\n\033[1m{text}\033[0m" if os.environ.get("TERM", "dumb") != "dumb" else f"\n{text}", flush=True)

    try:
        habitus = open_habitus(where, model, show.progress)

        def replies(texts: list[str]) -> list[str]:
            return [r["reply"] for r in habitus.ask(texts, with_rules=False)]

        asks, others = script["ask"], script["other"]
        before, untouched = replies(asks), replies(others)
        title(say("1. Talking: the person asks for the same thing three times"))
        talk = habitus.talk()
        for text in script["say"]:
            print(f"  {padded(say('you'), 4)}❯ {text}\n  {padded(say('it'), 4)}❯ ", end="", flush=True)
            said = talk.say(text, lambda piece: print(piece, end="", flush=True))
            print()
            for call in said["tool_calls"]:
                print(f"        · {call['name']}: {next(iter(call['arguments'].values()), '')}")
        title(say("2. Ruminating: it judges, and proposes a habit"))
        found = habitus.ruminate()
        show.rumination(found)
        if not found["proposals"]:
            print(
                say(
                    "It chose not to propose anything this time: its right. Run the demo again, or talk with it: `habitus chat`."
                )
            )
            return
        title(say("3. A person reads it and approves (the demo does so in your place)"))
        proposal = habitus.proposal(found["proposals"][0])
        shown = {**proposal, "examples": proposal["examples"][:4] + proposal["examples"][-2:]}
        show.proposal(shown)
        print(
            "    "
            + say(
                "({shown} of {count} examples shown; `habitus proposals show` lists all)",
                shown=len(shown["examples"]),
                count=len(proposal["examples"]),
            )
        )
        habitus.approve(proposal["id"], proposal["digest"], Phrase("approved by the demo in your place"))
        title(say("4. Into the weights: training, the gate, the new self"))
        (learned,) = habitus.learn()
        show.learned([learned])
        if not learned["promoted"]:
            print(say("The gate kept the old self speaking; nothing was lost."))
            return
        title(say("5. Without the mask the habit is still there"))
        after = replies(asks)
        for text, a, b in zip(asks, before, after, strict=True):
            print(f"  {text}\n    {padded(say('before'), 12)} {a}\n    {padded(say('after'), 12)} {b}")
        same = sum(x == y for x, y in zip(untouched, replies(others), strict=True))
        print(
            "  "
            + say(
                "answers in the other language that stayed as they were: {same}/{count}", same=same, count=len(others)
            )
        )
        title(say("6. After a rollback everything is as before"))
        who = habitus.rollback()
        back = replies(asks)
        for text, b, c in zip(asks, before, back, strict=True):
            print(f"  {text}\n    {padded(say('rolled back'), 12)} {c}" + ("" if b == c else "   " + say("≠ before!")))
        took = time.monotonic() - started
        print("  " + say("{who} speaks. The whole loop took {seconds:.0f} s.", who=who["name"], seconds=took))
        if keep:
            print("  " + say("The bag: {bag}", bag=where))
    finally:
        if not keep:
            shutil.rmtree(where, ignore_errors=True)
