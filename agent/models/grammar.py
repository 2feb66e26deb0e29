"""Tool schemas → a Lark grammar that admits exactly the legal calls (llguidance).

Besides plain JSON schema a property may carry ``x-substring-of: [texts]``: then only true
substrings of one of the texts are admitted: a grounded quote by construction. Schemas that bound what
they allow, as those of our own tools do, are written out here, so that a small model has little to choose;
all others are llguidance's own to read.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from agent.errors import ModelError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

_WRITTEN = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_REMARKS = {"$schema", "title", "description", "default", "examples"}  # what a schema says and does not demand
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
        match schema["type"]:
            case "integer":
                return "(" + " | ".join(f'"{i}"' for i in range(schema["minimum"], schema["maximum"] + 1)) + ")"
            case "number":
                return r"/0(\.[0-9]{1,3})?/"
            case "boolean":
                return '("true" | "false")'
            case "array":
                item = self.value(schema["items"])
                least, most = schema["minItems"], schema["maxItems"]
                more = f'(", " {item}){{{least - 1},{most - 1}}}' if most > 1 else ""
                return f'"[" {item} {more} "]"'
        name = f"TEXT_{len(self.lines)}"
        self.lines.append(_TEXT.format(n=len(self.lines), most=schema["maxLength"]))
        return f'"\\"" {name} "\\""'


def _simple(schema: Any) -> bool:
    """Whether ``value`` knows it, and admits what it allows: nothing less, and no more than a tool refuses itself."""
    if not isinstance(schema, dict):
        return False
    match {k: v for k, v in schema.items() if k not in _REMARKS}:
        case {"x-substring-of": list(texts)}:
            return (
                bool(texts) and all(isinstance(t, str) for t in texts) and isinstance(schema.get("minLength", 1), int)
            )
        case {"enum": options}:
            return isinstance(options, list) and bool(options)
        case {"const": _}:
            return True
        case {"type": "boolean", **rest}:
            return not rest
        case {"type": "string", "minLength": 1 | 2, "maxLength": int(most), **rest}:
            return not rest and 2 <= most <= 400
        case {"type": "integer", "minimum": int(low), "maximum": int(high), **rest}:
            return not rest and 0 <= high - low <= 100
        case {"type": "number", "minimum": 0, "exclusiveMaximum": 1, **rest}:
            return not rest  # a share: three decimals are enough
        case {"type": "array", "items": items, "minItems": int(least), "maxItems": int(most), **rest}:
            return not rest and 1 <= least <= most <= 32 and _simple(items)
        case _:
            return False


def _flat(parameters: dict[str, Any]) -> bool:
    """Whether each argument must be given and is simple, and nothing is said of them together."""
    properties, required = parameters.get("properties", {}), parameters.get("required", [])
    known = {"type", "properties", "required", "additionalProperties", *_REMARKS}
    return (
        isinstance(properties, dict)
        and isinstance(required, list)
        and len(properties) == len(required)
        and all(name in required and _simple(schema) for name, schema in properties.items())
        and set(parameters) <= known
        and not parameters.get("additionalProperties")
    )


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def lark(tools: list[dict[str, Any]]) -> str:
    """A grammar for one call of one of ``tools`` (OpenAI function form), arguments in declared order."""
    rules, calls = _Rules(), []
    for tool in tools:
        function = tool.get("function", tool)
        parameters = function.get("parameters") or {}
        parts = [_literal('{"name": "' + function["name"] + '", "parameters": ')]
        if _flat(parameters):
            properties = parameters.get("properties", {})
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
