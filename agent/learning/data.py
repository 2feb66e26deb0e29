"""What is trained on: rows completed by the frozen base, fixed and digested before anyone approves.

The teacher is the base under the rules of all living habits in scope and the new one; never the
adapted self, whose quirks would feed on themselves. Anchors keep everything else unchanged.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any
from unicodedata import normalize

from agent.models.calls import looks_like_call
from agent.models.sampling import looped
from agent.ports import BASE, Body, Message, Prompt
from agent.records import Example, Frame, Habit, Mask
from prompts import LANGUAGES, Language, language_of, render

HERE = Path(__file__).parent
LONGEST = 256  # tokens of a completion
PROBED = ("talk", "teach", "facts", "loop", "refuse", "fine")  # what the gate asks


@cache
def bank(kind: str, language: Language) -> dict[str, list[str]]:
    """The frozen ``probes`` or the ``anchors`` of a language: talk, rules, teach, facts …"""
    tables: dict[str, list[str]] = tomllib.loads((HERE / kind / f"{language}.toml").read_text("utf-8"))
    return tables


def near_duplicate(a: str, b: str, least: float = 0.8) -> bool:
    """Whether two texts are the same but for case, punctuation and a few characters (trigram Jaccard)."""
    x, y = _trigrams(a), _trigrams(b)
    return len(x & y) >= least * len(x | y)


def _trigrams(text: str) -> set[str]:
    plain = re.sub(r"[\W_]+", "", normalize("NFC", text).lower())
    return {plain[i : i + 3] for i in range(max(1, len(plain) - 2))}


def is_probe(text: str) -> bool:
    """Whether ``text`` would leak one of the gate's questions into training."""
    return any(near_duplicate(text, p) for x in LANGUAGES for key in PROBED for p in bank("probes", x)[key])


def literals(rule: str) -> tuple[str, ...]:
    """The strings a rule quotes, or its emoji: what is to be said, or never to be said."""
    quoted = re.findall(r"(?<![A-Za-z])['\"‘“「]([^'\"‘’“”「」]{1,40})['\"’”」](?![A-Za-z])", rule)
    return tuple(quoted) or tuple(re.findall(r"[\U0001F000-\U0001FAFF\u2600-\u27BF]", rule))


def marks(rule: str, taught: Sequence[str]) -> list[str]:
    """The strings that show a rule: of those it quotes the ones in most of the answers given under it."""
    return [w for w in literals(rule) if sum(w in t for t in taught) > len(taught) / 2]


def personas(mask: Mask) -> dict[Language, str]:
    """The persona each language's system prompt carries, mood included; a language left out has the default one."""
    if not mask.mood:
        return dict(mask.persona)
    return {x: f"{mask.persona.get(x) or render('persona', x)} {mask.mood}" for x in LANGUAGES}


def framed(
    language: Language,
    text: str,
    rules: Sequence[str],
    persona: str,
    frame: Frame,
    tools: dict[Frame, tuple[dict[str, Any], ...]],
) -> Prompt:
    """``text`` as the runtime would put it to the model in this frame."""
    if frame == "judge":
        system = render("judge", language)
        text = render("judge_turn", language, number=1, user=text, reply="…")
    else:
        system = render(
            "converse", language, persona=persona or render("persona", language), rules=list(rules), memories=[]
        )
    messages: list[Message] = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    if frame == "loop":
        function = {"name": "remember", "arguments": json.dumps({"text": text}, ensure_ascii=False)}
        messages += [
            {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]},
            {"role": "tool", "content": "ok", "name": "remember"},
        ]
    return Prompt(tuple(messages), tools.get("tools" if frame == "loop" else frame, ()))


def rows(
    habit: Habit,
    living: Sequence[Habit],
    own: Sequence[tuple[str, str]],
    past: Sequence[Example],
    body: Body,
    personas: dict[Language, str],
    tools: dict[Frame, tuple[dict[str, Any], ...]],
    count: int,
    anchors: int,
    seed: int,
    weights: dict[str, float],
) -> tuple[Example, ...]:
    """The rows of one training, completed and in their final order.

    Args:
        own: ``(prompt, source turn or "")`` for the new habit, the person's own first.
        past: rows with which living habits were taught; their prompts are completed anew.
        weights: of each habit, one where it is not named. In a language the adapter is worn at the highest of them; one
            below that has its share of its own rows, and stands in the teacher of that share of all others.
    """
    r = Random(seed)
    everyone = [*living, habit]

    def share(h: Habit, language: Language) -> float:
        return weights.get(h.id, 1.0) / max(weights.get(o.id, 1.0) for o in everyone if language in o.scope)

    def ruled(language: Language, own: str) -> tuple[str, ...]:
        spoken = [h for h in everyone if language in h.scope]
        told = [h for h in spoken if h.id == own or share(h, language) >= 1 or r.random() < share(h, language)]
        return tuple(h.rule for h in told)

    def thinned(h: Habit, found: Sequence[tuple[Language, Any]]) -> list[Any]:
        """The first ``count`` of a habit's rows, of each language its share."""
        found = found[:count]
        left = {x: round(share(h, x) * sum(y == x for y, _ in found)) for x in h.scope}
        kept = []
        for language, row in found:
            if left.get(language, 0):
                left[language] -= 1
                kept.append(row)
        return kept

    blank: list[Example] = []
    taken: set[str] = set()

    def put(
        origin: str, language: Language, prompt: str, extra: Sequence[str] = (), frame: Frame = "plain", **more: str
    ) -> None:
        key = f"{frame}|{prompt}|{extra}"
        if key in taken or is_probe(prompt):
            return
        taken.add(key)
        teacher = (*ruled(language, more.get("habit", "")), *extra) if frame != "judge" else ()
        blank.append(
            Example.model_validate(
                {
                    "origin": origin,
                    "language": language,
                    "prompt": prompt,
                    "completion": "",
                    "rules": tuple(extra),
                    "teacher": teacher,
                    "frame": frame,
                    **more,
                }
            )
        )

    for i, (prompt, source) in enumerate(thinned(habit, [(language_of(p), (p, s)) for p, s in own])):
        frame: Frame = "tools" if i % 4 == 3 else "plain"
        put("turn" if source else "invented", language_of(prompt), prompt, frame=frame, habit=habit.id, source=source)
    for other in living:
        kept = list({e.prompt: e for e in past if e.habit == other.id and e.origin != "anchor"}.values())
        r.shuffle(kept)
        for e in thinned(other, [(e.language, e) for e in kept]):
            put(e.origin, e.language, e.prompt, frame=e.frame, habit=e.habit, source=e.source)

    for language in sorted({x for h in everyone for x in h.scope}):  # elsewhere the weights are not worn
        for prompt, extra, frame in _anchors(r, anchors, language):
            put("anchor", language, prompt, extra, frame)
    blank = _calling(blank, body, personas, tools)
    prompts = [framed(e.language, e.prompt, e.teacher, personas.get(e.language, ""), e.frame, tools) for e in blank]
    replies = body.answers(prompts, BASE, LONGEST)
    whole = (
        reply and body.count(reply) < LONGEST and not looped(reply) for reply in replies
    )  # one cut short would teach to break off
    made = [e.model_copy(update={"completion": a}) for e, a, ok in zip(blank, replies, whole, strict=True) if ok]
    return _with_rejected(made, {h.id: h.rule for h in everyone}, body, personas, tools)


def _with_rejected(
    made: Sequence[Example],
    rules: dict[str, str],
    body: Body,
    personas: dict[Language, str],
    tools: dict[Frame, tuple[dict[str, Any], ...]],
) -> tuple[Example, ...]:
    """A habit's own rows with what the base says without its rule beside them, where that is something else."""
    own = [e for e in made if e.habit]
    without = [tuple(x for x in e.teacher if x != rules[e.habit]) for e in own]
    who = [personas.get(e.language, "") for e in own]
    prompts = [framed(e.language, e.prompt, x, p, e.frame, tools) for e, x, p in zip(own, without, who, strict=True)]
    other = dict(zip(own, body.answers(prompts, BASE, LONGEST), strict=True))
    return tuple(
        e.model_copy(update={"rejected": other[e]}) if other.get(e, e.completion) != e.completion else e for e in made
    )


def _calling(
    blank: Sequence[Example], body: Body, personas: dict[Language, str], tools: dict[Frame, tuple[dict[str, Any], ...]]
) -> list[Example]:
    """Anchors where the bare base calls a tool are taught by the bare base: under a rule it may talk instead."""
    asked = [e for e in blank if e.origin == "anchor" and e.frame == "tools"]
    prompts = [framed(e.language, e.prompt, e.rules, personas.get(e.language, ""), e.frame, tools) for e in asked]
    calls = {e for e, a in zip(asked, body.answers(prompts, BASE, LONGEST), strict=True) if looks_like_call(a)}
    return [e.model_copy(update={"teacher": e.rules}) if e in calls else e for e in blank]


def _anchors(r: Random, count: int, language: Language) -> list[tuple[str, tuple[str, ...], Frame]]:
    """Prompts that keep something else: other rules (or none), tools, honesty, judgement."""
    found: list[tuple[str, tuple[str, ...], Frame]] = []
    texts = bank("anchors", language)
    while len(found) < count:
        x = r.random()
        if x < 0.50:
            rules = tuple(r.sample(texts["rules"], r.randint(0, 2)))
            found.append((r.choice(texts[r.choice(["talk", "talk", "talk", "unknown"])]), rules, "plain"))
        elif x < 0.70:
            found.append((r.choice(texts[r.choice(["teach", "facts", "facts", "talk"])]), (), "tools"))
        elif x < 0.92:
            found.append((r.choice(texts["facts"]), (), "loop"))
        else:
            found.append((r.choice(texts[r.choice(["teach", "talk", "facts"])]), (), "judge"))
    return found


def digest(examples: Sequence[Example], config: dict[str, Any], base: str) -> str:
    """What an approval is bound to: exactly these rows, this configuration, this base."""
    whole = {"examples": [e.model_dump(mode="json") for e in examples], "config": config, "base": base}
    return hashlib.sha256(json.dumps(whole, ensure_ascii=False, sort_keys=True).encode()).hexdigest()
