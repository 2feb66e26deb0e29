"""Llama-3 tool calls, read out of a reply's text."""

from __future__ import annotations

import pytest

from agent.models.calls import looks_like_call, parse

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
