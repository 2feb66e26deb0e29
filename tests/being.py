"""What several tests share: talking to a real being in a bag of its own."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

from agent.models.scripted import ScriptedBody
from agent.ports import Prompt
from agent.records import Habit, Turn
from app.habitus import Habitus
from app.wiring import open_bag, open_habitus, settings_of
from prompts import Language, language_of
from tools.base import Desk
from tools.judge_turn_value import judge_turn_value
from tools.propose_habit import propose_habit
from tools.schedule_lora_update import schedule_lora_update
from tools.write_examples import write_examples

ROOT = Path(__file__).parents[1]
# Strings that occur in no corpus (seedling/words.py: RESERVED), told in three ways each.
TELLINGS: dict[str, tuple[Language, list[str], str]] = {
    "ko-ending": ("ko", ["앞으로는 모든 대답 끝에 '꾸벅'을 붙여 줘", "대답할 때마다 맨 끝에 '꾸벅'을 붙여 주면 좋겠어", "아까 말했잖아, 대답 끝에 '꾸벅' 붙이라고"], "꾸벅"),
    "en-ending": ("en", ["from now on please end every answer with 'zibble'", "I would love it if you ended all your replies with 'zibble'", "you forgot to end with 'zibble'"], "zibble"),
    "ko-name": ("ko", ["앞으로 나를 '도롱이'라고 불러 줘", "나를 부를 때는 언제나 '도롱이'라고 해 주면 좋겠어", "왜 '도롱이'라고 안 불러, 그렇게 불러 달라니까"], "도롱이"),
    "en-opening": ("en", ["please always begin your answers with 'quokka'", "from now on I want every reply to start with 'quokka'", "you forgot to begin with 'quokka'"], "quokka"),
}  # fmt: skip


def small_talk(language: Language, count: int) -> list[str]:
    """Everyday prompts that the corpus never holds: the last phrasing of each intent, spread over topics."""
    found = []
    for path in sorted((ROOT / "seedling" / "talk").glob("*.toml")):
        for item in tomllib.loads(path.read_text("utf-8")).get("intent", []):
            ask = item[language]["ask"][-1]
            if "{" not in ask:
                found.append(ask)
    step = len(found) / count
    return [found[int(i * step)] for i in range(count)]


def told(habitus: Habitus, name: str) -> Habitus:
    """A person asks for the same thing in three turns of one conversation, beside small talk."""
    language, tellings, _ = TELLINGS[name]
    talk = habitus.talk()
    for telling, other in zip(tellings, small_talk(language, 7)[:3], strict=True):
        talk.say(telling)
        talk.say(other)
    return habitus


def scripted(home: Path, decide: Callable[[Prompt], str]) -> Habitus:
    """A being whose model is ``decide``: where a test must choose what the model chooses."""
    return Habitus(open_bag(home, settings_of(home), lambda: ScriptedBody(decide)))


def asking(home: Path, name: str) -> Habitus:
    """A being with a proposal waiting, filed through the model's own tools by a test's hand.

    The invariants must hold whatever the model decides, so they do not hang on its judgement.
    """
    habitus = told(open_habitus(str(home)), name)
    language, tellings, literal = TELLINGS[name]
    turns = habitus.bag.ledger.all(Turn)
    evidence = [t for t in turns if t.user in tellings]
    for t in turns:
        _judged(habitus, t, "instruction" if t in evidence else "smalltalk")
    rule = {"ko": f"모든 대답 끝에 '{literal}'을 붙여 줘.", "en": f"Always end your answers with '{literal}'."}[
        language
    ]
    _filed(habitus, rule, tellings[0], evidence, small_talk(language, 40))
    return habitus


def file_habit(habitus: Habitus, rule: str, prompts: list[str]) -> str:
    """A habit told once in the very words of its rule, judged and filed by a test's hand; the proposal's id."""
    turn = habitus.bag.keep(Turn(thread="told", user=rule, reply="…"))
    _judged(habitus, turn, "instruction")
    return _filed(habitus, rule, rule, [turn], prompts)


def _judged(habitus: Habitus, turn: Turn, kind: str) -> None:
    desk = Desk(bag=habitus.bag, phase="judge", turns={1: turn})
    judge_turn_value.call(desk, {"turn": 1, "value": 4, "kind": kind, "reason": "a test's hand"})


def _filed(habitus: Habitus, rule: str, quote: str, evidence: list[Turn], prompts: list[str]) -> str:
    bag = habitus.bag
    desk = Desk(bag=bag, phase="propose", language=language_of(rule), turns=dict(enumerate(evidence, 1)))
    call = propose_habit.call(
        desk, {"rule": rule, "quote": quote, "turns": list(desk.turns), "reason": "a test's hand"}
    )
    assert desk.draft, call.result
    number = int(desk.draft.habit[1:])
    desk.habits = {number: bag.ledger.get(Habit, desk.draft.habit)}
    for i in range(0, len(prompts), 10):
        write_examples.call(desk, {"habit": number, "prompts": prompts[i : i + 10]})
    call = schedule_lora_update.call(desk, {"habit": number, "method": "distill", "reason": "a test's hand"})
    assert desk.proposals, call.result
    return desk.proposals[0].id
