"""The seedling's corpus: right answers, nothing from the exam, and exactly the runtime's own prompts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import product
from random import Random
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

import pytest

from agent.learning.data import PROBED, bank, is_probe, near_duplicate
from bench.learning.lessons import facts
from graphs.converse import toolbox
from prompts import Language
from seedling import corpus, speech, talks
from seedling.document import (
    CONVERSE_TOOLS,
    DECAY_TOOLS,
    JUDGE_TOOLS,
    PROPOSE_TOOLS,
    RECALL_TOOLS,
    SCHEDULE_TOOLS,
    WRITE_TOOLS,
    Document,
    converse_tools,
)
from seedling.rules import FAMILIES, Rule, apply, compatible, phrasings
from seedling.train import encode
from seedling.words import EMOJI_HELD_OUT, RESERVED, SLOTS, open_string, resolve_particles
from tools.abstain import abstain
from tools.base import Tool
from tools.decay_old_adapter import decay_old_adapter
from tools.judge_turn_value import judge_turn_value
from tools.propose_habit import propose_habit
from tools.schedule_lora_update import schedule_lora_update
from tools.write_examples import write_examples

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LANGUAGES: tuple[Language, Language] = ("ko", "en")
TOOLBOXES: dict[tuple[str, ...], tuple[Tool, ...]] = {
    CONVERSE_TOOLS: toolbox("growth", ruled=True),
    converse_tools(False): toolbox("growth", ruled=False),
    RECALL_TOOLS: toolbox("sandbox", ruled=True),
    JUDGE_TOOLS: (judge_turn_value, abstain),
    PROPOSE_TOOLS: (propose_habit, abstain),
    WRITE_TOOLS: (write_examples, abstain),
    SCHEDULE_TOOLS: (schedule_lora_update, abstain),
    DECAY_TOOLS: (decay_old_adapter, abstain),
    (): (),
}


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    r = Random(20)
    return [corpus.draw(r) for _ in range(3000)]


def said(documents: list[Document], *roles: str) -> Iterator[str]:
    for document in documents:
        for message in document.messages:
            if not roles or message["role"] in roles:
                yield message["content"]


# -- rules -------------------------------------------------------------------------------------

ONE = "Good morning. I am here."
KO = "좋은 아침이에요. 저 여기 있어요."


@pytest.mark.parametrize(
    ("families", "answer", "right"),
    [
        ({"ending": "zib"}, ONE, "Good morning. I am here zib."),
        ({"opening": "zib"}, ONE, "zib, Good morning. I am here."),
        ({"name": "Jun"}, ONE, "Jun, Good morning. I am here."),
        ({"name": "Jun", "opening": "zib"}, ONE, "zib, Jun, Good morning. I am here."),
        ({"short": "", "exclaim": ""}, ONE, "Good morning!"),
        ({"short": "", "ending": "zib", "emoji": "🐳"}, ONE, "Good morning zib. 🐳"),
        ({"twice": "", "ending": "zib"}, "Yes.", "Yes zib. Yes zib."),
        ({"list": "", "name": "Jun"}, ONE, "- Jun, Good morning.\n- I am here."),
        ({"list": "", "exclaim": ""}, ONE, "- Good morning!\n- I am here!"),
        ({"quotes": "", "title": "zib"}, ONE, '[zib] "Good morning. I am here."'),
        ({"brackets": "", "postscript": "zib"}, ONE, "(Good morning. I am here.) P.S. zib"),
        ({"lower": "", "name": "Jun"}, ONE, "Jun, good morning. i am here."),
        ({"sign": "zib"}, ONE, "Good morning. I am here.\n- zib"),
        ({"ending": "뿅"}, KO, "좋은 아침이에요. 저 여기 있어요 뿅."),
        ({"exclaim": "", "ending": "뿅", "name": "준"}, KO, "준, 좋은 아침이에요! 저 여기 있어요 뿅!"),
        ({"postscript": "뿅"}, KO, "좋은 아침이에요. 저 여기 있어요. 추신: 뿅"),
        ({"postscript": "뿅", "emoji": "🐳"}, KO, "좋은 아침이에요. 저 여기 있어요. 추신: 뿅 🐳"),
        ({"list": "", "ending": "뿅"}, KO, "- 좋은 아침이에요.\n- 저 여기 있어요 뿅."),
        ({"title": "뿅", "short": "", "quotes": "", "sign": "꽁"}, KO, '[뿅] "좋은 아침이에요."\n- 꽁'),
    ],
    ids=lambda x: "+".join(x) if isinstance(x, dict) else "",
)
def test_rules_change_an_answer_in_one_fixed_order(families: dict[str, str], answer: str, right: str) -> None:
    language: Language = "en" if answer.isascii() else "ko"
    rules = [Rule(family, language, value) for family, value in families.items()]
    assert compatible(list(families))
    assert apply(rules, answer) == apply(rules[::-1], answer) == right


REPLIES = {"polite": ["비가 와요.", "눈이 와요."], "casual": ["비가 와.", "눈이 와."], "en": ["It rains.", "It snows."]}


@pytest.mark.parametrize(
    ("language", "families", "right"),
    [
        ("ko", {}, "비가 와요."),
        ("ko", {"casual": ""}, "비가 와."),
        ("ko", {"polite": ""}, "비가 와요."),
        ("ko", {"language": ""}, "It rains."),
        ("en", {"language": ""}, "비가 와요."),
        ("ko", {"banned": "비가"}, "눈이 와요."),
        ("en", {"banned": "rains", "ending": "zib"}, "It snows zib."),
        ("ko", {"banned": "와요"}, "비가 와요."),  # no reply is without it: the first stays
    ],
)
def test_some_rules_choose_the_answer(language: Language, families: dict[str, str], right: str) -> None:
    rules = [Rule(family, language, value) for family, value in families.items()]
    assert speech.answer(rules, language, REPLIES, {}) == right


def test_every_family_is_told_in_every_manner() -> None:
    for language in LANGUAGES:
        for family in FAMILIES[language]:
            assert all(phrasings()[f"{family}.{language}"][m] for m in ("rule", "tell", "remind", "drop")), family


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("'꾸벅'(을/를) 붙여", "'꾸벅'을 붙여"),
        ("'냥'(이라고/라고) 해", "'냥'이라고 해"),
        ("고양이(은/는) 자요", "고양이는 자요"),
        ("서울(으로/로) 가요", "서울로 가요"),
        ("부산(으로/로) 가요", "부산으로 가요"),
    ],
)
def test_a_particle_fits_the_syllable_before_it(text: str, right: str) -> None:
    assert resolve_particles(text) == right


# -- what is never drawn -----------------------------------------------------------------------


def test_no_reserved_string_is_ever_drawn(documents: list[Document]) -> None:
    reserved = re.compile(r"(?<!\w)(" + "|".join(map(re.escape, RESERVED)) + r")(?!\w)")
    assert [found[0] for text in said(documents) if (found := reserved.search(text))] == []


def test_a_reserved_string_is_not_drawn_from_real_words_either() -> None:
    r = Random(1)
    drawn = {open_string(r, "en", ["zibble", "honest"]) for _ in range(2000)}
    assert "honest" in drawn
    assert "zibble" not in drawn


def test_a_reserved_string_is_not_drawn_in_another_dress_either() -> None:
    r = Random(1)
    drawn = {open_string(r, "en", ["zibble", "quokka"]) for _ in range(2000)}
    assert [s for s in drawn if {w.strip("!?~").lower() for w in s.split()} & {"zibble", "quokka"}] == []


def test_no_held_out_emoji_is_ever_drawn(documents: list[Document]) -> None:
    assert EMOJI_HELD_OUT.isdisjoint("".join(said(documents)))


def test_no_held_out_pair_of_rules_and_intent_is_ever_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Watches which rules met which intent in the answers that reached a document."""
    intent_of = {id(intent.replies): intent.id for intent in speech.intents()}
    made: dict[str, tuple[list[Rule], str]] = {}
    answer = speech.answer

    def watched(rules: list[Rule], language: Language, replies: Any, slots: Any) -> str:
        found = answer(rules, language, replies, slots)
        if intent := intent_of.get(id(replies)):
            made[found] = (rules, intent)
        return found

    for module in (speech, talks):
        monkeypatch.setattr(module, "answer", watched)
    r, pairs = Random(20), 0
    for _ in range(3000):
        made.clear()
        for text in said([corpus.draw(r)], "assistant"):
            if text in made:
                pairs += 1
                assert not speech.held_out(*made[text]), made[text]
    assert pairs > 1500, "the watch saw the corpus"


def test_about_one_pair_in_ten_is_held_out() -> None:
    families = [*product(FAMILIES["ko"], ["ko"]), *product(FAMILIES["en"], ["en"])]
    held = [speech.held_out([Rule(f, x)], i.id) for (f, x) in families for i in speech.intents()]
    assert 0.08 < sum(held) / len(held) < 0.12


def plain(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.lower())


def test_the_last_phrasing_of_an_intent_is_never_drawn(documents: list[Document]) -> None:
    asked = {plain(text) for text in said(documents, "user")}
    held = {plain(i.asks[x][-1]) for i in speech.intents() for x in LANGUAGES if "{" not in i.asks[x][-1]}
    open_ = {plain(ask) for i in speech.intents() for x in LANGUAGES for ask in i.asks[x][:-1]}
    assert len(asked & open_) > 500
    assert asked & (held - open_) == set()


def test_the_held_unknown_questions_are_never_drawn(documents: list[Document]) -> None:
    texts = "\n".join(said(documents))
    for language in LANGUAGES:
        assert any(q in texts for q in speech.unknown()["train"][language])
        assert [q for q in speech.unknown()["held"][language] if q in texts] == []


def filled(text: str, language: Language) -> Iterator[str]:
    """``text`` with every word its slots can take."""
    keys = [key for key in SLOTS if "{" + key + "}" in text]
    for words in product(*(SLOTS[key] for key in keys)):
        filled = text
        for key, word in zip(keys, words, strict=True):
            filled = filled.replace("{" + key + "}", word[LANGUAGES.index(language)])
        yield resolve_particles(filled)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_question_of_the_gate_or_the_benchmark_is_like_anything_the_corpus_asks(language: Language) -> None:
    asks = {text for i in speech.intents() for ask in i.asks[language] for text in filled(ask, language)}
    asks |= {q for part in speech.unknown().values() for q in part[language]}
    asks |= {text for f in speech.facts()["fact"] for key in ("tell", "ask") for text in f[language][key]}
    probes = [*facts(language), *(p for key in PROBED for p in bank("probes", language)[key])]
    assert len(asks) > 3000
    assert [(p, ask) for p in probes for ask in asks if near_duplicate(p, ask)] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_anchor_is_a_question_of_the_gate(language: Language) -> None:
    anchors = [a for key in ("talk", "unknown", "teach", "facts") for a in bank("anchors", language)[key]]
    assert [a for a in anchors if is_probe(a)] == []


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("I feel so lonely today", "i feel so lonely today!!", True),
        ("오늘 너무 외로워", "오늘너무 외로워.", True),
        ("오늘 너무 외로워", normalize("NFD", "오늘 너무 외로워"), True),
        ("i feel so lonely today", "i feel so proud today", False),
        ("오늘 너무 외로워", "오늘 너무 행복해", False),
    ],
)
def test_near_duplicates_are_told_apart_from_mere_likeness(a: str, b: str, same: bool) -> None:
    assert near_duplicate(a, b) is near_duplicate(b, a) is same


# -- the same prompts as the runtime's ---------------------------------------------------------


def in_template_form(message: dict[str, str]) -> dict[str, Any]:
    """A document's message as the runtime hands it to the chat template."""
    if message["role"] == "ipython":
        return {"role": "tool", "content": message["content"]}
    if message["content"].startswith('{"name": "'):
        call = json.loads(message["content"])
        arguments = json.dumps(call["parameters"], ensure_ascii=False)
        function = {"name": call["name"], "arguments": arguments}
        return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
    return dict(message)


def test_training_encodes_exactly_what_the_chat_template_renders(
    tok: PreTrainedTokenizerFast, documents: list[Document]
) -> None:
    some = documents[:400]
    assert {d.tools for d in some} == set(TOOLBOXES)
    for document in some:
        text = tok.apply_chat_template(
            [in_template_form(m) for m in document.messages],
            tools=[t.schema() for t in TOOLBOXES[document.tools]] or None,
            tokenize=False,
        )
        assert tok(text, add_special_tokens=False)["input_ids"] == encode(tok, document)[0], text


def test_loss_falls_on_what_is_to_be_said_and_nowhere_else(
    tok: PreTrainedTokenizerFast, documents: list[Document]
) -> None:
    for document in documents[:200]:
        ids, labels = encode(tok, document)
        assert all(label in (-100, token) for token, label in zip(ids, labels, strict=True))
        taught = tok.decode([label for label in labels if label != -100])
        speakers = ("assistant", "user") if document.both else ("assistant",)
        texts = [m["content"] for m in document.messages if m["role"] in speakers][-1 if document.last_only else 0 :]
        assert taught == "".join(text + "<|eot_id|>" for text in texts)


@pytest.mark.parametrize("signatures", [s for s in TOOLBOXES if s], ids=lambda s: s[0].split("(")[0])
def test_the_corpus_shows_the_signatures_of_the_real_tools(
    tok: PreTrainedTokenizerFast, signatures: tuple[str, ...]
) -> None:
    text = tok.apply_chat_template(
        [{"role": "user", "content": "hi"}], tools=[t.schema() for t in TOOLBOXES[signatures]], tokenize=False
    )
    assert "\n\nTools:\n" + "\n".join(signatures) + "<|eot_id|>" in text


def test_a_copying_exercise_teaches_the_second_time_only(tok: PreTrainedTokenizerFast) -> None:
    r = Random(3)
    for _ in range(50):
        document = corpus.repeat(r, len(tok), 8)
        ids, labels = encode(tok, document)
        first, second = ids[1 : document.repeat_from], [label for label in labels if label != -100]
        assert sorted(first) == sorted(second)
        assert labels[: document.repeat_from] == [-100] * document.repeat_from


def test_the_corpus_is_the_same_for_the_same_seed(documents: list[Document]) -> None:
    r = Random(20)
    assert [corpus.draw(r) for _ in range(50)] == documents[:50]


def test_a_string_is_cut_alike_in_quotes_and_in_an_answer(tok: PreTrainedTokenizerFast) -> None:
    for text in ("꾸벅", "zibble", "뷁", "🐢", "Captain"):
        alone = tok(text, add_special_tokens=False)["input_ids"]
        for around in ("'{}'", "네 {}.", "{}, 네", "[{}] x", "x\n- {}"):
            ids = tok(around.format(text), add_special_tokens=False)["input_ids"]
            assert any(ids[i : i + len(alone)] == alone for i in range(len(ids))), (text, around)


@pytest.mark.parametrize(
    "text", ["안녕, 뷁! 😀\n\n둘  셋", 'Hello  world\'s "x"\t42 — ありがとう', '{"name": "a\\\\b"}']
)
def test_any_text_comes_back_from_its_tokens(tok: PreTrainedTokenizerFast, text: str) -> None:
    assert tok.decode(tok(text, add_special_tokens=False)["input_ids"]) == text
