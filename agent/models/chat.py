"""A LangChain chat model over an embedded body: streaming, ``bind_tools``, ``tool_choice``."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import ToolCallChunk, tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ConfigDict

from agent.models.calls import calling, parse
from agent.ports import Message, Prompt, Usage, Voice
from agent.settings import Sampling

_ROLES = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool"}


def to_message(message: BaseMessage) -> Message:
    """A LangChain message in chat-template form."""
    if isinstance(message, AIMessage) and message.tool_calls:
        calls = [
            {
                "type": "function",
                "id": c["id"],
                "function": {"name": c["name"], "arguments": json.dumps(c["args"], ensure_ascii=False)},
            }
            for c in message.tool_calls
        ]
        return {"role": "assistant", "content": "", "tool_calls": calls}
    if isinstance(message, ToolMessage):
        return {
            "role": "tool",
            "content": str(message.text),
            "name": message.name,
            "tool_call_id": message.tool_call_id,
        }
    seen = isinstance(message.content, list) and any(
        isinstance(p, dict) and p.get("type") == "image_url" for p in message.content
    )
    return {"role": _ROLES[message.type], "content": message.content if seen else str(message.text)}


def _call_id() -> str:
    return f"call-{uuid.uuid4().hex[:12]}"


class HabitusChat(BaseChatModel):
    """Speaks as ``voice``. A reply that is a tool call carries no content, only ``tool_calls``."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    body: Any
    voice: Voice
    sampling: Sampling
    salt: str = ""
    streaming: bool = True  # given explicitly, LangChain's ``invoke`` hands every piece to the callbacks, too

    @property
    def _llm_type(self) -> str:
        return "habitus-embedded"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"base": self.body.digest, "parts": [[p.name, w] for p, w in self.voice.parts]}

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[Any, AIMessage]:
        """Offer ``tools``. ``tool_choice``: ``auto``, ``none``, ``any``/``required``, or a tool's name."""
        formal = [t if isinstance(t, dict) else convert_to_openai_tool(t) for t in tools]
        choice = "required" if tool_choice == "any" else tool_choice or "auto"
        return self.bind(tools=formal, tool_choice=choice, **kwargs)

    def _settle(self, stop: list[str] | None, kwargs: dict[str, Any]) -> Sampling:
        own = {k: v for k, v in kwargs.items() if k in Sampling.model_fields}
        if stop:
            own["stop"] = (*self.sampling.stop, *stop)
        return Sampling.model_validate({**self.sampling.model_dump(), **own}) if own else self.sampling

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        prompt = Prompt(tuple(to_message(m) for m in messages), tuple(kwargs.get("tools", ())), self.salt)
        text, usage = "", Usage(0, 0)
        called = None if prompt.tools and kwargs.get("tool_choice") != "none" else False
        pieces = self.body.stream(prompt, self.voice, self._settle(stop, kwargs), kwargs.get("tool_choice", "auto"))
        try:
            while True:
                try:
                    piece = next(pieces)
                except StopIteration as done:
                    usage = done.value
                    break
                text += piece
                if called is None:
                    called, piece = calling(text), text
                if called is False:
                    yield ChatGenerationChunk(message=AIMessageChunk(content=piece))
        finally:
            pieces.close()  # whoever stops listening ends the reply
        tool_calls: list[ToolCallChunk] = []
        if called is not False:  # what broke off on its way to a call is none that holds
            _, calls, bad = parse(text)
            tool_calls = [
                tool_call_chunk(name=c["name"], args=json.dumps(c["args"], ensure_ascii=False), id=_call_id(), index=i)
                for i, c in enumerate(calls)
            ]
            # merging chunks parses arguments leniently: mark what is broken so that it stays invalid
            tool_calls += [
                tool_call_chunk(name=None, args=f"✗ {b}", id=None, index=len(calls) + i) for i, b in enumerate(bad)
            ]
        tokens = UsageMetadata(input_tokens=usage.read, output_tokens=usage.said, total_tokens=sum(usage))
        yield ChatGenerationChunk(
            message=AIMessageChunk(content="", tool_call_chunks=tool_calls, usage_metadata=tokens)
        )

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return generate_from_stream(self._stream(messages, stop, run_manager, **kwargs))
