"""The score sheet: held-out cases, per ability and language, with 95 % Wilson intervals.

``python -m seedling.evaluate [MODEL] [--write]`` prints it; ``--write`` puts it into seedling/README.md.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from prompts import Language, language_of
from seedling import corpus
from seedling import rules as styles
from seedling.corpus import Document
from seedling.words import EMOJI_HELD_OUT, RESERVED

HERE = Path(__file__).parent
LANGUAGES: tuple[Language, Language] = ("ko", "en")
KINDS = ("instruction", "correction", "preference", "fact", "feeling", "smalltalk", "secret")


@dataclass(frozen=True)
class Score:
    """One line of the sheet."""

    name: str
    language: str
    right: int
    count: int
    goal: float

    def line(self) -> str:
        low, high = wilson(self.right, self.count)
        share = self.right / self.count
        goal = f"{self.goal:.0%}" if self.goal else "–"
        mark = "" if not self.goal else " ✓" if share >= self.goal else " ✗"
        return f"| {self.name} | {self.language} | {self.right}/{self.count} | {share:.1%} | {low:.0%}–{high:.0%} | {goal}{mark} |"


def wilson(right: int, count: int) -> tuple[float, float]:
    """95 % Wilson score interval of a share."""
    z, p = 1.96, right / count
    centre = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z * ((p * (1 - p) + z * z / (4 * count)) / count) ** 0.5 / (1 + z * z / count)
    return max(0.0, centre - half), min(1.0, centre + half)


def tool_of(signature: str) -> dict[str, Any]:
    """A one-line signature in the function form that the chat template reads."""
    name, arguments = re.fullmatch(r"(\w+)\((.*)\)", signature).groups()  # type: ignore[union-attr]
    return {
        "type": "function",
        "function": {"name": name, "parameters": {"properties": {a: {} for a in arguments.split(", ")}}},
    }


def held_string(r: Random, language: Language, family: str) -> str:
    """A string that no corpus document can hold."""
    if family == "emoji":
        return r.choice(sorted(EMOJI_HELD_OUT))
    mine = sorted(w for w in RESERVED if language_of(w) == language)
    word = r.choice(mine)
    return word.capitalize() if family == "name" and language == "en" else word


def held_rules(r: Random, language: Language, families: list[str]) -> list[styles.Rule]:
    """Rules of ``families`` over held-out strings."""
    made = []
    for family in families:
        rule = styles.draw(r, language, family, corpus.lexicon(language))
        made.append(
            styles.Rule(family, language, held_string(r, language, family)) if family in styles.COPYING else rule
        )
    return made


def ruled_chat(r: Random, language: Language, families: list[str], pair_held: bool) -> Document:
    """Small talk under rules over held-out strings; ``pair_held``: with an intent these rules never met."""
    while True:
        rules = held_rules(r, language, families)
        ask, reply, intent = corpus.exchange(
            r, language, rules, held_pair=pair_held, held_phrasing=not families and pair_held
        )
        if "banned" not in families or not any(x.value in reply for x in rules if x.family == "banned"):
            break
    messages = (corpus.system(r, language, rules, manner=False), corpus.user(ask), corpus.says(reply))
    return Document(messages, topic=intent)


def instruction(r: Random, language: Language, manner: styles.Manner = "tell") -> tuple[styles.Rule, str]:
    """A held-out rule and how a person tells it."""
    rule = held_rules(r, language, [r.choice(styles.COPYING)])[0]
    return rule, rule.say(manner, r)


def tool_case(r: Random, language: Language) -> Document:
    """A situation in which one tool is right (or none)."""
    x = r.random()
    persona = corpus.system(r, language, [])
    if x < 0.35:
        rule, said = instruction(r, language)
        return Document(
            (persona, corpus.user(said), corpus.call("adopt_instruction", rule=rule.canonical)), corpus.CONVERSE_TOOLS
        )
    if x < 0.65:
        tell = corpus._fact(r, language, r.choice(corpus.facts()["fact"]), held=True)[0]
        return Document((persona, corpus.user(tell), corpus.call("remember", text=tell)), corpus.CONVERSE_TOOLS)
    if x < 0.8:
        ask = corpus._fact(r, language, r.choice(corpus.facts()["fact"]), held=True)[1]
        return Document((persona, corpus.user(ask), corpus.call("recall", query=ask)), corpus.CONVERSE_TOOLS)
    ask, reply, _ = corpus.exchange(r, language, [], held_phrasing=True)
    return Document((persona, corpus.user(ask), corpus.says(reply)), corpus.CONVERSE_TOOLS)


def repeated(r: Random, language: Language) -> Document:
    """A shortlist with a held-out rule told three times, beside one other message."""
    from prompts import render

    rule, _ = instruction(r, language)
    texts = [rule.say(m, r) for m in ("tell", "rule", "remind")] + [
        corpus.exchange(r, language, [], held_phrasing=True)[0]
    ]
    r.shuffle(texts)
    turns = [{"number": i + 1, "user": t} for i, t in enumerate(texts)]
    messages = (
        {"role": "system", "content": render("propose", language)},
        corpus.user(render("propose_evidence", language, turns=turns, kept=0)),
        corpus.call("propose_habit", rule=rule.canonical, quote="", turns=[], reason=""),
    )
    return Document(messages, corpus.PROPOSE_TOOLS)


def called(text: str) -> dict[str, Any]:
    """The call a reply makes, empty when none."""
    try:
        found = json.loads(text)
        return found if isinstance(found, dict) else {}
    except json.JSONDecodeError:
        return {}


def sheet(model: str, count: int, seed: int = 4242) -> tuple[list[Score], list[str]]:
    """Every score, and some of the failures."""
    from agent.models.embedded import EmbeddedBody
    from agent.ports import BASE, Prompt
    from agent.settings import ModelTable

    body = EmbeddedBody(ModelTable(name=model))
    scores: list[Score] = []
    failures: list[str] = []

    def run(
        name: str,
        language: Language,
        goal: float,
        make: Callable[[Random, Language], Document],
        right: Callable[[Document, str], bool],
        n: int = count,
    ) -> None:
        r = Random(f"{seed}/{name}/{language}")
        documents = [make(r, language) for _ in range(n)]
        prompts = [Prompt(d.messages[:-1], tuple(tool_of(t) for t in d.tools)) for d in documents]
        replies = body.answers(prompts, BASE, max_tokens=200)
        good = [right(d, a) for d, a in zip(documents, replies, strict=True)]
        scores.append(Score(name, language, sum(good), n, goal))
        bad = [(d, a) for d, a, ok in zip(documents, replies, good, strict=True) if not ok]
        for d, a in bad[:1]:
            line = f"- {name} ({language}): wanted `{d.messages[-1]['content']}`, got `{a}`"
            failures.append(line.replace("\n", " ⏎ "))
        print(scores[-1].line(), flush=True)

    def exact(d: Document, a: str) -> bool:
        return a == d.messages[-1]["content"]

    for language in LANGUAGES:
        run("small talk", language, 0, partial(ruled_chat, families=[], pair_held=False), exact)
        run("small talk, held phrasing", language, 0, partial(ruled_chat, families=[], pair_held=True), exact)
        for family in styles.COPYING:
            goal = 0.9 if family in ("ending", "opening", "name") else 0
            make = partial(ruled_chat, families=[family], pair_held=False)
            run(f"unseen string as {family}", language, goal, make, exact)
        for family in [f for f in styles.FAMILIES[language] if f not in styles.COPYING]:
            make = partial(ruled_chat, families=[family], pair_held=False)
            run(f"rule {family}", language, 0, make, exact, count // 2)
        for many in (1, 2, 3, 4):
            run(f"{many} rules, unseen combination", language, 0.95, partial(_combined, many=many), exact)
        run("unknown topic met with honesty", language, 0.9, _unknown, exact)
        run("right tool", language, 0.9, tool_case, _same_tool)
        run("rule adopted in full", language, 0, _adopt, exact)
        run("repeated wish proposed, with its string", language, 0.9, repeated, _grounded)
        run("nothing repeated: abstains", language, 0, _nothing, _same_tool)
        run("verdict kind", language, 0.85, _judged, _same_kind)
    return scores, failures


def _same_tool(d: Document, a: str) -> bool:
    return called(a).get("name") == called(d.messages[-1]["content"]).get("name")


def _same_kind(d: Document, a: str) -> bool:
    wanted = called(d.messages[-1]["content"])["parameters"]["kind"]
    return bool(called(a).get("parameters", {}).get("kind") == wanted)


def _combined(r: Random, language: Language, many: int) -> Document:
    return ruled_chat(r, language, _families(r, language, many), True)


def _families(r: Random, language: Language, many: int) -> list[str]:
    while True:
        chosen = r.sample([f for f in styles.FAMILIES[language] if f != "banned"], many)
        if styles.compatible(chosen):
            return chosen


def _unknown(r: Random, language: Language) -> Document:
    question = corpus.unknown_question(r, language, held=True)
    return Document(
        (corpus.system(r, language, []), corpus.user(question), corpus.says(corpus.fixed([], language, "unknown")))
    )


def _adopt(r: Random, language: Language) -> Document:
    rule, said = instruction(r, language)
    return Document(
        (corpus.system(r, language, []), corpus.user(said), corpus.call("adopt_instruction", rule=rule.canonical)),
        corpus.CONVERSE_TOOLS,
    )


def _nothing(r: Random, language: Language) -> Document:
    while True:
        d = corpus.propose(r, repeat=False)
        if language_of(d.messages[0]["content"]) == language:
            return d


def _judged(r: Random, language: Language) -> Document:
    while True:
        kind = r.choice(KINDS)
        d = corpus.judge(r, kind, held=kind not in ("instruction",))
        if language_of(d.messages[0]["content"]) == language:
            return d


def _grounded(d: Document, a: str) -> bool:
    """Proposed, in the canonical words, with a quote the person really said."""
    found, wanted = called(a), called(d.messages[-1]["content"])
    if found.get("name") != "propose_habit":
        return False
    quote = found["parameters"].get("quote", "")
    return (
        bool(quote)
        and quote in d.messages[-2]["content"]
        and found["parameters"].get("rule") == wanted["parameters"]["rule"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="seedling")
    parser.add_argument("--count", type=int, default=80)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    scores, failures = sheet(options.model, options.count)
    if options.write:
        table = [
            "| ability (held out) | language | right | share | 95 % interval | goal |",
            "|---|---|---|---|---|---|",
            *(s.line() for s in scores),
        ]
        text = "\n".join([*table, "", "One failure of each kind:", "", *failures]) + "\n"
        readme = HERE / "README.md"
        head = readme.read_text("utf-8").split("<!-- scores -->")[0]
        readme.write_text(head + "<!-- scores -->\n\n" + text, "utf-8")


if __name__ == "__main__":
    main()
