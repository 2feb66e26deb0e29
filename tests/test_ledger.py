"""The ledger: append-only, chained, words apart, safe for several writers."""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
import sqlite3
import threading
from pathlib import Path

import pytest

from agent.content import take_out
from agent.errors import NotFoundError, StorageError
from agent.ledger import SCHEMA, Ledger
from agent.records import Call, Decision, Habit, Mask, Memory, Proposal, Rule, Self, Turn, Verdict


@pytest.fixture
def path(bag_path: Path) -> Path:
    return bag_path / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Ledger:
    return Ledger(path)


def turn(user: str = "안녕", reply: str = "반가워요.", thread: str = "c-1") -> Turn:
    return Turn(thread=thread, user=user, reply=reply)


def by_hand(path: Path, *statements: str) -> None:
    """What someone with a plain SQLite shell can do to the file."""
    with sqlite3.connect(path) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


# -- append only -------------------------------------------------------------------------------


@pytest.mark.parametrize("statement", ["UPDATE rows SET body='{}'", "DELETE FROM rows"])
def test_the_database_itself_refuses_to_change_or_delete_a_row(ledger: Ledger, path: Path, statement: str) -> None:
    ledger.add(turn())
    with pytest.raises(sqlite3.IntegrityError, match="append only"):
        by_hand(path, statement)
    assert [t.user for t in ledger.all(Turn)] == ["안녕"]


def test_the_database_itself_refuses_to_replace_a_row(ledger: Ledger, path: Path) -> None:
    ledger.add(turn())
    with pytest.raises(sqlite3.IntegrityError):
        by_hand(path, "INSERT OR REPLACE INTO rows SELECT seq, kind, ref, parent, at, '{}', digest FROM rows")


def test_a_kind_counts_its_own_ids(ledger: Ledger) -> None:
    refs = [ledger.add(r).id for r in (turn(), turn(), Memory(text="고양이"), Self(base="b"), turn())]
    assert refs == ["t1", "t2", "m1", "self-0001", "t3"]


def test_a_new_state_does_not_use_up_an_id(ledger: Ledger) -> None:
    first = ledger.add(Habit(rule="r", scope=("ko",)))
    ledger.add(first.model_copy(update={"stage": "repeated"}))
    assert ledger.add(Habit(rule="s", scope=("en",))).id == "h2"


def test_get_gives_the_newest_state_and_history_gives_all(ledger: Ledger) -> None:
    told = ledger.add(Habit(rule="r", scope=("ko",)))
    ledger.add(told.model_copy(update={"stage": "repeated"}))
    ledger.add(told.model_copy(update={"stage": "proposed"}))
    assert ledger.get(Habit, "h1").stage == "proposed"
    assert [h.stage for h in ledger.all(Habit)] == ["proposed"]
    assert [h.stage for h in ledger.history(Habit, "h1")] == ["told", "repeated", "proposed"]


def test_all_keeps_the_order_of_birth_past_the_tenth(ledger: Ledger) -> None:
    ledger.add_all([turn(user=str(n)) for n in range(12)])
    assert [t.user for t in ledger.all(Turn)] == [str(n) for n in range(12)]


def test_a_parent_narrows_what_is_listed(ledger: Ledger) -> None:
    ledger.add_all([turn("a", thread="c-1"), turn("b", thread="c-2"), turn("c", thread="c-1")])
    assert [t.user for t in ledger.all(Turn, parent="c-1")] == ["a", "c"]


def test_only_turns_without_a_verdict_are_unjudged(ledger: Ledger) -> None:
    ledger.add_all([turn("a"), turn("b"), turn("c")])
    ledger.add(Verdict(turn="t2", value=4, kind="instruction", reason="부탁"))
    assert [t.id for t in ledger.unjudged(Turn, 9)] == ["t1", "t3"]


def test_several_records_are_written_all_or_none(ledger: Ledger) -> None:
    class Unwritable(Turn):
        def model_dump(self, **kw: object) -> dict[str, object]:  # type: ignore[override]
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        ledger.add_all([turn("kept?"), Unwritable(thread="c-1", user="b", reply="c")])
    assert ledger.all(Turn) == []
    assert ledger.add(turn()).id == "t1"


def test_an_unknown_id_names_those_that_are_there(ledger: Ledger) -> None:
    ledger.add(turn())
    with pytest.raises(NotFoundError, match="There is no turn 't9'") as caught:
        ledger.get(Turn, "t9")
    assert caught.value.hint == "Known: t1."


def test_a_record_comes_back_whole(ledger: Ledger) -> None:
    call = Call(
        name="remember", arguments={"text": '제 "고양이" 이름은 나비', "n": 3, "deep": [{"a": None}]}, result="ok"
    )
    said = Turn(thread="c", user="", reply="😀\n", tool_calls=(call,), rules=("r1", "r2"))
    kept = ledger.add(said)
    assert ledger.get(Turn, kept.id) == kept
    assert kept.model_copy(update={"id": "", "at": ""}) == said


def test_a_tool_call_cannot_make_the_ledger_unreadable(ledger: Ledger) -> None:
    kept = ledger.add(Turn(thread="c", user="a", reply="b", tool_calls=(Call(name="x", arguments={"$": "y"}),)))
    assert ledger.all(Turn) == [kept]


# -- words -------------------------------------------------------------------------------------


def bodies(path: Path) -> str:
    with sqlite3.connect(path) as connection:
        return "\n".join(str(row) for row in connection.execute("SELECT kind, ref, parent, at, body FROM rows"))


def test_words_live_in_the_content_table_and_nowhere_in_the_rows(ledger: Ledger, path: Path) -> None:
    words = [f"낱말{n:02d}" for n in range(12)]
    call = Call(name="x", arguments={words[0]: [words[1]], "to": {"card": 4111111111111111}}, result=words[2])
    ledger.add(Turn(thread="c", user=words[3], reply=words[4], tool_calls=(call,), rules=(words[5],)))
    ledger.add(Verdict(turn="t1", value=3, kind="fact", reason=words[6]))
    ledger.add(Habit(rule=words[7], quote=words[8], scope=("ko",)))
    mask = Mask(persona={"ko": words[9]}, mood=words[10], rules=(Rule(text=words[11], scope=("ko",)),))
    ledger.add(Self(base="b", mask=mask))
    assert [w for w in (*words, "4111111111111111", "card") if w in bodies(path)] == []
    with sqlite3.connect(path) as connection:
        kept = "\n".join(text for (text,) in connection.execute("SELECT text FROM content"))
    assert [w for w in words if w not in kept] == []


def test_the_persona_in_a_proposals_configuration_is_words_too(ledger: Ledger, path: Path) -> None:
    config: dict[str, object] = {"personas": {"ko": "너는 지훈의 벗이다"}}
    ledger.add(Proposal(kind="learn", habit="h1", rule="r", scope=("ko",), config=config))
    assert "지훈" not in bodies(path)


def test_the_same_text_twice_has_two_digests(ledger: Ledger, path: Path) -> None:
    ledger.add(turn("같은 말", "같은 말"))
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT COUNT(DISTINCT digest) FROM content").fetchone() == (2,)


def test_a_text_that_is_gone_leaves_its_row_and_the_chain(ledger: Ledger, path: Path) -> None:
    ledger.add(turn("비밀이야", "알겠어요."))
    by_hand(path, "DELETE FROM content WHERE text='비밀이야'")
    assert [(t.user, t.reply) for t in ledger.all(Turn)] == [("⌫", "알겠어요.")]
    assert ledger.verify() == []


def test_what_a_tool_was_told_can_be_erased_and_in_an_old_row_is_still_read(ledger: Ledger, path: Path) -> None:
    ledger.add(Turn(thread="c", user="a", reply="b", tool_calls=(Call(name="x", arguments={"n": 4111}),)))
    by_hand(path, "DELETE FROM content WHERE text='{\"n\": 4111}'")
    assert ledger.get(Turn, "t1").tool_calls == (Call(name="x", arguments={}),)
    assert ledger.verify() == []
    old = {"name": "x", "arguments": {"$$": {"$": "d"}, "n": 1}, "result": ""}
    assert take_out(old, {"d": "word"}) == {"name": "x", "arguments": {"$": "word", "n": 1}, "result": ""}


def test_what_goes_is_chosen_while_nobody_else_can_write(ledger: Ledger, path: Path) -> None:
    ledger.add(turn("비밀이야"))

    def plan() -> tuple[list[str], list[Turn]]:
        with sqlite3.connect(path, timeout=0) as other, pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.close()
        return [body["user"].digest for *_, body in ledger.words()], [turn("")]

    ledger.erase(plan)
    assert [t.user for t in ledger.all(Turn)] == ["⌫", ""]


# -- the chain ---------------------------------------------------------------------------------


def test_a_whole_chain_has_nothing_wrong(ledger: Ledger) -> None:
    ledger.add_all([turn(), turn(), Memory(text="고양이")])
    assert ledger.verify() == []


@pytest.mark.parametrize("column", ["kind", "ref", "at", "body"])
def test_an_altered_row_is_found(ledger: Ledger, path: Path, column: str) -> None:
    ledger.add_all([turn(), turn(), turn()])
    by_hand(path, "DROP TRIGGER rows_stay", f"UPDATE rows SET {column}={column} || ' ' WHERE seq=2")
    (wrong,) = ledger.verify()
    assert wrong.startswith("row 2 ")


def test_a_decision_moved_to_another_proposal_is_found(ledger: Ledger, path: Path) -> None:
    ledger.add(Decision(proposal="p1", verdict="approve", digest="d"))
    by_hand(path, "DROP TRIGGER rows_stay", "UPDATE rows SET parent='p2'")
    assert ledger.verify() or not ledger.all(Decision, parent="p2")


def test_a_missing_row_is_found(ledger: Ledger, path: Path) -> None:
    ledger.add_all([turn(), turn(), turn()])
    by_hand(path, "DROP TRIGGER rows_last", "DELETE FROM rows WHERE seq=2")
    assert ledger.verify() == ["row 3 (Turn t3) does not fit the chain"]


def test_an_altered_text_is_found(ledger: Ledger, path: Path) -> None:
    ledger.add(turn("매운 음식이 좋아"))
    by_hand(path, "UPDATE content SET text='매운 음식이 싫어' WHERE text='매운 음식이 좋아'")
    (wrong,) = ledger.verify()
    assert wrong.startswith("a text was altered")


# -- several writers ---------------------------------------------------------------------------


def write_fifty(path: Path, who: str) -> None:
    own = Ledger(path)
    for n in range(50):
        own.add(turn(user=f"{who} {n}"))


def test_two_processes_writing_at_once_lose_nothing(ledger: Ledger, path: Path) -> None:
    apart = multiprocessing.get_context("spawn")
    writers = [apart.Process(target=write_fifty, args=(path, who)) for who in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    said = [t.user for t in ledger.all(Turn)]
    assert sorted(said) == sorted(f"{who} {n}" for who in "ab" for n in range(50))
    assert [s for s in said if s[0] == "a"] == [f"a {n}" for n in range(50)]
    assert ledger.verify() == []


def test_threads_of_one_ledger_lose_nothing(ledger: Ledger) -> None:
    threads = [threading.Thread(target=lambda: [ledger.add(Memory(text="x")) for _ in range(50)]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [m.id for m in ledger.all(Memory)] == [f"m{n}" for n in range(1, 101)]
    assert ledger.verify() == []


def test_a_bag_that_someone_else_is_just_making_is_waited_for(path: Path) -> None:
    path.parent.mkdir()
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    other.execute("CREATE TABLE first (x)")
    ready = threading.Timer(0.3, lambda: other.execute("COMMIT"))
    ready.start()
    try:
        assert Ledger(path).add(turn()).id == "t1"
    finally:
        ready.join()
        other.close()


# -- a bag that cannot be used -----------------------------------------------------------------


def test_a_bag_of_a_newer_version_is_refused(ledger: Ledger, path: Path) -> None:
    ledger.close()
    by_hand(path, f"UPDATE meta SET value='{SCHEMA + 1}' WHERE key='schema'")
    with pytest.raises(StorageError, match=f"newer Habitus .schema {SCHEMA + 1}"):
        Ledger(path)


def test_a_damaged_file_is_a_storage_error(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is no database " * 400)
    with pytest.raises(StorageError, match="damaged") as caught:
        Ledger(path)
    assert "Restore it" in caught.value.hint


@pytest.fixture
def torn(ledger: Ledger, path: Path) -> Ledger:
    """A ledger whose later pages are garbage."""
    ledger.add_all([Memory(text="x" * 3000) for _ in range(60)])
    ledger.close()
    whole = path.read_bytes()
    path.write_bytes(whole[: 4096 * 8] + b"\xff" * (len(whole) - 4096 * 8))
    return Ledger(path)


def test_damage_found_while_reading_is_a_storage_error(torn: Ledger) -> None:
    with pytest.raises(StorageError, match="damaged"):
        torn.all(Memory)


def test_damage_found_while_verifying_is_reported(torn: Ledger) -> None:
    with contextlib.suppress(StorageError):  # said either way
        assert torn.verify()


def test_a_file_that_the_disk_will_not_open_is_a_clear_storage_error(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(StorageError, match="cannot be written") as caught:
        Ledger(path)
    assert "sqlite" not in str(caught.value)


def test_a_disk_that_takes_no_more_is_a_clear_storage_error(ledger: Ledger) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # SQLite: disk I/O error
    try:
        with pytest.raises(StorageError, match="cannot be written") as caught:
            ledger.add(turn("안녕" * 9000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "sqlite" not in str(caught.value)
    assert "room" in caught.value.hint


def test_a_file_where_the_bag_should_be_is_a_storage_error(bag_path: Path) -> None:
    bag_path.write_text("not a folder")
    with pytest.raises(StorageError):
        Ledger(bag_path / "ledger.db")


# -- reading a page at a time ------------------------------------------------------------------


def test_the_newest_come_first_each_once_and_no_further_than_asked(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.ledger.PAGE", 4)
    ledger.add_all([turn(str(n)) for n in range(10)])
    ledger.add(ledger.get(Turn, "t3").model_copy(update={"user": "changed", "at": ""}))
    assert [t.user for t in ledger.newest(Turn)] == ["changed", *(str(n) for n in reversed(range(10)) if n != 2)]
    reading = ledger.newest(Turn)
    assert next(reading).user == "changed"


def test_the_newest_can_be_narrowed_by_an_indexed_field(ledger: Ledger, path: Path) -> None:
    kinds = ["fact", "instruction", "smalltalk", "correction"]
    ledger.add_all([Verdict(turn=f"t{n}", value=1, kind=k, reason="x") for n, k in enumerate(kinds)])  # type: ignore[arg-type]
    assert [v.kind for v in ledger.newest(Verdict, kind=("instruction", "correction"))] == ["correction", "instruction"]
    assert list(ledger.newest(Verdict, kind=())) == []
    with sqlite3.connect(path) as connection:
        plan = connection.execute(
            "EXPLAIN QUERY PLAN SELECT seq FROM rows WHERE kind='Verdict' AND json_extract(body, '$.kind') IN ('x')"
        ).fetchall()
    assert "by_judged" in str(plan)


def test_a_folder_may_be_called_anything(tmp_path: Path) -> None:
    """Neither a question nor a per cent sign means anything in a path."""
    for name in ("누구? A", "누구? B", "my%20bag", "a#b&c"):
        Ledger(tmp_path / name / "ledger.db").add(turn(user=name))
        assert [t.user for t in Ledger(tmp_path / name / "ledger.db").all(Turn)] == [name]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a#b&c", "my%20bag", "누구? A", "누구? B"]
