"""The grammar of tool calls: every legal call passes, token by token, and nothing else does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from agent.errors import ModelError
from agent.models.grammar import Constraint, flaw, lark
from graphs.converse import GROWTH_TOOLS
from tools.abstain import abstain
from tools.adopt_instruction import adopt_instruction
from tools.base import Tool
from tools.decay_old_adapter import decay_old_adapter
from tools.drop_instruction import drop_instruction
from tools.judge_turn_value import judge_turn_value
from tools.propose_habit import propose_habit
from tools.recall import recall
from tools.remember import remember
from tools.schedule_lora_update import schedule_lora_update
from tools.write_examples import write_examples

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Schema = dict[str, Any]
JUDGEMENT = {"turn": 1, "value": 4, "kind": "instruction", "reason": "오래 지켜 달라는 부탁이다."}
RIGHT: list[tuple[Tool, dict[str, Any]]] = [
    (recall, {"query": "고양이 이름"}),
    (remember, {"text": "I was born in 1990."}),
    (adopt_instruction, {"rule": "모든 대답 끝에 '꾸벅'을 붙여 줘."}),
    (drop_instruction, {"rule": "Call me 'Zephyr'."}),
    (judge_turn_value, JUDGEMENT),
    (propose_habit, {"rule": "끝에 😀", "quote": "끝에 😀 붙여", "turns": [1, 2, 3], "reason": "again"}),
    (write_examples, {"habit": 3, "prompts": ["밥 먹었어?", 'say "hi"\n\\o/']}),
    (schedule_lora_update, {"habit": 12, "method": "distill", "reason": "넉넉하다."}),
    (decay_old_adapter, {"habit": 1, "weight": 0.25, "reason": "오래 쓰지 않았다."}),
    (abstain, {"reason": "쀼뷁: syllables that are spelled in bytes"}),
]


def written(name: str, arguments: dict[str, Any]) -> str:
    return f'{{"name": "{name}", "parameters": {json.dumps(arguments, ensure_ascii=False)}}}'


def admits(tok: PreTrainedTokenizerFast, schemas: list[Schema], text: str) -> bool:
    """Whether every token of ``text`` may come in its place, and the reply may end there."""
    constraint, scores = Constraint(tok, schemas), torch.zeros(len(tok))
    for token in tok(text, add_special_tokens=False)["input_ids"]:
        if constraint.finished or not constraint.allowed(scores)[token]:
            return False
        constraint.accept(token)
    return constraint.finished


@pytest.mark.parametrize(("tool", "arguments"), RIGHT, ids=lambda x: x.name if isinstance(x, Tool) else "")
def test_a_right_call_of_each_tool_passes(tok: PreTrainedTokenizerFast, tool: Tool, arguments: dict[str, Any]) -> None:
    assert admits(tok, [tool.schema()], written(tool.name, arguments))


def test_every_tool_is_tried_here() -> None:
    files = {p.stem for p in (Path(__file__).parents[1] / "tools").glob("*.py")}
    assert files - {"__init__", "base"} == {tool.name for tool, _ in RIGHT}


def test_of_several_tools_any_may_be_called_and_no_other(tok: PreTrainedTokenizerFast) -> None:
    offered = [t.schema() for t in GROWTH_TOOLS]
    assert all(admits(tok, offered, written(t.name, a)) for t, a in RIGHT if t in GROWTH_TOOLS)
    assert not any(admits(tok, offered, written(t.name, a)) for t, a in RIGHT if t not in GROWTH_TOOLS)


@pytest.mark.parametrize(
    "arguments",
    [
        {**JUDGEMENT, "kind": "gossip"},
        {**JUDGEMENT, "kind": "instructions"},
        {**JUDGEMENT, "value": 6},
        {**JUDGEMENT, "value": "4"},
        {**JUDGEMENT, "turn": 2},
        {**JUDGEMENT, "reason": ""},
        {**JUDGEMENT, "reason": "x" * 301},
        {**JUDGEMENT, "mood": "good"},
        {k: v for k, v in JUDGEMENT.items() if k != "value"},
        {k: v for k, v in JUDGEMENT.items() if k != "reason"},
        dict(reversed(JUDGEMENT.items())),
        {},
    ],
    ids=["enum", "longer", "range", "type", "narrowed", "empty", "long", "extra", "missing", "last", "order", "none"],
)
def test_a_wrong_argument_does_not_pass(tok: PreTrainedTokenizerFast, arguments: dict[str, Any]) -> None:
    offered = [judge_turn_value.schema(turn={"enum": [1]})]
    assert admits(tok, offered, written("judge_turn_value", JUDGEMENT))
    assert not admits(tok, offered, written("judge_turn_value", arguments))


def test_words_around_a_call_do_not_pass(tok: PreTrainedTokenizerFast) -> None:
    call = written("recall", {"query": "x"})
    assert not admits(tok, [recall.schema()], f"Sure! {call}")
    assert not admits(tok, [recall.schema()], f"{call}; {call}")


def test_a_call_that_breaks_off_does_not_end(tok: PreTrainedTokenizerFast) -> None:
    assert not admits(tok, [recall.schema()], written("recall", {"query": "x"})[:-1])


@pytest.mark.parametrize(("count", "passes"), [(0, False), (1, True), (12, True), (13, False)])
def test_a_list_keeps_its_length(tok: PreTrainedTokenizerFast, count: int, passes: bool) -> None:
    call = written("write_examples", {"habit": 1, "prompts": ["hi"] * count})
    assert admits(tok, [write_examples.schema()], call) is passes


def test_a_list_may_be_narrowed_to_one_item(tok: PreTrainedTokenizerFast) -> None:
    offered = [propose_habit.schema(turns={"items": {"type": "integer", "enum": [1]}, "maxItems": 1})]
    proposal = {"rule": "끝에 냥", "quote": "끝에 냥", "turns": [1], "reason": "kept"}
    assert admits(tok, offered, written("propose_habit", proposal))
    assert not admits(tok, offered, written("propose_habit", {**proposal, "turns": [1, 1]}))


# -- quotes ------------------------------------------------------------------------------------

SAID = ['앞으로 대답 끝에 "꾸벅" 붙여 줘!\n알겠지? 뷁', r"end with \o/ please"]


def quoting(tok: PreTrainedTokenizerFast, quote: str) -> bool:
    offered = [remember.schema(text={"x-substring-of": SAID})]
    return admits(tok, offered, written("remember", {"text": quote}))


@pytest.mark.parametrize("quote", [*SAID, '대답 끝에 "꾸벅" 붙여', '"', "줘!\n알겠지", "뷁", r"with \o/", "\\", "o/ p"])
def test_a_true_piece_of_what_was_said_passes(tok: PreTrainedTokenizerFast, quote: str) -> None:
    assert any(quote in text for text in SAID)
    assert quoting(tok, quote)


@pytest.mark.parametrize(
    "quote",
    ["대답 끝에 꾸벅 붙여", "끝에 붙여", '"꾸벅" "꾸벅"', "END WITH", f"{SAID[0]}{SAID[1]}", "please!", "n알"],
)
def test_a_false_quote_does_not_pass(tok: PreTrainedTokenizerFast, quote: str) -> None:
    assert not any(quote in text for text in SAID)
    assert not quoting(tok, quote)


def test_a_quote_has_its_least_length(tok: PreTrainedTokenizerFast) -> None:
    assert not quoting(tok, "")
    offered = [propose_habit.schema(quote={"x-substring-of": SAID})]
    proposal = {"rule": "끝에 꾸벅", "quote": "끝에", "turns": [1], "reason": "again"}
    assert admits(tok, offered, written("propose_habit", proposal))
    assert not admits(tok, offered, written("propose_habit", {**proposal, "quote": "끝"}))


def test_a_rule_with_quotes_in_it_can_be_one_of_a_choice(tok: PreTrainedTokenizerFast) -> None:
    rules = ['끝에 "꾸벅" 붙여', "a\\b", "tab\there"]
    offered = [drop_instruction.schema(rule={"enum": rules})]
    assert all(admits(tok, offered, written("drop_instruction", {"rule": rule})) for rule in rules)
    assert not admits(tok, offered, written("drop_instruction", {"rule": "끝에 꾸벅 붙여"}))


COORDINATES: Schema = {
    "type": "object",
    "properties": {
        "at": {"type": "object", "properties": {"lat": {"type": "number"}}, "required": ["lat"]},
        "unit": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "days": {"type": ["integer", "null"]},
        "place": {"$ref": "#/$defs/Place"},
    },
    "required": ["at"],
    "$defs": {"Place": {"type": "string"}},
}


def called(parameters: Schema | None) -> list[Schema]:
    function = {"name": "weather"} | ({} if parameters is None else {"parameters": parameters})
    return [{"type": "function", "function": function}]


@pytest.mark.parametrize(
    ("arguments", "legal"),
    [
        ({"at": {"lat": -37.5}}, True),
        ({"at": {"lat": 1}, "unit": None, "days": 12, "place": "서울"}, True),
        ({"at": {"lat": 1}, "unit": "x"}, False),
        ({"unit": 3}, False),
    ],
)
def test_a_clients_schema_is_followed_whatever_it_uses(
    tok: PreTrainedTokenizerFast, arguments: dict[str, Any], legal: bool
) -> None:
    assert admits(tok, [*called(COORDINATES), recall.schema()], written("weather", arguments)) == legal
    assert admits(tok, [*called(COORDINATES), recall.schema()], written("recall", {"query": "고양이"}))


LONG = "가" * 500


@pytest.mark.parametrize(
    ("schema", "legal", "illegal"),
    [
        ({"type": "string"}, ["", LONG, 'say "hi"\n'], [3]),
        ({"type": "string", "minLength": 3, "maxLength": 5}, ["abc"], ["ab", "abcdef"]),
        ({"type": "string", "minLength": 1, "maxLength": 5, "description": "a word"}, ["abc"], ["", "abcdef"]),
        ({"type": "string", "maxLength": 500}, [LONG, ""], [f"{LONG}."]),
        ({"type": "integer", "minimum": 0}, [0, 1_500_000], [-1]),
        ({"type": "integer", "minimum": 1000}, [1000], [999]),
        ({"type": "integer", "minimum": 1, "maximum": 500}, [1, 500], [0, 501, 900]),
        ({"type": "integer", "minimum": -2, "maximum": 2}, [-2, 2], [-3, 3]),
        ({"type": "integer", "minimum": 1, "maximum": 10.0}, [10], [11]),
        ({"type": "integer", "minimum": 1, "maximum": 9, "multipleOf": 2}, [4], [5]),
        ({"type": "number", "minimum": 0, "maximum": 1}, [1, 0.12345], [1.5]),
        ({"type": "number", "minimum": 0.5, "maximum": 1}, [0.75], [0.25]),
        ({"type": "array", "items": {"type": "string"}}, [[], ["가"] * 33], [["a", 1]]),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2}, [[True]], [[], [True] * 3]),
        ({"enum": ["a", None]}, ["a", None], ["b"]),
        ({"const": None}, [None], ["b"]),
    ],
)
def test_a_clients_argument_may_be_what_its_schema_allows_and_nothing_else(
    tok: PreTrainedTokenizerFast, schema: Schema, legal: list[Any], illegal: list[Any]
) -> None:
    tools = called({"type": "object", "properties": {"x": schema}, "required": ["x"]})
    assert [v for v in legal if not admits(tok, tools, written("weather", {"x": v}))] == []
    assert [v for v in illegal if admits(tok, tools, written("weather", {"x": v}))] == []


def test_what_a_schema_says_of_all_arguments_together_holds(tok: PreTrainedTokenizerFast) -> None:
    open_ = {
        "type": "object",
        "properties": {"x": {"type": "boolean"}},
        "required": ["x"],
        "additionalProperties": True,
    }
    assert admits(tok, called(open_), written("weather", {"x": True, "y": 1}))
    assert not admits(tok, called(open_ | {"additionalProperties": False}), written("weather", {"x": True, "y": 1}))
    assert "'y'" in flaw(called(open_ | {"required": ["x", "y"], "additionalProperties": False})[0])


def test_what_it_is_offered_of_its_own_is_written_out() -> None:
    """The seedling was trained so."""
    numbers: Schema = {"items": {"type": "integer", "enum": [1, 2]}, "maxItems": 2}
    offered = [
        *(t.schema() for t in (recall, adopt_instruction, drop_instruction, abstain)),
        remember.schema(text={"x-substring-of": SAID}),
        judge_turn_value.schema(turn={"enum": [1]}),
        propose_habit.schema(quote={"x-substring-of": SAID}, turns=numbers),
        *(t.schema(habit={"enum": [3]}) for t in (write_examples, schedule_lora_update, decay_old_adapter)),
    ]
    assert {t["function"]["name"] for t in offered} == {tool.name for tool, _ in RIGHT}
    assert "%json" not in lark(offered)


@pytest.mark.parametrize(
    "parameters",
    [
        {"required": None},
        {"required": "x"},
        {"required": [["x"]]},
        {"properties": None},
        {"properties": []},
        *(
            {"properties": {"x": schema}, "required": ["x"]}
            for schema in (
                None,
                {"type": "string", "enum": None},
                {"type": "string", "maxLength": "3"},
                {"type": "string", "minLength": 1, "maxLength": None},
                {"type": "integer", "minimum": None},
                {"type": "integer", "minimum": "1", "maximum": 5},
                {"type": "number", "minimum": float("nan")},
                {"type": "array", "items": {"type": "string"}, "minItems": None},
                {"enum": None, "const": 1},
                {"x-substring-of": ["a"], "minLength": None},
            )
        ),
    ],
)
def test_a_schema_that_is_none_has_a_flaw_and_breaks_nothing(parameters: Schema) -> None:
    assert flaw(called(parameters)[0])


def test_a_tool_without_arguments_is_called_without_any(tok: PreTrainedTokenizerFast) -> None:
    assert admits(tok, called(None), written("weather", {}))
    assert admits(tok, called({"type": "object", "properties": {}}), written("weather", {}))


def test_a_schema_that_cannot_be_followed_says_so(tok: PreTrainedTokenizerFast) -> None:
    wrong = called({"type": "object", "properties": {"x": {"type": "frob"}}})
    assert "frob" in flaw(wrong[0])
    assert not flaw(called(COORDINATES)[0])
    with pytest.raises(ModelError, match="frob"):
        Constraint(tok, wrong)


def test_tokens_beyond_the_tokenizers_vocabulary_are_never_allowed(tok: PreTrainedTokenizerFast) -> None:
    allowed = Constraint(tok, [recall.schema()]).allowed(torch.zeros(len(tok) + 64))
    assert allowed.shape == (len(tok) + 64,)
    assert allowed.any()
    assert not allowed[len(tok) :].any()
