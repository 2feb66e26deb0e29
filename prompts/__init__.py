"""The words the model reads: one Markdown template per prompt and language.

Templates are strict (Jinja2 ``StrictUndefined``): a name that is missing raises
instead of rendering as nothing. Values are inserted as text, never as templates.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from unicodedata import normalize

if TYPE_CHECKING:
    from jinja2 import Template

Language = Literal["ko", "en"]
LANGUAGES: tuple[Language, ...] = ("ko", "en")


@cache
def _template(name: str, language: Language) -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / language),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # the reader is a language model, not a browser
    )
    return environment.get_template(f"{name}.md")


def render(name: str, language: Language, **values: object) -> str:
    """Prompt ``name`` in ``language`` with ``values`` filled in, trimmed.

    Raises:
        jinja2.TemplateNotFound: no such prompt.
        jinja2.UndefinedError: the template uses a value that was not given.
    """
    return _template(name, language).render(**values).strip()


def language_of(text: str) -> Language:
    """``ko`` when ``text`` holds any Hangul syllable, in one character or in several, or jamo; else ``en``."""
    hangul = any("가" <= c <= "힣" or "ㄱ" <= c <= "ㆎ" for c in normalize("NFC", text))
    return "ko" if hangul else "en"
