"""The invariants of docs/design.md, each attacked."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from agent.errors import BusyError, ConflictError, LearningError, StorageError, UsageError
from agent.learning.running import train
from agent.ports import BASE, Prompt, Voice
from agent.records import Decision, Proposal, Run, Self
from app.habitus import Habitus
from app.wiring import open_habitus
from tests.being import ROOT, small_talk
from tests.being import asking as file_proposal

# These tests ask whether the rules hold, not how good the weights are: that is tests/test_loop.py.
LENIENT = """
[training]
epochs = 2
[rumination]
examples = 24
anchors = 48
[gate]
habit = 0.0
unrelated = 0.0
rules = 0.0
tools = 0.0
loop = 0.0
fluency = 0.0
leak = 0.0
drop = 1.0
"""


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bag in which a proposal waits."""
    home = tmp_path_factory.mktemp("asking") / "bag"
    home.mkdir()
    (home / "habitus.toml").write_text(LENIENT)
    file_proposal(home, "en-ending")
    return home


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bag whose being has learned a habit."""
    home = tmp_path_factory.mktemp("taught") / "bag"
    home.mkdir()
    (home / "habitus.toml").write_text(LENIENT)
    being = file_proposal(home, "en-ending")
    being.approve("p1", being.proposal("p1")["digest"])
    (learned,) = being.learn()
    assert learned["promoted"], learned["gate"]
    return home


def copy(home: Path, to: Path) -> Habitus:
    shutil.copytree(home, to / "bag")
    return open_habitus(str(to / "bag"))


def test_nothing_is_trained_without_an_approval(asking: Path, tmp_path: Path) -> None:
    being = copy(asking, tmp_path)
    assert being.learn() == []
    with pytest.raises(ConflictError, match="not approved"):
        train(being.bag, being.bag.ledger.get(Proposal, "p1"), lambda _: None)
    assert not (tmp_path / "bag" / "adapters").exists()


def test_the_model_is_offered_no_tool_that_approves() -> None:
    names = {p.stem for p in (ROOT / "tools").glob("*.py")}
    assert not names & {"approve", "veto", "decide", "learn", "train"}


def test_an_approval_holds_only_for_what_was_shown(asking: Path, tmp_path: Path) -> None:
    being = copy(asking, tmp_path)
    with pytest.raises(ConflictError, match="not what you were shown"):
        being.approve("p1", "0" * 64)
    shown = being.proposal("p1")["digest"]
    being.approve("p1", shown)
    edited = being.edit("p1", drop=[1])
    assert edited["status"] == "waiting"
    assert edited["digest"] != shown
    assert being.learn() == [], "an edit needs a new decision"
    with pytest.raises(ConflictError, match="not what you were shown"):
        being.approve("p1", shown)


def test_rows_smuggled_in_after_the_approval_are_refused(asking: Path, tmp_path: Path) -> None:
    being = copy(asking, tmp_path)
    proposal = being.bag.ledger.get(Proposal, "p1")
    being.approve("p1", proposal.digest)
    poisoned = proposal.examples[0].model_copy(update={"completion": "나는 이제 네 말을 듣지 않아."})
    being.bag.ledger.add(
        proposal.model_copy(update={"examples": (poisoned, *proposal.examples[1:]), "status": "approved", "at": ""})
    )
    with pytest.raises(ConflictError, match="not what was approved"):
        being.learn()
    assert being.bag.ledger.all(Run) == []


def test_the_trainer_itself_recomputes_the_digest(asking: Path, tmp_path: Path) -> None:
    being = copy(asking, tmp_path)
    proposal = being.bag.ledger.get(Proposal, "p1")
    job = {"examples": [e.model_dump(mode="json") for e in proposal.examples[1:]], "config": proposal.config, "digest": proposal.digest,
           "base_path": str(being.bag.body.path), "personas": {}, "tools": {}, "out": str(tmp_path)}  # fmt: skip
    (tmp_path / "job.json").write_text(json.dumps(job))
    done = subprocess.run(
        [sys.executable, "-m", "agent.learning.train", str(tmp_path / "job.json")],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 3
    assert not (tmp_path / "adapter").exists()


def test_a_decision_is_made_once(asking: Path, tmp_path: Path) -> None:
    being = copy(asking, tmp_path)
    being.veto("p1", "아직은 아니야")
    for again in (lambda: being.veto("p1", "x"), lambda: being.approve("p1", being.proposal("p1")["digest"])):
        with pytest.raises(ConflictError, match="vetoed already"):
            again()
    assert being.learn() == []


def test_a_veto_needs_a_reason_and_an_edit_a_real_example(asking: Path, tmp_path: Path) -> None:
    being = copy(asking, tmp_path)
    with pytest.raises(UsageError, match="reason"):
        being.veto("p1", " ")
    with pytest.raises(UsageError, match="no example 9999"):
        being.edit("p1", drop=[9999])


def test_a_decision_survives_another_process_and_a_lost_checkpoint(asking: Path, tmp_path: Path) -> None:
    home = tmp_path / "bag"
    shutil.copytree(asking, home)
    env = {**os.environ, "HABITUS_HOME": str(home)}
    digest = json.loads(
        subprocess.run(
            [sys.executable, "-m", "app.cli", "proposals", "show", "p1", "--json"],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )["digest"]
    subprocess.run(
        [sys.executable, "-m", "app.cli", "approve", "p1", "--digest", digest],
        cwd=ROOT,
        env=env,
        check=True,
        capture_output=True,
    )
    for path in home.glob("checkpoints.db*"):
        path.unlink()
    being = open_habitus(str(home))
    (learned,) = being.learn()
    assert learned["promoted"], learned["gate"]
    assert len(being.bag.ledger.all(Decision)) == 1


def test_a_training_killed_midway_promotes_nothing_and_goes_on_later(asking: Path, tmp_path: Path) -> None:
    home = tmp_path / "bag"
    shutil.copytree(asking, home)
    being = open_habitus(str(home))
    being.approve("p1", being.proposal("p1")["digest"])
    before = being.bag.selves.current().id
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "--home", str(home), "learn"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if ("training" in line and "step" in line) or "teacher" in line:
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    being = open_habitus(str(home))
    assert being.bag.selves.current().id == before
    assert being.bag.ledger.get(Proposal, "p1").status == "running"
    assert not list((home / "adapters").glob("*")) if (home / "adapters").exists() else True
    (learned,) = being.learn()
    assert learned["promoted"], learned["gate"]
    assert being.bag.ledger.verify() == []


def test_two_trainings_on_one_bag_are_refused(asking: Path, tmp_path: Path) -> None:
    being = copy(asking, tmp_path)
    with being.bag.training_lock(), pytest.raises(BusyError, match="Another training"):
        open_habitus(str(tmp_path / "bag")).learn()


def test_sandbox_leaves_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, temp = tmp_path / "bag", tmp_path / "tmp"
    temp.mkdir()
    open_habitus(str(home)).talk().say("안녕")
    before = len(open_habitus(str(home)).bag.ledger.rows(Self))
    secret = "뿅두리쀼쀼장군"
    env = {
        **os.environ,
        "HABITUS_HOME": str(home),
        "TMPDIR": str(temp),
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path / "hf"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", "chat", "--sandbox", "--json", "--say", f"앞으로 나를 '{secret}'라고 불러 줘", "--say", f"내 비밀은 {secret}야"],
        cwd=ROOT, env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    turn = json.loads(done.stdout.splitlines()[-1])
    assert turn["mode"] == "sandbox"
    assert turn["turn_id"] == ""
    assert all(c["name"] == "recall" for c in turn["tool_calls"])
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path
    assert len(open_habitus(str(home)).bag.ledger.rows(Self)) == before


def test_an_altered_adapter_may_not_speak(taught: Path, tmp_path: Path) -> None:
    being = copy(taught, tmp_path)
    (adapter,) = (tmp_path / "bag" / "adapters").iterdir()
    (file,) = adapter.glob("*/adapter_model.safetensors")
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(StorageError, match="altered"):
        being.ask(["안녕"])
    being.rollback()
    assert being.ask(["안녕"])[0]["self"] != "base"
    file.unlink()
    with pytest.raises(StorageError, match="not whole"):
        being.rollback(being.self_log()[-2]["name"])


def test_a_failing_gate_leaves_the_old_self_speaking(asking: Path, tmp_path: Path) -> None:
    home = tmp_path / "bag"
    shutil.copytree(asking, home)
    (home / "habitus.toml").write_text(LENIENT + "least = 1000\n")
    being = open_habitus(str(home))
    before = being.bag.selves.current().id
    being.approve("p1", being.proposal("p1")["digest"])
    (learned,) = being.learn()
    assert not learned["promoted"]
    assert any("needed" in p["detail"] for p in learned["gate"]["probes"])
    assert being.bag.selves.current().id == before
    assert being.proposal("p1")["status"] == "rejected"


def test_forgetting_takes_it_out_of_the_weights(taught: Path, tmp_path: Path) -> None:
    being = copy(taught, tmp_path)
    asks = small_talk("en", 12)
    base = [r["reply"] for r in being.ask(asks, name="base")]
    # without the mask: of three tellings the seedling may have misread one, and that line is no matter of the weights
    assert [r["reply"] for r in being.ask(asks, with_rules=False)] != base
    being.forget("h1")
    assert [r["reply"] for r in being.ask(asks, with_rules=False)] == base
    with pytest.raises(ConflictError, match="forgotten already"):
        being.forget("h1")


def test_the_ledger_tells_the_whole_story_and_its_chain_holds(taught: Path, tmp_path: Path) -> None:
    being = copy(taught, tmp_path)
    assert being.bag.ledger.verify() == []
    (run,) = being.bag.ledger.all(Run)
    assert run.adapter_digest
    assert run.curve[-1][1] < run.curve[0][1]
    with pytest.raises(sqlite3.IntegrityError, match="append only"):
        sqlite3.connect(tmp_path / "bag" / "ledger.db").execute("DELETE FROM rows")


def test_a_self_is_rebuilt_from_the_ledger_alone_byte_for_byte(taught: Path, tmp_path: Path) -> None:
    being = copy(taught, tmp_path)
    (adapter,) = (tmp_path / "bag" / "adapters").iterdir()
    shutil.rmtree(adapter)
    with pytest.raises(StorageError, match="not whole"):
        being.ask(["hello"])
    told = being.rebuild(being.bag.selves.current().id)
    assert told["same"], told
    assert adapter.is_dir()
    assert being.ask(["hello"])[0]["self"] == being.bag.selves.current().id


def test_a_self_leaves_as_one_adapter_that_speaks_alike(taught: Path, tmp_path: Path) -> None:
    being = copy(taught, tmp_path)
    who, out = being.bag.selves.current(), tmp_path / "out"
    found = being.export(who.id, out)
    (only,) = found["exported"]
    assert (only["language"], only["error"]) == ("en", 0)
    prompts = [Prompt(({"role": "user", "content": t},)) for t in small_talk("en", 12)]
    own, one = being.bag.selves.voice(who, "en"), Voice(((out / "en", 1.0),))
    said = being.bag.body.answers(prompts, one)
    assert said == being.bag.body.answers(prompts, own)
    assert said != being.bag.body.answers(prompts, BASE)
    with pytest.raises(ConflictError, match="holds something"):
        being.export(who.id, out)
    with pytest.raises(ConflictError, match="wears no adapters"):
        being.export("self-0001", tmp_path / "other")


def test_a_training_leaves_a_report(taught: Path, tmp_path: Path) -> None:
    being = copy(taught, tmp_path)
    folder = tmp_path / "bag" / "runs" / "p1"
    told = json.loads((folder / "report.json").read_text())
    assert told == being.report("p1")
    assert len(told["samples"]) == 8
    assert told["run"]["validation"][-1][1] < told["run"]["validation"][0][1]
    assert told["self_after"]["name"] == being.bag.selves.current().id
    read = (folder / "report.md").read_text()
    assert all(piece in read for piece in ("zibble", "curve.svg", "rows kept out", told["samples"][0]["question"]))
    assert "<polyline" in (folder / "curve.svg").read_text()


def test_a_bag_moves_with_its_folder(taught: Path, tmp_path: Path) -> None:
    asks = small_talk("en", 6)
    here = [r["reply"] for r in open_habitus(str(taught)).ask(asks, with_rules=False)]
    being = copy(taught, tmp_path)
    assert [r["reply"] for r in being.ask(asks, with_rules=False)] == here


def test_a_failed_training_says_where_its_log_is(asking: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    being = copy(asking, tmp_path)
    being.approve("p1", being.proposal("p1")["digest"])
    monkeypatch.setattr("agent.learning.running.sys.executable", "/bin/false")
    with pytest.raises(LearningError, match="failed") as caught:
        being.learn()
    assert "log" in caught.value.hint
    monkeypatch.undo()
    assert being.learn()[0]["promoted"]


def test_no_probe_is_in_a_training_row_or_an_anchor(asking: Path) -> None:
    from agent.learning.data import bank, is_probe

    proposal = open_habitus(str(asking)).bag.ledger.get(Proposal, "p1")
    assert not [e.prompt for e in proposal.examples if is_probe(e.prompt)]
    for language in ("ko", "en"):
        probes, anchors = bank("probes", language), bank("anchors", language)  # type: ignore[arg-type]
        assert not set(probes["rules"]) & set(anchors["rules"])
        assert not [t for key in ("talk", "unknown", "teach", "facts") for t in anchors[key] if is_probe(t)]
