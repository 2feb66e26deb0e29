"""Which conversation a client goes on with."""

from __future__ import annotations

import threading
import time

from agent.ports import Prompt
from agent.records import Turn
from tests.doors import Make, counted


def test_a_resent_history_goes_on_in_its_thread_and_a_branch_begins_another(spoken: Make) -> None:
    door = spoken(counted())
    assert door.say("하나") == "답 1"
    assert door.say("하나", "답 1", "둘") == "답 2"
    assert door.say("하나", "답 1", "둘", "답 2", "셋") == "답 3"
    assert door.say("하나") == "답 4", "the same first words are no sign of the same conversation"
    assert door.say("하나", "답 1", "다른 둘") == "답 5", "a branch"
    threads = [t.thread for t in door.turns]
    assert threads[0] == threads[1] == threads[2]
    assert len(set(threads)) == 3
    shown = [m["content"] for m in door.prompts[2].messages[1:]]
    assert shown == ["하나", "답 1", "둘", "답 2", "셋"]


def test_a_reply_that_was_cut_off_does_not_lose_the_thread(spoken: Make) -> None:
    door = spoken(counted())
    door.say("하나")
    door.say("하나", "답 1", "둘", "답 2 가 잘렸", "셋")
    assert len({t.thread for t in door.turns}) == 1
    assert [t.user for t in door.turns] == ["하나", "셋"], "what this door never said is not recorded"


def test_asked_for_again_the_first_reply_becomes_the_unwanted_one(spoken: Make) -> None:
    door = spoken(counted())
    door.say("하나")
    door.say("하나", "답 1", "둘")
    assert door.say("하나", "답 1", "둘") == "답 3"
    assert [(t.user, t.reply) for t in door.turns] == [("하나", "답 1"), ("둘", "답 3")]
    assert [t.reply for t in door.being.bag.ledger.history(Turn, "t2")] == ["답 2", "답 3"]
    assert door.say("하나", "답 1", "둘", "답 3", "셋") == "답 4"
    assert len({t.thread for t in door.turns}) == 1


def test_a_named_thread_is_gone_on_with_though_nothing_is_resent(spoken: Make) -> None:
    door = spoken(counted())
    for text in ("하나", "둘"):
        door.say(text, extra_headers={"x-habitus-thread": "mine"})
    assert [m["content"] for m in door.prompts[-1].messages[1:]] == ["하나", "답 1", "둘"]
    door.say("딴 말", "딴 답", "셋", extra_headers={"x-habitus-thread": "mine"})
    assert [m["content"] for m in door.prompts[-1].messages[1:]] == ["딴 말", "딴 답", "셋"], "what is resent holds"
    door.say("넷", extra_headers={"x-habitus-thread": "mine"}, model="habitus-sandbox")
    assert [m["content"] for m in door.prompts[-1].messages[1:]] == ["넷"]


def test_a_client_that_resends_only_what_was_said_last_stays_in_its_thread(spoken: Make) -> None:
    door = spoken(counted())
    for chat, words in enumerate(("하나 둘 셋 넷 다섯 여섯", "가 나 다 라 마 바")):
        texts: list[str] = []
        for word in words.split():
            texts += [word, door.say(*texts[-4:], word)]
        assert len({t.thread for t in door.turns}) == chat + 1
    door.say("딴 말", "딴 답", *texts[-2:], "끝")
    assert len({t.thread for t in door.turns}) == 3, "one exchange alone is no sign"


def test_where_two_conversations_end_alike_a_window_is_in_the_one_that_the_client_names(spoken: Make) -> None:
    door = spoken(lambda prompt: "네.")
    for first in ("here", "there"):
        texts: list[str] = []
        for text in (first, "안녕", "뭐 해?"):
            texts += [text, door.say(*texts, text, extra_headers={"x-openwebui-chat-id": first})]
    door.say(*texts[-4:], "응")
    assert len({t.thread for t in door.turns}) == 3, "nobody says which"
    door.say(*texts[-4:], "그래", extra_headers={"x-openwebui-chat-id": "here"})
    assert [t.thread for t in door.turns].count("here") == 4


def test_a_thread_can_be_named(spoken: Make) -> None:
    door = spoken(counted())
    for text in ("하나", "하나"):
        door.say(text, extra_headers={"x-habitus-thread": "mine"})
    assert {t.thread for t in door.turns} == {"mine"}


def test_the_same_said_again_in_a_named_thread_another_day_is_another_turn(spoken: Make) -> None:
    door = spoken(counted())
    for _ in range(3):
        door.say("좋은 아침", extra_headers={"x-habitus-thread": "mine"})
    turns = sorted(door.turns, key=lambda t: t.id)
    assert [(t.user, t.reply) for t in turns] == [("좋은 아침", f"답 {n}") for n in (1, 2, 3)]
    door.say("좋은 아침", "답 1", "좋은 아침", "답 2", "좋은 아침", extra_headers={"x-habitus-thread": "mine"})
    assert [t.reply for t in door.being.bag.ledger.history(Turn, "t3")] == ["답 3", "답 4"], "resent: another is wanted"


def test_what_a_client_calls_a_chat_is_not_taken_for_the_chat_itself(spoken: Make) -> None:
    """Open WebUI asks for a title, before the first reply, under the name of the conversation; edits make branches."""
    door = spoken(counted())
    chat = {"extra_headers": {"x-openwebui-chat-id": "chat"}}
    other = {"extra_headers": {"x-openwebui-chat-id": "other"}}
    door.say("하나", **chat)
    door.say("하나", "답 1", "둘", **chat)
    assert door.say("제목을 지어 줘", **chat) == "답 3"
    door.say("하나", "답 1", "다른 둘", **chat)
    door.say("하나", "답 1", "둘", "답 2", "셋", **chat)
    door.say("하나", "답 1", "둘", "답 2", "셋", **chat)
    door.say("하나", **other)
    threads = {t.user: t.thread for t in door.turns[1:]}
    assert door.turns[0].thread == threads["둘"] == threads["셋"] == "chat"
    assert threads["하나"] == "other"
    assert len(set(threads.values())) == 4, "the title and the branch have threads of their own"
    assert [t.reply for t in door.being.bag.ledger.history(Turn, "t5")] == ["답 5", "답 6"], "asked for again"


def test_another_reply_replaces_the_one_that_was_meant_whatever_is_said_meanwhile(spoken: Make) -> None:
    said = counted()

    def decide(prompt: Prompt) -> str:
        text = said(prompt)
        if text == "답 3":
            time.sleep(1)
        return text

    door = spoken(decide)
    door.say("하나")
    door.say("하나", "답 1", "둘")
    again = threading.Thread(target=lambda: door.say("하나", "답 1", "둘"))
    again.start()
    time.sleep(0.4)
    door.say("하나", "답 1", "둘", "답 2", "셋")
    again.join()
    assert [(t.user, t.reply) for t in sorted(door.turns, key=lambda t: t.id)] == [
        ("하나", "답 1"), ("둘", "답 3"), ("셋", "답 4"),
    ]  # fmt: skip


def test_two_people_may_say_the_same(spoken: Make) -> None:
    door = spoken(lambda prompt: "네.")
    for _ in range(2):
        door.say("안녕")
    for _ in range(2):
        door.say("안녕", "네.", "뭐 해?")
    for secret in ("이쪽의 비밀", "저쪽의 비밀"):
        door.say("안녕", "네.", "뭐 해?", "네.", secret)
    threads: dict[str, list[str]] = {}
    for turn in sorted(door.turns, key=lambda t: t.id):
        threads.setdefault(turn.thread, []).append(turn.user)
    assert sorted(threads.values()) == [["안녕", "뭐 해?", "이쪽의 비밀"], ["안녕", "뭐 해?", "저쪽의 비밀"]]
