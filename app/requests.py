"""What clients of OpenAI's chat completions send, checked; unknown fields are ignored."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from pydantic import BaseModel, ConfigDict, Field

from agent.errors import UsageError
from agent.settings import Sampling

Json = dict[str, Any]
GROWTH = "habitus"


def whole(text: str) -> str:
    """A text cut in the middle of an emoji holds half a character, which nothing can write."""
    return text.encode("utf-8", "replace").decode()


def _sent(schema: Any) -> Any:
    """A schema without what is null: clients write so what they leave open."""
    if isinstance(schema, dict):
        return {k: _sent(v) for k, v in schema.items() if v is not None or k in ("const", "default")}
    return [_sent(v) for v in schema] if isinstance(schema, list) else schema


class Part(BaseModel):
    """A piece of a message: words or a picture."""

    model_config = ConfigDict(extra="ignore")
    type: str = "text"
    text: str | None = None
    image_url: str | Json | None = None

    @property
    def url(self) -> str:
        return self.image_url if isinstance(self.image_url, str) else str((self.image_url or {}).get("url") or "")


class CalledFunction(BaseModel):
    model_config = ConfigDict(extra="ignore")
    name: str
    arguments: str | Json | None = None


class ToolCall(BaseModel):
    """A call that the assistant is said to have made."""

    model_config = ConfigDict(extra="ignore")
    id: str | None = None
    function: CalledFunction


class Said(BaseModel):
    """One message as clients send it."""

    model_config = ConfigDict(extra="ignore")
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "\n".join(whole(p.text or "") for p in self.content if p.type in ("text", "input_text"))
        return whole(self.content or "")

    @property
    def pictures(self) -> tuple[str, ...]:
        parts = self.content if isinstance(self.content, list) else []
        return tuple(p.url for p in parts if p.type == "image_url" and p.url)


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore")
    include_usage: bool | None = False


class Function(BaseModel):
    """What a tool of a client's does."""

    model_config = ConfigDict(extra="ignore")
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: Json | None = None

    @property
    def tool(self) -> Json:
        """It in OpenAI's form. Properties it always has: templates count on them."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters or {}}
        told: Json = json.loads(whole(json.dumps(_sent(function), ensure_ascii=False)))
        told["parameters"] = {"type": "object", "properties": {}} | told["parameters"]
        return {"type": "function", "function": told}


class ClientTool(BaseModel):
    """A tool of a client's own, in OpenAI's form."""

    model_config = ConfigDict(extra="ignore")
    type: str = "function"
    function: Function | None = None


class Named(BaseModel):
    name: str


class ToolChoice(BaseModel):
    """The one tool that must be called."""

    model_config = ConfigDict(extra="ignore")
    function: Named


class Asked(BaseModel):
    """A request; fields that mean nothing here are ignored."""

    model_config = ConfigDict(extra="ignore")
    model: str = GROWTH
    messages: Annotated[list[Said], Field(min_length=1)]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: int | None = 1
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    logit_bias: dict[str, float] | None = None
    tools: list[ClientTool] | None = None
    tool_choice: str | ToolChoice | None = None
    response_format: Json | None = None

    def sampling(self) -> Json:
        """The values it sets, checked as those of habitus.toml are."""
        given = {k: getattr(self, k) for k in Sampling.model_fields if getattr(self, k, None) is not None}
        if most := self.max_completion_tokens or self.max_tokens:
            given["max_tokens"] = most
        if "stop" in given:
            given["stop"] = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if given.get("top_k") == -1:  # as vLLM's clients say "off"
            given["top_k"] = 0
        Sampling.model_validate(given)
        return given

    def choice(self) -> str:
        if isinstance(self.tool_choice, ToolChoice):
            return self.tool_choice.function.name
        return self.tool_choice or "auto"


class Parted(BaseModel):
    """A request's messages, as a conversation takes them."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    system: str
    history: tuple[tuple[str, str], ...]
    user: str
    pictures: tuple[str, ...]
    exchange: tuple[Any, ...]


def parted(messages: list[Said]) -> Parted:
    """What the client says of itself, what was said before, what is said now, and what its tools have answered.

    Raises:
        UsageError: nothing is said now.
    """
    spoken = [m for m in messages if m.role not in ("system", "developer")]
    last = max((i for i, m in enumerate(spoken) if m.role == "user"), default=-1)
    after = spoken[last + 1 :]
    if (
        last < 0
        or any(m.role == "assistant" and not m.tool_calls for m in after)
        or (after and after[-1].role != "tool")
    ):
        raise UsageError("There is nothing to answer.", "The last message is the user's, or what a tool answered.")
    system = [m.text for m in messages if m.role in ("system", "developer")]
    history: list[tuple[str, str]] = []
    user: list[str] = []
    for m in spoken[:last]:
        if m.role == "user":
            user.append(m.text)
        elif m.role == "tool" or m.tool_calls or not m.text:  # on the way to a reply
            continue
        elif user:
            history.append(("\n".join(user), m.text))
            user = []
        elif history:
            history[-1] = (history[-1][0], f"{history[-1][1]}\n{m.text}")
        else:  # a greeting, which answers nobody
            system.append(m.text)
    exchange: list[BaseMessage] = []
    names: dict[str, str] = {}
    for m in after:
        if m.role == "assistant":
            calls = [_call(c) for c in m.tool_calls or ()]
            names |= {c["id"]: c["name"] for c in calls}
            exchange.append(AIMessage("", tool_calls=calls))
        else:
            ref = m.tool_call_id or ""
            exchange.append(ToolMessage(m.text, tool_call_id=ref, name=names.get(ref) or m.name or ""))
    return Parted(
        system="\n\n".join(system),
        history=tuple(history),
        user="\n".join([*user, spoken[last].text]),
        pictures=spoken[last].pictures,
        exchange=tuple(exchange),
    )


def _call(made: ToolCall) -> Json:
    name, arguments = made.function.name, made.function.arguments or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(whole(arguments))
        except ValueError as error:
            raise UsageError("The arguments of {name} are no JSON.", "", name=name) from error
    if not isinstance(arguments, dict):
        raise UsageError("The arguments of {name} are no JSON object.", "", name=name)
    return {"id": made.id or "", "name": name, "args": arguments, "type": "tool_call"}
