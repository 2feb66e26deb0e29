"""The terminal speaks the person's language; JSON and the ledger keep English."""

from __future__ import annotations

import argparse
import ast
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from string import Formatter
from typing import Any, get_args

import pytest

from agent import errors
from agent.errors import HabitusError, UsageError
from agent.phrase import Phrase
from agent.records import (
    Abstention,
    Decision,
    Frame,
    Kind,
    Origin,
    Part,
    Purpose,
    Record,
    Source,
    Stage,
    Status,
)
from app.cli import main
from app.show import visible
from app.words import language, padded, recorded, said, say

ROOT = Path(__file__).parents[1]
TABLES: dict[str, dict[str, str]] = tomllib.loads((ROOT / "app" / "ko.toml").read_text("utf-8"))
KOREAN = {text: korean for table in TABLES.values() for text, korean in table.items()}
ERRORS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, HabitusError)}
# Closed choices are worded by their value; record kinds only as the noun of "There is no …".
PHASES, STAGES, VERDICTS = (
    table.model_fields[field].annotation
    for table, field in ((Abstention, "phase"), (Part, "stage"), (Decision, "verdict"))
)
CHOICES = (Status, Kind, Purpose, Origin, Source, Stage, Frame, PHASES, STAGES, VERDICTS)
SHOWN = {word for choice in CHOICES for word in get_args(choice)} - {"plain"}
NOUNS = {kind.__name__.lower() for kind in Record.__subclasses__()}


def fields(template: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(template) if name is not None}


def has_words(template: str) -> bool:
    """Not only fields and punctuation, which are the same in every language."""
    return any(text.strip() and re.search(r"\w", text) for text, *_ in Formatter().parse(template))


def sources(*folders: str) -> Iterator[tuple[str, ast.Call]]:
    """Every call of a plain name in these folders, and where it stands."""
    for path in sorted(p for folder in folders for p in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def called(call: ast.Call) -> str:
    assert isinstance(call.func, ast.Name)
    return call.func.id


def literals(node: ast.expr) -> list[str]:
    """The texts an argument may be: one, or both sides of a choice. What comes from elsewhere is none."""
    if isinstance(node, ast.IfExp):
        return literals(node.body) + literals(node.orelse)
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []


# app/words.py and agent/errors.py hand templates on; training's own ``say`` writes events for the parent process
SPOKEN = [
    (where, call)
    for where, call in sources("agent", "tools", "graphs", "app")
    if (called(call) in ERRORS | {"Phrase"} and not where.startswith(("app/words.py", "agent/errors.py")))
    or (called(call) == "say" and where.startswith("app/") and not where.startswith("app/words.py"))
]
WRITTEN = {text for _, call in SPOKEN for argument in call.args for text in literals(argument) if text}
THEIRS = {  # argparse's own words
    text
    for node in ast.walk(ast.parse(Path(argparse.__file__).read_text("utf-8")))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and called(node) == "_"
    for text in literals(node.args[0])
}
# Of what code says, the ledger keeps reasons, causes, risks, results of tools, the exam's details and failures.
KEEPERS = ("agent/learning", "agent/selves", "app/habitus", "graphs", "tools")
KEPT = {
    text
    for where, call in SPOKEN
    if (called(call) == "Phrase" and where.startswith(KEEPERS)) or called(call) == "LearningError"
    for text in literals(call.args[0])
}


def test_the_walk_finds_what_there_is() -> None:
    assert len(WRITTEN) > 150
    assert {"There is no conversation {thread!r}.", "Leave --thread out to begin a new one.", "See you."} <= WRITTEN


def test_a_template_is_written_out_and_gets_its_values() -> None:
    wrong = []
    for where, call in SPOKEN:
        texts = [text for argument in call.args for text in literals(argument)]
        given = {k.arg for k in call.keywords}
        formatted = any(isinstance(a, ast.JoinedStr | ast.BinOp) for a in call.args)
        known = texts and None not in given  # neither the text nor its values come in a variable
        if formatted or (known and set().union(*map(fields, texts)) != given):
            wrong.append(where)
    assert wrong == []


def bare(node: ast.AST) -> list[str]:
    """The texts of a printed expression that went through no call."""
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.JoinedStr | ast.FormattedValue | ast.BinOp | ast.IfExp):
        return [text for child in ast.iter_child_nodes(node) for text in bare(child)]
    return []


@pytest.mark.parametrize(
    "hidden",
    "\u00ad\u034f\u061c\u115f\u17b4\u180b\u180f\u200b\u202e\u2065\u2066\u2800\u3164\ufe0f\ufff0\ufff8\U000e0041\U000e0100\U000e01ef\U000e0fff",
)
def test_what_cannot_be_seen_is_spelled_out(hidden: str) -> None:
    assert visible(f"a{hidden}b") == f"a⟨U+{ord(hidden):04X}⟩b"


def test_nothing_is_printed_past_the_catalogue() -> None:
    printed = [(where, call) for where, call in sources("app") if called(call) in ("print", "input", "_field")]
    texts = [(where, text.replace("habitus: ", "")) for where, call in printed for a in call.args for text in bare(a)]
    assert len(printed) > 50
    assert [(where, text) for where, text in texts if re.search("[A-Za-z]{2}", text)] == []


def test_every_text_has_its_korean() -> None:
    assert sorted(text for text in WRITTEN | SHOWN if has_words(text) and text not in KOREAN) == []


def test_no_korean_is_left_over() -> None:
    assert sorted(KOREAN.keys() - WRITTEN - SHOWN - NOUNS - THEIRS) == []


def test_what_is_known_again_by_its_shape_is_what_the_ledger_keeps() -> None:
    assert TABLES["recorded"].keys() == {text for text in KEPT if fields(text)}
    assert TABLES["recorded"].keys().isdisjoint(TABLES["said"])


def test_no_particle_hangs_on_a_value_that_would_choose_it() -> None:
    hanging = re.compile(r"\}[`'’”]?(을|를|은|는|이|가(?!지)|와|과|으로|로|라|아|야|였|예요|\(으\)로)")
    assert [korean for korean in KOREAN.values() if hanging.search(korean)] == []


def test_the_korean_is_korean_and_has_the_same_fields() -> None:
    assert [x for x, korean in KOREAN.items() if fields(korean) != fields(x) or not re.search("[가-힣]", korean)] == []


def test_the_korean_keeps_commands_options_and_tables_as_they_are() -> None:
    def code(text: str) -> list[str]:
        return sorted(re.findall(r"`[^`]+`|--[a-z-]+|\[[a-z]+\]", text))

    assert [x for x, korean in KOREAN.items() if code(korean) != code(x)] == []


# -- values ------------------------------------------------------------------------------------


@pytest.fixture
def korean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "ko_KR.UTF-8")


TRICKY = "a {0} b {thread} {{c}} %s {thread.__class__}"


@pytest.mark.parametrize("locale", ["ko_KR.UTF-8", "C.UTF-8"])
def test_values_with_braces_are_said_as_they_are(monkeypatch: pytest.MonkeyPatch, locale: str) -> None:
    monkeypatch.setenv("LC_ALL", locale)
    error = UsageError("{path} cannot be used: {error}", path="/tmp/{x}", error=ValueError(TRICKY))
    assert all(text in said(error)[0] for text in ("/tmp/{x}", TRICKY))
    assert str(error) == error.message == "/tmp/{x} cannot be used: " + TRICKY
    assert say(TRICKY) == str(HabitusError(TRICKY)) == TRICKY
    assert say("Diary: {entry}", entry=TRICKY).endswith(TRICKY)


@pytest.mark.usefixtures("korean")
def test_a_phrase_in_a_phrase_is_worded_too() -> None:
    error = UsageError("Allowed: {allowed}.", allowed=Phrase("from {low} to {high}", low=0, high=2))
    assert str(error) == "Allowed: from 0 to 2."
    assert said(error)[0] == KOREAN["Allowed: {allowed}."].format(
        allowed=KOREAN["from {low} to {high}"].format(low=0, high=2)
    )


@pytest.mark.usefixtures("korean")
def test_what_was_recorded_in_english_is_worded_when_it_is_shown() -> None:
    risk = str(Phrase("{missing}/{own} answers do not show {words}", missing=3, own=40, words="{꾸벅}"))
    assert recorded(risk) == KOREAN["{missing}/{own} answers do not show {words}"].format(
        missing=3, own=40, words="{꾸벅}"
    )
    assert {"released", "earlier {habit}", "{ref} waits for the person"} <= KEPT
    for text in KEPT:
        for value in ("h7", "self-0001", "-9"):
            values = dict.fromkeys(fields(text), value)
            assert recorded(text.format(**values)) == KOREAN[text].format(**values)
    failed = Phrase(
        "The training of {ref} failed: {reason}.", ref="p1", reason=Phrase("the data is not what was approved")
    )
    assert recorded(str(failed)) == say(failed)


@pytest.mark.usefixtures("korean")
@pytest.mark.parametrize(
    "text",
    ["The rule is important to him.", "Known: everybody.", "Somebody overrules it", "something nobody wrote: {x}"],
)
def test_what_a_person_or_the_model_wrote_is_left_as_it_is(text: str) -> None:
    assert recorded(text) == text


def test_hangul_fills_two_columns() -> None:
    assert padded("규칙", 6) == "규칙  "
    assert padded("rule", 6) == "rule  "
    assert padded("too long", 3) == "too long"


# -- the language ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, "en"),
        ({"LANG": "ko_KR.UTF-8"}, "ko"),
        ({"LANG": "ko"}, "ko"),
        ({"LANG": "kok_IN.UTF-8"}, "en"),  # Konkani
        ({"LANG": "ko_KR.UTF-8", "LC_MESSAGES": "en_US.UTF-8"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "ko_KR.UTF-8"}, "ko"),
        ({"LANG": "ko_KR.UTF-8", "LC_ALL": "C.UTF-8"}, "en"),
        ({"LANG": "C", "LC_MESSAGES": "C", "LC_ALL": "ko_KR.UTF-8"}, "ko"),
        ({"LANG": "ko_KR.UTF-8", "LC_ALL": "", "LC_MESSAGES": ""}, "ko"),
    ],
)
def test_the_first_of_the_three_that_is_set_decides(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str], expected: str
) -> None:
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert language() == expected


def test_english_reads_no_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> str:
        raise AssertionError("the catalogue was read")

    monkeypatch.setattr("app.words._catalogue", never)
    assert say("See you.") == recorded("See you.") == "See you."


# -- at the terminal ---------------------------------------------------------------------------


@pytest.mark.usefixtures("korean")
def test_an_error_is_said_in_korean(bag_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--home", str(bag_path), "proposals", "show", "p9"]) == 1
    assert capsys.readouterr().err == (
        "habitus: 제안 목록에 'p9' 항목이 없어요.\n  → 이 보관함에는 아직 제안 기록이 없어요.\n"
    )


@pytest.mark.usefixtures("korean")
def test_the_same_error_as_json_stays_english(bag_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--home", str(bag_path), "proposals", "show", "p9", "--json"]) == 1
    assert json.loads(capsys.readouterr().err)["error"] == {
        "type": "NotFoundError",
        "message": "There is no proposal 'p9'.",
        "hint": "This bag holds no proposal yet.",
    }


@pytest.mark.usefixtures("korean")
def test_the_help_is_in_korean(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "스스로" in capsys.readouterr().out


@pytest.mark.usefixtures("korean")
def test_what_argparse_says_is_in_korean_but_not_as_json(bag_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--home", str(bag_path), "veto", "p1"]) == 2
    assert "인자가 빠졌어요: --reason" in capsys.readouterr().err
    assert main(["--home", str(bag_path), "veto", "p1", "--json"]) == 2
    assert "required: --reason" in json.loads(capsys.readouterr().err)["error"]["message"]
    assert main(["chat", "--s"]) == 2
    assert "어느 옵션인지 알 수 없어요: --s" in capsys.readouterr().err
    assert main(["chat", "--sandbox=1"]) == 2
    assert "값을 받지 않는 옵션이에요: '1'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["veto", "--help"])
    assert "positional" not in capsys.readouterr().out


@pytest.mark.usefixtures("korean")
def test_an_impossible_setting_is_explained_in_korean(bag_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag_path.mkdir()
    (bag_path / "habitus.toml").write_text("[gate]\nhabbit = 1\n")
    assert main(["--home", str(bag_path), "proposals"]) == 1
    message, hint = capsys.readouterr().err.splitlines()
    assert KOREAN["there is no such setting"] in message
    assert "gate.habbit" in message
    assert "habit, earlier" in hint
    assert "one of" not in hint
