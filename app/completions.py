"""OpenAI chat completions over the agent: memory, mask, tools and recording inside, plain tokens outside.

Models: ``habitus`` (growth), ``habitus-sandbox`` (no trace), and the selves of before by name (no trace either).
Whatever a client sends beside the person's message shapes the reply and teaches nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import Headers

from agent.errors import HabitusError, NotFoundError, UsageError
from agent.models.grammar import flaw
from agent.records import Self, Turn
from agent.settings import Sampling
from app.conversation import Brought, Conversation, new_thread
from app.threads import Threads
from graphs.converse import GROWTH_TOOLS

if TYPE_CHECKING:
    from app.habitus import Habitus
    from graphs.converse import State

Json = dict[str, Any]
GROWTH, SANDBOX = "habitus", "habitus-sandbox"
TALKING = 128  # conversations that are answered at the same time
LOOK = 0.2  # seconds between two looks whether a client is still there
EVENTS = "text/event-stream"
THREAD = "x-habitus-thread"
CHAT = "x-openwebui-chat-id"  # Open WebUI names its conversations, where it is told to
LEFT_OUT = "x-habitus-left-out"  # what a client brought and this model has no room for


def whole(text: str) -> str:
    """A text cut in the middle of an emoji holds half a character, which nothing can write."""
    return text.encode("utf-8", "replace").decode()


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
    history: list[tuple[str, str]] = []
    user: list[str] = []
    for m in spoken[:last]:
        if m.role == "user":
            user.append(m.text)
        elif m.role == "assistant" and m.text and user:
            history.append(("\n".join(user), m.text))
            user = []
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
        system="\n\n".join(m.text for m in messages if m.role in ("system", "developer")),
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


class _Gone(Exception):
    """The client no longer listens."""


Reply = Callable[[Callable[[str], None] | None], "State"]


class Begun(NamedTuple):
    """A request that makes sense."""

    conversation: Conversation
    reply: Reply
    left_out: str  # what the client brought and there is no room for


class Door:
    """Answers requests, each in a thread of its own; the event loop only carries words."""

    def __init__(self, habitus: Habitus) -> None:
        self._habitus = habitus
        self._threads = Threads(habitus.bag)
        self._talking = ThreadPoolExecutor(TALKING, thread_name_prefix="talk")

    def models(self) -> list[str]:
        """Who can be talked with."""
        return [GROWTH, SANDBOX, *(s.id for s in self._habitus.bag.ledger.all(Self))]

    def opened(self, asked: Asked, said: Parted, headers: Headers) -> tuple[Conversation, str]:
        """The conversation that is meant, and the turn in which another reply is wanted."""
        habitus = self._habitus
        if asked.model == GROWTH:
            place = self._threads.place(said.history, said.user, headers.get(THREAD, ""), headers.get(CHAT, ""))
            return Conversation(habitus, place.thread or new_thread(), "growth"), place.again
        if asked.model == SANDBOX:
            return Conversation(habitus, new_thread(), "sandbox"), ""
        return Conversation(habitus, new_thread(), "sandbox", habitus.bag.selves.get(asked.model).id), ""

    def begin(self, asked: Asked, headers: Headers) -> Begun:
        """What is to be said, to whom. Having the reply takes as long as the model does.

        Raises:
            UsageError, NotFoundError: the request makes no sense.
        """
        if (asked.n or 1) != 1:
            raise UsageError("One reply at a time: n is {n}.", "Ask again for another.", n=asked.n)
        said = parted(asked.messages)
        if said.pictures and not self._habitus.bag.body.sees:
            raise UsageError("This model cannot look at pictures.", "Say it in words.")
        tools, choice, left_out = self._tools(asked)
        room = self._habitus.bag.body.context // 2
        if (long := self._habitus.bag.body.count(said.system)) > room:
            raise UsageError(
                "What the client says of itself has {long} tokens; there is room for {room}.",
                "Shorten its system prompt.",
                long=long,
                room=room,
            )
        brought = Brought(
            history=said.history,
            system=said.system,
            sampling=asked.sampling(),
            tools=tools,
            choice=choice,
            exchange=said.exchange,
            pictures=said.pictures,
        )
        conversation, again = self.opened(asked, said, headers)

        def reply(show: Callable[[str], None] | None) -> State:
            if not again or said.exchange:
                return conversation.answer(said.user, show, brought)
            last = self._habitus.bag.ledger.get(Turn, again)
            heed = (lambda _: show("")) if show else None  # not piece by piece: what says the same is drawn again
            found = conversation.answer(said.user, heed, brought, last.reply, again)
            if show:
                show(found["reply"])
            return found

        return Begun(conversation, reply, left_out)

    def _tools(self, asked: Asked) -> tuple[tuple[Json, ...], str, str]:
        """A client's own tools, which of them is wanted, and which had to be left out.

        Raises:
            UsageError: one has the name of mine, or is wanted and cannot be had.
        """
        body = self._habitus.bag.body
        given = [t.function for t in asked.tools or () if t.type == "function" and t.function]
        if clash := sorted({t.name for t in GROWTH_TOOLS} & {f.name for f in given}):
            raise UsageError("The tool {tool!r} is mine.", "Give yours another name.", tool=clash[0])
        tools = {f.name: {"type": "function", "function": f.model_dump(exclude_none=True)} for f in given}
        choice = asked.choice() if given else "auto"
        if choice not in ("auto", "none", "required", *tools):
            raise UsageError("There is no tool {tool!r} among those sent.", "", tool=choice)
        if body.count(json.dumps(list(tools.values()))) > body.context // 2:
            left_out = "tools"
        else:
            left_out = ", ".join(name for name, tool in tools.items() if flaw(tool))
        kept = () if left_out == "tools" else tuple(t for name, t in tools.items() if name not in left_out.split(", "))
        if choice not in ("auto", "none") and left_out and (choice != "required" or not kept):
            raise UsageError("The tools {tools} cannot be called here: too long, or no schema.", "", tools=left_out)
        return kept, choice if kept else "auto", left_out

    async def pieces(self, reply: Reply) -> AsyncIterator[str | State]:
        """The reply piece by piece, and last how the turn ended. Closing it ends the reply."""
        loop, queue, gone = asyncio.get_running_loop(), asyncio.Queue[Any](), threading.Event()

        def show(piece: str) -> None:
            _leave(gone)
            if piece:
                loop.call_soon_threadsafe(queue.put_nowait, piece)

        def work() -> None:
            try:
                _leave(gone)  # while it waited for its turn
                end: Any = reply(show)
            except BaseException as error:
                end = error
            if not gone.is_set():
                loop.call_soon_threadsafe(queue.put_nowait, end)

        self._talking.submit(work)
        try:
            while isinstance(piece := await queue.get(), str):
                yield piece
            if isinstance(piece, BaseException):
                raise piece
            yield piece
        finally:
            gone.set()


def _leave(gone: threading.Event) -> None:
    if gone.is_set():
        raise _Gone


async def _next(pieces: AsyncIterator[str | State], request: Request) -> str | State:
    """The next piece, while the client is still there; not for a response that has begun, which looks itself."""
    coming = asyncio.ensure_future(anext(pieces))
    while not (await asyncio.wait({coming}, timeout=LOOK))[0]:
        if await request.is_disconnected():
            coming.cancel()
            raise _Gone
    return await coming


def routes(door: Door) -> APIRouter:
    """``/v1/models`` and ``/v1/chat/completions``."""
    router = APIRouter(prefix="/v1", tags=["OpenAI"])
    born = int(time.time())

    @router.get("/models")
    def models() -> Json:
        """Who can be talked with."""
        return {"object": "list", "data": [_model(name, born) for name in door.models()]}

    @router.get("/models/{name}")
    def model(name: str) -> Json:
        """One of them."""
        if name not in door.models():
            raise NotFoundError("There is no model {name!r}.", "GET /v1/models lists them.", name=name)
        return _model(name, born)

    @router.post("/chat/completions", response_model=None)
    async def completions(asked: Asked, request: Request) -> Response:
        """One reply, whole or streamed."""
        conversation, reply, left_out = await asyncio.to_thread(door.begin, asked, request.headers)
        form = _Form(asked.model)
        headers = {THREAD: conversation.thread} if conversation.mode == "growth" else {}
        if left_out:
            headers[LEFT_OUT] = left_out
        pieces = door.pieces(reply)
        try:
            piece = await _next(pieces, request)  # an error before the first word is an error of the whole request
            if asked.stream:
                headers |= {"cache-control": "no-cache"}
                usage = bool(asked.stream_options and asked.stream_options.include_usage)
                return StreamingResponse(_events(form, piece, pieces, usage), headers=headers, media_type=EVENTS)
            while isinstance(piece, str):
                piece = await _next(pieces, request)
            return JSONResponse(form.whole(piece), headers=headers)
        except _Gone:
            return Response(status_code=499)

    return router


async def _events(
    form: _Form, first: str | State, pieces: AsyncIterator[str | State], usage: bool
) -> AsyncIterator[str]:
    yield form.event({"role": "assistant", "content": ""})
    try:
        piece = first
        while isinstance(piece, str):
            yield form.event({"content": piece})
            piece = await anext(pieces)
    except Exception as error:
        if not isinstance(error, HabitusError):
            logging.getLogger("uvicorn.error").exception("a reply broke off")
            error = unforeseen(error)
        yield f"data: {json.dumps(failure(error), ensure_ascii=False)}\n\n"
        return
    finally:
        await pieces.aclose()  # type: ignore[attr-defined]
    if piece["asked"]:
        yield form.event({"tool_calls": [{"index": i} | c for i, c in enumerate(_asked(piece))]})
    yield form.event({}, finish=_finish(piece), who=piece["self_name"])
    if usage:
        yield form.event(None, usage=_usage(piece))
    yield "data: [DONE]\n\n"


class _Form:
    """The shapes of OpenAI's answers."""

    def __init__(self, model: str) -> None:
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def whole(self, final: State) -> Json:
        message: Json = {"role": "assistant", "content": final["reply"]}
        if final["asked"]:
            message = {"role": "assistant", "content": None, "tool_calls": _asked(final)}
        choice = {"index": 0, "message": message, "finish_reason": _finish(final), "logprobs": None}
        return self._head | {
            "object": "chat.completion",
            "choices": [choice],
            "usage": _usage(final),
            "system_fingerprint": final["self_name"],
        }

    def event(self, delta: Json | None, finish: str | None = None, who: str = "", usage: Json | None = None) -> str:
        choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}]
        body = self._head | {"object": "chat.completion.chunk", "choices": choices}
        if who:
            body["system_fingerprint"] = who
        if usage:
            body["usage"] = usage
        return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def _asked(final: State) -> list[Json]:
    return [
        {
            "id": c["id"] or f"call-{uuid.uuid4().hex[:12]}",
            "type": "function",
            "function": {"name": c["name"], "arguments": json.dumps(c["args"], ensure_ascii=False)},
        }
        for c in final["asked"]
    ]


def _finish(final: State) -> str:
    return "tool_calls" if final["asked"] else "stop" if final["ended"] else "length"


def _usage(final: State) -> Json:
    read, said = final["usage"]
    return {"prompt_tokens": read, "completion_tokens": said, "total_tokens": read + said}


def _model(name: str, born: int) -> Json:
    return {"id": name, "object": "model", "created": born, "owned_by": "habitus"}


def unforeseen(error: Exception) -> HabitusError:
    """What nobody thought of, as an error like any other; the server's log has the rest."""
    return HabitusError("Something went wrong: {reason}.", "The log of `habitus serve` has more.", reason=repr(error))


def failure(error: HabitusError) -> Json:
    """An error in the shape that OpenAI's clients read."""
    message = f"{error.message} {error.hint}".strip()
    return {"error": {"message": message, "type": type(error).__name__, "param": None, "code": None}}
