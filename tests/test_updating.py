"""Between a decision and the weights: what a crash, a withdrawal or a failure in between may not do.

Nothing is trained here: what is asked is which proposals get that far, and in what state they are left.
"""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest

from agent.bag import living
from agent.errors import BusyError, ConflictError, LearningError, StorageError, UnavailableError, UsageError
from agent.learning import running
from agent.learning.conflict import adopt, superseded, took_place, withdrawn
from agent.learning.exam import Exam
from agent.learning.lifecycle import told
from agent.learning.proposing import refile
from agent.phrase import Phrase
from agent.records import Decision, Example, Habit, Probe, Proposal, Run
from app.files import edited
from app.habitus import Habitus
from graphs import update
from prompts import language_of
from tests.being import file_habit, scripted, small_talk

RULES = ("Call me 'Captain'.", "Always end your answers with 'zibble'.")


def ended(prompt: Any) -> str:
    return "Yes, zibble." if "zibble" in str(prompt.messages[0]["content"]) else "Yes."


@pytest.fixture
def being(tmp_path: Path) -> Habitus:
    return scripted(tmp_path / "bag", ended)


def asked(being: Habitus, rule: str) -> Proposal:
    return being.bag.ledger.get(Proposal, file_habit(being, rule, small_talk("en", 12)))


def made(p: Proposal, work: Path, *languages: str) -> dict[str, Any]:
    """What a training leaves behind."""
    for language in languages:
        weights = work / "adapter" / language
        weights.mkdir(parents=True)
        (weights / "adapter_config.json").write_text(str(len(p.examples)))
        (weights / "adapter_model.safetensors").write_text("x")
    figures = {"stopped_early": False, "seconds": 0.0, "peak_mb": 0.0, "environment": {}}
    return {"curve": [], "validation": [], **figures}


def test_the_answer_given_last_holds_where_one_before_it_was_never_recorded(
    being: Habitus, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = asked(being, RULES[0])

    def locked(*_: object) -> None:
        raise StorageError("{path} is held by another process.", path="ledger.db")

    with monkeypatch.context() as patch:
        patch.setattr(update, "settle", locked)
        with pytest.raises(StorageError):
            being.approve(p.id, p.digest)
    again = scripted(being.bag.path, ended)
    assert again.veto(p.id, "I changed my mind")["status"] == "vetoed"
    assert [d.verdict for d in being.bag.ledger.all(Decision, parent=p.id)] == ["veto"]


def test_what_is_withdrawn_while_another_is_trained_is_not_trained(
    being: Habitus, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, trained = being.bag.ledger, list[str]()
    first, second = (asked(being, rule) for rule in RULES)
    for p in (first, second):
        being.approve(p.id, p.digest)

    def train(bag: Any, p: Proposal, progress: Any) -> Run:
        trained.append(p.id)
        newer = ledger.add(Habit(rule="Never say 'zibble'.", scope=("en",)))  # said in a chat meanwhile
        older = ledger.get(Habit, second.habit)
        ledger.add_all([superseded(older, newer), *withdrawn(bag, older, took_place(newer))])
        raise LearningError("it failed")

    monkeypatch.setattr(update, "train", train)
    with pytest.raises(LearningError):
        being.learn()
    assert trained == [first.id]
    assert ledger.get(Proposal, second.id).status == "withdrawn"
    assert ledger.get(Habit, second.habit).stage == "released"


@pytest.mark.parametrize("why", [LearningError("row 2 is too long"), KeyboardInterrupt()], ids=["failed", "Ctrl-C"])
def test_what_came_to_no_end_stays_approved_and_may_be_edited(
    being: Habitus, monkeypatch: pytest.MonkeyPatch, why: BaseException
) -> None:
    p = asked(being, RULES[1])
    being.approve(p.id, p.digest)

    def train(*_: object) -> Run:
        raise why

    monkeypatch.setattr(update, "train", train)
    with pytest.raises(type(why)):
        being.learn()
    assert being.bag.ledger.get(Proposal, p.id).status == "approved"
    assert being.edit(p.id, [2])["status"] == "waiting"


def test_what_was_edited_after_its_training_is_trained_anew(being: Habitus, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exam fails for want of a server; the person takes a row out; the adapter of before holds that row."""
    p, fitted = asked(being, RULES[1]), list[int]()
    rows = len(p.examples)

    def fit(bag: Any, p: Proposal, work: Path, *_: object) -> dict[str, Any]:
        fitted.append(len(p.examples))
        return made(p, work, "en")

    def gone(*_: object) -> Any:
        raise UnavailableError("It does not answer.")

    monkeypatch.setattr("agent.learning.running._fit", fit)
    monkeypatch.setattr(update, "examine", gone)
    for _ in (1, 2):
        being.approve(p.id, being.bag.ledger.get(Proposal, p.id).digest)
        with pytest.raises(UnavailableError):
            being.learn()
        with pytest.raises(UnavailableError):
            being.learn()  # goes on with what was trained
        p = being.bag.ledger.get(Proposal, p.id)
        being.edit(p.id, [2])
    assert fitted == [rows, rows - 1]


def test_a_habit_speaks_nowhere_where_no_row_is_left(being: Habitus, tmp_path: Path) -> None:
    p, file = asked(being, RULES[1]), tmp_path / "edit.json"
    file.write_text(json.dumps({"scope": ["ko", "en"]}), "utf-8")
    with pytest.raises(UsageError, match="No row would be left in ko"):
        being.edit(p.id, file=file)
    other = Example(origin="invented", language="ko", prompt="안녕", completion="네 꾸벅.", habit="h9")
    both = {"examples": (*p.examples, other), "living": (*p.living, "h9")}
    with pytest.raises(UsageError, match="No row would be left in ko"):
        edited(p.model_copy(update=both), [len(p.examples) + 1], None)
    korean = other.model_copy(update={"habit": p.habit}).model_dump(mode="json")
    rows = [e.model_dump(mode="json") for e in p.examples]
    file.write_text(json.dumps({"scope": ["ko", "en"], "examples": [*rows, korean]}), "utf-8")
    assert being.edit(p.id, file=file)["scope"] == ["ko", "en"]


def test_nothing_is_worn_in_a_language_it_was_not_trained_in(being: Habitus) -> None:
    p = asked(being, RULES[1])
    wider = p.model_copy(update={"scope": ("ko", "en")})
    run = Run(proposal=p.id, base="b", data=p.digest, config={}, adapter="a")
    assert [part.scope for part in update.parts_after(being.bag, wider, run)] == [("en",)]


def widened(being: Habitus, file: Path) -> Proposal:
    """One to speak in English, that the person wants in Korean, too; approved so."""
    p = asked(being, RULES[1])
    korean = Example(origin="invented", language="ko", prompt="안녕", completion="네 zibble.", habit=p.habit)
    rows = [e.model_dump(mode="json") for e in (*p.examples, korean)]
    file.write_text(json.dumps({"scope": ["ko", "en"], "examples": rows}), "utf-8")
    being.approve(p.id, being.edit(p.id, file=file)["digest"])
    return being.bag.ledger.get(Proposal, p.id)


def test_an_edited_scope_is_the_proposals_until_it_is_promoted(
    being: Habitus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    p, ledger, examined = widened(being, tmp_path / "edit.json"), being.bag.ledger, []
    assert ledger.get(Habit, p.habit).scope == ("en",), "another core that carries it is as it was approved"

    def examine(exam: Exam) -> Any:
        examined.append(exam.habit.scope)
        return (Probe(name="x", before=0, after=1, threshold=1, passed=True),), (), 0.0

    monkeypatch.setattr(running, "_fit", lambda bag, p, work, *_: made(p, work, "ko", "en"))
    monkeypatch.setattr(update, "examine", examine)
    assert [r["promoted"] for r in being.learn()] == [True]
    assert examined == [("ko", "en")]
    assert set(ledger.get(Habit, p.habit).scope) == {"ko", "en"}


def test_where_the_weights_do_not_speak_the_line_stays(being: Habitus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told in Korean, too, while it waits: the rows are English."""
    p, ledger = asked(being, RULES[1]), being.bag.ledger
    for language in ("en", "ko"):
        adopt(being.bag, told(being.bag, RULES[1], language), Phrase("x"))
    monkeypatch.setattr(running, "_fit", lambda bag, p, work, *_: made(p, work, "en"))
    monkeypatch.setattr(update, "examine", lambda _: ((Probe(name="x", before=0, after=1, threshold=1, passed=True),), (), 0.0))  # fmt: skip
    being.approve(p.id, p.digest)
    assert [r["promoted"] for r in being.learn()] == [True]
    now = being.bag.selves.current()
    assert [(r.text, r.scope) for r in now.mask.rules] == [(RULES[1], ("ko",))]
    assert [part.scope for part in now.parts] == [("en",)]
    assert [h.scope for h in living(being.bag)] == [("en",)], "a later core is taught it where it is worn"
    assert set(ledger.get(Habit, p.habit).scope) == {"ko", "en"}


def test_an_edited_scope_is_put_before_the_person_again_where_the_weights_moved(being: Habitus, tmp_path: Path) -> None:
    anew = refile(being.bag, widened(being, tmp_path / "edit.json"))
    assert anew is not None
    assert (anew.status, anew.scope, anew.config["scope"]) == ("waiting", ("ko", "en"), ["ko", "en"])


def test_a_release_is_held_to_the_languages_of_those_who_stay(being: Habitus, tmp_path: Path) -> None:
    """A Korean habit leaves a core; its rows are the English ones of another."""
    p, file = asked(being, RULES[1]), tmp_path / "edit.json"
    stays = being.bag.ledger.add(Habit(rule="한 문장으로만 답해 줘.", scope=("ko",)))
    rows = tuple(e.model_copy(update={"habit": e.habit and stays.id}) for e in p.examples)
    given = {"kind": "release", "scope": ("ko",), "living": (stays.id,), "examples": rows}
    release = being.bag.ledger.add(p.model_copy(update={**given, "at": ""}))
    assert len(edited(release, [1], None).examples) == len(rows) - 1
    file.write_text(json.dumps({"scope": ["en"]}), "utf-8")
    with pytest.raises(UsageError, match="Only what is to be learned has a scope"):
        edited(release, [1], file)


def test_each_language_is_trained_by_itself_and_what_was_measured_is_told_in_turn(
    being: Habitus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = asked(being, RULES[1])
    korean = Example(origin="anchor", language="ko", prompt="안녕", completion="응.")
    jobs = []

    def fit(bag: Any, p: Proposal, file: Path, *_: object) -> dict[str, Any]:
        jobs.append(json.loads(file.read_text("utf-8")))
        (file.parent / "adapter").mkdir()
        (file.parent / "adapter" / "words").write_text(jobs[-1]["language"])
        steps = {"curve": [(4, 2.0), (8, 1.0)], "validation": [(9, 1.5)], "environment": {"threads": "1"}}
        return steps | {"stopped_early": len(jobs) == 1, "seconds": 3.0, "peak_mb": 10.0 * len(jobs)}

    monkeypatch.setattr(running, "_run", fit)
    both = p.model_copy(update={"examples": (*p.examples, korean)})
    found = running._fit(being.bag, both, tmp_path / "work", lambda event: None)
    assert [(j["language"], len(j["examples"])) for j in jobs] == [(x, len(both.examples)) for x in ("en", "ko")]
    assert [{language_of(line["text"]) for line in j["lines"]} for j in jobs] == [{"en"}, {"ko"}]
    assert {f.relative_to(tmp_path).as_posix(): f.read_text() for f in tmp_path.rglob("*/words")} == {
        "work/adapter/en/words": "en",
        "work/adapter/ko/words": "ko",
    }
    assert list(tmp_path.rglob("job.json")) == [], "words of a conversation lie in no second place"
    assert found == {
        "curve": [(4, 2.0), (8, 1.0), (13, 2.0), (17, 1.0)],
        "validation": [(9, 1.5), (18, 1.5)],
        "began": {"en": 0, "ko": 9},
        "stopped_early": True,
        "seconds": 6.0,
        "peak_mb": 20.0,
        "environment": {"threads": "1"},
    }


def test_under_a_training_nothing_is_erased_and_it_goes_on(being: Habitus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both asked of one process, as `serve` is."""
    p = asked(being, RULES[1])
    being.approve(p.id, p.digest)

    def train(bag: Any, p: Proposal, *_: object) -> Run:
        with pytest.raises(BusyError, match="Another training"):
            being.erase("t1")
        return bag.ledger.add(Run(proposal=p.id, base=p.base, data=p.digest, config={}, adapter="a"))

    monkeypatch.setattr(update, "train", train)
    monkeypatch.setattr(update, "examine", lambda _: ((Probe(name="x", before=0, after=0, threshold=1, passed=False),), (), 0.0))  # fmt: skip
    assert [r["promoted"] for r in being.learn()] == [False]
    assert being.bag.ledger.get(Proposal, p.id).status == "rejected"


def test_an_edit_of_what_was_withdrawn_meanwhile_brings_nothing_back(
    being: Habitus, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = asked(being, RULES[1])

    def slow(*given: Any) -> Proposal:
        being.bag.ledger.add(p.model_copy(update={"status": "withdrawn", "at": ""}))  # said in a chat
        return edited(*given)

    monkeypatch.setattr("app.habitus.edited", slow)
    with pytest.raises(ConflictError, match="changed meanwhile"):
        being.edit(p.id, [2])
    assert being.bag.ledger.get(Proposal, p.id).status == "withdrawn"
    assert being.bag.ledger.all(Decision) == []


def test_an_edit_is_a_decision_and_waits_for_another(being: Habitus, monkeypatch: pytest.MonkeyPatch) -> None:
    p = asked(being, RULES[1])

    def held(*given: Any) -> Proposal:
        with (being.bag.path / "deciding.lock").open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return edited(*given)

    monkeypatch.setattr("app.habitus.edited", held)
    assert being.edit(p.id, [2])["status"] == "waiting"


def test_in_another_template_than_the_approved_one_nothing_is_trained(being: Habitus) -> None:
    p = asked(being, RULES[1])
    being.approve(p.id, p.digest)
    file = being.bag.path / "other.jinja"
    file.write_text("{{ messages }}", "utf-8")
    (being.bag.path / "habitus.toml").write_text(f'[model]\ntemplate = "{file}"\n', "utf-8")
    with pytest.raises(ConflictError, match="not what was approved"):
        scripted(being.bag.path, ended).learn()
    assert being.bag.ledger.all(Run) == []


@pytest.mark.parametrize(
    "wrong",
    [{"method": "none"}, {"examples": [{"origin": "turn", "language": "en", "prompt": " ", "completion": "x"}]}],
)
def test_an_edit_that_could_not_be_trained_is_refused(being: Habitus, tmp_path: Path, wrong: dict[str, Any]) -> None:
    p, file = asked(being, RULES[1]), tmp_path / "edit.json"
    file.write_text(json.dumps(wrong), "utf-8")
    with pytest.raises(UsageError, match="no edited proposal"):
        being.edit(p.id, file=file)
