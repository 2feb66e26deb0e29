"""What a tool is: a function whose signature and docstring are the contract.

The first parameter is the ``Desk`` the call works at; the model sees only the others. A bad call
comes back as ``error: …`` for the model to correct; it never crashes the graph.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from agent.bag import Bag
from agent.models.sampling import looped
from agent.records import Call, Draft, Habit, Mode, Proposal, Self, Turn, Verdict
from prompts import Language


class ToolError(Exception):
    """A call that cannot be carried out, in words the model can act on."""


@dataclass
class Desk:
    """Where calls work: the bag, and what the model was shown, by the numbers it was shown under."""

    bag: Bag
    mode: Mode = "growth"
    thread: str = ""
    turn: str = ""  # in which the person said it
    user: str = ""
    who: Self | None = None
    phase: str = ""
    language: Language = "ko"
    turns: dict[int, Turn] = field(default_factory=dict)
    habits: dict[int, Habit] = field(default_factory=dict)
    draft: Draft | None = None
    reporter: Callable[[str], None] = lambda text: None
    # what came of it
    verdicts: list[Verdict] = field(default_factory=list)
    proposals: list[Proposal] = field(default_factory=list)
    abstained: str = ""


@dataclass(frozen=True)
class Tool:
    """A verb the model may call."""

    name: str
    description: str
    arguments: type[BaseModel]
    function: Callable[..., str]

    def schema(self, **narrow: dict[str, Any]) -> dict[str, Any]:
        """The OpenAI function form; ``narrow`` tightens single arguments for this moment."""
        properties = {key: {**own, **narrow.get(key, {})} for key, own in _properties(self.arguments).items()}
        parameters = {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description, "parameters": parameters},
        }

    def call(self, desk: Desk, arguments: dict[str, Any]) -> Call:
        """Validate and carry out one call."""
        try:
            checked = self.arguments.model_validate(arguments)
            if any(isinstance(x, str) and looped(x.rstrip(" .'\"")) for x in arguments.values()):
                raise ToolError("the text repeats itself; say it once")
            result = self.function(desk, **{k: getattr(checked, k) for k in type(checked).model_fields})
        except ValidationError as error:
            first = error.errors()[0]
            result = f"error: {'.'.join(map(str, first['loc'])) or 'arguments'}: {first['msg']}"
        except ToolError as error:
            result = f"error: {error}"
        return Call(name=self.name, arguments=arguments, result=result)


@cache
def _properties(arguments: type[BaseModel]) -> dict[str, dict[str, Any]]:
    """The JSON schema of each argument."""
    whole = arguments.model_json_schema()["properties"]
    return {key: {k: v for k, v in own.items() if k not in ("title", "default")} for key, own in whole.items()}


def tool(function: Callable[..., str]) -> Tool:
    """Make a ``Tool`` of a function ``(desk, …) -> str``."""
    hints = get_type_hints(function, include_extras=True)
    names = list(inspect.signature(function).parameters)[1:]
    fields: dict[str, Any] = {name: (hints[name], ...) for name in names}
    arguments = create_model(
        function.__name__, __config__=ConfigDict(extra="forbid", str_strip_whitespace=True), **fields
    )
    return Tool(function.__name__, inspect.getdoc(function) or "", arguments, function)
