"""Chat completions, as clients use them: the official openai client, curl, plain requests. A real server each time."""

from __future__ import annotations

import json
import math
import subprocess
import threading
import time
from typing import Any

import httpx
import openai
import pytest

from agent.models.base import Base
from agent.ports import Prompt
from agent.records import Memory
from agent.settings import ModelTable
from app.requests import Said, parted
from tests.doors import Make

TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def test_the_official_client_talks_whole_and_streamed(spoken: Make) -> None:
    door = spoken(lambda prompt: "안녕하세요. 반가워요.")
    assert door.say("안녕") == "안녕하세요. 반가워요."
    chunks = list(
        door.client.chat.completions.create(
            model="habitus",
            messages=[{"role": "user", "content": "잘 지냈어?"}],
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "안녕하세요. 반가워요."
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage.completion_tokens == 2  # the scripted body counts words
    assert chunks[-2].system_fingerprint == "self-0001"
    assert [t.user for t in door.turns] == ["안녕", "잘 지냈어?"]


def test_curl_gets_server_sent_events_to_the_end(spoken: Make) -> None:
    door = spoken(lambda prompt: "네.")
    body = json.dumps({"model": "habitus", "stream": True, "messages": [{"role": "user", "content": "안녕"}]})
    curl = ["curl", "-sN", f"{door.url}/v1/chat/completions", "-H", "content-type: application/json", "-d", body]
    lines = subprocess.run(curl, capture_output=True, text=True, check=True).stdout.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    assert json.loads(lines[1].removeprefix("data: "))["choices"][0]["delta"] == {"content": "네."}


def test_who_can_be_talked_with(spoken: Make) -> None:
    door = spoken(lambda prompt: "네.")
    door.say("안녕")
    assert [m.id for m in door.client.models.list()] == ["habitus", "habitus-sandbox", "self-0001"]
    with pytest.raises(openai.NotFoundError, match=r"There is no model 'gpt-4'\. GET /v1/models lists them\."):
        door.say("안녕", model="gpt-4")


CALL: Any = {"id": "c", "function": {"name": "weather", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("said", "history", "system"),
    [
        ("user: 날씨? | call: 잠깐만요. | tool: 맑음 | assistant: 맑아요. | user: 응", [("날씨?", "맑아요.")], ""),
        ("system: 해적 | assistant: 어서 와. | user: 안녕", [], "해적\n\n어서 와."),
        ("user: 가 | assistant: 나 | assistant: 다 | user: 라", [("가", "나\n다")], ""),
    ],
)
def test_of_a_resent_history_each_word_keeps_its_place(said: str, history: list[tuple[str, str]], system: str) -> None:
    messages = []
    for role, text in (m.split(": ") for m in said.split(" | ")):
        calls = {"tool_calls": [CALL]} if role == "call" else {}
        messages.append(Said.model_validate({"role": "assistant" if calls else role, "content": text, **calls}))
    found = parted(messages)
    assert (list(found.history), found.system) == (history, system)
    assert found.user == messages[-1].content


def test_a_reply_in_json_that_calls_no_tool_is_a_reply(spoken: Make) -> None:
    door = spoken(lambda prompt: '{"title": "비 오는 날"}')
    assert door.say("제목을 JSON으로 지어 줘") == '{"title": "비 오는 날"}'
    assert len(door.prompts) == 1, "it was not asked again"


def test_tools_of_a_client_that_leave_no_room_are_left_out_and_it_says_so(spoken: Make) -> None:
    door = spoken(lambda prompt: "네.")
    many = [{**TOOL, "function": {**TOOL["function"], "name": f"weather{i}"}} for i in range(200)]
    body = {"model": "habitus", "messages": [{"role": "user", "content": "안녕"}]}
    post = lambda **more: httpx.post(f"{door.url}/v1/chat/completions", json=body | more)  # noqa: E731
    assert post(tools=many).headers["x-habitus-left-out"] == "tools"
    assert "weather" not in json.dumps(door.prompts[-1].tools)
    assert "x-habitus-left-out" not in post(tools=many[:2]).headers
    assert "weather1" in json.dumps(door.prompts[-1].tools)
    refused = post(messages=[{"role": "system", "content": "word " * 3000}, *body["messages"]])
    assert (refused.status_code, "there is room for 2048" in refused.text) == (400, True)


def test_tools_of_a_client_are_measured_as_the_model_reads_them(spoken: Make) -> None:
    door, base = spoken(lambda prompt: "네."), Base(ModelTable())
    body: Any = door.being.bag.body
    body.context, body.ids_of, body.count = base.context, base.ids_of, base.count
    told = TOOL["function"] | {"description": "도시의 오늘 날씨를 알려 줍니다. " * 3}
    tools = [{"type": "function", "function": told | {"name": name}} for name in ("weather", "note", "calendar")]
    assert base.count(json.dumps(tools)) > base.context // 2, "as escaped JSON they would be too long"
    asked = {"model": "habitus", "messages": [{"role": "user", "content": "안녕"}]}
    post = lambda tools: httpx.post(f"{door.url}/v1/chat/completions", json=asked | {"tools": tools})  # noqa: E731
    assert "x-habitus-left-out" not in post(tools).headers
    assert {"weather", "note", "calendar"} < {t["function"]["name"] for t in door.prompts[-1].tools}
    assert post([TOOL, {"type": "function", "function": {"name": "bare"}}]).status_code == 200
    for count in (100, 600):  # more than half of what it reads, and more than it reads at all
        many = [{"type": "function", "function": told | {"name": f"weather_{i}"}} for i in range(count)]
        assert post(many).headers["x-habitus-left-out"] == "tools"


def test_a_long_conversation_fits_beside_the_tools(spoken: Make) -> None:
    door = spoken(lambda prompt: "네.")
    tools = [{**TOOL, "function": {**TOOL["function"], "name": f"weather{i}"}} for i in range(60)]
    texts = [x for i in range(9) for x in (f"{i} " + "말 " * 600, "네.")]
    door.say(*texts, "안녕", tools=tools)
    (prompt,) = door.prompts
    assert 3000 < len(door.being.bag.body.ids_of(prompt)) < 4096


def test_what_a_client_resends_is_shown_to_the_model_as_the_ledger_would_be(spoken: Make) -> None:
    said = {"더 말해 봐": "나를 " * 60, "꾸벅은 그만해": "네, 그만할게요."}

    def decide(prompt: Prompt) -> str:
        text, last = prompt.messages[-1]["content"], prompt.messages[-1]["role"]
        if text == "꾸벅은 그만해" and last == "user" and len(prompt.messages) == 2:
            return '{"name": "drop_instruction", "parameters": {"rule": "끝에 \'꾸벅\'을 붙여 줘."}}'
        return "네, 그만할게요." if last == "tool" else said.get(text, "네.")

    door = spoken(decide)
    door.being.mask_add("끝에 '꾸벅'을 붙여 줘.")
    texts: list[str] = []
    for text in ("꾸벅은 그만해", "더 말해 봐", "안녕", "비가 와"):
        texts += [text, door.say(*texts, text).strip()]
    assert door.being.bag.selves.current().mask.rules == ()
    assert [m["content"] for m in door.prompts[-1].messages[1:]] == ["안녕", "네.", "비가 와"]
    door.say(*texts[2:4], "비가 와", model="habitus-sandbox")
    assert [m["content"] for m in door.prompts[-1].messages[1:]] == ["비가 와"], "in sandbox, too"


def test_a_reply_for_which_the_context_had_no_more_room_says_so(spoken: Make) -> None:
    door = spoken(lambda prompt: "말 " * (400 - sum(len(str(m["content"]).split()) for m in prompt.messages)))
    door.being.bag.body.context = 400  # type: ignore[misc]
    asked: Any = {"model": "habitus", "messages": [{"role": "user", "content": "긴 얘기"}]}
    assert door.client.chat.completions.create(**asked).choices[0].finish_reason == "length"
    door.being.bag.body.context = 401  # type: ignore[misc]
    assert door.client.chat.completions.create(**asked).choices[0].finish_reason == "stop"


def test_what_the_client_says_of_itself_shapes_the_reply_and_is_not_recorded(spoken: Make) -> None:
    door = spoken(lambda prompt: "네.")
    door.client.chat.completions.create(
        model="habitus",
        messages=[{"role": "system", "content": "You are a pirate."}, {"role": "user", "content": "안녕"}],
    )
    assert "You are a pirate." in door.prompts[0].messages[0]["content"]
    assert "pirate" not in json.dumps([t.model_dump() for t in door.turns])


def test_the_sandbox_and_selves_of_before_leave_no_trace(spoken: Make) -> None:
    door = spoken(lambda prompt: "네.")
    door.say("안녕")
    door.being.mask_add("끝에 '멍'을 붙여 줘.")
    end = door.being.bag.ledger.end()
    door.say("비밀이야", "네.", "또 비밀", model="habitus-sandbox")
    assert "멍" in door.prompts[-1].messages[0]["content"]
    assert [m["content"] for m in door.prompts[-1].messages[1:]] == ["비밀이야", "네.", "또 비밀"]
    assert door.prompts[-1].salt
    door.say("비밀이야", model="self-0001")
    assert "멍" not in door.prompts[-1].messages[0]["content"]
    assert door.being.bag.ledger.end() == end


def test_a_clients_own_tool_is_called_by_the_client(spoken: Make) -> None:
    def decide(prompt: Prompt) -> str:
        if prompt.messages[-1]["role"] == "tool":
            return f"서울은 {prompt.messages[-1]['content']}."
        return '{"name": "weather", "parameters": {"city": "서울"}}'

    door = spoken(decide)
    messages: Any = [{"role": "user", "content": "서울 날씨 어때?"}]
    first = door.client.chat.completions.create(model="habitus", messages=messages, tools=[TOOL]).choices[0]
    assert first.finish_reason == "tool_calls"
    (call,) = first.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "서울"})
    assert door.turns == [], "not over yet"
    messages += [first.message, {"role": "tool", "tool_call_id": call.id, "content": "맑음"}]
    last = door.client.chat.completions.create(model="habitus", messages=messages, tools=[TOOL]).choices[0]
    assert (last.finish_reason, last.message.content) == ("stop", "서울은 맑음.")
    (turn,) = door.turns
    assert [(c.name, c.result) for c in turn.tool_calls] == [("weather", "맑음")]
    streamed = list(
        door.client.chat.completions.create(model="habitus", messages=messages[:1], tools=[TOOL], stream=True)
    )
    assert streamed[1].choices[0].delta.tool_calls[0].function.name == "weather"


def test_what_it_remembered_before_a_clients_tool_belongs_to_the_turn(spoken: Make) -> None:
    def decide(prompt: Prompt) -> str:
        if prompt.messages[-1]["role"] == "user":
            return '{"name": "remember", "parameters": {"text": "나는 서울에 살아"}}'
        if prompt.messages[-1].get("name") == "remember":
            return '{"name": "weather", "parameters": {"city": "서울"}}'
        return "맑아요."

    door = spoken(decide)
    messages: Any = [{"role": "user", "content": "나는 서울에 살아, 날씨 어때?"}]
    first = door.client.chat.completions.create(model="habitus", messages=messages, tools=[TOOL]).choices[0]
    (call,) = first.message.tool_calls
    messages += [first.message, {"role": "tool", "tool_call_id": call.id, "content": "맑음"}]
    door.client.chat.completions.create(model="habitus", messages=messages, tools=[TOOL])
    (turn,) = door.turns
    assert (turn.reply, [c.name for c in turn.tool_calls]) == ("맑아요.", ["remember", "weather"])
    (memory,) = door.being.bag.ledger.all(Memory)
    assert memory.turns == (turn.id,)


def test_a_client_that_has_left_changes_nothing_any_more(spoken: Make) -> None:
    def slow(prompt: Prompt) -> str:
        time.sleep(0.8)
        return '{"name": "adopt_instruction", "parameters": {"rule": "끝에 \'멍\'을 붙여 줘."}}'

    door = spoken(slow)
    body = {"model": "habitus", "messages": [{"role": "user", "content": "끝에 '멍'을 붙여 줘"}]}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{door.url}/v1/chat/completions", json=body, timeout=0.3)
    time.sleep(1.5)
    assert door.being.bag.selves.current().mask.rules == ()
    assert door.turns == []


def test_its_own_tools_stay_inside(spoken: Make) -> None:
    def decide(prompt: Prompt) -> str:
        if prompt.messages[-1]["role"] == "tool":
            return "기억할게요."
        return '{"name": "remember", "parameters": {"text": "내 생일은 5월 3일이야"}}'

    door = spoken(decide)
    assert door.say("내 생일은 5월 3일이야") == "기억할게요."
    assert [c.name for c in door.turns[0].tool_calls] == ["remember"]
    with pytest.raises(openai.BadRequestError, match="'remember' is mine"):
        door.say("안녕", tools=[{"type": "function", "function": {"name": "remember", "parameters": {}}}])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"temperature": 9}, "temperature"),
        ({"logit_bias": {"rain": math.nan}}, "logit_bias.rain"),
        ({"n": 3}, "n is 3"),
        ({"response_format": {"type": "json_object"}}, "'json_object'"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "assistant", "content": "네."}]}, "nothing to answer"),
        ({"messages": [{"role": "user", "content": " "}]}, "nothing to answer"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
            "pictures",
        ),
        ({"messages": "안녕"}, "messages"),
        ({"tool_choice": "weather", "tools": [TOOL | {"function": {"name": "wind"}}]}, "no tool 'weather'"),
        ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools.0.function.name"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}]}, "nothing to answer"),
    ],
)
def test_bad_input_is_one_clear_sentence(spoken: Make, more: dict[str, Any], said: str) -> None:
    door = spoken(lambda prompt: "네.")
    body = {"model": "habitus", "messages": [{"role": "user", "content": "안녕"}]} | more
    sent = {"content": json.dumps(body), "headers": {"content-type": "application/json"}}  # httpx sends no NaN
    answer = httpx.post(f"{door.url}/v1/chat/completions", **sent)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]
    assert door.turns == []


def test_what_openai_allows_is_taken(spoken: Make) -> None:
    door = spoken(lambda prompt: "네.")
    half = "안녕 \ud83d"  # an emoji cut in two
    call = {"id": None, "type": "function", "function": {"name": "weather", "arguments": {"city": "서울"}}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": half}, {"type": "text", "text": None}], "name": None},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "맑음", "tool_call_id": None},
    ]
    body = {"model": "habitus", "messages": messages, "stream": None, "stream_options": {"include_usage": None}}
    body |= {"response_format": {"type": "text"}}
    answer = httpx.post(
        f"{door.url}/v1/chat/completions", content=json.dumps(body), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 200, answer.text
    assert door.turns[0].user.strip() == "안녕 ?"
    assert httpx.get(f"{door.url}/v1/models", headers={"host": "[::1"}).status_code == 403
    assert httpx.get(f"{door.url}/api/turns?limit=-1").status_code == 400


def test_a_tool_whose_schema_cannot_be_followed_is_left_out_by_name(spoken: Make) -> None:
    door = spoken(lambda prompt: "네.")
    odd = {"type": "function", "function": {"name": "odd", "parameters": {"properties": {"x": {"type": "frob"}}}}}
    bare = {"type": "function", "function": {"name": "bare"}}
    body = {"model": "habitus", "messages": [{"role": "user", "content": "안녕"}], "tools": [TOOL, odd, bare]}
    answer = httpx.post(f"{door.url}/v1/chat/completions", json=body)
    assert answer.headers["x-habitus-left-out"] == "odd"
    assert {"weather", "bare"} < {t["function"]["name"] for t in door.prompts[0].tools}


@pytest.mark.parametrize(
    "parameters",
    [
        None,
        {"type": "object", "properties": None, "required": None},
        {"properties": {"x": {"type": "string", "enum": None, "maxLength": None, "description": "\ud83d"}}},
        {"properties": {"x": {"type": "integer", "minimum": None, "maximum": 10.0}}, "required": ["x"]},
        {"properties": {"x": {"type": "array", "items": {"type": "string"}, "minItems": None}}, "required": ["x"]},
    ],
)
def test_what_is_null_in_a_schema_is_left_open(spoken: Make, parameters: dict[str, Any] | None) -> None:
    door = spoken(lambda prompt: "네.")
    tool = {"type": "function", "function": {"name": "odd", "description": None, "parameters": parameters}}
    body = {"model": "habitus", "messages": [{"role": "user", "content": "안녕"}], "tools": [tool]}
    answer = httpx.post(
        f"{door.url}/v1/chat/completions", content=json.dumps(body), headers={"content-type": "application/json"}
    )
    assert (answer.status_code, answer.headers.get("x-habitus-left-out")) == (200, None)
    (given,) = (t["function"] for t in door.prompts[0].tools if t["function"]["name"] == "odd")
    assert "null" not in json.dumps(given)
    assert json.dumps(given, ensure_ascii=False).encode()


def test_what_nobody_thought_of_is_an_error_like_any_other(spoken: Make) -> None:
    def broken(prompt: Prompt) -> str:
        raise RuntimeError("out of memory")

    door = spoken(broken)
    body = {"model": "habitus", "messages": [{"role": "user", "content": "안녕"}]}
    answer = httpx.post(f"{door.url}/v1/chat/completions", json=body)
    assert answer.status_code == 500
    assert "out of memory" in answer.json()["error"]["message"]
    assert door.turns == []


def test_sampling_fields_arrive_and_unknown_ones_are_ignored(spoken: Make) -> None:
    door = spoken(lambda prompt: "네.")
    assert door.say("안녕", temperature=0.3, extra_body={"top_k": -1, "min_p": 0.1, "whatever": 1}) == "네."


def test_a_client_that_leaves_ends_the_reply_and_nothing_is_recorded(spoken: Make) -> None:
    def slow(prompt: Prompt) -> str:
        time.sleep(1)
        return "늦은 대답."

    door = spoken(slow)
    body = {"model": "habitus", "stream": True, "messages": [{"role": "user", "content": "안녕"}]}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{door.url}/v1/chat/completions", json=body, timeout=0.3)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{door.url}/v1/chat/completions", json=body | {"stream": False}, timeout=0.3)
    time.sleep(2)
    assert door.turns == []


def test_many_talk_at_once_and_none_waits_for_another(spoken: Make) -> None:
    def slow(prompt: Prompt) -> str:
        time.sleep(0.5)
        return f"{prompt.messages[-1]['content']}에게"

    door = spoken(slow)
    door.say("먼저")
    said: dict[int, str] = {}
    talkers = [threading.Thread(target=lambda i=i: said.update({i: door.say(str(i))})) for i in range(12)]  # type: ignore[misc]
    began = time.monotonic()
    for t in talkers:
        t.start()
    assert httpx.get(f"{door.url}/v1/models").status_code == 200
    for t in talkers:
        t.join()
    assert said == {i: f"{i}에게" for i in range(12)}
    assert time.monotonic() - began < 4, "twelve of half a second each"
    assert len({t.thread for t in door.turns}) == 13
