"""The person's language: texts stand in the code in English, their Korean in ``ko.toml``."""

from __future__ import annotations

import os
import re
import unicodedata
from functools import cache
from pathlib import Path

from agent.errors import HabitusError
from agent.phrase import Phrase
from prompts import Language

FREE = ("words", "file", "reason")  # fields that hold any text; in every other field stands a
VALUE = r"(?:[a-z]+-|[a-z]|-)?\d+|–"  # number or name, as in h7 or self-0001


def language() -> Language:
    """What the environment asks for, as POSIX reads it: the first of ``LC_ALL``, ``LC_MESSAGES``, ``LANG`` that is set."""
    locale = next((v for k in ("LC_ALL", "LC_MESSAGES", "LANG") if (v := os.environ.get(k))), "")
    return "ko" if re.split("[_.@]", locale)[0] == "ko" else "en"


def say(text: str, /, **values: object) -> str:
    """``text`` in the person's language, ``values`` filled in. What the catalogue does not know stays as it is."""
    if isinstance(text, Phrase):
        values, text = text.values, text.template
    if language() == "ko":
        text = _catalogue().get(text, text)
        values = {k: say(v) if isinstance(v, Phrase) else v for k, v in values.items()}
    return str(Phrase(text, **values))


def said(error: HabitusError) -> tuple[str, str]:
    """Message and hint of ``error`` in the person's language."""
    return say(error.message), say(error.hint)


def recorded(text: str) -> str:
    """A ``Phrase`` that comes back from the ledger, where only its English text was kept."""
    if language() == "ko":
        for pattern, template in _patterns():
            if match := pattern.fullmatch(text):
                return say(template, **{k: recorded(v) if k == "reason" else v for k, v in match.groupdict().items()})
    return say(text)


def padded(text: str, width: int) -> str:
    """``text`` filled up to ``width`` columns of a terminal, where a Hangul syllable takes two."""
    return text + " " * (width - sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text))


@cache
def _tables() -> dict[str, dict[str, str]]:
    import tomllib

    return tomllib.loads(Path(__file__).with_name("ko.toml").read_text("utf-8"))


@cache
def _catalogue() -> dict[str, str]:
    return {text: korean for table in _tables().values() for text, korean in table.items()}


@cache
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    """How what is recorded looks when filled in. What a person or the model wrote must not look so."""
    from string import Formatter

    def field(name: str | None) -> str:
        return f"(?P<{name}>{'.*' if name in FREE else VALUE})" if name else ""

    return [
        (re.compile("".join(re.escape(text) + field(name) for text, name, *_ in Formatter().parse(template))), template)
        for template in _tables()["recorded"]
    ]
