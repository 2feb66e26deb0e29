"""A being behind a real door over HTTP, for the tests that talk to it as clients do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import uvicorn

from agent.ports import Prompt
from agent.records import Turn
from app.habitus import Habitus
from app.server import build
from tests.being import scripted


@contextmanager
def listening(habitus: Habitus, key: str = "") -> Iterator[str]:
    """Its URL while it is served."""
    server = uvicorn.Server(uvicorn.Config(build(habitus, key), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


class Spoken:
    """A being that says what ``decide`` says, behind a real door."""

    def __init__(self, home: Path, decide: Callable[[Prompt], str]) -> None:
        self.prompts: list[Prompt] = []

        def heard(prompt: Prompt) -> str:
            self.prompts.append(prompt)
            return decide(prompt)

        self.being = scripted(home, heard)
        self.open = listening(self.being)
        self.url = self.open.__enter__()
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def say(self, *texts: str, model: str = "habitus", **more: Any) -> str:
        """Messages by turns: the person's, the model's, the person's …"""
        roles = ("user", "assistant") * len(texts)
        messages: Any = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)]
        return self.client.chat.completions.create(model=model, messages=messages, **more).choices[0].message.content

    @property
    def turns(self) -> list[Turn]:
        return self.being.bag.ledger.all(Turn)


Make = Callable[[Callable[[Prompt], str]], Spoken]


def counted() -> Callable[[Prompt], str]:
    numbers = iter(range(1, 999))
    return lambda prompt: f"답 {next(numbers)}"
