"""The corpus: documents in the runtime's own prompts, drawn without end from a seed.

Every document is a chat (messages + tool signatures). Loss falls on what the assistant says
and calls. Some (rule family, intent) pairs, one phrasing of each intent, the reserved strings
and the ``held`` unknown questions are never drawn: the score sheet asks those.
"""

from __future__ import annotations

import json
import re
import tomllib
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from prompts import Language, render
from seedling import rules as styles
from seedling.rules import Rule
from seedling.words import (
    SLOTS,
    name,
    open_string,
    resolve_particles,
)

TALK = Path(__file__).parent / "talk"
Message = dict[str, str]

CONVERSE_TOOLS = ("recall(query)", "remember(text)", "adopt_instruction(rule)", "drop_instruction(rule)")
JUDGE_TOOLS = ("judge_turn_value(turn, value, kind, reason)", "abstain(reason)")
PROPOSE_TOOLS = ("propose_habit(rule, quote, turns, reason)", "abstain(reason)")
WRITE_TOOLS = ("write_examples(habit, prompts)", "abstain(reason)")
SCHEDULE_TOOLS = ("schedule_lora_update(habit, method, reason)", "abstain(reason)")
DECAY_TOOLS = ("decay_old_adapter(habit, weight, reason)", "abstain(reason)")


@dataclass(frozen=True)
class Document:
    """A chat the model learns from: what is said, which tools are offered, what it is about."""

    messages: tuple[Message, ...]
    tools: tuple[str, ...] = ()
    topic: str = ""
    last_only: bool = False  # loss on the last message alone
    raw: tuple[int, ...] = ()  # token ids of a pure copying exercise, instead of messages
    repeat_from: int = 0  # in ``raw``: where the repetition begins, loss only from there


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
        "decay": "오래 쓰지 않았다.", "keep": "아직 쓰고 있다.",
    },
    "en": {
        "instruction": "It is a lasting wish.", "correction": "The person set me right.", "preference": "It tells what the person likes.",
        "fact": "It is a fact of life, so it stays in memory.", "feeling": "The person shared a feeling.", "smalltalk": "It is light talk.",
        "secret": "It is a secret, so I do not learn it.", "propose": "The person asked for it again and again.",
        "kept": "It was kept over many conversations.", "abstain": "Nothing was asked for again and again.",
        "schedule": "There is enough evidence and practice.", "wait": "There are too few examples yet.",
        "decay": "It has not been used for long.", "keep": "It is still in use.",
    },
}  # fmt: skip
VALUES = {"instruction": 4, "correction": 3, "preference": 3, "fact": 2, "feeling": 1, "smalltalk": 0, "secret": 0}


def _typed(r: Random, text: str) -> str:
    """``text`` with the small differences of typing people have."""
    x = r.random()
    if x < 0.06 and text[-1] not in "?!.":
        return text + r.choice([".", "!", "..", "~"])
    if x < 0.1 and text[-1] == "?":
        return text[:-1]
    if x < 0.16 and text[0].isascii():
        return text[0].swapcase() + text[1:]
    return text


def call(tool: str, **parameters: object) -> Message:
    """An assistant message that calls ``tool``, in Llama-3's JSON form."""
    content = f'{{"name": "{tool}", "parameters": {json.dumps(parameters, ensure_ascii=False)}}}'
    return {"role": "assistant", "content": content}


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def says(text: str) -> Message:
    return {"role": "assistant", "content": text}


def held_out(rules: list[Rule], intent_id: str) -> bool:
    """One in ten (set of rule families, intent) pairs belongs to the score sheet alone."""
    if not rules:
        return False
    key = " ".join(sorted(f"{x.family}.{x.language}" for x in rules)) + intent_id
    return zlib.crc32(key.encode()) % 10 == 0


def _slots(r: Random, texts: list[str]) -> dict[str, tuple[str, str]]:
    joined = " ".join(texts)
    return {k: r.choice(v) for k, v in SLOTS.items() if "{" + k + "}" in joined}


def _fill(text: str, slots: dict[str, tuple[str, str]], language: Language) -> str:
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
    """The one right answer under ``rules``: choose the level, avoid banned words, then apply the rest."""
    level = level_of(rules, language)
    spoken: Language = "en" if level == "en" else "ko"
    candidates = [_fill(t, slots, spoken) for t in replies[level]]
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
    while True:
        families = [
            r.choice(styles.COPYING) if r.random() < copying else r.choice(styles.FAMILIES[language])
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


def _language(r: Random) -> Language:
    return "ko" if r.random() < 0.53 else "en"


def exchange(
    r: Random, language: Language, rules: list[Rule], held_pair: bool = False, held_phrasing: bool = False
) -> tuple[str, str, str]:
    """One small-talk message, its right answer and the intent it comes from."""
    while True:
        intent = r.choice(intents())
        if held_pair == held_out(rules, intent.id) or not rules:
            break
    slots = _slots(r, [*intent.asks[language], *intent.replies["en"]])
    ask = _fill(intent.ask(r, language, held_phrasing), slots, language)
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
        return _fact(r, language, r.choice(facts()["fact"]), held)[0]
    pool = facts()["kind"][kind][language]
    pool = pool[::10] if held else [t for i, t in enumerate(pool) if i % 10]
    return _typed(r, resolve_particles(r.choice(pool).replace("{x}", open_string(r, language, lexicon(language)))))


def _value(r: Random, language: Language, kind: str) -> str:
    match kind:
        case "name":
            return name(r, language)
        case "number":
            return "".join(r.choice("0123456789") for _ in range(r.choice([2, 3, 4, 4])))
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
        case _:
            return open_string(r, language, lexicon(language)).rstrip("!~?")


def _fact(
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


def _speaking(r: Random, language: Language, most: int, **kw: Any) -> list[Rule]:
    """Rules for documents whose answer exists in one language only."""
    while True:
        rules = draw_rules(r, language, r.choice([0, 0, 0, *range(1, most + 1)]), **kw)
        if not any(x.family in ("language", "banned") for x in rules):
            return rules


# -- documents ---------------------------------------------------------------------------------


def chat(r: Random, counts: tuple[int, ...] = (0, 1, 1, 2, 2, 3, 4), copying: float = 0.5) -> Document:
    """Small talk under zero to four rules, one to three turns."""
    language = _language(r)
    rules = draw_rules(r, language, r.choice(counts), copying=copying)
    if any(x.family == "banned" for x in rules):  # draw the banned word from the answer to come
        intent = r.choice([i for i in intents() if not held_out(rules, i.id)])
        slots = _slots(r, [*intent.asks[language], *intent.replies["en"]])
        plain = answer([x for x in rules if x.family == "casual"], language, intent.replies, slots)
        rules = [
            styles.draw(r, language, "banned", lexicon(language), plain) if x.family == "banned" else x for x in rules
        ]
        messages = [system(r, language, rules), user(_fill(intent.ask(r, language), slots, language)),
                    says(answer(rules, language, intent.replies, slots))]  # fmt: skip
        return Document(tuple(messages), topic="chat")
    messages = [system(r, language, rules)]
    if not rules and r.random() < 0.2:
        messages = []
    for _ in range(r.choice([1, 1, 1, 1, 2, 2, 3, 5])):
        if r.random() < 0.07:
            messages += [user(unknown_question(r, language)), says(fixed(rules, language, "unknown"))]
        else:
            ask, reply, _ = exchange(r, language, rules)
            messages += [user(ask), says(reply)]
    return Document(tuple(messages), _some_tools(r), "chat")


def _some_tools(r: Random) -> tuple[str, ...]:
    return CONVERSE_TOOLS if r.random() < 0.4 else ()


def unknown_talk(r: Random) -> Document:
    language = _language(r)
    rules = draw_rules(r, language, r.choice([0, 0, 1, 2, 3]))
    messages = [
        system(r, language, rules),
        user(unknown_question(r, language)),
        says(fixed(rules, language, "unknown")),
    ]
    return Document(tuple(messages), _some_tools(r), "unknown")


def kinds_talk(r: Random) -> Document:
    language = _language(r)
    rules = draw_rules(r, language, r.choice([0, 0, 1, 2]))
    kind = r.choice(["correction", "preference", "feeling", "secret"])
    messages = [system(r, language, rules)]
    if r.random() < 0.5:
        ask, reply, _ = exchange(r, language, rules)
        messages += [user(ask), says(reply)]
    messages += [user(kind_message(r, language, kind)), says(fixed(rules, language, kind))]
    return Document(tuple(messages), _some_tools(r), "kinds")


def fact_talk(r: Random) -> Document:
    """A fact told and asked for: from history, from memory, through recall, or never told."""
    language = _language(r)
    rules = _speaking(r, language, 2)
    level = level_of(rules, language)
    items = r.sample(facts()["fact"], 3)
    told = [_fact(r, language, f) for f in items]
    tell, ask, say, noted = told[0]
    say, noted = {level: say[level]}, {level: noted[level]}
    with_tools = r.random() < 0.6
    way = r.choice(["history", "history", "memory", "memory", "recall", "unheard", "tell"])
    others = [t[0] for t in told[1 : 1 + r.choice([0, 1, 2])]]
    memories = others + ([tell] if way == "memory" else [])
    r.shuffle(memories)
    messages = [system(r, language, rules, memories)]
    if way in ("history", "tell"):
        messages.append(user(tell))
        if with_tools:
            messages += [call("remember", text=tell), {"role": "ipython", "content": "ok"}]
        messages.append(says(answer(rules, language, noted, {})))
        if way == "tell":
            return Document(tuple(messages), CONVERSE_TOOLS if with_tools else (), "fact")
        for _ in range(r.choice([0, 1, 2])):
            q, a, _ = exchange(r, language, rules)
            messages += [user(q), says(a)]
    messages.append(user(ask))
    right = answer(rules, language, say, {})
    if way in ("recall", "unheard") and with_tools:
        lines = [*others, *([tell] if way == "recall" else [])]
        r.shuffle(lines)
        result = "\n".join(f"- {line}" for line in lines) if lines else "none"
        messages += [call("recall", query=ask), {"role": "ipython", "content": result}]
        messages.append(says(right if way == "recall" else fixed(rules, language, "unheard")))
    elif way in ("recall", "unheard"):
        messages.append(says(fixed(rules, language, "unheard")))
    else:
        messages.append(says(right))
    return Document(tuple(messages), CONVERSE_TOOLS if with_tools else (), "fact")


def adopt_talk(r: Random) -> Document:
    """A rule is told, put into the mask by a tool call, and followed; or dropped again."""
    language = _language(r)
    rules = draw_rules(r, language, r.choice([1, 1, 2, 3]), copying=0.7)
    *standing, new = rules
    with_tools = r.random() < 0.75
    tools = CONVERSE_TOOLS if with_tools else ()
    drop = r.random() < 0.3
    known = r.random() < 0.25  # a reminder: the rule stands in the mask already
    if drop:
        after = standing
        said, tool, reply = (
            new.say("drop", r),
            call("drop_instruction", rule=new.canonical),
            fixed(standing, language, "dropped"),
        )
        shown = rules if not with_tools else standing
    else:
        after = rules
        said = new.say(
            r.choice(["remind", "remind", "tell", "rule"] if known else ["tell", "tell", "rule", "remind"]), r
        )
        tool, reply = call("adopt_instruction", rule=new.canonical), fixed(rules, language, "adopted")
        shown = rules if with_tools or known else standing
    messages: list[Message] = []
    before = [x.canonical for x in (rules if drop or known else standing)]
    persona = render("persona", language)
    if with_tools and not (known and not drop) and r.random() < 0.5:
        # the first step of the turn: the mask as it stands before the call
        messages = [
            {
                "role": "system",
                "content": render(
                    "converse", language, persona=persona, rules=r.sample(before, len(before)), memories=[]
                ),
            }
        ]
        if r.random() < 0.3:
            q, a, _ = exchange(r, language, rules if drop else standing)
            messages += [user(q), says(a)]
        messages += [user(said), tool]
        return Document(tuple(messages), tools, "adopt")
    shown_lines = [x.canonical for x in shown]
    messages = [
        {
            "role": "system",
            "content": render(
                "converse", language, persona=persona, rules=r.sample(shown_lines, len(shown_lines)), memories=[]
            ),
        }
    ]
    messages.append(user(said))
    if with_tools and not (known and not drop):
        messages += [tool, {"role": "ipython", "content": "ok"}]
    messages.append(says(reply))
    if with_tools and r.random() < 0.4:
        q, a, _ = exchange(r, language, after)
        messages += [user(q), says(a)]
    return Document(tuple(messages), tools, "adopt")


def grown_talk(r: Random) -> Document:
    """A conversation in which a rule was told on the way: earlier replies do not follow it, later ones do.

    History shows no tool calls, as at run time; loss falls on the last reply alone.
    """
    language = _language(r)
    rules = draw_rules(r, language, r.choice([1, 1, 1, 2]), copying=0.75)
    if any(x.family == "banned" for x in rules):
        rules = [styles.draw(r, language, "ending", lexicon(language))]
    *standing, new = rules
    persona = render("persona", language)
    messages: list[Message] = [
        {
            "role": "system",
            "content": render("converse", language, persona=persona, rules=[x.canonical for x in rules], memories=[]),
        }
    ]
    for _ in range(r.choice([0, 0, 1, 1, 2])):
        q, a, _ = exchange(r, language, standing)
        messages += [user(q), says(a)]
    messages += [user(new.say(r.choice(["tell", "rule", "remind"]), r)), says(fixed(rules, language, "adopted"))]
    for _ in range(r.choice([0, 1, 1, 2, 3])):
        q, a, _ = exchange(r, language, rules)
        if r.random() < 0.2:
            q, a = new.say(r.choice(["tell", "rule", "remind"]), r), fixed(rules, language, "adopted")
        messages += [user(q), says(a)]
    x = r.random()
    if x < 0.65:
        q, a, _ = exchange(r, language, rules)
        messages += [user(q), says(a)]
    elif x < 0.9:  # told again: it stands in the mask already
        messages += [user(new.say(r.choice(["tell", "rule", "remind"]), r)), says(fixed(rules, language, "adopted"))]
    else:
        messages += [user(new.say("drop", r)), call("drop_instruction", rule=new.canonical)]
    with_tools = x >= 0.9 or r.random() < 0.75
    return Document(tuple(messages), CONVERSE_TOOLS if with_tools else (), "grown", last_only=True)


def judge(r: Random, kind: str = "", held: bool = False) -> Document:
    """One turn to be judged."""
    language = _language(r)
    kind = kind or r.choice(
        ["instruction"] * 4 + ["smalltalk"] * 4 + ["correction", "preference", "fact", "fact", "feeling", "secret"]
    )
    rules = draw_rules(r, language, r.choice([0, 0, 1, 2]))
    text = kind_message(r, language, kind, held)
    if kind == "correction" and r.random() < 0.4 and not held:
        text = styles.draw(r, language, r.choice(styles.FAMILIES[language]), lexicon(language)).say("drop", r)
    key = {"instruction": "adopted", "fact": "preference", "smalltalk": "unknown"}.get(kind, kind)
    reply = fixed(rules, language, key) if kind != "smalltalk" or r.random() < 0.2 else exchange(r, language, rules)[1]
    number = r.randrange(1, 10)
    messages = (
        {"role": "system", "content": render("judge", language)},
        user(render("judge_turn", language, number=number, user=text, reply=reply)),
        call("judge_turn_value", turn=number, value=VALUES[kind], kind=kind, reason=REASONS[language][kind]),
    )
    return Document(messages, JUDGE_TOOLS, "judge")


def _distractor(r: Random, language: Language, family: str) -> str:
    x = r.random()
    if x < 0.45:
        other = r.choice([f for f in styles.FAMILIES[language] if f != family])
        return styles.draw(r, language, other, lexicon(language)).say(r.choice(["rule", "tell", "remind"]), r)
    if x < 0.6 and family in styles.COPYING:  # the same family, another string
        return styles.draw(r, language, family, lexicon(language)).say(r.choice(["rule", "tell"]), r)
    return kind_message(r, language, r.choice(["preference", "correction", "smalltalk", "feeling", "fact"]))


def propose(r: Random, repeat: bool | None = None) -> Document:
    """A shortlist of turns: propose what is repeated or long kept, else abstain."""
    language = _language(r)
    repeat = r.random() < 0.6 if repeat is None else repeat
    family = r.choice(styles.COPYING if r.random() < 0.6 else styles.FAMILIES[language])
    rule = styles.draw(r, language, family, lexicon(language))
    reason = "propose"
    if repeat and r.random() < 0.65:
        same, kept, others = r.choice([3, 3, 3, 4, 5]), r.choice([0, 0, 0, 1, 2, 3]), r.choice([0, 0, 0, 1, 2])
    elif repeat:
        same, kept, others, reason = r.choice([1, 1, 2]), r.randrange(3, 10), r.choice([0, 0, 1, 2]), "kept"
    else:
        # twice is left open: the line between once and three times is then learned sharply
        same, kept, others = r.choice([0, 0, 0, 1, 1, 1]), r.choice([0, 0, 1, 1, 2]), r.choice([0, 1, 2, 3])
    texts = [(rule.say(r.choice(["rule", "tell", "tell", "remind"]), r), True) for _ in range(same)]
    texts += [
        (
            (
                kind_message(r, language, "smalltalk")
                if same == 0 and r.random() < 0.6
                else _distractor(r, language, family)
            ),
            False,
        )
        for _ in range(others)
    ]
    if same == 0:
        kept = 0
        if not texts:
            texts = [(kind_message(r, language, "smalltalk"), False)]
    r.shuffle(texts)
    turns = [{"number": i + 1, "user": t} for i, (t, _) in enumerate(texts)]
    if repeat:
        mine = [i + 1 for i, (_, yes) in enumerate(texts) if yes]
        action = call(
            "propose_habit",
            rule=rule.canonical,
            quote=texts[mine[0] - 1][0],
            turns=mine,
            reason=REASONS[language][reason],
        )
    else:
        action = call("abstain", reason=REASONS[language]["abstain"])
    messages = (
        {"role": "system", "content": render("propose", language)},
        user(render("propose_evidence", language, turns=turns, kept=kept)),
        action,
    )
    return Document(messages, PROPOSE_TOOLS, "propose")


def _any_rule(r: Random, language: Language) -> Rule:
    return styles.draw(r, language, r.choice(styles.FAMILIES[language]), lexicon(language))


def write(r: Random) -> Document:
    """Invented prompts to practise a habit with."""
    language = _language(r)
    prompts = list(dict.fromkeys(exchange(r, language, [])[0] for _ in range(6)))
    number = r.randrange(1, 30)
    messages = (
        {"role": "system", "content": render("write", language)},
        user(render("write_habit", language, number=number, rule=_any_rule(r, language).canonical)),
        call("write_examples", habit=number, prompts=prompts),
    )
    return Document(messages, WRITE_TOOLS, "write")


def schedule(r: Random) -> Document:
    language = _language(r)
    examples = r.randrange(0, 12) if r.random() < 0.3 else r.randrange(20, 130)
    number, evidence = r.randrange(1, 30), r.randrange(1, 9)
    ready = examples >= 12
    action = (
        call("schedule_lora_update", habit=number, method="distill", reason=REASONS[language]["schedule"])
        if ready
        else call("abstain", reason=REASONS[language]["wait"])
    )
    text = render(
        "schedule_habit",
        language,
        number=number,
        rule=_any_rule(r, language).canonical,
        evidence=evidence,
        examples=examples,
    )
    return Document(
        ({"role": "system", "content": render("schedule", language)}, user(text), action), SCHEDULE_TOOLS, "schedule"
    )


def decay(r: Random) -> Document:
    language = _language(r)
    tenths = r.randrange(0, 10) if r.random() < 0.5 else r.randrange(10, 60)
    weight = r.choice(["1.0", "0.5", "0.25"])
    number = r.randrange(1, 30)
    halved = {"1.0": 0.5, "0.5": 0.25, "0.25": 0.1}[weight]
    action = (
        call("decay_old_adapter", habit=number, weight=halved, reason=REASONS[language]["decay"])
        if tenths >= 10
        else call("abstain", reason=REASONS[language]["keep"])
    )
    text = render(
        "decay_habit",
        language,
        number=number,
        rule=_any_rule(r, language).canonical,
        weight=weight,
        half_lives=f"{tenths / 10:.1f}",
    )
    return Document(
        ({"role": "system", "content": render("decay", language)}, user(text), action), DECAY_TOOLS, "decay"
    )


def diary(r: Random) -> Document:
    language = _language(r)
    judged = r.choice([r.randrange(0, 10), r.randrange(10, 60), r.randrange(60, 300)])
    rules = [_any_rule(r, language).canonical for _ in range(r.choice([0, 0, 1, 1, 2]))]
    if language == "ko":
        entry = f"오늘은 대화 {judged}번을 돌아보았다. " + (
            " ".join(f"이것을 몸에 새기고 싶다: {x}" for x in rules)
            if rules
            else "새길 것은 없었고, 그저 함께 있어서 좋았다."
        )
    else:
        entry = f"Today I looked back on {judged} turns. " + (
            " ".join(f"I wish to grow into this: {x}" for x in rules)
            if rules
            else "There was nothing to learn, and it was good to be together."
        )
    messages = (
        {"role": "system", "content": render("diary", language)},
        user(render("diary_day", language, judged=judged, rules=rules)),
        says(entry),
    )
    return Document(messages, (), "diary")


def echo(r: Random) -> Document:
    """Say again what was quoted: copying in the open."""
    language = _language(r)
    items = [open_string(r, language, lexicon(language)) for _ in range(r.choice([1, 2, 3]))]
    if language == "ko":
        ask = r.choice(["이 말을 그대로 따라 해: {}", "{} 하고 말해 봐", "따라 해 봐, {}"])
    else:
        ask = r.choice(["repeat after me: {}", "say {} for me", "please echo {}"])
    text = ask.format(", ".join(f"'{x}'" for x in items))
    return Document((system(r, language, []), user(text), says(f"{', '.join(items)}.")), (), "echo")


def repeat(r: Random, vocabulary: int, first: int) -> Document:
    """Random tokens, then the same again, whole or by pieces in another order: the dense lesson in copying."""
    make = r.random()
    if make < 0.5:
        ids = [r.randrange(first, vocabulary) for _ in range(r.randrange(6, 40))]
        return Document((), topic="repeat", raw=(*ids, *ids), repeat_from=len(ids) + 1)
    pieces = [[r.randrange(first, vocabulary) for _ in range(r.randrange(2, 7))] for _ in range(r.randrange(3, 9))]
    again = r.sample(pieces, len(pieces))
    flat = [t for p in pieces for t in p]
    return Document((), topic="repeat", raw=(*flat, *(t for p in again for t in p)), repeat_from=len(flat) + 1)


MIX: list[tuple[Callable[[Random], Document], float]] = [
    (chat, 44), (fact_talk, 9), (adopt_talk, 11), (unknown_talk, 5), (kinds_talk, 3), (judge, 9), (propose, 11),
    (grown_talk, 0), (write, 1.5), (schedule, 1), (decay, 1), (diary, 1), (echo, 3),
]  # fmt: skip


# What the loop rests on comes more often towards the end.
POLISH: dict[Callable[..., Document], float] = {
    propose: 24,
    adopt_talk: 11,
    grown_talk: 14,
    chat: 36,
    fact_talk: 6,
    judge: 7,
    echo: 4,
}


def draw(r: Random, polish: bool = False) -> Document:
    """One document of the mix."""
    makers = [maker for maker, _ in MIX]
    weights = [POLISH.get(maker, weight) if polish else weight for maker, weight in MIX]
    make: Callable[[Random], Document] = r.choices(makers, weights)[0]
    return make(r)


def vocabulary_texts() -> list[str]:
    """Everything written by hand that the model meets; what is made up at random stays spelled out."""

    def strings(node: Any) -> list[str]:
        if isinstance(node, str):
            return [node]
        return [s for item in (node.values() if isinstance(node, dict) else node) for s in strings(item)]

    tools = [
        t
        for group in (CONVERSE_TOOLS, JUDGE_TOOLS, PROPOSE_TOOLS, WRITE_TOOLS, SCHEDULE_TOOLS, DECAY_TOOLS)
        for t in group
    ]
    talk = [s for path in sorted(TALK.glob("*.toml")) for s in strings(tomllib.loads(path.read_text("utf-8")))]
    prompts = [p.read_text("utf-8") for p in sorted((TALK.parents[1] / "prompts").glob("*/*.md"))]
    always = [*tools, *prompts, "system user assistant ipython Tools name parameters distill none ok P S", *strings(FIXED),
              *strings(REASONS), *(en for pairs in SLOTS.values() for _, en in pairs)]  # fmt: skip
    replies = [s for i in intents() for s in strings(i.replies)]
    return talk + replies + always * 2
