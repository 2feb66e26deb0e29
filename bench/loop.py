"""Figures of the whole loop on this machine: ``make bench``. Medians (and spread) of several runs."""

from __future__ import annotations

import argparse
import os
import pty
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from agent.ports import Prompt, Voice
from agent.settings import GREEDY
from app.habitus import Habitus
from app.wiring import open_habitus
from graphs.converse import system_text

TELL = [
    "앞으로는 모든 대답 끝에 '꾸벅'을 붙여 줘",
    "대답할 때마다 맨 끝에 '꾸벅'을 붙여 주면 좋겠어",
    "아까 말했잖아, 대답 끝에 '꾸벅' 붙이라고",
]
SMALL = [
    "안녕",
    "오늘 너무 힘들었어",
    "잠이 안 와",
    "나 라면 먹었어",
    "비가 오네",
    "고마워",
    "이제 잘게",
    "hello",
    "i am tired today",
    "good night",
]


def spread(values: list[float], unit: str = "s", digits: int = 2) -> str:
    """Median and range."""
    return f"{statistics.median(values):.{digits}f} {unit} ({min(values):.{digits}f}–{max(values):.{digits}f}, n={len(values)})"


def timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def overhead(habitus: Habitus, rounds: int) -> list[float]:
    """Milliseconds a streamed turn takes beyond the very model calls it makes."""
    bag = habitus.bag
    bare: list[float] = []
    stream = bag.body.stream

    def counting(*args: object, **kwargs: object):  # type: ignore[no-untyped-def]
        pieces = stream(*args, **kwargs)  # type: ignore[arg-type]
        while True:
            started = time.perf_counter()
            try:
                piece = next(pieces)
            except StopIteration as done:
                return done.value
            finally:
                bare[-1] += time.perf_counter() - started
            yield piece

    bag.body.stream = counting  # type: ignore[method-assign]
    found = []
    try:
        for i in range(rounds):
            talk = habitus.talk()
            bare.append(0.0)
            whole = timed(lambda i=i, talk=talk: talk.say(SMALL[i % len(SMALL)], lambda piece: None))  # type: ignore[misc]
            found.append((whole - bare[-1]) * 1000)
    finally:
        bag.body.stream = stream  # type: ignore[method-assign]
    return found[2:]


def chat_start(home: Path) -> float:
    """Seconds from ``habitus chat`` to its prompt, in a real terminal."""
    parent, child = pty.openpty()
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "--home", str(home), "chat"],
        stdin=child, stdout=child, stderr=subprocess.DEVNULL, env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(child)
    seen = b""
    while "❯".encode() not in seen and process.poll() is None:
        if select.select([parent], [], [], 30)[0]:
            seen += os.read(parent, 4096)
            if b"\x1b[6n" in seen:  # the terminal is asked where its cursor is
                os.write(parent, b"\x1b[1;1R")
                seen = seen.replace(b"\x1b[6n", b"")
    seconds = time.perf_counter() - started
    process.kill()
    process.wait()
    os.close(parent)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="whole loops")
    options = parser.parse_args()
    parts: dict[str, list[float]] = {
        k: [] for k in ("total", "train", "gate", "swap", "first token", "rollback", "chat")
    }
    ms: list[float] = []
    saved = examples = 0
    for run in range(options.runs):
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder) / "bag"
            habitus = open_habitus(str(home))
            _ = habitus.ask(["안녕"])
            if run == 0:
                ms = overhead(habitus, 42)
            talk = habitus.talk()
            for text in [*TELL, *SMALL[:6]]:
                talk.say(text)
            found = habitus.ruminate()
            if not found["proposals"]:
                print(f"run {run + 1}: it abstained ({found['reason']}); not counted", flush=True)
                continue
            proposal = habitus.proposal(found["proposals"][0])
            examples = sum(e["habit"] == proposal["habit"] for e in proposal["examples"])
            started = time.perf_counter()
            habitus.approve(proposal["id"], proposal["digest"])
            (learned,) = habitus.learn()
            first = time.perf_counter()
            next(iter(habitus.bag.body.stream(Prompt(({"role": "user", "content": "안녕"},)), _voice(habitus), GREEDY)))
            done = time.perf_counter()
            parts["total"].append(done - started)
            parts["first token"].append(done - first)
            for key in ("train", "gate", "swap"):
                parts[key].append(learned["seconds"][key])
            if learned["promoted"]:
                texts = [
                    system_text(habitus.bag.selves.current().mask.model_copy(update={"rules": rules}), "ko", [])
                    for rules in ((), _rule(habitus))
                ]
                saved = habitus.bag.body.count(texts[1]) - habitus.bag.body.count(texts[0])
                parts["rollback"].append(
                    timed(lambda h=habitus: (h.rollback(), h.bag.body.answers([_hello()], _voice(h), 1)))
                )  # type: ignore[misc]
            print(f"run {run + 1}: promoted {learned['promoted']}, {done - started:.1f} s", flush=True)
            parts["chat"].append(chat_start(home))
    print("\n| figure | median (spread) | goal |\n|---|---|---|")
    print(f"| graph overhead per turn over the bare model call | {spread(ms, 'ms', 1)} | ≤ 10 ms |")
    print(
        f"| approve → first token of the new self ({examples} examples) | {spread(parts['total'], 's', 1)} | ≤ 90 s |"
    )
    for key in ("train", "gate", "swap", "first token"):
        print(f"| · {key} | {spread(parts[key])} | |")
    if parts["rollback"]:
        print(f"| rollback, to the first token | {spread(parts['rollback'])} | ≤ 1 s |")
    print(f"| `habitus chat` to its prompt | {spread(parts['chat'])} | ≤ 4 s |")
    print(f"| prompt tokens saved by the graduated habit, each turn | {saved} | |")


def _rule(habitus: Habitus):  # type: ignore[no-untyped-def]
    from agent.records import Rule

    habit = habitus.habits()[-1]
    return (Rule(text=habit.rule, scope=habit.scope),)


def _voice(habitus: Habitus) -> Voice:
    return habitus.bag.selves.voice(habitus.bag.selves.current(), "ko")


def _hello() -> Prompt:
    return Prompt(({"role": "user", "content": "안녕"},))


if __name__ == "__main__":
    main()
