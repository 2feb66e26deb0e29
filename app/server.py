"""The doors over HTTP: OpenAI's chat completions, REST, events. ``habitus serve``."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Collection
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from agent import __version__
from agent.errors import BusyError, ConflictError, HabitusError, NotFoundError, UnavailableError, UsageError
from app import completions, rest
from app.serving import Tell, unused

if TYPE_CHECKING:
    from app.habitus import Habitus

STATUS: dict[type[HabitusError], int] = {
    UsageError: 400, NotFoundError: 404, ConflictError: 409, BusyError: 409, UnavailableError: 503,
}  # fmt: skip


def build(habitus: Habitus, key: str = "") -> FastAPI:
    """The application. Without a key only this machine is answered, and no page of another origin."""
    app = FastAPI(title="Habitus", version=__version__, description="An agent that decides what it learns, and asks.")
    app.include_router(completions.routes(completions.Door(habitus)))
    app.include_router(rest.routes(habitus))

    app.add_middleware(Threshold, key=key)

    @app.exception_handler(Exception)
    def unforeseen(_: Request, error: Exception) -> Response:
        return _failed(500, completions.unforeseen(error))

    @app.exception_handler(HabitusError)
    def failed(_: Request, error: HabitusError) -> Response:
        status = next((s for kind, s in STATUS.items() if isinstance(error, kind)), 500)
        return _failed(status, error)

    @app.exception_handler(RequestValidationError)
    @app.exception_handler(ValidationError)
    def wrong(_: Request, error: RequestValidationError | ValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"] if p != "body")
        return _failed(400, UsageError("{where}: {reason}.", where=where or "body", reason=first["msg"]))

    return app


class Threshold:
    """Who may come in. Plain ASGI: Starlette's own kind hides from a handler that its client has left.

    ``guests``: origins of pages that may come in without a key, beside this machine's own.
    """

    def __init__(self, app: ASGIApp, key: str, guests: Collection[str] = ()) -> None:
        self._app, self._key, self._guests = app, key.encode(), guests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or not (refusal := self._refused(Headers(scope=scope))):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocketClose(1008)(scope, receive, send)
        else:
            await refusal(scope, receive, send)

    def _refused(self, headers: Headers) -> Response | None:
        given = headers.get("authorization", "").removeprefix("Bearer ").encode("latin-1")
        if self._key and not secrets.compare_digest(given, self._key):
            return _failed(401, UsageError("The key is missing or wrong.", "Send it as: Authorization: Bearer KEY"))
        origin = headers.get("origin")
        if not self._key and not (_here(headers.get("host", "")) and (origin in self._guests or _same(origin))):
            return _failed(
                403,
                UsageError(
                    "Without a key only this machine is answered.", "`habitus serve --key KEY` answers others, too."
                ),
            )
        return None


def _failed(status: int, error: HabitusError) -> Response:
    headers = {"retry-after": str(error.seconds)} if isinstance(error, UnavailableError) else {}
    return JSONResponse(completions.failure(error), status, headers)


def _here(host: str) -> bool:
    """Whether a Host header names this machine: a page may have another name point here."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name == "localhost" or loopback(name)


def _same(origin: str | None) -> bool:
    return origin is None or _here(origin.partition("://")[2])


def loopback(host: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(habitus: Habitus, host: str, port: int, key: str, tell: Tell) -> None:
    """Answer until stopped. ``tell`` hears where.

    Raises:
        UsageError: other machines could reach it, and it has no key.
        ConflictError: the port is taken.
    """
    import uvicorn

    if not key and not loopback(host):
        raise UsageError(
            "Others could reach {host}, so a key is needed.", "Add --key KEY, or set HABITUS_KEY.", host=host
        )
    unused(host, port)
    bag = habitus.bag  # all of it now: no request has to wait for it, and two cannot open it twice
    bag.body.count("")
    bag.selves.current()
    bag.index.near("x", "memory", 1)
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    tell("listening", {"url": url, "docs": "" if key else f"{url}/docs"})  # a browser would send no key
    uvicorn.run(
        build(habitus, key), host=host, port=port, log_level="warning", access_log=False, timeout_graceful_shutdown=5
    )
