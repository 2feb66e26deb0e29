"""The same verbs as the command line's, over HTTP, and what happens as it happens (SSE)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from agent.records import Decision, Event, GateReport, Habit, Proposal, Run, Speaking, Turn, Verdict

if TYPE_CHECKING:
    from app.habitus import Habitus

Json = dict[str, Any]
LOOK = 0.5  # seconds between two looks for what is new
TOLD = (Turn, Verdict, Habit, Proposal, Decision, Run, GateReport, Speaking, Event)


class Approval(BaseModel):
    digest: str
    note: str = ""


class Refusal(BaseModel):
    reason: str


class Edit(BaseModel):
    drop: list[int] = []


class Asked(BaseModel):
    texts: list[str]
    mask: bool = True
    self: str = ""


def routes(habitus: Habitus) -> APIRouter:
    """Everything under ``/api``. Long work answers when it is done; ``/api/events`` tells of it meanwhile."""
    router = APIRouter(prefix="/api", tags=["Habitus"])
    ledger = habitus.bag.ledger

    @router.get("/turns")
    def turns(thread: str = "", limit: Annotated[int, Query(ge=1, le=10_000)] = 100) -> list[Json]:
        """What was said, latest last; of one conversation, or of all."""
        found = habitus.bag.thread(thread) if thread else _latest(habitus, limit)
        return [t.model_dump(mode="json") for t in found[-limit:]]

    @router.post("/ask")
    def ask(asked: Asked) -> list[Json]:
        """The clean probe: nothing is recorded."""
        return habitus.ask(asked.texts, asked.mask, asked.self)

    @router.get("/lid")
    def lid(text: str, thread: str = "") -> Json:
        """What the model would read if ``text`` were said now, and how it would choose its first word."""
        return habitus.lid(text, thread)

    @router.get("/proposals")
    def proposals() -> list[Json]:
        """What it wants to become."""
        return habitus.proposals()

    @router.get("/proposals/{ref}")
    def proposal(ref: str) -> Json:
        """One proposal in full, with its digest."""
        return habitus.proposal(ref)

    @router.get("/proposals/{ref}/report")
    def report(ref: str) -> Json:
        """How its training went."""
        return habitus.report(ref)

    @router.post("/proposals/{ref}/approve")
    def approve(ref: str, approval: Approval) -> Json:
        """A person's approval, bound to the digest of what was shown."""
        return habitus.approve(ref, approval.digest, approval.note)

    @router.post("/proposals/{ref}/veto")
    def veto(ref: str, refusal: Refusal) -> Json:
        """A person's veto."""
        return habitus.veto(ref, refusal.reason)

    @router.post("/proposals/{ref}/edit")
    def edit(ref: str, edited: Edit) -> Json:
        """Leave out examples; it then waits for a new decision."""
        return habitus.edit(ref, edited.drop)

    @router.get("/decisions")
    def decisions() -> list[Json]:
        """What a person decided, oldest first."""
        return [d.model_dump(mode="json") for d in ledger.all(Decision)]

    @router.get("/runs")
    def runs() -> list[Json]:
        """Every training, oldest first."""
        return [r.model_dump(mode="json") for r in ledger.all(Run)]

    @router.get("/selves")
    def selves() -> list[Json]:
        """How it came to be."""
        return habitus.self_log()

    @router.get("/selves/now")
    def now() -> Json:
        """Who speaks."""
        return habitus.self_now()

    @router.get("/selves/{name}")
    def one(name: str) -> Json:
        """One self in full."""
        return habitus.self_now(name)

    @router.post("/rollback")
    def rollback(name: str = "") -> Json:
        """Let an earlier self speak again."""
        return habitus.rollback(name)

    @router.post("/ruminate")
    def ruminate() -> Json:
        """Judge what is new and propose, or abstain."""
        return habitus.ruminate()

    @router.post("/learn")
    def learn() -> list[Json]:
        """Run what is approved."""
        return habitus.learn()

    @router.post("/sleep")
    def sleep() -> Json:
        """Ruminate and learn."""
        return habitus.sleep()

    @router.post("/habits/{ref}/forget")
    def forget(ref: str) -> Json:
        """Let go of a habit, out of mask and weights."""
        return habitus.forget(ref)

    @router.get("/habits/{ref}/why")
    def why(ref: str) -> Json:
        """From a habit back to the words it came from."""
        return habitus.why(ref)

    @router.post("/erase/{ref}")
    def erase(ref: str) -> Json:
        """Erase a turn or a conversation for good."""
        return habitus.erase(ref)

    @router.get("/events")
    async def events(request: Request) -> StreamingResponse:
        """What is recorded from now on, one event for each row: ``event`` its kind, ``data`` the row."""
        return StreamingResponse(_told(habitus, request), media_type="text/event-stream")

    return router


def _latest(habitus: Habitus, limit: int) -> list[Turn]:
    from itertools import islice

    return list(islice((t for t in habitus.bag.ledger.newest(Turn) if t.user), limit))[::-1]


async def _told(habitus: Habitus, request: Request) -> AsyncIterator[str]:
    ledger = habitus.bag.ledger
    place = await asyncio.to_thread(ledger.end)
    yield ": listening\n\n"
    while not await request.is_disconnected():
        end = await asyncio.to_thread(ledger.end)
        if end != place:
            for kind in TOLD:
                for row in await asyncio.to_thread(ledger.since, kind, place, end):
                    data = json.dumps(row.model_dump(mode="json"), ensure_ascii=False)
                    yield f"event: {kind.__name__.lower()}\ndata: {data}\n\n"
            place = end
        await asyncio.sleep(LOOK)
