"""Recall: near words in both languages, one owner on disk, always rebuilt from the ledger."""

from __future__ import annotations

import gc
import hashlib
import multiprocessing
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agent.ledger import Ledger
from agent.memory import Index, embed
from agent.records import Memory, Turn, Verdict

FACTS = [
    "우리 집 고양이 이름은 나비야", "제 생일은 5월 3일이에요", "나는 매운 음식을 못 먹어", "동생은 부산에서 살아요",
    "내 사물함 번호는 4172번이야", "저는 땅콩 알레르기가 있어요", "요즘 새로 배우는 악기는 해금이야", "아침마다 강가를 달려요",
    "우리 회사는 강남역 옆에 있어", "결혼기념일은 구월 스무엿새예요", "나는 커피 대신 녹차를 마셔", "어릴 때 제주에서 자랐어요",
    "가장 친한 친구는 민서야", "주말마다 할머니를 뵈러 가요", "차는 지하 2층에 세워 뒀어",
    "my dog is called Biscuit", "I was born in Lisbon", "my sister works as a nurse", "I am allergic to shellfish",
    "my locker number is 913", "I play the cello on Sundays", "my car is a blue hatchback", "our anniversary is June 9",
    "I never eat breakfast", "my best friend moved to Canada", "I collect old stamps", "my flat is on the fourth floor",
    "I am learning Portuguese", "my favourite season is autumn", "I work from home on Fridays",
]  # fmt: skip


@pytest.fixture
def ledger(bag_path: Path) -> Ledger:
    """A ledger that holds thirty memories, a turn that teaches and one that does not."""
    ledger = Ledger(bag_path / "ledger.db")
    ledger.add_all([Memory(text=text) for text in FACTS])
    ledger.add(Turn(thread="c-1", user="고양이 얘기는 그만해 줘", reply="네."))
    ledger.add(Turn(thread="c-1", user="고양이가 또 꽃병을 깼어", reply="저런."))
    ledger.add(Verdict(turn="t1", value=3, kind="correction", reason="x"))
    ledger.add(Verdict(turn="t2", value=0, kind="smalltalk", reason="x"))
    return ledger


@pytest.fixture
def index(bag_path: Path, ledger: Ledger) -> Index:
    return Index(ledger, bag_path / "index")


def elsewhere(work: Callable[..., Any], *arguments: Any) -> Any:
    """``work`` done by a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def open_and_ask(bag: Path, question: str, also: str = "") -> str:
    """Opens the bag's index, takes in one more memory if given, and finds the nearest."""
    ledger = Ledger(bag / "ledger.db")
    index = Index(ledger, bag / "index")
    if also:
        ledger.add(Memory(text=also))
    return index.near(question, "memory", 1)[0][1]


def files(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("고양이 이름이 뭐였지?", "우리 집 고양이 이름은 나비야"),
        ("내 생일이 언제라고 했지?", "제 생일은 5월 3일이에요"),
        ("사물함 번호 기억나?", "내 사물함 번호는 4172번이야"),
        ("what is my dog called?", "my dog is called Biscuit"),
        ("Where was I BORN?", "I was born in Lisbon"),
        ("do you know my locker number", "my locker number is 913"),
    ],
)
def test_the_right_one_of_thirty_is_nearest(index: Index, question: str, answer: str) -> None:
    found = index.near(question, "memory", 3)
    assert len(found) == 3
    assert found[0][1] == answer
    assert [near for *_, near in found] == sorted((near for *_, near in found), reverse=True)


def test_kinds_are_kept_apart_and_only_turns_that_teach_are_in_it(index: Index) -> None:
    assert {ref[0] for ref, *_ in index.near("고양이", "memory", 40)} == {"m"}
    assert [ref for ref, *_ in index.near("고양이", "turn", 40)] == ["t1"]


def test_what_is_too_far_is_left_out(index: Index) -> None:
    ((_, text, near),) = index.near("my dog is called Biscuit", "memory", 3, least=0.9)
    assert (text, round(near, 3)) == ("my dog is called Biscuit", 1.0)


def test_nothing_is_near_to_nothing(index: Index) -> None:
    assert index.near("  ", "memory", 3) == []


def test_an_empty_bag_has_nothing_near(bag_path: Path) -> None:
    assert Index(Ledger(bag_path / "ledger.db"), bag_path / "index").near("고양이", "memory", 3) == []


def test_what_the_ledger_gains_is_found_at_once(index: Index, ledger: Ledger) -> None:
    ledger.add(Memory(text="my parrot speaks Latin"))
    for _ in range(2):
        assert [text for _, text, _ in index.near("parrot Latin", "memory", 40)].count("my parrot speaks Latin") == 1
    assert len(index.near("고양이 꽃병", "turn", 40)) == 1
    ledger.add(Verdict(turn="t2", value=2, kind="preference", reason="x"))
    assert len(index.near("고양이 꽃병", "turn", 40)) == 2


def test_a_memory_that_was_written_twice_since_is_taken_in_once(index: Index, ledger: Ledger) -> None:
    """As in a conversation: first told, then tied to its turn, both before the next search."""
    told = ledger.add(Memory(text="my parrot speaks Latin"))
    ledger.add(told.model_copy(update={"turns": ("t1",), "at": ""}))
    assert [text for _, text, _ in index.near("parrot Latin", "memory", 40)].count("my parrot speaks Latin") == 1


def test_a_second_process_works_on_a_copy_of_its_own(index: Index, bag_path: Path) -> None:
    before = files(bag_path / "index")
    found = elsewhere(open_and_ask, bag_path, "parrot Latin", "my parrot speaks Latin")
    assert found == "my parrot speaks Latin"
    assert files(bag_path / "index") == before
    assert index.near("parrot Latin", "memory", 1)[0][1] == found


def test_the_next_owner_finds_the_index_on_disk(ledger: Ledger, bag_path: Path) -> None:
    assert elsewhere(open_and_ask, bag_path, "my dog") == "my dog is called Biscuit"
    assert list((bag_path / "index").glob("*/chroma.sqlite3"))
    assert elsewhere(open_and_ask, bag_path, "my dog") == "my dog is called Biscuit"


def test_an_index_is_read_on_from_its_mark_and_holds_no_words(ledger: Ledger, bag_path: Path) -> None:
    elsewhere(open_and_ask, bag_path, "my dog")
    ledger.add(Memory(text="my parrot speaks Latin"))
    ledger.add(Turn(thread="c-2", user="잘 자", reply="네."))
    asked: list[str] = []
    take = ledger.some
    ledger.some = lambda kind, refs: asked.extend(refs) or take(kind, refs)  # type: ignore[method-assign,func-returns-value]
    index = Index(ledger, bag_path / "index")
    assert asked == [], "no turn is read that was taken in before"
    assert index.near("parrot Latin", "memory", 1)[0][1] == "my parrot speaks Latin"
    assert index.near("my dog", "memory", 1)[0][1] == "my dog is called Biscuit"
    raw = b"".join(p.read_bytes() for p in (bag_path / "index").rglob("*") if p.is_file())
    assert not [f for f in [*FACTS, "my parrot speaks Latin"] if f.encode() in raw]


@pytest.mark.parametrize("spoiled", ["", "[3", '[7, "abc"]', '[999999, "abc"]', "[1]"])
def test_a_mark_that_does_not_fit_the_ledger_is_not_believed(ledger: Ledger, bag_path: Path, spoiled: str) -> None:
    elsewhere(open_and_ask, bag_path, "my dog")
    (mark,) = (bag_path / "index").glob("*/read.json")
    mark.write_text(spoiled, "utf-8")
    assert len(Index(ledger, bag_path / "index").near("my dog", "memory", 40, least=-1)) == len(FACTS)
    assert not mark.exists()


def test_a_deleted_index_is_rebuilt_from_the_ledger(ledger: Ledger, bag_path: Path) -> None:
    elsewhere(open_and_ask, bag_path, "my dog")
    shutil.rmtree(bag_path / "index")
    assert elsewhere(open_and_ask, bag_path, "my dog") == "my dog is called Biscuit"
    assert list((bag_path / "index").glob("*/chroma.sqlite3"))


def test_an_index_in_memory_leaves_no_file(ledger: Ledger, bag_path: Path) -> None:
    before = set(files(bag_path))
    assert Index(ledger, None).near("my dog", "memory", 1)[0][1] == "my dog is called Biscuit"
    assert set(files(bag_path)) == before


def test_an_index_that_belongs_to_another_ledger_is_not_believed(bag_path: Path) -> None:
    other = Ledger(bag_path / "ledger.db")
    other.add_all([Memory(text="a stranger's cat is called Tom"), Memory(text="a stranger's dog is called Rex")])
    other.close()
    elsewhere(open_and_ask, bag_path, "cat")
    for part in bag_path.glob("ledger.db*"):
        part.unlink()
    own = Ledger(bag_path / "ledger.db")
    own.add(Memory(text="my cat is called Nabi"))
    found = [text for _, text, _ in Index(own, bag_path / "index").near("cat called", "memory", 9)]
    assert found == ["my cat is called Nabi"]


def test_two_bags_in_one_process_never_share_words(tmp_path: Path, ledger: Ledger) -> None:
    other = Ledger(tmp_path / "other" / "ledger.db")
    other.add(Memory(id="m99", text="a stranger's cat is called Tom"))
    for _ in range(20):
        Index(other, None)
        gc.collect()
        assert "a stranger's cat is called Tom" not in [x for _, x, _ in Index(ledger, None).near("cat", "memory", 40)]
        gc.collect()


def test_a_text_is_embedded_as_a_unit_vector_blind_to_case_and_spacing() -> None:
    assert embed("Hello  World") == embed(" hello world ")
    assert sum(v * v for v in embed("고양이")) == pytest.approx(1)
    assert embed("고양이") != embed("강아지")
