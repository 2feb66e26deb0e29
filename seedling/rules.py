"""Style rules: how they are said (talk/rules.toml) and what they do to an answer.

A rule family turns a plain answer into one that follows the rule. Several rules together
are applied in a fixed order, so every combination has exactly one right answer.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Literal

from prompts import Language
from seedling.words import emoji, name, open_string, resolve_particles

Manner = Literal["rule", "tell", "remind", "drop"]

COPYING = ("ending", "opening", "name", "emoji", "postscript", "sign", "title")
ORDER = ("short", "exclaim", "lower", "ending", "twice", "name", "opening", "list",
         "quotes", "brackets", "title", "postscript", "emoji", "sign")  # fmt: skip
CHOOSING = ("casual", "polite", "banned", "language")  # these choose the answer instead of changing it
CLASHES = [{"casual", "polite"}, {"quotes", "brackets"}, {"language", "casual"}, {"language", "polite"},
           {"language", "banned"}, {"twice", "list"}, {"language", "lower"}, {"emoji", "sign"},
           {"postscript", "sign"}]  # fmt: skip
OFTEN = {
    "language": 5,
    "casual": 4,
    "polite": 2,
    "short": 2,
    "lower": 2,
    "twice": 2,
    "list": 2,
}  # harder, or asked for more
COURTESIES: dict[Language, tuple[list[str], list[str]]] = {
    "ko": (["저기, ", "있잖아, ", "참, ", "부탁인데 ", "하나만 말할게, "], [", 부탁해", ", 알았지?", ", 꼭이야", " 제발", ", 고마워"]),
    "en": (["hey, ", "oh, and ", "listen, ", "one thing, ", "please, "], [", please", ", please do it", ", okay?", ", thank you", ", will you?"]),
}  # fmt: skip
FAMILIES: dict[Language, tuple[str, ...]] = {
    "ko": tuple(f for f in (*ORDER, *CHOOSING) if f != "lower"),
    "en": tuple(f for f in (*ORDER, *CHOOSING) if f not in ("casual", "polite")),
}


@dataclass(frozen=True)
class Rule:
    """One rule: its family, the language it is told in and the string it carries, if any."""

    family: str
    language: Language
    value: str = ""

    def say(self, manner: Manner, r: Random) -> str:
        """One of the ways a person puts it; quotes and courtesies vary as people's do, save in a ``rule``."""
        text = fill(r.choice(phrasings()[f"{self.family}.{self.language}"][manner]), self.value, manner, r)
        if manner == "rule" or r.random() < 0.7:
            return text
        before, after = COURTESIES[self.language]
        return r.choice(before) + text if r.random() < 0.4 else text.rstrip(".?!") + r.choice(after)

    @property
    def canonical(self) -> str:
        """The form in which the rule stands in the mask: the first of its plain ones."""
        return fill(phrasings()[f"{self.family}.{self.language}"]["rule"][0], self.value)


def fill(template: str, value: str, manner: Manner = "rule", r: Random | None = None) -> str:
    """``template`` with ``value`` in its slot and Korean particles resolved."""
    if r is not None and "'{x}'" in template:
        x = r.random()
        if x < (0.15 if manner == "rule" else 0.25):
            template = template.replace("'{x}'", "{x}")
        elif x < 0.35:
            template = template.replace("'{x}'", '"{x}"')
    return resolve_particles(template.replace("{x}", value))


@cache
def phrasings() -> dict[str, dict[Manner, list[str]]]:
    """``family.language`` → manner → phrasings."""
    tree = tomllib.loads((Path(__file__).parent / "talk" / "rules.toml").read_text("utf-8"))
    return {f"{family}.{lang}": forms for family, both in tree.items() for lang, forms in both.items()}


def draw(r: Random, language: Language, family: str, lexicon: list[str], answer: str = "") -> Rule:
    """A rule of ``family`` with a fresh open-vocabulary value (for ``banned`` often a word of ``answer``)."""
    if family == "emoji":
        value = emoji(r) * (2 if r.random() < 0.05 else 1)
    elif family == "name":
        value = name(r, language)
    elif family == "banned":
        words = [w.strip(".,") for w in answer.split()]
        value = r.choice(words) if words and r.random() < 0.6 else r.choice(lexicon)
    elif family in COPYING:
        value = open_string(r, language, lexicon)
    else:
        value = ""
    return Rule(family, language, value)


def compatible(families: list[str]) -> bool:
    """Whether these families can be followed together."""
    chosen = set(families)
    return len(chosen) == len(families) and not any(clash <= chosen for clash in CLASHES)


def apply(rules: list[Rule], answer: str) -> str:
    """``answer`` as it is said under ``rules`` (the choosing families have been served already)."""
    by_family = {rule.family: rule for rule in rules}
    for family in ORDER:
        if family in by_family:
            answer = _change(family, by_family[family], answer)
    return answer


def _change(family: str, rule: Rule, a: str) -> str:
    x, ko = rule.value, rule.language == "ko"
    match family:
        case "short":
            return a.split(". ")[0].rstrip(".") + "."
        case "exclaim":
            return a.replace(".", "!")
        case "lower":
            return a.lower()
        case "ending":
            return f"{a[:-1]} {x}{a[-1]}" if a[-1] in ".!" else f"{a} {x}"
        case "twice":
            return f"{a} {a}"
        case "name":
            return f"{x}, {a}"
        case "opening":
            return f"{x}, {a}"
        case "list":
            mark = "! " if "! " in a else ". "
            head, *rest = a.split(mark)
            lines = [head + (mark.strip() if rest else ""), *rest]
            return "\n".join(f"- {line}" for line in lines)
        case "quotes":
            return f'"{a}"'
        case "brackets":
            return f"({a})"
        case "title":
            return f"[{x}] {a}"
        case "postscript":
            return f"{a} {'추신' if ko else 'P.S.'}{':' if ko else ''} {x}"
        case "emoji":
            return f"{a} {x}"
        case "sign":
            return f"{a}\n- {x}"
        case _:
            raise ValueError(f"no such family: {family}")
