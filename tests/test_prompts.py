"""The words the model reads: two languages, one shape, strict and literal."""

from __future__ import annotations

import re
from pathlib import Path
from unicodedata import normalize

import pytest
from jinja2 import Environment, TemplateNotFound, UndefinedError
from jinja2.meta import find_undeclared_variables

from prompts import Language, language_of, render

HOME = Path(__file__).parents[1] / "prompts"
LANGUAGES: tuple[Language, Language] = ("ko", "en")
NAMES = sorted(p.stem for p in (HOME / "en").glob("*.md"))
LISTS = {"rules": ["RULE"], "memories": ["MEMORY"], "heard": ["HEARD"], "turns": [{"number": 7, "user": "TURN"}]}


def source(name: str, language: Language) -> str:
    return (HOME / language / f"{name}.md").read_text("utf-8")


def values(name: str) -> dict[str, object]:
    """A value for everything the template uses."""
    used = find_undeclared_variables(Environment().parse(source(name, "en")))
    return {key: LISTS.get(key, key.upper()) for key in used}


def test_every_prompt_exists_in_both_languages() -> None:
    assert NAMES
    assert sorted(p.stem for p in (HOME / "ko").glob("*.md")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_both_languages_say_the_same_with_the_same_values(name: str) -> None:
    ko, en = (re.findall(r"\{[{%].*?[%}]\}", source(name, language)) for language in LANGUAGES)
    assert ko == en
    assert language_of(source(name, "ko")) == "ko" or name in ("converse", "write_habit")
    assert language_of(source(name, "en")) == "en"


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", NAMES)
def test_every_value_is_shown(name: str, language: Language) -> None:
    text = render(name, language, **values(name))
    for key in values(name):
        assert {"rules": "RULE", "memories": "MEMORY", "turns": "[7] TURN"}.get(key, key.upper()) in text


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(("name", "missing"), [(n, key) for n in NAMES for key in sorted(values(n))])
def test_a_missing_value_is_an_error_and_not_a_blank(name: str, missing: str, language: Language) -> None:
    given = {key: value for key, value in values(name).items() if key != missing}
    with pytest.raises(UndefinedError, match=missing):
        render(name, language, **given)


def test_a_missing_part_of_a_value_is_an_error_too() -> None:
    with pytest.raises(UndefinedError, match="user"):
        render("propose_evidence", "ko", turns=[{"number": 1}], kept=0)


def test_an_unknown_prompt_is_an_error() -> None:
    with pytest.raises(TemplateNotFound):
        render("seduce", "en")


@pytest.mark.parametrize("text", ["{{ 7 * 7 }}", "{% for x in y %}", "{# gone? #}", "a < b & 'c' \"d\"", "둘\n셋"])
def test_what_a_person_wrote_is_inserted_as_it_is(text: str) -> None:
    assert render("judge_turn", "en", number=1, user=text, reply=text) == f"[1]\nPerson: {text}\nMe: {text}"


def test_a_mask_without_rules_or_memories_leaves_no_heading() -> None:
    assert render("converse", "en", persona="You are kind.", rules=[], memories=[]) == "You are kind."


def test_rules_and_memories_stand_in_lists_of_their_own() -> None:
    text = render("converse", "ko", persona="벗", rules=["하나", "둘"], memories=["셋"])
    assert text == "벗\n\n지킬 것:\n- 하나\n- 둘\n\n기억:\n- 셋"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("안녕", "ko"),
        ("please end with '꾸벅'", "ko"),
        ("ㅋㅋㅋ", "ko"),
        (normalize("NFD", "안녕"), "ko"),
        ("hello", "en"),
        ("", "en"),
        ("42 😀", "en"),
        ("ありがとう", "en"),
    ],
)
def test_any_hangul_makes_a_text_korean(text: str, language: Language) -> None:
    assert language_of(text) == language
