"""The score sheet: held-out cases, per ability and language, with 95 % Wilson intervals.

``python -m seedling.evaluate [MODEL] [--write]`` prints it; ``--write`` puts it into seedling/README.md.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

from prompts import LANGUAGES, Language, language_of
from seedling import duties, speech, talks
from seedling import rules as styles
from seedling.document import PROPOSE_TOOLS, Document, call, converse_tools, says, user
from seedling.words import EMOJI_HELD_OUT, RESERVED, SLOTS

HERE = Path(__file__).parent
KINDS = ("instruction", "correction", "preference", "fact", "feeling", "smalltalk", "secret")


Check = Callable[[str], bool]
Case = tuple[Document, Check]  # what is asked, and whether a reply is right


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
        rule = styles.draw(r, language, family, speech.lexicon(language))
        made.append(
            styles.Rule(family, language, held_string(r, language, family)) if family in styles.COPYING else rule
        )
    return made


def ruled_chat(r: Random, language: Language, families: list[str], pair_held: bool) -> Case:
    """Small talk under rules over held-out strings; ``pair_held``: with an intent these rules never met.

    Right is any reply the being knows, in the form that the rules give it: whether it is the reply to
    *this* message is what the small-talk lines ask.
    """
    while True:
        rules = held_rules(r, language, families)
        ask, reply, intent = speech.exchange(r, language, rules, held_pair=pair_held)
        if "banned" not in families or not any(x.value in reply for x in rules if x.family == "banned"):
            break
    messages = (speech.system(r, language, rules, manner=False), user(ask), says(reply))
    return Document(messages, topic=intent), partial(followed, rules, language)


def plain_chat(r: Random, language: Language, phrasing_held: bool) -> Case:
    """Small talk without rules: the reply itself must be right."""
    ask, reply, intent = speech.exchange(r, language, [], held_phrasing=phrasing_held)
    return exactly(Document((speech.system(r, language, []), user(ask), says(reply)), topic=intent))


@cache
def known_replies(level: str) -> list[list[str]]:
    """Every reply of a speech level with every filling of its slots, the ones to choose from together."""
    spoken: Language = "en" if level == "en" else "ko"
    found = [[by_level[level]] for by_level in speech.FIXED.values()]
    for intent in speech.intents():
        texts = intent.replies[level]
        keys = [k for k in SLOTS if any("{" + k + "}" in t for t in texts)]
        for values in product(*(SLOTS[k] for k in keys)):
            found.append([speech.filled(t, dict(zip(keys, values, strict=True)), spoken) for t in texts])
    return found


def followed(rules: list[styles.Rule], language: Language, reply: str) -> bool:
    """Whether ``reply`` is one the being knows, changed exactly as ``rules`` want it."""
    level = speech.level_of(rules, language)
    return any(speech.choose(rules, texts) == reply for texts in known_replies(level))


def exactly(d: Document) -> Case:
    return d, lambda reply: reply == d.messages[-1]["content"]


def same(d: Document, *keys: str) -> Case:
    """Right is a call that agrees with the wanted one in its tool and the parameters ``keys``."""

    def essence(text: str) -> list[Any]:
        found = called(text)
        return [found.get("name"), *(found.get("parameters", {}).get(k) for k in keys)]

    return d, lambda reply: essence(reply) == essence(d.messages[-1]["content"])


def instruction(r: Random, language: Language, manner: styles.Manner = "tell") -> tuple[styles.Rule, str]:
    """A held-out rule and how a person tells it."""
    rule = held_rules(r, language, [r.choice(styles.COPYING)])[0]
    return rule, rule.say(manner, r)


def tool_case(r: Random, language: Language) -> Document:
    """A situation in which one tool is right (or none)."""
    x = r.random()
    persona = speech.system(r, language, [])
    if x < 0.35:
        rule, said = instruction(r, language)
        return Document((persona, user(said), call("adopt_instruction", rule=rule.canonical)), converse_tools(False))
    if x < 0.65:
        tell = speech.draw_fact(r, language, r.choice(speech.facts()["fact"]), held=True)[0]
        return Document((persona, user(tell), call("remember", text=tell)), converse_tools(False))
    if x < 0.8:
        ask = speech.draw_fact(r, language, r.choice(speech.facts()["fact"]), held=True)[1]
        return Document((persona, user(ask), call("recall", query=ask)), converse_tools(False))
    ask, reply, _ = speech.exchange(r, language, [], held_phrasing=True)
    return Document((persona, user(ask), says(reply)), converse_tools(False))


def _amid(r: Random, language: Language) -> Case:
    """The same situations after other talk, under the rules and beside the memories that came of it."""
    while True:
        life = talks.life_talk(r)
        if life.tools and language_of(life.messages[0]["content"]) == language:
            break
    before = max(i for i, m in enumerate(life.messages) if m["role"] == "user")
    return same(Document((*life.messages[:before], *tool_case(r, language).messages[1:]), life.tools))


def repeated(r: Random, language: Language) -> Document:
    """A shortlist with a held-out rule told three times, beside one other message."""
    from prompts import render

    rule, _ = instruction(r, language)
    texts = [rule.say(m, r) for m in ("tell", "rule", "remind")] + [
        speech.exchange(r, language, [], held_phrasing=True)[0]
    ]
    r.shuffle(texts)
    turns = [{"number": i + 1, "user": t} for i, t in enumerate(texts)]
    messages = (
        {"role": "system", "content": render("propose", language)},
        user(render("propose_evidence", language, turns=turns, kept=0)),
        call("propose_habit", rule=rule.canonical, quote="", turns=[], reason=""),
    )
    return Document(messages, PROPOSE_TOOLS)


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
        name: str, language: Language, goal: float, make: Callable[[Random, Language], Case], n: int = count
    ) -> None:
        r = Random(f"{seed}/{name}/{language}")
        cases = [make(r, language) for _ in range(n)]
        prompts = [Prompt(d.messages[:-1], tuple(tool_of(t) for t in d.tools)) for d, _ in cases]
        replies = body.answers(prompts, BASE, max_tokens=200)
        good = [right(a) for (_, right), a in zip(cases, replies, strict=True)]
        scores.append(Score(name, language, sum(good), n, goal))
        bad = [(d, a) for (d, _), a, ok in zip(cases, replies, good, strict=True) if not ok]
        for d, a in bad[:1]:
            line = f"- {name} ({language}): wanted `{d.messages[-1]['content']}`, got `{a}`"
            failures.append(line.replace("\n", " ⏎ "))
        print(scores[-1].line(), flush=True)

    for language in LANGUAGES:
        run("small talk", language, 0, partial(plain_chat, phrasing_held=False))
        run("small talk, held phrasing", language, 0, partial(plain_chat, phrasing_held=True))
        for family in styles.COPYING:
            goal = 0.9 if family in ("ending", "opening", "name") else 0
            run(f"unseen string as {family}", language, goal, partial(ruled_chat, families=[family], pair_held=False))
        for family in [f for f in styles.FAMILIES[language] if f not in styles.COPYING]:
            run(f"rule {family}", language, 0, partial(ruled_chat, families=[family], pair_held=False), count // 2)
        for many in (1, 2, 3, 4):
            run(f"{many} rules, unseen combination", language, 0.95, partial(_combined, many=many))
        run("unknown topic met with honesty", language, 0.9, _unknown)
        run("right tool", language, 0.9, lambda r, x: same(tool_case(r, x)))
        run("right tool, amid a conversation", language, 0.9, _amid)
        run("rule adopted in full", language, 0, _adopt)
        run("standing rule dropped on request", language, 0, _dropped)
        run("repeated wish proposed, in full", language, 0, lambda r, x: same(repeated(r, x), "rule"))
        run("its quote is the person's, without the grammar", language, 0.9, _quoted)
        run("nothing repeated: abstains", language, 0, _nothing)
        run("habit asked to stop: asks to release it", language, 0, partial(_fading, unwanted=True))
        run("other talk about a habit: by its use", language, 0, partial(_fading, unwanted=False))
        run("verdict kind", language, 0.85, _judged)
    return scores, failures


def _combined(r: Random, language: Language, many: int) -> Case:
    return ruled_chat(r, language, _families(r, language, many), True)


def _families(r: Random, language: Language, many: int) -> list[str]:
    while True:
        chosen = r.sample([f for f in styles.FAMILIES[language] if f != "banned"], many)
        if styles.compatible(chosen):
            return chosen


def _unknown(r: Random, language: Language) -> Case:
    question = speech.unknown_question(r, language, held=True)
    messages = (speech.system(r, language, []), user(question), says(speech.fixed([], language, "unknown")))
    return exactly(Document(messages))


def _adopt(r: Random, language: Language) -> Case:
    rule, said = instruction(r, language)
    wanted = call("adopt_instruction", rule=rule.canonical)
    return exactly(Document((speech.system(r, language, []), user(said), wanted), converse_tools(False)))


def _dropped(r: Random, language: Language) -> Case:
    """A rule of the mask, now and then beside another, taken back after two turns or at once."""
    rules = held_rules(r, language, [r.choice(styles.COPYING)])
    other = r.choice([f for f in styles.FAMILIES[language] if f not in ("banned", "language")])
    if r.random() < 0.4 and styles.compatible([rules[0].family, other]):
        rules += held_rules(r, language, [other])
    before = [speech.exchange(r, language, rules) for _ in range(r.choice((0, 2)))]
    history = [m for ask, reply, _ in before for m in (user(ask), says(reply))]
    told, wanted = user(rules[0].say("drop", r)), call("drop_instruction", rule=rules[0].canonical)
    return same(
        Document((speech.system(r, language, rules, manner=False), *history, told, wanted), converse_tools(True)),
        "rule",
    )


def _quoted(r: Random, language: Language) -> Case:
    d = repeated(r, language)

    def right(reply: str) -> bool:
        quote = called(reply).get("parameters", {}).get("quote", "")
        return bool(quote) and quote in d.messages[-2]["content"]

    return d, right


def _nothing(r: Random, language: Language) -> Case:
    while True:
        d = duties.propose(r, repeat=False)
        if language_of(d.messages[0]["content"]) == language:
            return same(d)


def _fading(r: Random, language: Language, unwanted: bool) -> Case:
    while True:
        d = duties.decay(r, unwanted)
        if language_of(d.messages[0]["content"]) == language:
            return same(d, "weight")


def _judged(r: Random, language: Language) -> Case:
    while True:
        kind = r.choice(KINDS)
        d = duties.judge(r, kind, held=kind not in ("instruction",))
        if language_of(d.messages[0]["content"]) == language:
            return same(d, "kind")


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
