"""The whole loop, played once on real weights in a bag of its own."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from app import show
from app.wiring import open_habitus
from prompts import Language

SCRIPT: dict[Language, dict[str, Any]] = {
    "ko": {
        "say": ["안녕, 오늘 처음 만나네", "앞으로는 모든 대답 끝에 '꾸벅'을 붙여 줘", "오늘 너무 힘들었어",
                "대답할 때마다 맨 끝에 '꾸벅'을 붙여 주면 좋겠어", "비가 와서 기분이 좋아", "아까 말했잖아, 대답 끝에 '꾸벅' 붙이라고"],
        "ask": ["오늘 너무 피곤해", "나 점심으로 라면 먹었어", "이제 잘게"],
        "other": ["i am so tired today", "good night"],
        "title": ["1. 말하다: 사람이 같은 것을 세 번 바란다", "2. 되새기다: 스스로 판단하고, 습관을 제안한다",
                  "3. 사람이 읽고 허락한다 (데모에서는 대신 허락한다)", "4. 몸에 새기다: 학습, 시험, 그리고 새로운 나",
                  "5. 가면을 벗겨도 습관이 남아 있다", "6. 되돌리면 모두 배우기 전으로 돌아간다"],
        "before": "배우기 전", "after": "배운 뒤", "back": "되돌린 뒤", "other_title": "영어는 그대로다", "end": "끝까지 {:.0f}초 걸렸다.",
    },
    "en": {
        "say": ["hello, we meet for the first time", "from now on please end every answer with 'zibble'", "i am so tired today",
                "I would love it if you ended all your replies with 'zibble'", "it is raining outside", "you forgot to end with 'zibble', please do it"],
        "ask": ["what a long day", "i ate ramen for lunch", "good night"],
        "other": ["오늘 너무 피곤해", "이제 잘게"],
        "title": ["1. Talking: the person asks for the same thing three times", "2. Ruminating: it judges, and proposes a habit",
                  "3. A person reads it and approves (the demo does so in your place)", "4. Into the weights: training, the gate, the new self",
                  "5. Without the mask the habit is still there", "6. After a rollback everything is as before"],
        "before": "before", "after": "after", "back": "rolled back", "other_title": "Korean is untouched", "end": "The whole loop took {:.0f} s.",
    },
}  # fmt: skip


def play(keep: bool) -> None:
    """Talk, ruminate, approve, learn, ask without the mask, roll back."""
    started = time.monotonic()
    where = tempfile.mkdtemp(prefix="habitus-demo-")
    language: Language = "ko" if os.environ.get("LANG", "").startswith("ko") else "en"
    script = SCRIPT[language]

    def title(n: int) -> None:
        print(
            f"\n\033[1m{script['title'][n]}\033[0m"
            if os.environ.get("TERM", "dumb") != "dumb"
            else f"\n{script['title'][n]}",
            flush=True,
        )

    try:
        habitus = open_habitus(where, progress=show.progress)

        def replies(texts: list[str]) -> list[str]:
            return [r["reply"] for r in habitus.ask(texts, with_rules=False)]

        asks, others = script["ask"], script["other"]
        before, untouched = replies(asks), replies(others)
        title(0)
        talk = habitus.talk()
        for text in script["say"]:
            print(f"  you ❯ {text}\n  it  ❯ ", end="", flush=True)
            said = talk.say(text, lambda piece: print(piece, end="", flush=True))
            print()
            for call in said["tool_calls"]:
                print(f"        · {call['name']}: {next(iter(call['arguments'].values()), '')}")
        title(1)
        found = habitus.ruminate()
        show.rumination(found)
        if not found["proposals"]:
            print(
                "It chose not to propose anything this time: its right. Run the demo again, or talk with it: habitus chat"
            )
            return
        title(2)
        proposal = habitus.proposal(found["proposals"][0])
        shown = {**proposal, "examples": proposal["examples"][:4] + proposal["examples"][-2:]}
        show.proposal(shown)
        print(f"    (6 of {len(proposal['examples'])} examples shown; `habitus proposals show` lists all)")
        habitus.approve(proposal["id"], proposal["digest"], "approved by the demo in your place")
        title(3)
        (learned,) = habitus.learn()
        show.learned([learned])
        if not learned["promoted"]:
            print("The gate kept the old self speaking; nothing was lost.")
            return
        title(4)
        after = replies(asks)
        for text, a, b in zip(asks, before, after, strict=True):
            print(f"  {text}\n    {script['before']:<12} {a}\n    {script['after']:<12} {b}")
        same = sum(x == y for x, y in zip(untouched, replies(others), strict=True))
        print(f"  {script['other_title']}: {same}/{len(others)}")
        title(5)
        who = habitus.rollback()
        back = replies(asks)
        for text, b, c in zip(asks, before, back, strict=True):
            print(f"  {text}\n    {script['back']:<12} {c}{'' if b == c else '   ≠ before!'}")
        print(f"  {who['name']} speaks. " + script["end"].format(time.monotonic() - started))
        if keep:
            print(f"  The bag: {Path(where)}")
    finally:
        if not keep:
            shutil.rmtree(where, ignore_errors=True)
