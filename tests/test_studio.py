"""The graphs as LangGraph's servers hold them: messages in and out, review by people in both shapes."""

from __future__ import annotations

import importlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph.checkpoint.memory import MemorySaver
from langgraph.types import Command
from langgraph_sdk import get_sync_client
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from agent.errors import StorageError
from agent.records import Decision, Example, Habit, Proposal, Turn
from app import studio
from app.habitus import Habitus
from app.threads import Threads
from app.wiring import TRACING, open_habitus
from tests.being import ROOT, scripted

RULE = "끝에 '꾸벅'을 붙여 줘."


@pytest.fixture
def being(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Habitus:
    """A being with two proposals waiting, without rows: what they hold is not asked here."""
    made = scripted(tmp_path / "bag", lambda prompt: "네, 그래요.")
    monkeypatch.setattr(studio, "_habitus", lambda: made)
    monkeypatch.setattr(studio, "_threads", lambda: Threads(made.bag))
    return made


def waiting(being: Habitus, *digests: str) -> None:
    being.bag.ledger.add(Habit(rule=RULE, quote="꾸벅", scope=("ko",), stage="proposed"))
    for digest in digests:
        being.bag.ledger.add(
            Proposal(kind="learn", habit="h1", rule=RULE, quote="꾸벅", scope=("ko",), base="scripted", digest=digest)
        )


def run(graph: Any, given: Any) -> Any:
    return graph.invoke(given, {"configurable": {"thread_id": "c-1"}})


@contextmanager
def eavesdropping() -> Iterator[tuple[dict[str, str], bytearray]]:
    """A place that traces would go to, the environment of a shell that asks for them, and what came."""
    heard = bytearray()

    class Ear(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.extend(self.rfile.read(int(self.headers["content-length"])))
            self.do_GET()

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Ear) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        asked = dict.fromkeys(TRACING, "true") | {
            "LANGSMITH_API_KEY": "x",
            "LANGSMITH_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "LANGSMITH_DISABLE_RUN_COMPRESSION": "true",
        }
        yield asked, heard
        server.shutdown()


@pytest.mark.parametrize("traced", [False, True])
def test_whatever_the_shell_says_no_words_go_to_a_tracer(tmp_path: Path, traced: bool) -> None:
    """In a process of its own: LangSmith looks at its environment once."""
    talk = (
        "import sys; from pathlib import Path; from app import studio; from tests.being import scripted\n"
        "from langchain_core.tracers.langchain import wait_for_all_tracers\n"
        "studio._habitus = lambda: scripted(Path(sys.argv[1]), lambda prompt: 'yes')\n"
        "if sys.argv[2:]: studio.untraced = lambda: None\n"
        "thread = {'configurable': {'thread_id': 'c-1'}}\n"
        "studio.converse().invoke({'messages': [{'role': 'user', 'content': 'a-secret'}]}, thread)\n"
        "wait_for_all_tracers()\n"
    )
    with eavesdropping() as (asked, heard):
        line = [sys.executable, "-c", talk, str(tmp_path / "bag"), *(["traced"] if traced else [])]
        subprocess.run(line, cwd=ROOT, env=os.environ | asked, check=True)
    assert (b"a-secret" in heard) == traced, "and this ear would have heard it"


def test_a_server_of_langgraphs_is_told_the_same_before_it_loads_anything() -> None:
    told = json.loads((ROOT / "langgraph.json").read_text("utf-8"))
    assert told["env"] == dict.fromkeys(TRACING, "false")
    assert told["http"]["cors"]["allow_origins"] == list(studio.GUESTS)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 404),  # let in, where there is nothing
        ({"origin": "http://localhost:3000"}, 404),
        ({"origin": "https://smith.langchain.com"}, 404),
        ({"origin": "https://smith.langchain.com.evil.example"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "evil.example"}, 403),
        ({"host": "evil.example", "origin": "https://smith.langchain.com"}, 403),
    ],
)
def test_before_every_route_stands_a_door(headers: dict[str, str], status: int) -> None:
    client = TestClient(studio.door, base_url="http://127.0.0.1:2024")
    assert client.get("/", headers=headers).status_code == status
    with pytest.raises(WebSocketDisconnect) as closed, client.websocket_connect("ws://127.0.0.1/", headers=headers):
        pass
    assert closed.value.code == (1000 if status == 404 else 1008)


@pytest.mark.served
def test_the_langgraph_sdk_talks_with_langgraph_dev(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    (tmp_path / "langgraph.json").write_text(
        (ROOT / "langgraph.json").read_text("utf-8").replace('"."', f'"{ROOT}"').replace("./app", f"{ROOT}/app"),
        "utf-8",
    )
    line = [str(ROOT / ".venv-studio" / "bin" / "langgraph"), "dev", "--no-browser", "--no-reload", "--port", url[17:]]
    with eavesdropping() as (asked, heard), (tmp_path / "log.txt").open("w") as log:
        env = os.environ | asked | {"HABITUS_HOME": str(tmp_path / "bag"), "PYTHONPATH": str(ROOT)}
        server = subprocess.Popen(line, cwd=tmp_path, env=env, stdout=log, stderr=log)
        try:
            client = get_sync_client(url=url)
            for _ in range(240):
                try:
                    names = {a["graph_id"] for a in client.assistants.search()}
                    break
                except Exception:  # not up yet
                    time.sleep(0.5)
            assert names == {"converse", "ruminate", "update"}
            thread = client.threads.create()["thread_id"]
            given = {"messages": [{"role": "user", "content": "안녕"}]}
            pieces = [
                part.data[0]["content"]
                for part in client.runs.stream(
                    thread, "converse", input=given, stream_mode=["messages-tuple"], stream_subgraphs=True
                )
                if part.event.startswith("messages|")
            ]
            assert len(pieces) > 3, "it came piece by piece"
            said = client.threads.get_state(thread)["values"]["messages"][-1]["content"]
            assert "".join(pieces) == said != ""
            assert client.runs.wait(None, "ruminate", input={})["found"]["judged"] == 1
            assert client.runs.wait(None, "update", input={})["seen"] == []
            assert [t.thread for t in open_habitus(str(tmp_path / "bag")).bag.ledger.all(Turn)] == [thread]
            opened_only_to_its_own(url, thread)
        finally:
            server.terminate()
            server.wait(30)
    assert "안녕".encode() not in heard


def opened_only_to_its_own(url: str, thread: str) -> None:
    state, search = f"{url}/threads/{thread}/state", f"{url}/threads/search"
    handshake = {
        "connection": "Upgrade", "upgrade": "websocket",
        "sec-websocket-version": "13", "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }  # fmt: skip
    for foreign in ({"origin": "https://evil.example"}, {"host": "evil.example"}):
        assert httpx.get(state, headers=foreign).status_code == 403
        assert httpx.get(f"{url}/info", headers=foreign).status_code == 403
        assert httpx.post(search, json={}, headers=foreign).status_code == 403
        asking = foreign | {"access-control-request-method": "POST"}
        assert httpx.options(search, headers=asking).status_code == 403
        assert httpx.get(f"{url}/threads/{thread}/stream/events", headers=foreign | handshake).status_code == 403
    for own in ("http://localhost:3000", "http://127.0.0.1:3000", studio.GUESTS[0]):
        allowed = httpx.options(search, headers={"origin": own, "access-control-request-method": "POST"})
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, own)
        found = httpx.post(search, json={}, headers={"origin": own})
        assert (found.status_code, found.headers["access-control-allow-origin"]) == (200, own)


def reviewing() -> Any:
    graph = studio.update()
    graph.checkpointer = MemorySaver()
    return graph


def test_every_graph_that_is_named_is_there() -> None:
    for name, where in json.loads((ROOT / "langgraph.json").read_text("utf-8"))["graphs"].items():
        path, made = where.removeprefix("./").split(":")
        module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        assert getattr(module, made)().get_graph().nodes, name


def test_messages_are_answered_in_the_thread_of_the_run_and_recorded(being: Habitus) -> None:
    found = run(studio.converse(), {"messages": [{"role": "user", "content": "안녕"}]})
    assert found["messages"][-1].text == "네, 그래요."
    assert found["messages"][-1].additional_kwargs["habitus"]["self"] == "self-0001"
    run(studio.converse(), {"messages": [*found["messages"], {"role": "user", "content": "또 왔어"}]})
    assert [(t.thread, t.user) for t in being.bag.ledger.all(Turn)] == [("c-1", "안녕"), ("c-1", "또 왔어")]


def test_what_waits_is_shown_in_the_human_review_shape(being: Habitus, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting(being, "d1")
    found = run(reviewing(), {})
    (request,) = found["__interrupt__"]
    (action,) = request.value["action_requests"]
    assert (action["name"], action["args"]["rule"], action["args"]["digest"]) == (studio.ACTION, RULE, "d1")
    assert "꾸벅" in action["description"]
    assert request.value["review_configs"] == [
        {"action_name": studio.ACTION, "allowed_decisions": ["approve", "edit", "reject"]}
    ]


def test_what_cannot_be_seen_is_spelled_out_in_a_review(being: Habitus) -> None:
    """A person approves what is shown there: no character may hide in it or turn its direction."""
    waiting(being)
    hidden = "\u202e\u200b"
    row = Example(origin="invented", language="ko", prompt=f"p{hidden}", completion=f"c{hidden}", habit="h1")
    texts = {"rule": f"r{hidden}", "quote": f"q{hidden}", "rationale": f"w{hidden}", "risks": (f"k{hidden}",)}
    being.bag.ledger.add(Proposal(kind="learn", habit="h1", scope=("ko",), examples=(row,), digest="d1", **texts))
    (request,) = run(reviewing(), {})["__interrupt__"]
    shown = json.dumps(request.value, ensure_ascii=False)
    assert shown.count("⟨U+202E⟩⟨U+200B⟩") == shown.count("⟨U+202E⟩") == 7
    assert not set(hidden) & set(shown)


APPROVALS = [{"decisions": [{"type": "approve"}]}, [{"type": "accept", "args": None}]]
REFUSALS = [
    {"decisions": [{"type": "reject", "message": "농담이었어"}]},
    [{"type": "reject", "args": "농담이었어"}],
]


@pytest.mark.parametrize("answer", APPROVALS)
def test_an_approval_in_either_shape_holds_for_what_was_shown(being: Habitus, answer: Any) -> None:
    waiting(being, "d1")
    graph = reviewing()
    run(graph, {})
    run(graph, Command(resume=answer))
    (decision,) = being.bag.ledger.all(Decision)
    assert (decision.verdict, decision.digest) == ("approve", "d1")


@pytest.mark.parametrize("answer", REFUSALS)
def test_a_refusal_in_either_shape_keeps_its_reason_and_the_next_is_shown(being: Habitus, answer: Any) -> None:
    waiting(being, "d1", "d2")
    graph = reviewing()
    run(graph, {})
    found = run(graph, Command(resume=answer))
    (decision,) = being.bag.ledger.all(Decision)
    assert (decision.verdict, decision.note) == ("veto", "농담이었어")
    assert found["__interrupt__"][0].value["action_requests"][0]["args"]["digest"] == "d2"


def test_what_changed_since_it_was_shown_is_not_approved_but_shown_anew(being: Habitus) -> None:
    waiting(being, "d1")
    graph = reviewing()
    run(graph, {})
    (p,) = being.bag.ledger.all(Proposal)
    being.bag.ledger.add(p.model_copy(update={"digest": "d9", "at": ""}))
    found = run(graph, Command(resume=APPROVALS[0]))
    assert being.bag.ledger.all(Decision) == []
    assert found["__interrupt__"][0].value["action_requests"][0]["args"]["digest"] == "d9"


@pytest.mark.parametrize("drop", [[99], [], "viele", [None]])
def test_an_edit_that_cannot_be_is_said_and_does_not_wedge_the_thread(being: Habitus, drop: Any) -> None:
    waiting(being, "d1")
    graph = reviewing()
    run(graph, {})
    found = run(graph, Command(resume=[{"type": "edit", "args": {"args": {"drop": drop}}}]))
    assert found["__interrupt__"][0].value["error"]
    run(graph, Command(resume=REFUSALS[0]))
    assert [d.verdict for d in being.bag.ledger.all(Decision)] == ["veto"]


def test_the_answer_given_last_holds_where_one_before_it_could_not_be_carried_out(
    being: Habitus, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting(being, "d1")
    graph = reviewing()
    run(graph, {})

    def full(*_: object) -> None:
        raise StorageError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(being.bag.ledger, "add_all", full)
        found = run(graph, Command(resume=APPROVALS[0]))
    assert found["__interrupt__"][0].value["error"] == "The disk is full."
    run(graph, Command(resume=REFUSALS[0]))
    assert [d.verdict for d in being.bag.ledger.all(Decision)] == ["veto"]


def test_asked_again_in_a_client_the_reply_is_replaced(being: Habitus) -> None:
    asked = {"messages": [{"role": "user", "content": "안녕"}]}
    run(studio.converse(), asked)
    run(studio.converse(), asked)
    assert [t.user for t in being.bag.ledger.all(Turn)] == ["안녕"]


@pytest.mark.parametrize("nonsense", [{"decisions": [{"type": "dance"}]}, {"decisions": []}, "yes"])
def test_nonsense_is_said_and_asked_again_and_what_is_ignored_goes_on_waiting(being: Habitus, nonsense: Any) -> None:
    waiting(being, "d1")
    graph = reviewing()
    run(graph, {})
    found = run(graph, Command(resume=nonsense))
    assert "no decision" in found["__interrupt__"][0].value["error"]
    run(graph, Command(resume=[{"type": "ignore", "args": None}]))
    assert being.bag.ledger.all(Proposal)[0].status == "waiting"
    assert being.bag.ledger.all(Decision) == []
