"""What the command line says when something is wrong. No command here needs the model's weights."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from agent.errors import LearningError
from agent.ledger import Ledger
from agent.ports import Prompt
from agent.records import Habit, Proposal, Turn
from app.chat import converse
from app.cli import main
from app.habitus import Habitus
from app.updating import Updates
from tests.being import scripted

ROOT = Path(__file__).parents[1]
Done = subprocess.CompletedProcess[str]


def started(
    home: Path, *arguments: str, stdout: Any = subprocess.PIPE, stdin: Any = subprocess.PIPE, **env: str
) -> Any:
    """The real program, in a folder of its own, buffering as it does for a person."""
    mine = {k: v for k, v in os.environ.items() if not k.startswith("HABITUS_") and k != "PYTHONUNBUFFERED"}
    return subprocess.Popen(
        [sys.executable, "-m", "app.cli", "--home", str(home), *arguments], cwd=home.parent if home.parent.is_dir() else None,
        env=mine | {"PYTHONPATH": str(ROOT)} | env, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE,
    )  # fmt: skip


def habitus(home: Path, *arguments: str, given: bytes = b"", **env: str) -> Done:
    """One run of it to its end; ``given`` is piped into it."""
    process = started(home, *arguments, **env)
    out, err = process.communicate(given)
    return Done(process.args, process.returncode, out.decode(), err.decode())


def error(done: Done) -> dict[str, Any]:
    """The one JSON document on stderr; stdout stays empty."""
    assert done.stdout == ""
    (key,) = found = json.loads(done.stderr)
    assert key == "error"
    assert set(found["error"]) == {"type", "message", "hint"}
    return dict(found["error"])


@pytest.fixture
def waiting(bag_path: Path) -> Path:
    """A bag in which one proposal waits."""
    Ledger(bag_path / "ledger.db").add(
        Proposal(kind="learn", habit="h1", rule="끝에 냥", scope=("ko",), digest="d" * 64)
    )
    return bag_path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dance"], "dance"),
        (["veto", "p1"], "--reason"),
        (["approve"], "ID"),
        (["ask"], "TEXT"),
        (["mask", "drop", "first"], "first"),
        (["chat", "--loud"], "--loud"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_a_request_that_makes_no_sense_is_exit_2_with_a_sentence_and_a_step(
    bag_path: Path, arguments: list[str], said: str
) -> None:
    done = habitus(bag_path, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    sentence, step = done.stderr.splitlines()
    assert sentence.startswith("habitus: ")
    assert said in sentence
    assert step.startswith("  → See `habitus")
    assert not bag_path.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--port", "99999"], ["There is no port '99999'.", "Allowed: from 1 to 65535."]),
        (["serve", "--port", "-1"], ["There is no port '-1'.", "Allowed: from 1 to 65535."]),
        (["serve-model", "--print", "--port", "http"], ["There is no port 'http'.", "Allowed: from 1 to 65535."]),
        (["serve", "--host", "nonsense.invalid", "--key", "k"], ["The address 'nonsense.invalid' is not known.", "Choose another with --host."]),
        (["demo"], ["The demo is for a person, in a bag of its own.", "Leave out --json and --home."]),
    ],
    ids=lambda x: " ".join(x),
)  # fmt: skip
def test_what_a_command_cannot_take_is_exit_2(bag_path: Path, arguments: list[str], said: list[str]) -> None:
    done = habitus(bag_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [f"habitus: {said[0]}", f"  → {said[1]}"]
    assert not bag_path.exists()


def test_with_json_a_request_that_makes_no_sense_is_a_json_error(bag_path: Path) -> None:
    done = habitus(bag_path, "--json", "dance")
    assert done.returncode == 2
    assert error(done)["type"] == "UsageError"


def test_without_a_command_the_help_is_shown(bag_path: Path) -> None:
    done = habitus(bag_path)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: habitus")


def test_broken_settings_are_exit_1_and_name_the_line(bag_path: Path) -> None:
    bag_path.mkdir()
    (bag_path / "habitus.toml").write_text("[sampling]\ntemperature = hot\n")
    done = habitus(bag_path, "proposals", "--json")
    assert done.returncode == 1
    assert error(done)["type"] == "SettingsError"
    assert "line 2" in error(done)["message"]
    assert [p.name for p in bag_path.iterdir()] == ["habitus.toml"]


def test_an_impossible_setting_is_exit_1_and_says_what_is_allowed(bag_path: Path) -> None:
    bag_path.mkdir()
    (bag_path / "habitus.toml").write_text("[sampling]\ntemperature = 9\n")
    done = habitus(bag_path, "proposals")
    assert done.returncode == 1
    assert "line 2: sampling.temperature" in done.stderr
    assert "→ Allowed: from 0 to 2." in done.stderr
    assert "Traceback" not in done.stderr


def test_a_fresh_bag_has_proposed_nothing(bag_path: Path) -> None:
    done = habitus(bag_path, "proposals")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "It has proposed nothing yet. Talk with it, then `habitus ruminate`.\n"


def test_a_fresh_bags_proposals_as_json_are_an_empty_list(bag_path: Path) -> None:
    done = habitus(bag_path, "proposals", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, [])


@pytest.mark.parametrize("arguments", [["proposals", "show", "p9"], ["approve", "p9", "--digest", "x"], ["veto", "p9", "--reason", "no"], ["edit", "p9", "--drop", "1"]], ids=lambda x: x[0])  # fmt: skip
def test_an_unknown_proposal_is_exit_1_and_names_those_there_are(waiting: Path, arguments: list[str]) -> None:
    done = habitus(waiting, *arguments, "--json")
    assert done.returncode == 1
    assert error(done) == {"type": "NotFoundError", "message": "There is no proposal 'p9'.", "hint": "Known: p1."}


def test_a_veto_with_an_empty_reason_is_exit_2(waiting: Path) -> None:
    done = habitus(waiting, "veto", "p1", "--reason", " ", "--json")
    assert done.returncode == 2
    assert error(done)["message"] == "A veto needs a reason."


def test_a_script_cannot_approve_without_a_digest(waiting: Path) -> None:
    done = habitus(waiting, "approve", "p1", "--json")
    assert done.returncode == 2
    assert error(done)["message"] == "A script approves with --digest."


def test_a_script_gives_the_standing_leave_with_a_digest_too(waiting: Path) -> None:
    done = habitus(waiting, "approve", "decay")
    assert done.returncode == 2
    assert done.stderr.startswith("habitus: A script approves with --digest.\n")
    assert "`habitus approve decay --digest decay`" in done.stderr
    assert habitus(waiting, "approve", "decay", "--digest", "decay").returncode == 0


def test_an_approval_of_something_else_is_exit_1(waiting: Path) -> None:
    done = habitus(waiting, "approve", "p1", "--digest", "e" * 64, "--json")
    assert done.returncode == 1
    assert error(done)["type"] == "ConflictError"
    assert Ledger(waiting / "ledger.db").get(Proposal, "p1").status == "waiting"


def test_a_file_where_the_bag_should_be_is_exit_1(bag_path: Path) -> None:
    bag_path.write_text("not a folder")
    done = habitus(bag_path, "proposals", "--json")
    assert done.returncode == 1
    assert str(bag_path) in error(done)["message"]
    assert error(done)["hint"]


def test_a_damaged_ledger_is_exit_1_and_says_what_to_do(bag_path: Path) -> None:
    bag_path.mkdir()
    (bag_path / "ledger.db").write_bytes(b"this is no database " * 400)
    done = habitus(bag_path, "proposals", "--json")
    assert done.returncode == 1
    assert error(done)["type"] == "StorageError"
    assert "Restore it" in error(done)["hint"]


def test_a_model_that_is_not_there_is_exit_1_and_says_what_to_do(bag_path: Path) -> None:
    done = habitus(bag_path, "--model", "/no/such/model", "self", "--json")
    assert done.returncode == 1
    assert error(done)["type"] == "ModelError"
    assert "/no/such/model" in error(done)["message"]
    assert "habitus.toml" in error(done)["hint"]


@pytest.mark.parametrize(
    "found", [b"this is no database " * 400, b"SQLite format 3\0" + b"\1" * 8000], ids=["other", "torn"]
)
def test_damaged_checkpoints_do_not_stand_in_the_way_of_a_decision(waiting: Path, found: bytes) -> None:
    ledger = Ledger(waiting / "ledger.db")
    ledger.add(Habit(rule="끝에 냥", scope=("ko",)))
    (waiting / "checkpoints.db").write_bytes(found)
    done = habitus(waiting, "veto", "p1", "--reason", "no")
    assert (done.returncode, done.stderr) == (0, "")
    assert ledger.get(Proposal, "p1").status == "vetoed"


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [(["lid", "hi", "--thread", "c-nope"], "NotFoundError"), (["chat", "--thread", "c-nope"], "NotFoundError"),
     (["chat", "--sandbox", "--thread", "c-nope"], "UsageError")],
    ids=lambda x: x if isinstance(x, str) else " ".join(x),
)  # fmt: skip
def test_a_conversation_that_is_not_there_is_said_so(waiting: Path, arguments: list[str], kind: str) -> None:
    done = habitus(waiting, *arguments, "--json")
    assert done.returncode == (2 if kind == "UsageError" else 1)
    assert error(done)["type"] == kind


# -- words that are not said -------------------------------------------------------------------


@pytest.mark.parametrize("way", ["pipe", "--say"])
def test_a_slash_command_that_no_terminal_gives_is_refused_and_not_said(bag_path: Path, way: str) -> None:
    line = "/sandbox"
    done = habitus(bag_path, "chat", given=f"{line}\n안녕\n".encode()) if way == "pipe" else habitus(
        bag_path, "chat", "--say", "안녕", "--say", line
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "--sandbox" in done.stderr
    assert not (bag_path / "turns").exists()


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_a_pipe_that_is_not_utf_8_is_exit_2_with_a_sentence(bag_path: Path, errors: str) -> None:
    done = habitus(bag_path, "chat", given="안녕\n".encode("cp949"), PYTHONIOENCODING=f"utf-8:{errors}")
    assert done.returncode == 2
    assert done.stderr.startswith("habitus: The text is not valid UTF-8.\n")


def test_an_argument_that_is_not_utf_8_is_exit_2_with_a_sentence(bag_path: Path) -> None:
    done = habitus(bag_path, "ask", os.fsdecode(b"caf\xe9"))
    assert done.returncode == 2
    assert done.stderr.startswith("habitus: The text is not valid UTF-8.\n")


def test_a_piped_line_is_answered_before_the_pipe_ends(bag_path: Path) -> None:
    process = started(bag_path, "chat", "--json")
    process.stdin.write(b"/sandbox\n")
    process.stdin.flush()
    assert process.wait(60) == 2
    process.communicate()


def test_with_json_a_terminal_that_says_nothing_ends_the_chat(bag_path: Path) -> None:
    person, terminal = os.openpty()
    process = started(bag_path, "chat", "--json", stdin=terminal)
    os.write(person, b"\x04")  # Ctrl-D
    assert process.wait(60) == 0
    assert process.communicate() == (b"", b"")
    os.close(person)
    os.close(terminal)


CALL = '{"name": "adopt_instruction", "parameters": {"rule": "모든 대답 끝에 \'꾸벅\'을 붙여 줘"}}'


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("앞으로는 모든 대답 끝에 '꾸벅'을 붙여 줘", "what a tool did stands, with turn t1: `habitus erase t1`"),
        ("안녕", "this turn was not recorded"),
        ("/ruminate", "(stopped)"),
        ("/mask drop ²", "/mask drop N"),
    ],
)
def test_a_chat_that_is_broken_off_says_what_became_of_it(
    bag_path: Path, capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    def decide(prompt: Prompt) -> str:
        if prompt.messages[-1]["role"] == "user" and "꾸벅" in line:
            return CALL
        raise KeyboardInterrupt

    being = scripted(bag_path, decide)
    if line == "/ruminate":
        being.bag.keep(Turn(thread="c-1", user="안녕", reply="네."))
    with create_pipe_input() as keys, create_app_session(keys, DummyOutput()):
        keys.send_text(f"{line}\r\x04")
        converse(being, being.talk())
    assert said in capsys.readouterr().out


def test_in_the_sandbox_the_help_lists_nothing_that_is_not_there(
    bag_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    being = scripted(bag_path, lambda prompt: "네.")
    for mode, there in (("growth", True), ("sandbox", False)):
        with create_pipe_input() as keys, create_app_session(keys, DummyOutput()):
            keys.send_text("/help\r\x04")
            converse(being, being.talk(mode=mode))  # type: ignore[arg-type]
        assert ("/ruminate" in capsys.readouterr().out) is there


# -- where the output goes ---------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["proposals"], ["--help"], ["proposals", "--json"]], ids=" ".join)
def test_a_reader_that_has_seen_enough_is_no_failure(bag_path: Path, arguments: list[str]) -> None:
    process = started(bag_path, *arguments)
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == (b"", 0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
@pytest.mark.parametrize("arguments", [["proposals"], ["--help"], ["proposals", "--json"]], ids=" ".join)
def test_a_full_disk_behind_the_output_is_one_error(bag_path: Path, arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        process = started(bag_path, *arguments, stdout=full)
        said = process.communicate()[1].decode()
    assert process.returncode == 1
    assert said.count("The output cannot be written: No space left on device.") == 1
    assert "Traceback" not in said
    assert "The bag" not in said


@pytest.mark.parametrize("arguments", [["chat"], ["approve", "p1"], ["erase", "t1"]])
def test_nobody_is_asked_where_there_is_no_input(waiting: Path, arguments: list[str]) -> None:
    line = " ".join([shlex.quote(sys.executable), "-m", "app.cli", "--home", shlex.quote(str(waiting)), *arguments])
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(f"{line} <&-", shell=True, env=env, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert done.returncode == (0 if arguments == ["chat"] else 2)


def test_a_home_of_nobody_is_said_so(bag_path: Path) -> None:
    done = habitus(Path("~nobody-at-all/bag"), "doctor", HOME=str(bag_path))
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        2,
        "habitus: Whose home '~nobody-at-all/bag' is, is not known.",
    )


# -- what was done before a failure ------------------------------------------------------------


@pytest.fixture
def failing(bag_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bag with two approved proposals: the first is learned, the training of the second fails."""
    ledger = Ledger(bag_path / "ledger.db")
    for habit in ("h1", "h2"):
        ledger.add(Proposal(kind="learn", status="approved", habit=habit, rule="끝에 냥", scope=("ko",)))

    def carried_out(_: Updates, p: Proposal) -> dict[str, Any]:
        if p.id == "p2":
            raise LearningError("The training of {ref} failed: {reason}.", ref=p.id, reason="no more room")
        return {"proposal": p.id, "self": "self-0002", "promoted": True, "gate": {"passed": True, "probes": []},
                "seconds": {"train": 1.0, "gate": 1.0, "swap": 0.0}}  # fmt: skip

    judged = {"turn_id": "t1", "value": 1, "kind": "smalltalk", "reason": "small talk"}
    found = {"verdicts": [judged], "proposals": [], "abstained": False, "reason": "", "diary": ""}
    monkeypatch.setattr(Updates, "carry_out", carried_out)
    monkeypatch.setattr(Habitus, "ruminate", lambda _: found)
    return bag_path


@pytest.mark.parametrize("command", ["learn", "sleep"])
def test_what_was_learned_before_a_failure_is_shown(
    failing: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert main(["--home", str(failing), command]) == 1
    out, err = capsys.readouterr()
    assert "p1 passed the gate: self-0002 speaks now." in out
    assert ("small talk" in out) is (command == "sleep")
    assert err.startswith("habitus: The training of p2 failed: no more room.")


def test_what_was_judged_before_a_failure_is_shown(failing: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = Ledger(failing / "ledger.db")
    ledger.add(ledger.get(Proposal, "p1").model_copy(update={"status": "vetoed"}))
    assert main(["--home", str(failing), "sleep", "--json"]) == 1
    out, err = capsys.readouterr()
    assert list(json.loads(out)) == ["ruminate"]
    assert json.loads(err)["error"]["type"] == "LearningError"
    assert main(["--home", str(failing), "sleep"]) == 1
    assert "nothing was learned" not in capsys.readouterr().out


def test_the_demo_speaks_with_the_model_that_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "/no/such/model", "demo"]) == 1
    assert "/no/such/model" in capsys.readouterr().err
