"""Conversations: small talk under rules, facts told and recalled, rules taken up on the way."""

from __future__ import annotations

from random import Random
from typing import Any

from prompts import Language, render
from seedling import rules as styles
from seedling.document import CONVERSE_TOOLS, RECALL_TOOLS, Document, Message, call, converse_tools, says, user
from seedling.speech import (
    answer,
    draw_fact,
    draw_language,
    draw_rules,
    draw_slots,
    exchange,
    facts,
    filled,
    fixed,
    held_out,
    intents,
    kind_message,
    level_of,
    lexicon,
    one_language_rules,
    system,
    unknown_question,
)
from seedling.words import open_string


def chat(r: Random, counts: tuple[int, ...] = (0, 1, 1, 2, 2, 3, 3, 4), copying: float = 0.5) -> Document:
    """Small talk under zero to four rules, one to three turns."""
    language = draw_language(r)
    rules = draw_rules(r, language, r.choice(counts), copying=copying)
    if any(x.family == "banned" for x in rules):  # draw the banned word from the answer to come
        intent = r.choice([i for i in intents() if not held_out(rules, i.id)])
        slots = draw_slots(r, [*intent.asks[language], *intent.replies["en"]])
        plain = answer([x for x in rules if x.family == "casual"], language, intent.replies, slots)
        rules = [
            styles.draw(r, language, "banned", lexicon(language), plain) if x.family == "banned" else x for x in rules
        ]
        messages = [system(r, language, rules), user(filled(intent.ask(r, language), slots, language)),
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
    return Document(tuple(messages), _some_tools(r, rules), "chat", both=r.random() < 0.4)


def _some_tools(r: Random, rules: list[styles.Rule]) -> tuple[str, ...]:
    x = r.random()
    return converse_tools(bool(rules)) if x < 0.5 else RECALL_TOOLS if x < 0.55 else ()


def unknown_talk(r: Random) -> Document:
    language = draw_language(r)
    rules = draw_rules(r, language, r.choice([0, 0, 1, 2, 3]))
    messages = [
        system(r, language, rules),
        user(unknown_question(r, language)),
        says(fixed(rules, language, "unknown")),
    ]
    return Document(tuple(messages), _some_tools(r, rules), "unknown")


def kinds_talk(r: Random) -> Document:
    language = draw_language(r)
    rules = draw_rules(r, language, r.choice([0, 0, 1, 2]))
    kind, text = other_kind(r, language, rules)
    messages = [system(r, language, rules)]
    if r.random() < 0.5:
        ask, reply, _ = exchange(r, language, rules)
        messages += [user(ask), says(reply)]
    messages += [user(text), says(fixed(rules, language, kind))]
    return Document(tuple(messages), _some_tools(r, rules), "kinds")


def other_kind(r: Random, language: Language, rules: list[styles.Rule]) -> tuple[str, str]:
    """What a person says beside talk, facts and rules, and its kind.

    ``ingrained``: to stop what stands in no mask, as it is in the weights.
    """
    kind = r.choice(["correction", "ingrained", "preference", "preference", "feeling", "feeling", "secret", "secret"])
    if kind != "ingrained":
        return kind, kind_message(r, language, kind)
    others = [f for f in styles.FAMILIES[language] if f not in {x.family for x in rules}]
    return kind, styles.draw(r, language, r.choice(others), lexicon(language)).say("drop", r)


def some_facts(r: Random, count: int) -> list[dict[str, Any]]:
    """Different facts; often names alone, so that they are told apart, and often the person's own among them."""
    pool = facts()["fact"]
    if r.random() < 0.4:
        pool = [f for f in pool if f["value"] == "name"]
    found = r.sample(pool, count)
    own = next(f for f in facts()["fact"] if f["id"] == "my_name")
    if r.random() < 0.25 and own not in found:
        found[r.randrange(count)] = own
    return found


def fact_talk(r: Random) -> Document:
    """A fact told and asked for: from history, from memory, through recall, or never told."""
    language = draw_language(r)
    rules = one_language_rules(r, language, 2)
    level = level_of(rules, language)
    items = some_facts(r, 3)
    told = [draw_fact(r, language, f) for f in items]
    tell, ask, say, noted = told[0]
    say, noted = {level: say[level]}, {level: noted[level]}
    with_tools = r.random() < 0.6
    tools = converse_tools(bool(rules)) if with_tools else ()
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
            return Document(tuple(messages), tools, "fact")
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
    return Document(tuple(messages), tools, "fact")


def adopt_talk(r: Random) -> Document:
    """A rule is told, put into the mask by a tool call, and followed; or dropped again."""
    language = draw_language(r)
    rules = draw_rules(r, language, r.choice([1, 1, 2, 3]), copying=0.7)
    *standing, new = rules
    with_tools = r.random() < 0.75
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
        for _ in range(r.choice([0, 0, 1, 2])):
            q, a, _ = exchange(r, language, rules if drop else standing)
            messages += [user(q), says(a)]
        messages += [user(said), tool]
        return Document(tuple(messages), converse_tools(bool(before)), "adopt")
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
    return Document(tuple(messages), converse_tools(bool(shown)) if with_tools else (), "adopt")


def grown_talk(r: Random) -> Document:
    """A conversation in which a rule was told on the way: earlier replies do not follow it, later ones do.

    History shows no tool calls, as at run time; loss falls on the last reply alone.
    """
    language = draw_language(r)
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


Fact = tuple[str, str, dict[str, list[str]], dict[str, list[str]]]  # told, asked for, answered, acknowledged


def life_talk(r: Random) -> Document:
    """A stretch of a real conversation, of whatever people say in whatever order, as the runtime shows it.

    The mask is that of the moment, history shows no tool calls, what was remembered stands in the prompt. Loss
    falls on the last message alone: an earlier reply was given under the mask of then.
    """
    language = draw_language(r)
    rules = one_language_rules(r, language, 2)
    unheard = [draw_fact(r, language, f) for f in some_facts(r, 10)]
    told: list[Fact] = []
    history: list[Message] = []

    def known(item: Fact) -> str:
        return answer(rules, language, {level_of(rules, language): item[2][level_of(rules, language)]}, {})

    def noted(item: Fact) -> str:
        return answer(rules, language, {level_of(rules, language): item[3][level_of(rules, language)]}, {})

    def new_rule() -> styles.Rule | None:
        wanted = draw_rules(r, language, 1, copying=0.7)[0]
        fits = styles.compatible([*(x.family for x in rules), wanted.family])
        return wanted if fits and wanted.family not in ("language", "banned") else None

    def event(kinds: list[str]) -> str:
        kind = r.choice(kinds)
        return "talk" if (kind == "ask" and not told) or (kind in ("drop", "remind") and not rules) else kind

    for _ in range(r.choice([0, 1, 1, 2, 2, 3, 4, 5, 6])):
        match event(["talk"] * 9 + ["tell"] * 4 + ["ask", "kind", "unknown"] * 2 + ["rule"] * 2 + ["drop"]):
            case "tell":
                told.append(unheard.pop())
                history += [user(told[-1][0]), says(noted(told[-1]))]
            case "ask":
                item = r.choice(told)
                history += [user(item[1]), says(known(item))]
            case "kind":
                kind, text = other_kind(r, language, rules)
                history += [user(text), says(fixed(rules, language, kind))]
            case "unknown":
                history += [user(unknown_question(r, language)), says(fixed(rules, language, "unknown"))]
            case "rule" if new := new_rule():
                rules = [*rules, new]
                history += [user(new.say(r.choice(["tell", "rule"]), r)), says(fixed(rules, language, "adopted"))]
            case "drop":
                old = r.choice(rules)
                rules = [x for x in rules if x is not old]
                history += [user(old.say("drop", r)), says(fixed(rules, language, "dropped"))]
            case _:
                ask, reply, _ = exchange(r, language, rules)
                history += [user(ask), says(reply)]

    with_tools = r.random() < 0.85
    worn = rules  # the mask as the last message is answered
    step = r.random() < 0.5  # it ends in the call, or in what is said after it
    memories = [t[0] for t in told if r.random() < 0.7]
    called: list[Message] = []
    found, last = "ok", says("")
    ends = {"talk": 6, "tell": 6, "ask": 4, "unheard": 1, "rule": 4, "remind": 1, "drop": 2, "kind": 2, "unknown": 2}
    match event([kind for kind, share in ends.items() for _ in range(share)]):
        case "tell":
            item = unheard.pop()
            text, called, last = item[0], [call("remember", text=item[0])], says(noted(item))
        case "ask":
            item = r.choice(told)
            text, last = item[1], says(known(item))
        case "unheard":
            text = unheard.pop()[1]
            called, found, last = [call("recall", query=text)], "none", says(fixed(rules, language, "unheard"))
        case "remind":
            text, last = r.choice(rules).say("remind", r), says(fixed(rules, language, "adopted"))
        case "rule" if new := new_rule():
            text, called = (
                new.say(r.choice(["tell", "tell", "rule", "remind"]), r),
                [call("adopt_instruction", rule=new.canonical)],
            )
            rules = [*rules, new]
            last = says(fixed(rules, language, "adopted"))
            worn = worn if with_tools and step else rules
        case "drop":
            old = r.choice(rules)
            rules = [x for x in rules if x is not old]
            text, called = old.say("drop", r), [call("drop_instruction", rule=old.canonical)]
            last = says(fixed(rules, language, "dropped"))
            worn = worn if with_tools and step else rules
        case "kind":
            kind, text = other_kind(r, language, rules)
            last = says(fixed(rules, language, kind))
        case "unknown":
            text, last = unknown_question(r, language), says(fixed(rules, language, "unknown"))
        case _:
            text, reply, _ = exchange(r, language, rules)
            last = says(reply)
    if called and with_tools:
        ending = called if step else [*called, {"role": "ipython", "content": found}, last]
    else:
        ending = [last]
    messages = [system(r, language, worn, memories, manner=False), *history, user(text), *ending]
    return Document(tuple(messages), converse_tools(bool(worn)) if with_tools else (), "life", last_only=True)


def echo(r: Random) -> Document:
    """Say again what was quoted: copying in the open."""
    language = draw_language(r)
    items = [open_string(r, language, lexicon(language)) for _ in range(r.choice([1, 2, 3]))]
    if language == "ko":
        ask = r.choice(["이 말을 그대로 따라 해: {}", "{} 하고 말해 봐", "따라 해 봐, {}"])
    else:
        ask = r.choice(["repeat after me: {}", "say {} for me", "please echo {}"])
    text = ask.format(", ".join(f"'{x}'" for x in items))
    return Document((system(r, language, []), user(text), says(f"{', '.join(items)}.")), (), "echo")
