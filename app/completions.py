"""OpenAI chat completions over the agent: memory, mask, tools and recording inside, plain tokens outside.

Models: ``habitus`` (growth), ``habitus-sandbox`` (no trace), and the selves of before by name (no trace either).
Whatever a client sends beside the person's message shapes the reply and teaches nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.datastructures import Headers

from agent.errors import HabitusError, NotFoundError, UsageError
from agent.models.grammar import flaw
from agent.ports import Body, Prompt
from agent.records import Self, Turn
from app.conversation import Brought, Conversation, new_thread
from app.requests import GROWTH, Asked, Json, Parted, parted
from app.threads import Threads
from graphs.converse import GROWTH_TOOLS

if TYPE_CHECKING:
    from app.habitus import Habitus
    from graphs.converse import State

SANDBOX = "habitus-sandbox"
TALKING = 128  # conversations that are answered at the same time
LOOK = 0.2  # seconds between two looks whether a client is still there
EVENTS = "text/event-stream"
THREAD = "x-habitus-thread"
CHAT = "x-openwebui-chat-id"  # Open WebUI names its conversations, where it is told to
LEFT_OUT = "x-habitus-left-out"  # what a client brought and this model has no room for


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

    def known(self, name: str) -> None:
        """Make sure that ``name`` can be talked with.

        Raises:
            NotFoundError: it cannot.
        """
        if name not in self.models():
            raise NotFoundError("There is no model {name!r}.", "GET /v1/models lists them.", name=name)

    def opened(self, asked: Asked, said: Parted, headers: Headers) -> tuple[Conversation, str]:
        """The conversation that is meant, and the turn in which another reply is wanted."""
        habitus = self._habitus
        if asked.model == GROWTH:
            place = self._threads.place(said.history, said.user, headers.get(THREAD, ""), headers.get(CHAT, ""))
            return Conversation(habitus, place.thread or new_thread(), "growth"), place.again
        if asked.model == SANDBOX:
            return Conversation(habitus, new_thread(), "sandbox"), ""
        self.known(asked.model)
        return Conversation(habitus, new_thread(), "sandbox", asked.model), ""

    def begin(self, asked: Asked, headers: Headers) -> Begun:
        """What is to be said, to whom. Having the reply takes as long as the model does.

        Raises:
            UsageError, NotFoundError: the request makes no sense.
        """
        if (asked.n or 1) != 1:
            raise UsageError("One reply at a time: n is {n}.", "Ask again for another.", n=asked.n)
        if (form := (asked.response_format or {}).get("type", "text")) != "text":
            raise UsageError(
                "A reply cannot be held to the form {form!r}.",
                "Ask for it in words, or have a tool called: its arguments keep to its schema.",
                form=form,
            )
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
            history=None if headers.get(THREAD) and not said.history else said.history,
            system=said.system,
            sampling=asked.sampling(),
            tools=tools,
            choice=choice,
            exchange=said.exchange,
            pictures=said.pictures,
        )
        conversation, again = self.opened(asked, said, headers)

        def reply(show: Callable[[str], None] | None) -> State:
            if not again or said.exchange or brought.history is None:  # who resends nothing may say the same anew
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
        given = [t.function for t in asked.tools or () if t.type == "function" and t.function]
        if clash := sorted({t.name for t in GROWTH_TOOLS} & {f.name for f in given}):
            raise UsageError("The tool {tool!r} is mine.", "Give yours another name.", tool=clash[0])
        tools = {f.name: f.tool for f in given}
        choice = asked.choice() if given else "auto"
        if choice not in ("auto", "none", "required", *tools):
            raise UsageError("There is no tool {tool!r} among those sent.", "", tool=choice)
        flawed = [name for name, tool in tools.items() if flaw(tool)]
        kept, left_out = tuple(tool for name, tool in tools.items() if name not in flawed), ", ".join(flawed)
        if kept and _size(self._habitus.bag.body, kept) > self._habitus.bag.body.context // 2:
            kept, left_out = (), "tools"
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


def _size(body: Body, tools: tuple[Json, ...]) -> float:
    """Tokens that the template makes of them; infinitely many where the model could not read them at all."""
    said = ({"role": "user", "content": "x"},)
    try:
        return len(body.ids_of(Prompt(said, tools))) - len(body.ids_of(Prompt(said)))
    except UsageError:
        return math.inf


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
        door.known(name)
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
