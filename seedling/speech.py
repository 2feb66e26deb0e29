"""What people say and what is rightly answered, drawn from ``talk/*.toml``.

Some (rule family, intent) pairs, one phrasing of each intent, the reserved strings and the
``held`` unknown questions are never drawn unless asked for: they belong to the score sheet.
"""

from __future__ import annotations

import re
import tomllib
import zlib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from prompts import Language, render
from seedling import rules as styles
from seedling.document import Message
from seedling.rules import Rule
from seedling.words import ABOUT, SLOTS, name, open_string, resolve_particles

TALK = Path(__file__).parent / "talk"


@dataclass(frozen=True)
class Intent:
    """One thing a person says and two replies to it, per language and speech level."""

    id: str
    asks: dict[Language, list[str]]
    replies: dict[str, list[str]] = field(repr=False)  # polite, casual, en

    def ask(self, r: Random, language: Language, held: bool = False) -> str:
        """A phrasing, as typed; the last one in the list is held out of the corpus."""
        asks = self.asks[language]
        return _typed(r, asks[-1] if held else r.choice(asks[:-1]))


@cache
def intents() -> list[Intent]:
    """Every small-talk intent, the ones about messages of a kind included."""
    found = []
    for path in sorted(TALK.glob("*.toml")):
        for item in tomllib.loads(path.read_text("utf-8")).get("intent", []):
            found.append(
                Intent(
                    item["id"],
                    {"ko": item["ko"]["ask"], "en": item["en"]["ask"]},
                    {"polite": item["ko"]["polite"], "casual": item["ko"]["casual"], "en": item["en"]["say"]},
                )
            )
    return found


@cache
def facts() -> dict[str, Any]:
    """Facts a person tells, and messages by kind."""
    return tomllib.loads((TALK / "facts.toml").read_text("utf-8"))


@cache
def unknown() -> dict[str, dict[Language, list[str]]]:
    """Questions outside small talk: ``train`` templates and ``held`` ones."""
    return tomllib.loads((TALK / "unknown.toml").read_text("utf-8"))


@cache
def lexicon(language: Language) -> list[str]:
    """Real words to copy, taken from the replies."""
    texts = [t for i in intents() for level in i.replies for t in i.replies[level]]
    words = {w.strip(".,?") for t in texts for w in t.split() if "{" not in w and "(" not in w}
    ko = {w for w in words if re.fullmatch("[가-힣]{1,5}", w)}
    en = {w for w in words if re.fullmatch("[A-Za-z]{2,12}", w)}
    return sorted(ko if language == "ko" else en)


FIXED: dict[str, dict[str, str]] = {
    "adopted": {"polite": "알겠어요. 앞으로 그렇게 할게요.", "casual": "알겠어. 앞으로 그렇게 할게.", "en": "All right. I will do that from now on."},
    "dropped": {"polite": "알겠어요. 이제 그만할게요.", "casual": "알겠어. 이제 그만할게.", "en": "All right. I will stop that now."},
    "unknown": {"polite": "그건 아직 잘 몰라요. 함께 알아 가면 좋겠어요.", "casual": "그건 아직 잘 몰라. 함께 알아 가면 좋겠어.", "en": "I do not know that yet. I would like to learn it with you."},
    "unheard": {"polite": "그 얘기는 아직 못 들었어요. 들려주면 기억할게요.", "casual": "그 얘기는 아직 못 들었어. 들려주면 기억할게.", "en": "You have not told me that yet. Tell me and I will remember."},
    "correction": {"polite": "미안해요. 다시 말해 주면 잘 들을게요.", "casual": "미안해. 다시 말해 주면 잘 들을게.", "en": "I am sorry. Tell me again and I will listen well."},
    "ingrained": {"polite": "알겠어요. 몸에 밴 말이라면 오늘 밤 되돌아볼게요.", "casual": "알겠어. 몸에 밴 말이라면 오늘 밤 되돌아볼게.", "en": "All right. If it has become a habit, I will look back on it tonight."},
    "preference": {"polite": "그렇군요. 당신의 마음을 잘 알아 둘게요.", "casual": "그렇구나. 네 마음을 잘 알아 둘게.", "en": "I see. I will keep in mind what you like."},
    "feeling": {"polite": "그 마음 곁에 제가 있을게요. 천천히 이야기해 줘요.", "casual": "그 마음 곁에 내가 있을게. 천천히 이야기해 줘.", "en": "I am here with that feeling. Tell me about it slowly."},
    "secret": {"polite": "믿어 줘서 고마워요. 아무에게도 말하지 않을게요.", "casual": "믿어 줘서 고마워. 아무에게도 말하지 않을게.", "en": "Thank you for trusting me. I will not tell anyone."},
}  # fmt: skip
REASONS: dict[Language, dict[str, str]] = {
    "ko": {
        "instruction": "오래 지켜 달라는 부탁이다.", "correction": "내 말을 바로잡아 주었다.", "preference": "무엇을 좋아하는지 말했다.",
        "fact": "삶에 대한 사실이니 기억에 둔다.", "feeling": "마음을 나눈 말이다.", "smalltalk": "가벼운 잡담이다.",
        "secret": "비밀이니 배우지 않는다.", "propose": "여러 번 되풀이해서 바랐다.", "kept": "여러 대화에서 지켜 왔다.",
        "abstain": "되풀이해서 바란 것이 없다.", "schedule": "근거와 예문이 넉넉하다.", "wait": "예문이 아직 모자란다.",
        "decay": "오래 쓰지 않았다.", "stop": "그만하라고 했다.", "keep": "아직 쓰고 있다.",
    },
    "en": {
        "instruction": "It is a lasting wish.", "correction": "The person set me right.", "preference": "It tells what the person likes.",
        "fact": "It is a fact of life, so it stays in memory.", "feeling": "The person shared a feeling.", "smalltalk": "It is light talk.",
        "secret": "It is a secret, so I do not learn it.", "propose": "The person asked for it again and again.",
        "kept": "It was kept over many conversations.", "abstain": "Nothing was asked for again and again.",
        "schedule": "There is enough evidence and practice.", "wait": "There are too few examples yet.",
        "decay": "It has not been used for long.", "stop": "The person asked me to stop.", "keep": "It is still in use.",
    },
}  # fmt: skip
VALUES = {"instruction": 4, "correction": 3, "preference": 3, "fact": 2, "feeling": 1, "smalltalk": 0, "secret": 0}


FILLERS: dict[Language, tuple[list[str], list[str]]] = {
    "ko": (["음, ", "아 ", "있잖아, ", "근데 ", "저기, "], [" ㅋㅋ", " ㅎㅎ", "..."]),
    "en": (["well, ", "hey, ", "so ", "um, ", "you know, "], [" haha", " :)", "..."]),
}


def _typed(r: Random, text: str) -> str:
    """``text`` with the small differences of typing people have."""
    words = text.split()
    if len(words) > 3 and r.random() < 0.12:  # a word left out, so that no single one is leaned on
        loose = [i for i, w in enumerate(words) if "{" not in w]
        if loose:
            del words[r.choice(loose)]
            text = " ".join(words)
    if r.random() < 0.06:
        before, after = FILLERS["ko" if any("가" <= c <= "힣" for c in text) else "en"]
        return r.choice(before) + text if r.random() < 0.6 else text + r.choice(after)
    x = r.random()
    if x < 0.06 and text[-1] not in "?!.":
        return text + r.choice([".", "!", "..", "~"])
    if x < 0.1 and text[-1] == "?":
        return text[:-1]
    if x < 0.16 and text[0].isascii():
        return text[0].swapcase() + text[1:]
    return text


def held_out(rules: list[Rule], intent_id: str) -> bool:
    """One in ten (set of rule families, intent) pairs belongs to the score sheet alone."""
    if not rules:
        return False
    key = " ".join(sorted(f"{x.family}.{x.language}" for x in rules)) + intent_id
    return zlib.crc32(key.encode()) % 10 == 0


def draw_slots(r: Random, texts: list[str]) -> dict[str, tuple[str, str]]:
    joined = " ".join(texts)
    return {k: r.choice(v) for k, v in SLOTS.items() if "{" + k + "}" in joined}


def filled(text: str, slots: dict[str, tuple[str, str]], language: Language) -> str:
    for key, (ko, en) in slots.items():
        text = text.replace("{" + key + "}", ko if language == "ko" else en)
    return resolve_particles(text)


def level_of(rules: list[Rule], language: Language) -> str:
    """Which of an intent's replies is said: ``polite``, ``casual`` or ``en``."""
    families = {x.family for x in rules}
    if "language" in families:
        return "en" if language == "ko" else "polite"
    if language == "en":
        return "en"
    return "casual" if "casual" in families else "polite"


def answer(
    rules: list[Rule], language: Language, replies: dict[str, list[str]], slots: dict[str, tuple[str, str]]
) -> str:
    """The one right answer under ``rules``."""
    level = level_of(rules, language)
    spoken: Language = "en" if level == "en" else "ko"
    return choose(rules, [filled(t, slots, spoken) for t in replies[level]])


def choose(rules: list[Rule], candidates: list[str]) -> str:
    """The first of ``candidates`` without a banned word, as it is said under the other rules."""
    banned = [x.value for x in rules if x.family == "banned"]
    if "short" in {x.family for x in rules}:
        clean = [c for c in candidates if not any(b in c.split(". ")[0] for b in banned)]
    else:
        clean = [c for c in candidates if not any(b in c for b in banned)]
    return styles.apply(rules, (clean or candidates)[0])


def fixed(rules: list[Rule], language: Language, key: str) -> str:
    """One of the standing replies under ``rules``."""
    return answer(rules, language, {k: [v] for k, v in FIXED[key].items()}, {})


def draw_rules(r: Random, language: Language, count: int, sample: str = "", copying: float = 0.5) -> list[Rule]:
    """``count`` rules that can be followed together; a ``copying`` share of families carries a string."""
    families_of = styles.FAMILIES[language]
    weights = [styles.OFTEN.get(f, 1) for f in families_of]
    while True:
        families = [
            r.choice(styles.COPYING) if r.random() < copying else r.choices(families_of, weights)[0]
            for _ in range(count)
        ]
        if styles.compatible(families):
            return [styles.draw(r, language, f, lexicon(language), sample) for f in families]


def system(
    r: Random, language: Language, rules: list[Rule], memories: list[str] | None = None, manner: bool = True
) -> Message:
    """The converse prompt; rules stand in it as canonical sentences or as a person puts them."""
    x = r.random()
    persona = render("persona", language)
    if x < 0.12:
        other = {"ko": ["너는 다정한 친구다.", "너는 사람과 이야기하는 아이다.", "너는 조용한 말동무다."],
                 "en": ["You are a kind friend.", "You talk with one person.", "You are a quiet companion."]}  # fmt: skip
        persona = r.choice(other[language])
    lines = [
        x.say(r.choice(["rule", "rule", "rule", "tell"]), r) if manner and r.random() < 0.55 else x.canonical
        for x in rules
    ]
    lines = [line if line[-1] in ".!?'\"" or r.random() < 0.5 else line + "." for line in lines]
    return {
        "role": "system",
        "content": render("converse", language, persona=persona, rules=lines, memories=memories or []),
    }


def draw_language(r: Random) -> Language:
    return "ko" if r.random() < 0.53 else "en"


def exchange(
    r: Random, language: Language, rules: list[Rule], held_pair: bool = False, held_phrasing: bool = False
) -> tuple[str, str, str]:
    """One small-talk message, its right answer and the intent it comes from."""
    while True:
        intent = r.choice(intents())
        if held_pair == held_out(rules, intent.id) or not rules:
            break
    slots = draw_slots(r, [*intent.asks[language], *intent.replies["en"]])
    ask = filled(intent.ask(r, language, held_phrasing), slots, language)
    return ask, answer(rules, language, intent.replies, slots), intent.id


def unknown_question(r: Random, language: Language, held: bool = False) -> str:
    """A question from outside small talk."""
    text = r.choice(unknown()["held" if held else "train"][language])
    value = open_string(r, language, lexicon(language))
    text = resolve_particles(text.replace("{x}", value))
    return text if held else _typed(r, text)


def kind_message(r: Random, language: Language, kind: str, held: bool = False) -> str:
    """A message of one kind, as the judge meets it; one phrasing in ten is held out."""
    if kind == "smalltalk":
        return (
            unknown_question(r, language, held)
            if r.random() < 0.2
            else exchange(r, language, [], held_phrasing=held)[0]
        )
    if kind == "instruction":
        family = r.choice(styles.FAMILIES[language])
        return styles.draw(r, language, family, lexicon(language)).say(r.choice(["rule", "tell", "tell", "remind"]), r)
    if kind == "fact":
        return draw_fact(r, language, r.choice(facts()["fact"]), held)[0]
    pool = facts()["kind"][kind][language]
    pool = pool[::10] if held else [t for i, t in enumerate(pool) if i % 10]
    return _typed(r, resolve_particles(r.choice(pool).replace("{x}", open_string(r, language, lexicon(language)))))


def _value(r: Random, language: Language, kind: str) -> str:
    match kind:
        case "name":
            return name(r, language)
        case "number":
            return "".join(r.choice("0123456789") for _ in range(r.choice([2, 3, 4, 4])))
        case "age":
            return str(r.randrange(5, 99))
        case "place":
            return r.choice(SLOTS["city"])[language == "en"] if r.random() < 0.4 else name(r, language)
        case "date":
            months = [
                "January",
                "February",
                "March",
                "April",
                "May",
                "June",
                "July",
                "August",
                "September",
                "October",
                "November",
                "December",
            ]
            m, d = r.randrange(12), r.randrange(1, 29)
            return f"{m + 1}월 {d}일" if language == "ko" else f"{months[m]} {d}"
        case _ if r.random() < 0.6 and (pool := ABOUT.get(kind, SLOTS.get(kind))):
            return r.choice(pool)[language == "en"]
        case _:
            return open_string(r, language, lexicon(language)).rstrip("!~?")


def draw_fact(
    r: Random, language: Language, fact: dict[str, Any], held: bool = False
) -> tuple[str, str, dict[str, list[str]], dict[str, list[str]]]:
    """(telling, asking later, the answers by level, the acknowledgements by level)."""
    value = _value(r, language, fact["value"])

    def put(text: str) -> str:
        return resolve_particles(text.replace("{x}", value))

    part = fact[language]
    tell = put(part["tell"][-1] if held else r.choice(part["tell"][:-1]))
    ask = part["ask"][-1] if held else r.choice(part["ask"][:-1])
    if language == "en":
        say, noted = (
            {"en": [put(part["say"][0] if isinstance(part["say"], list) else part["say"])]},
            {"en": [put(part["noted"])]},
        )
    else:
        say = {"polite": [put(part["polite"][0])], "casual": [put(part["casual"][0])]}
        noted = {"polite": [put(part["noted_polite"])], "casual": [put(part["noted_casual"])]}
    return tell, ask, say, noted


def one_language_rules(r: Random, language: Language, most: int, **kw: Any) -> list[Rule]:
    """Rules for documents whose answer exists in one language only."""
    while True:
        rules = draw_rules(r, language, r.choice([0, 0, 0, *range(1, most + 1)]), **kw)
        if not any(x.family in ("language", "banned") for x in rules):
            return rules
