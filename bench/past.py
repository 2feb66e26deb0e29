"""What a long past costs: ``python -m bench.past``. Synthetic turns, real code, no model.

For 1 k, 10 k and 100 k recorded and judged turns: opening the bag, one turn of conversation, and a nightly
pass over twenty new turns. The model is scripted, so what is measured is everything but the model.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random

from agent.bag import Bag
from agent.models.scripted import ScriptedBody
from agent.ports import Prompt
from agent.records import Habit, Kind, Mask, Part, Record, Rule, Run, Self, Speaking, Turn, Verdict
from agent.selves import digest_of
from app.habitus import Habitus
from app.wiring import open_bag, settings_of

KINDS: tuple[Kind, ...] = ("smalltalk",) * 15 + ("fact", "feeling", "preference", "correction", "instruction")  # type: ignore[assignment]
WORDS = [
    "고양이",
    "비가",
    "오늘",
    "커피",
    "정말",
    "조금",
    "산책",
    "coffee",
    "rain",
    "tired",
    "music",
    "garden",
    "letter",
    "붙여",
    "줘",
]
NEW = 20
LEARNED, TOLD = "끝에 '꾸벅'을 붙여 줘.", "나를 '도롱이'라고 불러 줘."


def decide(prompt: Prompt) -> str:
    """Judges a turn as small talk, and abstains from the rest."""
    names = [t["function"]["name"] for t in prompt.tools]
    if "judge_turn_value" in names:
        return '{"name": "judge_turn_value", "parameters": {"turn": 1, "value": 0, "kind": "smalltalk", "reason": "x"}}'
    return '{"name": "abstain", "parameters": {"reason": "x"}}' if "abstain" in names else "네."


def opened(home: Path) -> Bag:
    return open_bag(home, settings_of(home), lambda: ScriptedBody(decide))


def fill(home: Path, count: int) -> None:
    """A past of ``count`` judged turns in conversations of ten, one in twenty with each kind that teaches.

    One habit is in the weights and was never used, one stands in the mask and was never kept: the longest way round.
    """
    r, bag = Random(count), opened(home)
    ledger, folder = bag.ledger, home / "adapters" / "a" / "a-ko"
    folder.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / name).write_text("{}", "utf-8")
    ledger.add(
        Run(proposal="p0", base="scripted", data="d", config={}, adapter="a", adapter_digest=digest_of(folder.parent))
    )
    worn = ledger.add(Habit(rule=LEARNED, scope=("ko",), stage="essence", evidence=("t1", "t2")))
    told = ledger.add(Habit(rule=TOLD, scope=("ko",), stage="told", evidence=("t3",)))
    parts = (Part(habit=worn.id, adapter="a", scope=("ko",)),)
    mask = Mask(rules=(Rule(text=TOLD, scope=("ko",), habit=told.id),))
    who = ledger.add(Self(base=bag.body.digest, parts=parts, mask=mask))
    ledger.add(Speaking(self_name=who.id, cause="born"))
    for start in range(0, count, 1000):
        rows: list[Record] = []
        for n in range(start, min(count, start + 1000)):
            text = " ".join(r.choices(WORDS, k=r.randint(3, 9)))
            rows.append(
                Turn(id=f"t{n + 1}", thread=f"c-{n // 10}", user=text, reply="네.", self_name=who.id, rules=(TOLD,))
            )
            rows.append(Verdict(id=f"v{n + 1}", turn=f"t{n + 1}", value=3, kind=r.choice(KINDS), reason="x"))
        ledger.add_all(rows)
    ledger.close()


def timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def first(home: Path) -> dict[str, float]:
    """Seconds: the index built, and a turn of conversation."""
    bag = opened(home)
    found = {"index built": timed(lambda: bag.index.near("고양이", "memory", 3))}
    talk = Habitus(bag).talk()
    found["turn"] = statistics.median(timed(lambda: talk.say("오늘 비가 와")) for _ in range(NEW))
    return found


def night(home: Path) -> dict[str, float]:
    """Seconds of a nightly pass over the new turns, as cron runs it: opening the bag and its index are part of it."""
    return {"nightly pass": timed(lambda: Habitus(opened(home)).ruminate())}


def again(home: Path) -> dict[str, float]:
    """Seconds: opening the bag anew, without its index."""
    bag = opened(home)
    return {"opened again": timed(lambda: (bag.selves.current(), bag.unjudged(1)))}


def measure(home: Path) -> dict[str, float]:
    """Each in a process of its own."""
    found: dict[str, float] = {}
    for step in (first, night, again):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            found |= pool.submit(step, home).result()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    options = parser.parse_args()
    table: dict[int, dict[str, float]] = {}
    for count in options.counts:
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder) / "bag"
            seconds = timed(lambda home=home, count=count: fill(home, count))  # type: ignore[misc]
            table[count] = measure(home)
            print(f"{count} turns (written in {seconds:.0f} s): {json.dumps(table[count])}", flush=True)
    print("\n| turns in the past | " + " | ".join(table[options.counts[0]]) + " |")
    print("|---|" + "---|" * len(table[options.counts[0]]))
    for count, row in table.items():
        print(f"| {count:,} | " + " | ".join(f"{v:.3f} s" for v in row.values()) + " |")


if __name__ == "__main__":
    main()
