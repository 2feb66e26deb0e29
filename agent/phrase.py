"""Words for a person, kept so that a door can say them in another language."""

from __future__ import annotations


class Phrase(str):
    """An English text that remembers the template and the values it was made of.

    Without values the template is taken as it stands, so a text of unknown origin is safe with its
    braces. What is written to the ledger or to JSON is the plain English text.
    """

    template: str
    values: dict[str, object]

    def __new__(cls, template: str, /, **values: object) -> Phrase:
        made = super().__new__(cls, template.format(**values) if values else template)
        made.template, made.values = template, values
        return made
