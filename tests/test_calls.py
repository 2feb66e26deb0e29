"""Llama-3 tool calls, read out of a reply's text and written into a prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from agent.models.base import Base
from agent.models.calls import calling, looks_like_call, parse
from agent.models.chat import to_message
from agent.ports import Prompt
from agent.settings import ModelTable

RECALL = '{"name": "recall", "parameters": {"query": "고양이"}}'
ABSTAIN = '{"name": "abstain", "parameters": {"reason": "say \\"hi\\"; {no}"}}'
RECALLED = {"name": "recall", "args": {"query": "고양이"}}
ABSTAINED = {"name": "abstain", "args": {"reason": 'say "hi"; {no}'}}


@pytest.mark.parametrize("text", ["안녕하세요.", "", " 1 {", 'see {"name": "recall"}', "[1]"])
def test_words_stay_words(text: str) -> None:
    assert parse(text) == (text, [], [])


@pytest.mark.parametrize("before", ["", " \n", "<|python_tag|>", " <|python_tag|> "])
def test_a_call_carries_no_words(before: str) -> None:
    assert looks_like_call(before + RECALL)
    assert parse(before + RECALL + "\n") == ("", [RECALLED], [])


@pytest.mark.parametrize("between", [";", "; ", "\n", " ;\n", ""])
def test_several_calls_come_in_order(between: str) -> None:
    assert parse(RECALL + between + ABSTAIN) == ("", [RECALLED, ABSTAINED], [])


@pytest.mark.parametrize("between", [";\t", "\r\n"])
def test_any_white_space_parts_calls(between: str) -> None:
    assert parse(RECALL + between + ABSTAIN) == ("", [RECALLED, ABSTAINED], [])


def test_arguments_is_another_word_for_parameters() -> None:
    assert parse('{"name": "recall", "arguments": {}}') == ("", [{"name": "recall", "args": {}}], [])


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "recall"}',
        '{"parameters": {}}',
        '{"name": 3, "parameters": {}}',
        '{"name": "recall", "parameters": "{}"}',
        '{"name": "recall", "parameters": [1]}',
    ],
)
def test_json_that_is_no_call_is_bad(text: str) -> None:
    assert parse(text) == ("", [], [text])


def test_a_call_that_breaks_off_is_bad() -> None:
    assert parse(RECALL[:-2]) == ("", [], [RECALL[:-2]])


def test_what_is_good_survives_what_is_bad_after_it() -> None:
    assert parse(RECALL + "; and now?") == ("", [RECALLED], ["and now?"])


def test_what_is_good_survives_what_is_bad_before_it() -> None:
    assert parse('{"name": 3}; ' + RECALL) == ("", [RECALLED], ['{"name": 3}'])


def test_a_reply_nested_too_deep_to_read_is_bad() -> None:
    deep = '{"name": "recall", "parameters": {"query": ' + "[" * 5000
    assert parse(deep) == ("", [], [deep])


@pytest.mark.parametrize(
    "text",
    [
        RECALL,
        f"<|python_tag|>{RECALL}",
        '\n{"name" :"recall","parameters":{',
        '{"name": "nobody_offered_it", "parameters": ',
        '{"name": "recall", "arguments": {}}',
        '{"type": "function", "name": "recall"',
    ],
)
def test_what_has_the_form_of_a_call_is_one_as_soon_as_that_shows(text: str) -> None:
    assert calling(text) is True


def test_until_its_form_shows_a_reply_may_become_either() -> None:
    found = [calling(RECALL[:i]) for i in range(len(RECALL))]
    shows = len('{"name": "recall", "parameters":')
    assert found == [None] * shows + [True] * (len(RECALL) - shows)


@pytest.mark.parametrize(
    "text", ["안녕", '{"title": "비"}', '{"name": "Kim", "age": 3}', '{"name": "", "x', "[{", '{"names', "{}", "1 {"]
)
def test_other_json_is_words(text: str) -> None:
    assert calling(text) is False


LLAMA = """{% for m in messages %}{% for c in m.tool_calls or [] %}
{"name": "{{ c.function.name }}", "parameters": {{ c.function.arguments | tojson }}}{% endfor %}{% endfor %}"""
ARGUMENTS: list[dict[str, Any]] = [
    {"text": "a\"b'<x> & y\n\\ 한국어 😀"},
    {"at": [0.1, 1e22, -0.0, 12], "deep": {"on": True, "off": None}},
    {},
]


def made(arguments: dict[str, Any]) -> Prompt:
    call = AIMessage("", tool_calls=[{"id": "c", "name": "remember", "args": arguments}])
    return Prompt((to_message(HumanMessage("안녕")), to_message(call)))


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_an_earlier_call_is_written_as_the_template_means_it(tmp_path: Path, arguments: dict[str, Any]) -> None:
    """Templates of Llamas write the arguments as JSON: what is JSON in a string already would be quoted twice."""
    file = tmp_path / "llama.jinja"
    file.write_text(LLAMA, "utf-8")
    written = Base(ModelTable(template=str(file))).text_of(made(arguments))
    assert parse(written) == ("", [{"name": "remember", "args": arguments}], [])
    plain = json.dumps(arguments, ensure_ascii=False)
    assert f'\n\n{{"name": "remember", "parameters": {plain}}}<|eot_id|>' in Base(ModelTable()).text_of(made(arguments))
