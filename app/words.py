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
                return say(template, **match.groupdict())
    return say(text)


def padded(text: str, width: int) -> str:
    """``text`` filled up to ``width`` columns of a terminal, where a Hangul syllable takes two."""
    return text + " " * (width - sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text))


@cache
def _catalogue() -> dict[str, str]:
    import tomllib

    return tomllib.loads(Path(__file__).with_name("ko.toml").read_text("utf-8"))


@cache
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    """How the plain templates look when filled in; the one that says the most comes first."""
    from string import Formatter

    found = []
    for template in _catalogue():
        pieces = [(text, name or "", spec or how) for text, name, spec, how in Formatter().parse(template)]
        names = [name for _, name, _ in pieces if name]
        if names and len(set(names)) == len(names) and not any(form for _, _, form in pieces):
            shape = "".join(re.escape(text) + (f"(?P<{name}>.*)" if name else "") for text, name, _ in pieces)
            found.append((re.compile(shape, re.DOTALL), template))
    return sorted(found, key=lambda x: -len(re.sub("{.*?}", "", x[1])))
