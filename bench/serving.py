"""What serving costs and whether a swap is felt: ``python -m bench.serving`` (a real vLLM, the seedling, this machine).

Two habits are learned on the product's own road. Then clients talk with ``habitus serve`` over a vLLM that
``habitus serve-model`` runs, while who speaks is changed under them; then the same prompts go to that vLLM without the agent
between. Agent, vLLM and the clients share the cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from agent.learning.data import literals
from agent.models.chat import to_message
from app.habitus import Habitus
from app.serving import found
from app.wiring import home as bag_of
from app.wiring import open_habitus, settings_of
from graphs.converse import ask_messages, own_tools
from tests.being import ROOT, file_habit, small_talk

RULES = ["모든 대답 끝에 '꾸벅'을 붙여 줘.", "나를 '도롱이'라고 불러 줘."]
SECONDS, CLIENTS = 75, 16
SWAPS = (15.0, 30.0, 45.0, 60.0)  # seconds after the start; the last is a rollback without a name
Json = dict[str, Any]


@dataclass
class Heard:
    """One streamed reply."""

    prompt: str
    began: float
    first: float = 0.0
    ended: float = 0.0
    text: str = ""
    who: str = ""
    failed: str = ""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def running(home: Path, *arguments: str, until: str) -> Iterator[subprocess.Popen[str]]:
    """A command of habitus, once it has printed ``until`` or answers there."""
    line = [sys.executable, "-m", "app.cli", "--home", str(home), *arguments]
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        if until.startswith("http"):
            while True:
                try:
                    httpx.get(until)
                    break
                except httpx.TransportError:
                    time.sleep(0.2)
        else:
            next(x for x in process.stdout if until in x)
        yield process
    finally:
        process.terminate()
        process.wait(60)


def raised(home: Path) -> list[str]:
    """A being with a self for no habit, for one, and for two; their names."""
    home.mkdir(parents=True)
    (home / "habitus.toml").write_text("[sampling]\ntemperature = 0\n", "utf-8")
    being = open_habitus(str(home))
    being.bag.selves.refresh()
    names = [being.bag.selves.current().id]
    for rule in RULES:
        ref = file_habit(being, rule, small_talk("ko", 40))
        being.approve(ref, being.proposal(ref)["digest"])
        (learned,) = being.learn()
        assert learned["promoted"], learned
        names.append(being.bag.selves.current().id)
    return names


def marks(reply: str) -> list[bool]:
    """Which of the habits it shows: what a self is known by."""
    return [word in reply for rule in RULES for word in literals(rule)]


def as_the_agent_asks(being: Habitus, text: str) -> Json:
    """The request that the agent makes of the server for a first message, adapter and tools included."""
    bag, who = being.bag, being.bag.selves.current()
    mask, voice = bag.selves.dressed(who, "ko")
    tools = own_tools(bag, "growth", who, "ko", text)
    with bag.body.adapters.worn(voice) as name:  # type: ignore[attr-defined]
        return {
            "model": name, "messages": list(map(to_message, ask_messages(mask, text, "ko"))), "tools": tools,
            "tool_choice": "none", "temperature": 0, "max_tokens": bag.selves.sampling(who).max_tokens,
        }  # fmt: skip


async def streamed(client: httpx.AsyncClient, url: str, body: Json, prompt: str) -> Heard:
    heard = Heard(prompt, time.perf_counter())
    try:
        async with client.stream("POST", url, json=body | {"stream": True}) as answer:
            if answer.status_code != 200:
                heard.failed = f"{answer.status_code} {(await answer.aread())[:200]!r}"
                return heard
            done = False
            async for line in answer.aiter_lines():
                if line == "data: [DONE]":
                    done = True
                elif line.startswith("data: "):
                    chunk = json.loads(line[6:])
                    if "error" in chunk:
                        heard.failed = chunk["error"]["message"]
                    for choice in chunk.get("choices", []):
                        piece = choice["delta"].get("content") or ""
                        if piece and not heard.first:
                            heard.first = time.perf_counter()
                        heard.text += piece
                    heard.who = chunk.get("system_fingerprint") or heard.who
            if not done:
                heard.failed = heard.failed or "cut off"
    except httpx.HTTPError as error:
        heard.failed = repr(error)
    heard.ended = time.perf_counter()
    return heard


async def talkers(
    url: str, prompts: list[str], count: int, seconds: float, key: str = "", bare: Json | None = None
) -> list[Heard]:
    """``count`` clients, each asking the next prompt as soon as it was answered."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    end, found_ = time.perf_counter() + seconds, list[Heard]()
    async with httpx.AsyncClient(timeout=120, headers=headers, limits=httpx.Limits(max_connections=None)) as client:

        async def one(i: int) -> None:
            while time.perf_counter() < end:
                prompt = prompts[i % len(prompts)]
                body = bare[prompt] if bare else {"model": "habitus", "messages": [{"role": "user", "content": prompt}]}
                found_.append(await streamed(client, url, body, prompt))
                i += count

        await asyncio.gather(*(one(i) for i in range(count)))
    return found_


async def swapped(url: str, prompts: list[str], order: list[str], seconds: float) -> tuple[list[Heard], list[Json]]:
    """Clients talk while who speaks is changed; what they heard, and the swaps."""
    swaps: list[Json] = []

    async def change() -> None:
        start = time.perf_counter()
        async with httpx.AsyncClient(timeout=120) as client:
            for at, name in zip(SWAPS, [*order, ""], strict=True):
                await asyncio.sleep(max(0.0, start + at - time.perf_counter()))
                began = time.perf_counter()
                answer = await client.post(f"{url}/api/rollback", params={"name": name} if name else {})
                ended = time.perf_counter()
                now = answer.json()["name"]
                first = await streamed(
                    client, f"{url}/v1/chat/completions",
                    {"model": "habitus", "messages": [{"role": "user", "content": prompts[0]}]}, prompts[0],
                )  # fmt: skip
                swaps.append({"to": now, "began": began, "ended": ended, "first": first.who, "rollback": not name})

    heard, _ = await asyncio.gather(talkers(f"{url}/v1/chat/completions", prompts, CLIENTS, seconds), change())
    return heard, swaps


def cpu_of(pid: int) -> float:
    """CPU seconds a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def percentile(values: list[float], share: float) -> float:
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--each", type=float, default=30, help="seconds of each overhead measurement")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "bag"
        names = raised(home)
        port, door = free_port(), free_port()
        with running(home, "--json", "serve-model", "--port", str(port), until='"ready"'):
            server = found(bag_of(str(home)), settings_of(home))
            assert server
            prompts = small_talk("ko", 24)
            being = open_habitus(str(home))
            expected = {n: {r["text"]: marks(r["reply"]) for r in being.ask(prompts, name=n)} for n in names}
            bare = {p: as_the_agent_asks(being, p) for p in prompts}  # of the self that speaks in the end
            del being
            url = f"http://127.0.0.1:{door}"
            with running(home, "serve", "--port", str(door), until=f"{url}/v1/models") as agent:
                asyncio.run(talkers(f"{url}/v1/chat/completions", prompts, 4, 10))  # warm
                heard, swaps = asyncio.run(swapped(url, prompts, [names[0], names[1], names[2]], options.seconds))
                report_swaps(heard, swaps, expected, options.seconds)
                print(
                    "\n| clients | agent CPU a turn | first token, agent | bare | added | turns/s, agent | bare | lost |"
                )
                print("|---|---|---|---|---|---|---|---|")
                for count in (1, 8, 32):
                    alone = asyncio.run(
                        talkers(f"{server.url}/v1/chat/completions", prompts, count, options.each, server.key, bare)
                    )
                    before = cpu_of(agent.pid)
                    with_agent = asyncio.run(talkers(f"{url}/v1/chat/completions", prompts, count, options.each))
                    report_overhead(count, with_agent, alone, cpu_of(agent.pid) - before, options.each)


def report_swaps(
    heard: list[Heard], swaps: list[Json], expected: dict[str, dict[str, list[bool]]], seconds: float
) -> None:
    """Failures, mixtures, and first tokens in and out of swaps."""
    failed = [h for h in heard if h.failed]
    whole = [h for h in heard if not h.failed]
    mixed = [h for h in whole if marks(h.text) != expected[h.who][h.prompt]]
    late = [h for h in whole if any(s["ended"] < h.began for s in swaps) and h.who != [s for s in swaps if s["ended"] < h.began][-1]["to"]
            and not any(s["began"] <= h.ended and s["ended"] >= h.began for s in swaps)]  # fmt: skip
    during = [
        h.first - h.began for h in whole if any(s["began"] <= h.first and s["ended"] + 1 >= h.began for s in swaps)
    ]
    outside = [
        h.first - h.began for h in whole if not any(s["began"] <= h.first and s["ended"] + 1 >= h.began for s in swaps)
    ]
    print(
        f"{CLIENTS} clients, {seconds:.0f} s: {len(heard)} replies, {len(failed)} failed, {len(mixed)} not one self's own, {len(late)} by the old self after the swap"
    )
    for h in failed[:3]:
        print("  failed:", h.failed)
    for h in mixed[:3]:
        print(f"  mixed ({h.who}): {h.text!r}, marks {expected[h.who][h.prompt]} expected")
    for what, values in (("outside", outside), ("during swaps", during)):
        if values:
            print(
                f"first token {what}: p50 {statistics.median(values) * 1000:.0f} ms, p99 {percentile(values, 0.99) * 1000:.0f} ms (n={len(values)})"
            )
    for s in swaps:
        kind = "rollback" if s["rollback"] else "swap"
        print(
            f"{kind} to {s['to']}: {(s['ended'] - s['began']) * 1000:.0f} ms; the first request after it spoke as {s['first']}"
        )


def report_overhead(count: int, agent: list[Heard], bare: list[Heard], cpu: float, seconds: float) -> None:
    good, alone = [h for h in agent if not h.failed], [h for h in bare if not h.failed]
    first, first_bare = (statistics.median([h.first - h.began for h in x if h.first]) * 1000 for x in (good, alone))
    rate, rate_bare = len(good) / seconds, len(alone) / seconds
    print(f"| {count} | {cpu / len(good) * 1000:.1f} ms | {first:.0f} ms | {first_bare:.0f} ms | {first - first_bare:.0f} ms | {rate:.1f} | {rate_bare:.1f} | {1 - rate / rate_bare:.0%} |"
          + (f" {len(agent) - len(good)} failed" if len(good) < len(agent) else ""))  # fmt: skip


if __name__ == "__main__":
    main()
