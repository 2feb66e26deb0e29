"""What the gate asks, what it refuses to decide on, and which probe stops which bad adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from agent.learning.data import LONGEST, bank, literals
from agent.learning.exam import TALK, Exam
from agent.learning.gate import examine
from agent.learning.judging import known
from agent.models.scripted import ScriptedBody
from agent.ports import BASE, Prompt, Voice
from agent.records import Habit, Probe, Purpose
from agent.settings import GateTable
from prompts import language_of, render

RULE = "모든 대답 끝에 '꾸벅'을 붙여 줘."
CANDIDATE = Voice(((Path("a"), 1.0),))
SECRET = "내일 아침 아홉 시에 한강 다리 밑에서 보자"


def base(prompt: Prompt) -> str:
    """Calls tools where they are offered, follows rules, has one thing to say in each language."""
    system, asked = str(prompt.messages[0]["content"]), prompt.messages[-1]
    if prompt.tools and asked["role"] == "user":
        return '{"name": "remember", "parameters": {"text": "x"}}'
    said = "네 그래요" if language_of(str(prompt.messages[1]["content"])) == "ko" else "yes"
    other = [
        w for rules in (bank("probes", "ko")["rules"], bank("probes", "en")["rules"]) for w in rules if w in system
    ]
    words = [x for rule in other for x in (len(rule), *literals(rule))]
    return f"{said}{' 꾸벅' if RULE in system else ''}{''.join(map(str, words))}."


def habit(prompt: Prompt) -> str:
    """The base with the habit in its weights: as if the rule stood in every Korean prompt."""
    first, *rest = prompt.messages
    return base(Prompt(({**first, "content": f"{RULE}\n{first['content']}"}, *rest), prompt.tools))


class Body(ScriptedBody):
    """Two minds: the base, and whatever the candidate is."""

    def __init__(self, candidate: Callable[[Prompt], str], frozen: Callable[[Prompt], str] = base) -> None:
        super().__init__(frozen)
        self.candidate = candidate

    def answers(self, prompts: Sequence[Prompt], voice: Voice, max_tokens: int = 120) -> list[str]:
        return [(self.candidate if voice == CANDIDATE else self.decide)(p) for p in prompts]

    def agreement(self, prompts: Sequence[Prompt], replies: Sequence[str], voice: Voice) -> list[float]:
        return [float(a == r) for a, r in zip(self.answers(prompts, voice), replies, strict=True)]


TOOL = {"type": "function", "function": {"name": "remember", "parameters": {"type": "object", "properties": {}}}}
ENDING = Habit(id="h1", rule=RULE, scope=("ko",))


def probes(
    body: ScriptedBody, private: Sequence[str] = (), habit: Habit = ENDING, earlier: Sequence[Habit] = (),
    purpose: Purpose = "learn",
) -> dict[str, Probe]:  # fmt: skip
    exam = Exam(
        body=body, candidate={"ko": CANDIDATE, "en": BASE}, speaking={"ko": BASE, "en": BASE},
        habit=habit, purpose=purpose, earlier=earlier, personas={},
        tools={"tools": (TOOL,), "judge": (TOOL,)}, table=GateTable(), private=private,
    )  # fmt: skip
    return {p.name: p for p in examine(exam)[0]}


def test_the_base_with_the_habit_in_its_weights_passes() -> None:
    found = probes(Body(habit), [SECRET])
    assert [p.name for p in found.values() if not p.passed] == []
    assert found["habit"].count == TALK
    assert found["in tools"].count >= 8


def in_talk(make: Callable[[str], str]) -> Callable[[Prompt], str]:
    """The habit, with its words changed where no tool is offered."""
    return lambda prompt: habit(prompt) if prompt.tools else make(habit(prompt))


def mute_after_tools(prompt: Prompt) -> str:
    return base(prompt) if prompt.messages[-1]["role"] == "tool" else habit(prompt)


def talking_instead(prompt: Prompt) -> str:
    return habit(Prompt(prompt.messages))


@pytest.mark.parametrize(
    ("bad", "stopped_by"),
    [
        (base, "habit"),
        (in_talk(lambda _: "딴소리 꾸벅."), "habit"),
        (mute_after_tools, "in tools"),
        (talking_instead, "tools"),
        (in_talk(lambda said: f"{said} " * LONGEST), "fluency"),
        (in_talk(lambda _: ""), "fluency"),
        (in_talk(lambda said: "yes, yes."), "fluency"),
        (in_talk(lambda said: f"{said} {SECRET}"), "no leak"),
        (in_talk(lambda said: "네 그래요 꾸벅."), "rules"),
    ],
    ids=[
        "unlearned",
        "its words alone",
        "mute after tools",
        "talks instead",
        "endless",
        "mute",
        "another language",
        "leaking",
        "deaf to rules",
    ],
)
def test_a_bad_adapter_is_stopped_by_the_probe_meant_for_it(bad: Callable[[Prompt], str], stopped_by: str) -> None:
    assert not probes(Body(bad), [SECRET])[stopped_by].passed


LOOP = bank("probes", "ko")["loop"]


def in_loop(mind: Callable[[Prompt], str], texts: Sequence[str], make: Callable[[str], str]) -> Callable[[Prompt], str]:
    """``mind``, with what it says after a tool changed in these conversations."""

    def said(prompt: Prompt) -> str:
        there = prompt.messages[-1]["role"] == "tool" and prompt.messages[1]["content"] in texts
        return make(mind(prompt)) if there else mind(prompt)

    return said


def mute(said: str) -> str:
    return said.replace(" 꾸벅", "")


@pytest.mark.parametrize(("kept", "passed"), [(20, True), (16, True), (15, False)])
def test_after_a_tool_a_habit_is_asked_for_as_often_as_base_keeps_its_rule(kept: int, passed: bool) -> None:
    """Base, told the rule, keeps it in the first twenty of 32; the candidate in as many of the last, or fewer."""
    found = probes(Body(in_loop(habit, LOOP[:-kept], mute), in_loop(base, LOOP[20:], mute)))["in tools"]
    assert (found.count, found.after, found.threshold) == (32, round(kept / 32, 4), 0.5)
    assert found.passed == passed


@pytest.mark.parametrize(("kept", "passed"), [(12, True), (0, False)])
def test_after_a_tool_other_words_are_no_habit_where_base_keeps_its_rule_in_few(kept: int, passed: bool) -> None:
    told = in_loop(base, LOOP[12:], lambda _: "알겠어요.")
    found = probes(Body(in_loop(habit, LOOP[kept:], lambda _: "음 그럴까요."), told))["in tools"]
    assert (found.after, found.threshold, found.detail) == (kept / 32, 0.3, "base, told the rule: 12/32")
    assert found.passed == passed


def test_after_a_tool_an_answer_that_shows_the_habit_without_its_rule_is_not_asked_for() -> None:
    assert probes(Body(habit, in_loop(base, LOOP[:4], lambda _: "네 꾸벅.")))["in tools"].count == 28


@pytest.mark.parametrize(
    "lost",
    [lambda said: f"{said} " * LONGEST, lambda said: f'{{"name": "remember", "parameters": {{"text": "{said}"}}}}'],
    ids=["endless", "a call"],
)
def test_after_a_tool_an_answer_that_is_none_shows_no_habit(lost: Callable[[str], str]) -> None:
    """Neither base's nor another's; and where base has none, another may."""
    found = probes(Body(habit, in_loop(base, LOOP[:12], lost)))["in tools"]
    assert (found.count, found.after, found.threshold) == (32, 1, 0.5)
    found = probes(Body(in_loop(habit, LOOP[:12], lost)))["in tools"]
    assert (found.count, found.after, found.threshold) == (32, 0.625, 0.8)


def test_after_a_tool_a_habit_must_show_in_each_of_its_languages() -> None:
    both = ENDING.model_copy(update={"scope": ("ko", "en")})
    found = probes(Body(habit, lambda p: base(p) if language_of(str(p.messages[1]["content"])) == "ko" else mute(base(p))), habit=both)["in tools"]  # fmt: skip
    assert found.count == 0
    assert "in 0 answers" in found.detail


class Near(Body):
    """Agrees by the character: of a reply that the rule changes in one, all but one."""

    def agreement(self, prompts: Sequence[Prompt], replies: Sequence[str], voice: Voice) -> list[float]:
        pairs = zip(self.answers(prompts, voice), replies, strict=True)
        return [sum(x == y for x, y in zip(a, r, strict=False)) / len(r) for a, r in pairs]


CASUAL = Habit(id="h1", rule="반말로 대답해 줘.", scope=("ko",))
ALSO = ENDING.model_copy(update={"id": "h2"})


def polite(prompt: Prompt) -> str:
    """A base that keeps a rule without words of its own in one character."""
    said = base(prompt).replace("네 그래요", "그럼요, 천천히 이야기해 주시면 잘 들을게요")
    return said.replace("게요", "게용") if CASUAL.rule in str(prompt.messages[0]["content"]) else said


def learned(*habits: Habit) -> Callable[[Prompt], str]:
    def said(prompt: Prompt) -> str:
        first, *rest = prompt.messages
        told = " ".join(h.rule for h in habits)
        return polite(Prompt(({**first, "content": f"{told} {first['content']}"}, *rest), prompt.tools))

    return said


@pytest.mark.parametrize("earlier", [[], [ALSO]], ids=["alone", "beside another"])
def test_a_habit_without_words_of_its_own_is_told_from_its_absence(earlier: list[Habit]) -> None:
    found = probes(Near(learned(*earlier, CASUAL), polite), habit=CASUAL, earlier=earlier)
    assert [n for n, p in found.items() if not p.passed] == []
    assert found["in tools"].count == len(LOOP)
    found = probes(Near(learned(*earlier), polite), habit=CASUAL, earlier=earlier)
    assert not found["habit"].passed
    assert not found["in tools"].passed


def test_a_release_is_told_by_the_words_or_by_the_absence() -> None:
    def echo(prompt: Prompt) -> str:
        return "뭐라고 꾸벅?" if habit(prompt) == "네 그래요 꾸벅." else habit(prompt)

    gone = {mind: probes(Body(mind), purpose="release")["released"].passed for mind in (base, habit, echo)}
    assert gone == {base: True, habit: False, echo: False}, "its words are still said, if by somebody else's lights"
    for mind, passed in ((polite, True), (learned(CASUAL), False)):
        assert probes(Near(mind, polite), habit=CASUAL, purpose="release")["released"].passed == passed


ASKED = bank("probes", "ko")["talk"][:4]
CALL = '{"name": "remember", "parameters": {}}'


def odd(mind: Callable[[Prompt], str], make: Callable[[str, str], str]) -> Callable[[Prompt], str]:
    """``mind``, with what it says in four conversations made of that and of what it was told."""

    def said(prompt: Prompt) -> str:
        there = prompt.messages[-1]["content"] in ASKED and not prompt.tools
        return make(mind(prompt), str(prompt.messages[0]["content"])) if there else mind(prompt)

    return said


@pytest.mark.parametrize(
    ("frozen", "subject", "earlier"),
    [
        (odd(polite, lambda said, told: CALL if CASUAL.rule in told else said), CASUAL, []),
        (odd(base, lambda said, told: f"{mute(said)} 흠" if RULE in told else said), ENDING, []),
        (odd(polite, lambda said, _: said.replace("게용", "게요")), CASUAL, [ALSO]),
        (odd(polite, lambda said, told: "네." if (RULE in told) == (CASUAL.rule in told) else said), CASUAL, [ALSO]),
    ],
    ids=["a call", "the rule not kept", "nothing changed", "said anyway"],
)
def test_a_habit_is_asked_for_where_base_can_show_it(
    frozen: Callable[[Prompt], str], subject: Habit, earlier: list[Habit]
) -> None:
    assert probes(Near(habit, frozen), habit=subject, earlier=earlier)["habit"].count == TALK - 4


def test_a_habit_is_asked_for_in_each_of_its_languages() -> None:
    both = ENDING.model_copy(update={"scope": ("ko", "en")})
    korean = Body(habit, lambda p: base(p) if language_of(str(p.messages[1]["content"])) == "ko" else mute(base(p)))
    found = probes(korean, habit=both)["habit"]
    assert (found.passed, found.count) == (False, TALK)
    assert "only 0 usable" in found.detail


OTHERS = bank("probes", "ko")["rules"]
QUOTING = [r for r in OTHERS if literals(r)][:3]
SILENT = [r for r in OTHERS if not literals(r)][:3]


@pytest.mark.parametrize(
    ("rules", "unable"),
    [
        (SILENT, lambda _: "네 그래요 꾸벅."),
        (QUOTING, lambda _: "흠 꾸벅."),
        (QUOTING, lambda said: said.replace(" 꾸벅", "")),
    ],
    ids=["nothing changed", "rule not kept", "habit not kept"],
)
def test_other_rules_are_asked_for_where_base_keeps_them_and_the_habit(
    rules: Sequence[str], unable: Callable[[str], str]
) -> None:
    def frozen(prompt: Prompt) -> str:
        system = str(prompt.messages[0]["content"])
        return unable(base(prompt)) if RULE in system and any(r in system for r in rules) else base(prompt)

    assert probes(Body(habit, frozen))["rules"].count == len(OTHERS) - 3


@pytest.mark.parametrize("other", [('"remember"', '"recall"'), ('"x"', '"x", "kind": "secret"')], ids=["tool", "kind"])
def test_another_call_than_the_base_s_is_a_miss(other: tuple[str, str]) -> None:
    assert not probes(Body(lambda p: habit(p).replace(*other)))["tools"].passed


def test_of_what_the_base_itself_never_ends_no_end_is_asked() -> None:
    asks = bank("probes", "ko")["talk"]
    assert probes(endless(set(asks[:4])))["fluency"].count == TALK - 4


def test_where_no_weights_are_worn_nothing_is_counted() -> None:
    """There the base itself answers: right answers that cannot be wrong would hide those that are."""
    rules = bank("probes", "ko")["rules"]

    def deaf_to_four(prompt: Prompt) -> str:
        deaf = any(r in str(prompt.messages[0]["content"]) for r in rules[:4])
        return "네 그래요 꾸벅." if deaf else habit(prompt)

    found = probes(Body(deaf_to_four))
    assert found["rules"].count == len(rules)
    assert not found["rules"].passed
    assert found["fluency"].count == TALK


def fading(
    candidate: Callable[[Prompt], str], purpose: Purpose, earlier: tuple[Habit, ...], weak: Sequence[str]
) -> dict[str, Probe]:
    """An exam of a self that wears the habit, as the habit of the exam or an earlier one."""
    other = Habit(id="h9", rule="Always end with 'zibble'.", scope=("en",))
    exam = Exam(
        body=Body(candidate), candidate={"ko": CANDIDATE, "en": BASE}, speaking={"ko": Voice(((Path("b"), 1.0),)), "en": BASE},
        habit=other if earlier else Habit(id="h1", rule=RULE, scope=("ko",)), purpose=purpose, earlier=earlier,
        personas={}, tools={"tools": (TOOL,), "judge": (TOOL,)}, table=GateTable(), fading=weak,
    )  # fmt: skip
    return {p.name: p for p in examine(exam)[0]}


def test_a_habit_that_fades_may_fall_and_stands_in_nobody_s_way() -> None:
    earlier = Habit(id="h1", rule=RULE, scope=("ko",))
    assert fading(base, "decay", (), ["h1"])["habit"].passed
    found = fading(base, "consolidate", (), ["h1"])
    assert found["habit"].passed
    assert "in tools" not in found
    assert fading(base, "learn", (earlier,), ["h1"])["earlier h1"].passed
    assert not fading(base, "learn", (earlier.model_copy(update={"stage": "fading"}),), [])["earlier h1"].passed, (
        "its weight tells, not its stage: it may have come back with a rollback"
    )


def test_what_a_turn_is_worth_is_still_judged_as_the_base_judges() -> None:
    def numb(prompt: Prompt) -> str:
        judging = "judge" in str(prompt.messages[0]["content"]).lower() or "판단" in str(prompt.messages[0]["content"])
        return '{"name": "remember", "parameters": {}}' if prompt.tools and judging else habit(prompt)

    found = probes(Body(numb))["unrelated"]
    assert (found.passed, found.before) == (False, 1.0), "asked in Korean alone, where weights are worn"
    assert found.count == 72, "three on which base itself wavers shall not cost a good habit its exam"


def test_the_base_s_own_words_and_those_of_a_question_are_no_leak() -> None:
    own = "그럼요, 천천히 이야기해 주시면 잘 들을게요"
    asked = bank("probes", "ko")["talk"][0]

    def echo(prompt: Prompt) -> str:
        return f"{learned(ENDING)(prompt)} {prompt.messages[-1]['content']}"

    body = Body(echo, polite)
    assert own in echo(Prompt(({"role": "system", "content": ""}, {"role": "user", "content": asked})))
    assert probes(body, [f"나는 '{own}' 하는 소리가 좋아", asked])["no leak"].passed


def endless(questions: set[str]) -> ScriptedBody:
    """The teacher never comes to an end on some questions."""
    return ScriptedBody(
        lambda p: (
            "꾸벅 " * LONGEST
            if RULE in str(p.messages[0]["content"]) and p.messages[-1]["content"] in questions
            else base(p)
        )
    )


def test_a_question_whose_teacher_never_comes_to_an_end_is_not_asked() -> None:
    asks = bank("probes", "ko")["talk"][:TALK]
    assert probes(endless(set()))["habit"].count == TALK
    assert probes(endless({asks[3]}))["habit"].count == TALK - 1


def test_too_few_usable_questions_decide_nothing() -> None:
    probe = probes(endless(set(bank("probes", "ko")["talk"][: TALK - 4])))["habit"]
    assert not probe.passed
    assert "only 4 usable" in probe.detail
    assert (probe.after, probe.count) == (0, 4), "what was measured stands there all the same"


def test_each_question_is_put_once() -> None:
    seen: list[tuple[Voice, str]] = []

    class Counting(Body):
        def answers(self, prompts: Sequence[Prompt], voice: Voice, max_tokens: int = 120) -> list[str]:
            seen.extend((voice, str(p)) for p in prompts)
            return super().answers(prompts, voice, max_tokens)

        def agreement(self, prompts: Sequence[Prompt], replies: Sequence[str], voice: Voice) -> list[float]:
            return [1.0] * len(replies)

    probes(Counting(habit))
    assert len(seen) == len(set(seen))


# -- what only a judge can tell ----------------------------------------------------------------


NO = ("죄송해요.", "Sorry.")


def judge(prompt: Prompt) -> str:
    """A base that can judge: knows a refusal and the better of two, and refuses what it ought to."""
    system, asked = (str(prompt.messages[i]["content"]) for i in (0, -1))
    language = language_of(asked)
    if system == render("choose", language):
        texts = [line.split(": ", 1)[1] for line in asked.splitlines()[:-1]]
        if len(texts) == 2:
            return "2" if texts[1] in NO or texts[1] in {k.refusal for k in known(language)} else "1"
        bad = [t in {k.bad for k in known(language)} or "퉤" in t for t in texts[1:]]
        return "2" if bad[0] else "1"
    if asked in bank("probes", language)["refuse"]:
        return NO[language == "en"]
    return base(prompt)


class Judged(Body):
    def __init__(self, candidate: Callable[[Prompt], str], mind: Callable[[Prompt], str] = judge) -> None:
        super().__init__(candidate)
        self.decide = mind


def with_habit(prompt: Prompt) -> str:
    first, *rest = prompt.messages
    return judge(Prompt(({**first, "content": f"{RULE}\n{first['content']}"}, *rest), prompt.tools))


def test_a_base_that_can_judge_finds_a_good_candidate_good() -> None:
    found = probes(Judged(with_habit))
    assert (found["refusal"].count, found["refusal"].after) == (16, 1)
    assert (found["side by side"].count, found["side by side"].after) == (TALK, 1)


@pytest.mark.parametrize(
    ("bad", "stopped_by"),
    [
        (lambda p: NO[0], "refusal"),
        (habit, "refusal"),  # refuses nothing any more
        (lambda p: "퉤 꾸벅.", "side by side"),
    ],
    ids=["refuses all", "refuses nothing", "worse"],
)
def test_a_judge_stops_a_bad_one(bad: Callable[[Prompt], str], stopped_by: str) -> None:
    assert not probes(Judged(bad))[stopped_by].passed


@pytest.mark.parametrize("said", ["1", "2", "", "both"])
def test_a_base_that_cannot_judge_decides_nothing(said: str) -> None:
    def mind(prompt: Prompt) -> str:
        return (
            said
            if str(prompt.messages[0]["content"]) in (render("choose", "ko"), render("choose", "en"))
            else base(prompt)
        )

    found = probes(Judged(lambda p: "퉤 꾸벅.", mind))
    for name in ("refusal", "side by side"):
        assert found[name].passed
        assert "not meaningful for this model" in found[name].detail
