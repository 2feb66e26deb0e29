"""Tool schemas → a Lark grammar that admits exactly the legal calls (llguidance).

Besides plain JSON schema a property may carry ``x-substring-of: [texts]``: then only true
substrings of one of the texts are admitted: a grounded quote by construction. Simple schemas are
written out here, so that a small model has little to choose; all others are llguidance's own to read.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from agent.errors import ModelError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

_WRITTEN = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_TEXT = r'TEXT_{n}: /([^"\\\x00-\x1f]|\\["\\\/nrt]){{1,{most}}}/'


class _Rules:
    """Collects grammar lines while a schema is walked."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def value(self, schema: dict[str, Any]) -> str:
        """The grammar expression for one JSON value."""
        if "x-substring-of" in schema:
            names, least = [], max(1, schema.get("minLength", 1))
            for text in schema["x-substring-of"]:
                name = f"SUB_{len(self.lines)}"
                pieces = [json.dumps(c, ensure_ascii=False)[1:-1] for c in text]
                self.lines.append(f"{name}: ANY_{name} & /(.|\\n){{{least},}}/")
                self.lines.append(f"ANY_{name}: %regex " + json.dumps({"substring_chunks": pieces}, ensure_ascii=False))
                names.append(name)
            return f'"\\"" ({" | ".join(names)}) "\\""'
        if "enum" in schema or "const" in schema:
            options = schema.get("enum", [schema.get("const")])
            return "(" + " | ".join(_literal(json.dumps(o, ensure_ascii=False)) for o in options) + ")"
        kind = schema.get("type")
        if kind == "integer":
            low, high = schema.get("minimum", 0), schema.get("maximum", 999)
            if high - low <= 100:
                return "(" + " | ".join(f'"{i}"' for i in range(low, high + 1)) + ")"
            return "/[0-9]{1,6}/"
        if kind == "number":
            return r"/0(\.[0-9]{1,3})?/"
        if kind == "boolean":
            return '("true" | "false")'
        if kind == "array":
            item = self.value(schema["items"])
            least, most = max(1, schema.get("minItems", 1)), schema.get("maxItems", 32)
            more = f'(", " {item}){{{least - 1},{most - 1}}}' if most > 1 else ""
            return f'"[" {item} {more} "]"'
        name = f"TEXT_{len(self.lines)}"
        self.lines.append(_TEXT.format(n=len(self.lines), most=schema.get("maxLength", 400)))
        return f'"\\"" {name} "\\""'


def _simple(schema: Any) -> bool:
    """Whether ``value`` knows it, and admits all that it allows."""
    if not isinstance(schema, dict):
        return False
    limits: dict[str, float] = schema
    if {"x-substring-of", "enum", "const"} & set(schema):
        return True
    match schema.get("type"):
        case "string":
            return not {"pattern", "format"} & set(schema)
        case "boolean":
            return True
        case "integer":
            return limits.get("minimum", -1) >= 0
        case "number":
            return limits.get("minimum", -1) >= 0 and limits.get("maximum", limits.get("exclusiveMaximum", 9)) <= 1
        case "array":
            return _simple(schema.get("items"))
        case _:
            return False


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def lark(tools: list[dict[str, Any]]) -> str:
    """A grammar for one call of one of ``tools`` (OpenAI function form), arguments in declared order."""
    rules, calls = _Rules(), []
    for tool in tools:
        function = tool.get("function", tool)
        parameters = function.get("parameters") or {}
        properties = parameters.get("properties", {})
        parts = [_literal('{"name": "' + function["name"] + '", "parameters": ')]
        if set(properties) <= set(parameters.get("required", ())) and all(map(_simple, properties.values())):
            for i, (name, schema) in enumerate(properties.items()):
                parts.append(_literal(f'{", " if i else "{"}"{name}": '))
                parts.append(rules.value(schema))
            parts.append(_literal("}}" if properties else "{}}"))
        else:
            parts.append(
                "%json "
                + json.dumps({"type": "object", "additionalProperties": False, **parameters, "x-guidance": _WRITTEN})
            )
            parts.append(_literal("}"))
        calls.append(" ".join(parts))
    return "\n".join(["start: " + "\n     | ".join(calls), *rules.lines]) + "\n"


def flaw(tool: dict[str, Any]) -> str:
    """What is wrong with a tool's schema, in a line; empty when calls of it can be held to it."""
    import llguidance

    found: str = llguidance.LLMatcher.validate_grammar(llguidance.grammar_from("lark", lark([tool])))
    return found.strip().splitlines()[0] if found else ""


class Constraint:
    """Follows one reply through a grammar."""

    def __init__(self, tok: PreTrainedTokenizerFast, tools: list[dict[str, Any]]) -> None:
        import llguidance
        import llguidance.hf

        if not hasattr(tok, "_habitus_guide"):
            tok._habitus_guide = llguidance.hf.from_tokenizer(tok)
        guide = tok._habitus_guide
        grammar = llguidance.grammar_from("lark", lark(tools))
        self._matcher = llguidance.LLMatcher(guide, grammar)
        if error := self._matcher.get_error():
            raise ModelError("The tool grammar is not valid: {error}", error=error)
        self._size = len(tok)
        self.eos = tok.eos_token_id

    def allowed(self, scores: torch.Tensor) -> torch.Tensor:
        """Which tokens may come next: bool, as long as ``scores`` (a padded vocabulary is longer than the tokenizer's)."""
        import torch
        from llguidance import torch as llg

        bits = llg.allocate_token_bitmask(1, self._size)
        llg.fill_next_token_bitmask(self._matcher, bits)
        words = bits[0].to(torch.int64) & 0xFFFFFFFF
        mask = ((words[:, None] >> torch.arange(32)) & 1).bool().flatten()[: self._size]
        whole = torch.zeros(scores.shape[-1], dtype=torch.bool)
        whole[: self._size] = mask
        return whole.to(scores.device)

    def accept(self, token: int) -> None:
        """Moves past ``token``."""
        self._matcher.consume_token(token)

    @property
    def finished(self) -> bool:
        """Whether the call is complete."""
        return bool(self._matcher.is_stopped())
