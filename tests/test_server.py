"""The other doors over HTTP: what is listed and told as it happens, who is answered, where it listens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from agent.errors import ConflictError, UsageError
from app.server import serve
from tests.being import scripted
from tests.doors import Make, listening


def test_the_rest_of_it(spoken: Make) -> None:
    door = spoken(lambda prompt: "네.")
    door.say("안녕")
    get = lambda path: httpx.get(f"{door.url}/api/{path}").json()  # noqa: E731
    assert [t["user"] for t in get("turns")] == ["안녕"]
    assert get("turns?thread=nobody") == []
    assert get("proposals") == get("decisions") == get("runs") == []
    assert get("selves/now")["name"] == "self-0001"
    assert httpx.get(f"{door.url}/api/proposals/p9").status_code == 404
    assert httpx.post(f"{door.url}/api/rollback").status_code == 409
    assert httpx.post(f"{door.url}/api/ask", json={"texts": ["안녕"]}).json()[0]["reply"] == "네."
    assert {"/v1/chat/completions", "/api/proposals/{ref}/approve"} <= set(get("../openapi.json")["paths"])


def test_what_happens_is_told_as_it_happens(spoken: Make) -> None:
    door = spoken(lambda prompt: "네.")
    with httpx.stream("GET", f"{door.url}/api/events", timeout=10) as stream:
        lines = stream.iter_lines()
        assert next(lines) == ": listening"
        door.say("안녕")
        told = next(x for x in lines if x.startswith("event: turn"))
        assert told
        assert json.loads(next(lines).removeprefix("data: "))["user"] == "안녕"


def test_without_a_key_only_this_machine_is_answered(spoken: Make) -> None:
    door = spoken(lambda prompt: "네.")
    models = f"{door.url}/v1/models"
    assert httpx.get(models, headers={"host": "evil.example"}).status_code == 403, "another name that points here"
    assert httpx.get(models, headers={"origin": "https://evil.example"}).status_code == 403
    assert httpx.get(models, headers={"origin": "http://localhost:3000"}).status_code == 200
    with pytest.raises(UsageError, match="a key is needed"):
        serve(door.being, "0.0.0.0", 0, "", lambda *_: None)


@pytest.mark.parametrize(
    ("host", "key", "told"),
    [
        ("127.0.0.1", "", {"url": "http://127.0.0.1:8000", "docs": "http://127.0.0.1:8000/docs"}),
        ("::1", "", {"url": "http://[::1]:8000", "docs": "http://[::1]:8000/docs"}),
        ("127.0.0.1", "k", {"url": "http://127.0.0.1:8000", "docs": ""}),  # a browser would send no key
    ],
)
def test_it_says_where_it_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, key: str, told: dict[str, str]
) -> None:
    said: list[Any] = []
    monkeypatch.setattr(uvicorn, "run", lambda *_, **__: None)
    monkeypatch.setattr("app.server.unused", lambda *_: None)
    serve(scripted(tmp_path / "bag", lambda prompt: "네."), host, 8000, key, lambda *what: said.append(what))
    assert said == [("listening", told)]


def test_a_port_that_is_taken_is_said(spoken: Make) -> None:
    door = spoken(lambda prompt: "네.")
    with pytest.raises(ConflictError, match="is taken"):
        serve(door.being, "127.0.0.1", int(door.url.rsplit(":")[-1]), "", lambda *_: None)


def test_with_a_key_everything_needs_it(tmp_path: Path) -> None:
    with listening(scripted(tmp_path / "bag", lambda prompt: "네."), key="열쇠-key") as url:
        for path in ("/v1/models", "/api/turns", "/openapi.json", "/docs"):
            assert httpx.get(url + path).status_code == 401
            assert httpx.get(url + path, headers={"authorization": "Bearer wrong"}).status_code == 401
        ok = {"authorization": b"Bearer " + "열쇠-key".encode()}
        assert httpx.get(f"{url}/v1/models", headers=ok).status_code == 200
