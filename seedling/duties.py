"""The runtime's other work: judging turns, proposing, writing, scheduling, letting fade, the diary."""

from __future__ import annotations

from random import Random

from prompts import Language, render
from seedling import rules as styles
from seedling.document import (
    DECAY_TOOLS,
    JUDGE_TOOLS,
    PROPOSE_TOOLS,
    SCHEDULE_TOOLS,
    WRITE_TOOLS,
    Document,
    call,
    says,
    user,
)
from seedling.rules import Rule
from seedling.speech import REASONS, VALUES, draw_language, draw_rules, exchange, fixed, kind_message, lexicon


def judge(r: Random, kind: str = "", held: bool = False) -> Document:
    """One turn to be judged."""
    language = draw_language(r)
    kind = kind or r.choice(
        ["instruction"] * 4 + ["smalltalk"] * 4 + ["correction", "preference", "fact", "fact", "feeling", "secret"]
    )
    rules = draw_rules(r, language, r.choice([0, 0, 1, 2]))
    text = kind_message(r, language, kind, held)
    dropped = kind == "correction" and r.random() < 0.4 and not held
    if dropped:
        text = _any_rule(r, language).say("drop", r)
    key = {"instruction": "adopted", "fact": "preference", "smalltalk": "unknown"}.get(kind, kind)
    key = r.choice(["dropped", "ingrained"]) if dropped else key
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
    language = draw_language(r)
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
    language = draw_language(r)
    prompts = list(dict.fromkeys(exchange(r, language, [])[0] for _ in range(6)))
    number = r.randrange(1, 30)
    messages = (
        {"role": "system", "content": render("write", language)},
        user(render("write_habit", language, number=number, rule=_any_rule(r, language).canonical)),
        call("write_examples", habit=number, prompts=prompts),
    )
    return Document(messages, WRITE_TOOLS, "write")


def schedule(r: Random) -> Document:
    language = draw_language(r)
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


def decay(r: Random, unwanted: bool | None = None) -> Document:
    """A habit in the weights: it goes where the person asked to stop, fades where it is unused, else stays."""
    language = draw_language(r)
    tenths = r.randrange(0, 10) if r.random() < 0.5 else r.randrange(10, 60)
    weight = r.choice(["1.0", "0.5", "0.25"])
    number = r.randrange(1, 30)
    halved = {"1.0": 0.5, "0.5": 0.25, "0.25": 0.1}[weight]
    rule = _any_rule(r, language)
    unwanted = r.random() < 0.3 if unwanted is None else unwanted
    heard = [_beside(r, rule) for _ in range(r.choice([0, 0, 1, 2]))]
    if unwanted:
        heard.insert(r.randrange(len(heard) + 1), rule.say("drop", r))
        action = call("decay_old_adapter", habit=number, weight=0, reason=REASONS[language]["stop"])
    elif tenths >= 10:
        action = call("decay_old_adapter", habit=number, weight=halved, reason=REASONS[language]["decay"])
    else:
        action = call("abstain", reason=REASONS[language]["keep"])
    text = render(
        "decay_habit",
        language,
        number=number,
        rule=rule.canonical,
        weight=weight,
        half_lives=f"{tenths / 10:.1f}",
        heard=heard,
    )
    return Document(
        ({"role": "system", "content": render("decay", language)}, user(text), action), DECAY_TOOLS, "decay"
    )


def _beside(r: Random, rule: Rule) -> str:
    """What resembles a habit and does not ask to stop it: told again, or another rule told or dropped."""
    x = r.random()
    if x < 0.4:
        return rule.say(r.choice(["tell", "remind"]), r)
    if x < 0.6:
        return kind_message(r, rule.language, r.choice(["preference", "correction"]))
    family = r.choice([f for f in styles.FAMILIES[rule.language] if f != rule.family])
    other = styles.draw(r, rule.language, family, lexicon(rule.language))
    return other.say(r.choice(["tell", "drop"]), r)


def diary(r: Random) -> Document:
    language = draw_language(r)
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
